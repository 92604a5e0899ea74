"""How far the reading of many devices has come, on a terminal's stderr; whatever is written next clears it."""

import os
import sys
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    import asyncio

    from rich.status import Status

_AFTER = 1.0  # seconds of reading before anything is shown
_PAUSE = 0.2  # and between two reads, so that a short one does not flash up


def redrawn(stream: TextIO | None) -> bool:
    """Whether what `stream` shows can be drawn anew; None is what a process has that was started with it closed."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


class Reading:
    """`reading devices: 400 of 1000`, while a command reads for longer than a second and nobody sees anything."""

    def __init__(self) -> None:
        self._text = ""
        self._began: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._status: Status | None = None
        self._over = False

    def begin(self) -> None:
        """A command begins."""
        self.clear()
        self._began, self._over = None, False

    def counted(self, read: int, of: int | None) -> None:
        """So many devices of all were read; see `FactoryApi`."""
        if self._over or not redrawn(sys.stderr):
            return
        if of is not None and read >= of:
            self.clear()
            return
        self._text = "reading devices" if of is None else f"reading devices: {read} of {of}"
        if self._status is not None:
            self._status.update(self._text)
        elif self._timer is None:
            import asyncio

            self._began = self._began or time.monotonic()
            wait = max(self._began + _AFTER - time.monotonic(), _PAUSE)
            self._timer = asyncio.get_running_loop().call_later(wait, self._show)

    def _show(self) -> None:
        from rich.console import Console

        # No character of it is beyond ASCII.
        self._status = Console(file=sys.stderr, highlight=False).status(self._text, spinner="line")
        self._status.start()

    def clear(self) -> None:
        """Take it off the screen."""
        if self._timer is not None:
            self._timer.cancel()
        if self._status is not None:
            self._status.stop()
        self._timer = self._status = None

    def end(self) -> None:
        """Take it off the screen for good: from now on something else is shown."""
        self.clear()
        self._over = True


READING = Reading()
"""That of this process."""
