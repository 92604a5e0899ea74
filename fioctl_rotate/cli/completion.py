"""What Tab completes: groups, devices, rotation ids and profiles, as this machine saw them last."""

import os
from collections.abc import Callable
from typing import Any


def names(kind: str) -> Callable[[Any, str], list[str]]:
    """A completion for typer: the names of a kind that begin with what is typed.

    `kind` is `groups`, `devices`, `rotations` or `profiles`. They are those of the Factory that is named by flag or
    environment, else of the one that was talked to last.
    """

    def complete(ctx: Any, incomplete: str) -> list[str]:
        from fioctl_rotate.seen import load

        known = load()
        if kind == "profiles":
            found = known["profiles"]
        else:
            factory = ctx.params.get("factory") or os.environ.get("FIOCTL_FACTORY")
            entries = [entry for entry in known["factories"] if factory in (None, entry["factory"])]
            found = entries[0][kind] if entries else []
        # A line break or a control character in a name from a server would end the list early, or worse.
        return [name for name in found if name.startswith(incomplete) and name.isprintable()]

    return complete
