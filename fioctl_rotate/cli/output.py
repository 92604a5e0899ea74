"""What a command shows: a result on stdout, as text or JSON; notes, warnings and questions on stderr."""

import contextlib
import errno
import os
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TextIO

import typer

from fioctl_rotate.cli.hints import with_typed_flags
from fioctl_rotate.cli.reading import READING
from fioctl_rotate.errors import Error, UsageError, printable
from fioctl_rotate.signals import ended_by, handling, not_ignored
from fioctl_rotate.value import Value

if TYPE_CHECKING:
    import rich.table
    from rich.console import Console

    from fioctl_rotate.checks import Check

# All control characters but the line feed and the tab.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

FILE_ON_STDOUT: ContextVar[bool] = ContextVar("whether a file that was named goes to stdout", default=False)

_WIDEST = 40  # characters in a column, at most; a longer cell moves the rest of its row
_ROOM = 12  # with fewer characters left, the last cell is not broken into several lines

REHEARSAL = "REHEARSAL  "
"""Stands before each line that a rehearsal prints."""


class Format(StrEnum):
    """How a result is shown."""

    TEXT = "text"
    JSON = "json"


class Table(Value):
    """Rows below headers. On a terminal columns are aligned; in a pipe a tab stands between two cells."""

    headers: Sequence[str]
    rows: Iterable[Sequence[str | None]]

    def show(self) -> None:
        """Write the table to where the result goes."""
        stream = result_stream()
        headers, *rows = self.lines(stream)
        if is_terminal(stream):
            from rich.text import Text

            console().print(Text(headers, style="bold"), soft_wrap=True)
        else:
            emit(headers)
        for row in rows:
            emit(row)

    def lines(self, stream: TextIO | None) -> Iterator[str]:
        """The table for `stream`, headers first."""
        rows = ([printable(cell or "") for cell in row] for row in self.rows)
        if is_terminal(stream):
            yield from self._aligned(list(rows))
        else:
            for row in (self.headers, *rows):
                yield "\t".join(row).rstrip("\t")

    def _aligned(self, rows: Sequence[Sequence[str]]) -> Iterator[str]:
        """No cell is cut: a terminal that is too narrow breaks the line."""
        from rich.cells import cell_len

        columns = range(len(self.headers) - 1)
        widths = [
            max(
                cell_len(row[n])
                for row in (self.headers, *rows)
                if n < len(row) and cell_len(row[n]) <= _WIDEST
            )
            for n in columns
        ]

        def line(row: Sequence[str]) -> str:
            cells = [cell + " " * (widths[n] - cell_len(cell)) for n, cell in enumerate(row[: len(widths)])]
            start = "".join(f"{cell}  " for cell in cells)
            last = row[len(widths)] if len(row) > len(widths) else ""
            room = shutil.get_terminal_size().columns - cell_len(start)
            if room >= _ROOM and last:
                last = f"\n{' ' * cell_len(start)}".join(
                    textwrap.wrap(last, room, break_on_hyphens=False, break_long_words=False)
                )
            return (start + last).rstrip()

        yield from map(line, (self.headers, *rows))


class Result(Value):
    """What a command found or did.

    `document` is what `--format json` shows: plain data or msgspec structs. `lines` is what people read, each one
    line or a table; it may be a generator, which is not started for JSON. `toml` is for `--format toml`, where a
    command has that. `warnings` and `notes` follow on stderr. `error` is raised after all this is shown;
    `exit_code` is for a result without an error. `outcome` says what was changed: it goes to stderr if stdout
    cannot be written.
    """

    document: Any
    lines: Iterable[str | Table] = ()
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    error: Error | None = None
    toml: str = ""
    exit_code: int = 0
    outcome: str = ""

    def show(self, format: str, *, one_line: bool = False) -> None:
        """Write the result and raise its error. With `one_line`, as one of several, its JSON is one line."""
        try:
            if format == Format.JSON:
                emit_json(self.document, lines=one_line)
            elif format == "toml":
                emit(self.toml)
            else:
                self.show_text()
            if self.outcome:
                flush()
        except OSError as error:
            if self.outcome:
                with contextlib.suppress(OSError):
                    note(printable(f"{self.outcome}; stdout cannot be written: {error.strerror}"))
            raise
        for text in self.warnings:
            warn(text)
        for text in self.notes:
            note(text)
        if self.error is not None:
            raise self.error
        if self.exit_code:
            raise typer.Exit(self.exit_code)

    def show_text(self) -> None:
        """Write what people read."""
        for line in self.lines:
            if isinstance(line, Table):
                line.show()
            else:
                emit(with_typed_flags(line))


def give_stdout_to_a_file() -> None:
    """Reserve stdout for a file that was named `-`: text for people goes to stderr then.

    Raises UsageError if stdout is reserved already.
    """
    if FILE_ON_STDOUT.get():
        raise UsageError("only one file can go to stdout", hint="`-` is stdout; name another file")
    FILE_ON_STDOUT.set(True)


def require_stdout_for(format: str | None) -> None:
    """Raises UsageError for a `format` other than text if a file goes to stdout."""
    if FILE_ON_STDOUT.get() and format not in (None, Format.TEXT):
        raise UsageError(f"--format {format} and the file `-` would both go to stdout", hint="name a file")


def result_stream() -> TextIO:
    """The stream for the text of a result: stdout, or stderr if a file goes to stdout."""
    return sys.stderr if FILE_ON_STDOUT.get() else sys.stdout


def emit(text: str) -> None:
    """Write a line of the result to `result_stream`. Raises OSError if that fails."""
    if result_stream() is None:
        raise OSError(errno.EBADF, "stdout is closed, so the result cannot be shown")
    READING.clear()
    typer.echo(_shown(text), err=FILE_ON_STDOUT.get())


def flush() -> None:
    """Flush stdout. Raises OSError if that fails."""
    if sys.stdout is not None:  # None if the process was started with it closed
        sys.stdout.flush()


def emit_json(value: Any, *, lines: bool = False) -> None:
    """Write a result to stdout as one JSON document; on one line if it is one of several (`lines`).

    msgspec structs become what they are on the wire. A value that is an iterator is written one item per line, and
    is never in memory as a whole.
    """
    import json

    if isinstance(value, dict) and any(isinstance(items, Iterator) for items in value.values()):
        _stream(value)
        return
    emit(json.dumps(value, indent=None if lines else 2, ensure_ascii=False, default=_plain))


def _stream(document: dict[str, Any]) -> None:
    import json

    def text(item: Any) -> str:
        return _shown(json.dumps(item, ensure_ascii=False, default=_plain))

    READING.clear()
    before = "{\n"
    for key, value in document.items():
        sys.stdout.write(f"{before}  {text(key)}: ")
        before = ",\n"
        if not isinstance(value, Iterator):
            sys.stdout.write(text(value))
            continue
        comma = "[\n"
        for item in value:
            sys.stdout.write(f"{comma}    {text(item)}")
            comma = ",\n"
        sys.stdout.write("[]" if comma == "[\n" else "\n  ]")
    sys.stdout.write("\n}\n")


def _plain(value: Any) -> Any:
    # json asks only for what it does not know, so a plain document is shown without importing msgspec.
    import msgspec

    return msgspec.to_builtins(value)


def note(text: str) -> None:
    """Write a note to stderr. The commands in it get the connection flags that were typed."""
    READING.clear()
    typer.echo("\n".join(map(_on_stderr, _shown(with_typed_flags(text)).split("\n"))), err=True)


def warn(text: str) -> None:
    """Write a warning to stderr."""
    note(f"warning: {printable(text)}")


def _on_stderr(line: str) -> str:
    """`line`, broken on a terminal: later lines are indented by the width of `error: `, `hint: `, `warning: `."""
    begin = re.match(r"(?:error|hint|warning): |", line)
    return wrapped(line, indent=len(begin[0]) if begin else 0, stream=sys.stderr)


def _shown(text: str) -> str:
    """`text` with its control characters escaped: names come from servers and devices. JSON reads the same text."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether `stream` is a terminal; it is None in a process that was started with it closed."""
    return stream is not None and stream.isatty()


def wrapped(text: str, *, indent: int = 0, stream: TextIO | None) -> str:
    """`text` broken between words for a terminal, its later lines indented; in a pipe it stays as it is.

    A command, between backticks or at the end, is never broken: pasted in two lines it would be two commands.
    """
    if stream is None or not is_terminal(stream) or len(text) <= (width := _width(stream)):
        return text
    whole = re.sub(r"`[^`]*`|fioctl-rotate [^`]*\Z", lambda command: command[0].replace(" ", "\0"), text)
    return textwrap.fill(
        whole, width, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False
    ).replace("\0", " ")


def _width(terminal: TextIO) -> int:
    """The terminal's width in characters. The variable COLUMNS overrides it. stdout may be a file meanwhile."""
    with contextlib.suppress(OSError, ValueError):
        if "COLUMNS" not in os.environ:
            return os.get_terminal_size(terminal.fileno()).columns or 80
    return shutil.get_terminal_size().columns


def check_lines(checks: "Sequence[Check]", stream: TextIO | None = None) -> list[str]:
    """One line per check: status, name, message. If `stream` is a terminal, messages stay in their column."""
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        line = printable(f"{check.status:<4}  {check.name:<{width}}  {check.message}")
        lines.append(wrapped(line, indent=len(line) - len(printable(check.message)), stream=stream))
    return lines


def interactive() -> bool:
    """Whether stdin and stdout are terminals: only then is anything asked."""
    return is_terminal(sys.stdin) and is_terminal(sys.stdout)


def confirm(question: str, *, yes: bool) -> None:
    """Ask on a terminal; end the command with exit code 1 if the answer is no. In a pipe, or with `yes`, go on."""
    if yes or not interactive():
        return
    with asking():
        agreed = _yes_or_no(printable(question))
    if not agreed:
        note("nothing was changed")
        raise typer.Exit(1)


def _yes_or_no(question: str) -> bool:
    """The answer that is typed; an empty line is no. Raises Abort where stdin ends."""
    while True:
        typer.echo(f"{question} [y/N]: ", nl=False, err=True)
        _wait_for_line()
        line = sys.stdin.readline()
        if not line:
            raise typer.Abort
        answer = line.strip().lower()
        if answer in ("", "n", "no", "y", "yes"):
            return answer.startswith("y")
        note("error: expected y or n")


def _wait_for_line() -> None:
    """Wait for a line on stdin, or for a signal: a read would miss a signal that comes just before it blocks."""
    import select

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    previous = signal.set_wakeup_fd(writer)
    try:
        select.select([sys.stdin, reader], [], [])
    finally:
        signal.set_wakeup_fd(previous)
        os.close(reader)
        os.close(writer)


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """While the block asks a person something, Ctrl-C, SIGTERM and SIGHUP end the command at once.

    Otherwise a signal cancels the command's task. A blocked prompt never notices, and the answer would still count.
    """
    READING.clear()

    def stop(number: int, _frame: object) -> None:
        raise ended_by(number)

    with handling(stop, not_ignored()):
        yield


def console(*, stderr: bool = False) -> "Console":
    """rich's console for stdout or stderr; outside a terminal it neither colours nor cuts lines."""
    from rich.console import Console

    stream = sys.stderr if stderr else result_stream()
    if is_terminal(stream):
        return Console(file=stream, highlight=False)
    return Console(file=stream, highlight=False, width=100_000, no_color=True, force_terminal=False)


def table(headers: Sequence[str], rows: Iterable[Sequence[str | None]]) -> "rich.table.Table":
    """rich's table, for a live view. Markup and control characters in cells (from servers, devices) do nothing."""
    from rich.table import Table
    from rich.text import Text

    result = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        result.add_column(header, overflow="fold")
    for row in rows:
        result.add_row(*(Text(printable(cell or "")) for cell in row))
    return result
