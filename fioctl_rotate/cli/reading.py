"""The progress of reading many devices, on a terminal's stderr. The next output removes it."""

import os
import sys
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    import asyncio

    from rich.status import Status

_AFTER = 1.0  # seconds of reading before anything is shown
_PAUSE = 0.2  # seconds before a later read is shown, so that a short one does not flash


def can_redraw(stream: TextIO | None) -> bool:
    """Whether `stream` is a terminal that can redraw; it is None in a process that was started with it closed."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


class Reading:
    """`reading devices: 400 of 1000`, when a command has read for a second and shown nothing."""

    def __init__(self) -> None:
        self._text = ""
        self._began: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._status: Status | None = None
        self._over = False

    def begin(self) -> None:
        """Start again, for the next command."""
        self.clear()
        self._began, self._over = None, False

    def counted(self, read: int, of: int | None) -> None:
        """Show that `read` devices were read, `of` in all; None if that is not known. See `FactoryApi`."""
        if self._over or not can_redraw(sys.stderr):
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

        # This spinner is ASCII, which every terminal can show.
        self._status = Console(file=sys.stderr, highlight=False).status(self._text, spinner="line")
        self._status.start()

    def clear(self) -> None:
        """Remove it from the screen."""
        if self._timer is not None:
            self._timer.cancel()
        if self._status is not None:
            self._status.stop()
        self._timer = self._status = None

    def end(self) -> None:
        """Remove it, and do not show it again: the command shows something else from now on."""
        self.clear()
        self._over = True


READING = Reading()
"""The one of this process."""
