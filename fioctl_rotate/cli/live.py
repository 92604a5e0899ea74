"""A view that is redrawn on a terminal: it fits any width and encoding, and is drawn anew after a resize."""

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

# What draws the view: it is called again after a resize, so it asks for the width and height of that time.
Draw = Callable[[], "RenderableType"]


class Screen:
    """The view, while the block runs; what was drawn last stays when it ends."""

    def __init__(self) -> None:
        self.console = console()
        self._draw: Draw | None = None
        self._live: Live | None = None
        self._size = self.console.size

    def __enter__(self) -> None:
        # Signals belong to the main thread, and not every system has this one: then the next poll redraws.
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
            # The terminal has broken the lines anew, so nobody knows where the last view begins.
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

    def text(self, words: str, style: str = "", **layout: Any) -> "Text":
        """`words` as the terminal can show them: no control of it, and no character that its encoding lacks."""
        from rich.text import Text

        encoding = self.console.encoding
        shown = printable(words).encode(encoding, "backslashreplace").decode(encoding)
        return Text(shown, style=style, **layout)

    def line(self, words: str, style: str = "") -> "Text":
        """The same on one line, cut where the terminal ends."""
        # rich's own mark for what is cut is not in every encoding.
        overflow = "ellipsis" if self.console.encoding.startswith("utf") else "crop"
        return self.text(words, style, no_wrap=True, overflow=overflow)

    def rows(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
        """The rows below headers; on a narrow terminal the last cell of each in a line of its own."""
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
            # No column takes so much that the last one, a sentence perhaps, is squeezed.
            most = None if number == len(headers) - 1 else self.console.width // 3
            table.add_column(header, overflow="fold", max_width=most, ratio=1 if most is None else None)
        for row in rows:
            table.add_row(*(self.text(cell) for cell in row))
        return table

    def height_of(self, *parts: "RenderableType") -> int:
        """How many lines of the terminal these take."""
        from rich.console import Group

        return len(self.console.render_lines(Group(*parts), pad=False))
