"""A view that is redrawn on a terminal: it fits any width and encoding, and is redrawn after a resize."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fioctl_rotate.cli.output import console
from fioctl_rotate.cli.reading import READING
from fioctl_rotate.errors import printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

NARROW = 72  # columns of a terminal below which a row is shown in lines of its own

# Draws the view. It is called again after a resize, so it reads the terminal's size each time.
Draw = Callable[[], "RenderableType"]


class Screen:
    """The view, while the block runs. Its last drawing stays on the terminal."""

    def __init__(self) -> None:
        self.console = console()
        self._draw: Draw | None = None
        self._live: Live | None = None
        self._size = self.console.size

    def __enter__(self) -> None:
        # Only the main thread can handle signals, and some systems lack this one. The next poll redraws then.
        with contextlib.suppress(AttributeError, NotImplementedError, RuntimeError, ValueError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGWINCH, self._redraw)

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(AttributeError, NotImplementedError, RuntimeError, ValueError):
            asyncio.get_running_loop().remove_signal_handler(signal.SIGWINCH)
        self._stop()

    def show(self, draw: Draw) -> None:
        """Draw this from now on."""
        READING.end()
        self._draw = draw
        self._redraw()

    def _redraw(self) -> None:
        from rich.live import Live

        if self._draw is None:
            return
        if self._live is not None and self._size != self.console.size:
            # The terminal has broken the lines differently, so where the last view begins is not known.
            self._stop()
            self.console.clear()
        self._size = self.console.size
        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False, vertical_overflow="crop")
            self._live.start()
        self._live.update(self._draw(), refresh=True)

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def text(self, content: str, style: str = "", **layout: Any) -> "Text":
        """`content` without control characters, and with escapes for what the terminal's encoding lacks."""
        from rich.text import Text

        encoding = self.console.encoding
        shown = printable(content).encode(encoding, "backslashreplace").decode(encoding)
        return Text(shown, style=style, **layout)

    def line(self, content: str, style: str = "") -> "Text":
        """As `text`, on one line that is cut at the terminal's width."""
        # Not every encoding has the character with which rich marks a cut.
        overflow = "ellipsis" if self.console.encoding.startswith("utf") else "crop"
        return self.text(content, style, no_wrap=True, overflow=overflow)

    def rows(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
        """The rows below headers; on a narrow terminal each row's last cell is on its own line."""
        from rich.padding import Padding
        from rich.table import Table

        if self.console.width < NARROW:
            grid = Table.grid(expand=True)
            grid.add_column(overflow="fold")
            for *first, last in rows:
                grid.add_row(self.text("  ".join(cell for cell in first if cell), "bold"))
                if last:
                    grid.add_row(Padding(self.text(last), (0, 0, 0, 2)))
            return grid
        table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
        for number, header in enumerate(headers):
            # The last cell may be a sentence: no other column takes the room that it needs.
            most = None if number == len(headers) - 1 else self.console.width // 3
            table.add_column(header, overflow="fold", max_width=most, ratio=1 if most is None else None)
        for row in rows:
            table.add_row(*(self.text(cell) for cell in row))
        return table

    def height_of(self, *parts: "RenderableType") -> int:
        """How many lines of the terminal these take."""
        from rich.console import Group

        return len(self.console.render_lines(Group(*parts), pad=False))
