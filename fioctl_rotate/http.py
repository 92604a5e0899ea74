"""httpx, without the command line of its own that it imports: click, pygments and rich, a third of its start-up."""

import sys

# None makes an import fail as if the module were not installed, which httpx expects of this one.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # Python documents None here

import httpx  # noqa: E402  after the line above, which is the point of this module

__all__ = ["httpx"]
