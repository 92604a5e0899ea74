"""Files that a command writes beside its result: JUnit XML, a Markdown summary, pages. `-` is stdout."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fioctl_rotate.cli.output import give_stdout_to_a_file
from fioctl_rotate.errors import UsageError

if TYPE_CHECKING:
    from fioctl_rotate.checks import Check
    from fioctl_rotate.cli.output import Result


def writable(path: Path | None) -> Path | None:
    """typer's callback of an option that names a file to write; `-` reserves stdout for the file.

    Raises BadParameter where the file cannot be written. The file is often written at the end of a watch, hours
    later, when an error would be too late.
    """
    if path is not None and str(path) == "-":
        give_stdout_to_a_file()
    elif path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"the folder {path.parent} is missing")
    elif path is not None and path.is_dir():
        raise typer.BadParameter(f"{path} is a folder")
    return path


JUNIT = typer.Option(
    "--junit", metavar="FILE", callback=writable, help="Also write JUnit XML, one test case per device."
)
JunitOption = Annotated[Path | None, JUNIT]
SUMMARY = typer.Option(
    "--summary", metavar="FILE", callback=writable, help="Add a summary to FILE, as Markdown."
)
SummaryOption = Annotated[Path | None, SUMMARY]


def require_new(path: Path, *, hint: str = "--force overwrites it") -> None:
    """Refuse (UsageError) a file that exists; `-` is stdout."""
    if str(path) != "-" and path.exists():
        raise UsageError(f"{path} already exists", hint=hint)


def write_out(path: Path, text: str, *, append: bool = False) -> None:
    """Write `text` to a file that was named, or add it to the file; `-` is stdout."""
    from fioctl_rotate.files import STDIO, write_atomic

    if append and path != STDIO:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    else:
        write_atomic(path, text.encode(), 0o644)


def summarize_checks(path: Path | None, title: str, checks: "Sequence[Check]", result: "Result") -> None:
    """Add the checks to the summary file `path`, if one was named."""
    if path is not None:
        from fioctl_rotate.ops import markdown

        write_out(path, markdown.of_checks(title, checks, result.error), append=True)
