"""What every command shares: connection options, output, questions."""

import contextlib
import functools
import inspect
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TextIO, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from fioctl_rotate.duration import parse_duration
from fioctl_rotate.errors import UsageError, printable
from fioctl_rotate.settings import Flags, Settings, resolve

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fioctl_rotate.api.client import FactoryApi
    from fioctl_rotate.checks import Check

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

# All control characters but the line feed and the tab.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

CONNECTION_OPTIONS: dict[str, tuple[Any, Any]] = {
    "factory": (
        Annotated[
            str | None,
            typer.Option(
                "-f", "--factory", metavar="NAME", help="Factory to talk about [env: FIOCTL_FACTORY]."
            ),
        ],
        None,
    ),
    "token": (
        Annotated[
            str | None,
            typer.Option(
                "-t",
                "--token",
                metavar="TOKEN",
                help="API token; FIOCTL_TOKEN keeps it out of the process list [env: FIOCTL_TOKEN].",
            ),
        ],
        None,
    ),
    "server": (
        Annotated[
            str | None,
            typer.Option(
                "--server",
                metavar="URL",
                help="Operator API; https://api.foundries.io unless given [env: FIOCTL_ROTATE_SERVER].",
            ),
        ],
        None,
    ),
    "mock": (
        Annotated[
            str | None,
            typer.Option(
                "--mock",
                metavar="DIR",
                help="Talk to the mocked Factory in DIR instead of a server [env: FIOCTL_ROTATE_MOCK].",
            ),
        ],
        None,
    ),
    "config": (
        Annotated[
            str | None,
            typer.Option(
                "-c", "--config", metavar="FILE", help="Settings file, TOML [env: FIOCTL_ROTATE_CONFIG]."
            ),
        ],
        None,
    ),
    "profile": (
        Annotated[
            str | None, typer.Option("--profile", metavar="NAME", help="Profile of the settings file to use.")
        ],
        None,
    ),
    "verbose": (
        Annotated[bool, typer.Option("-v", "--verbose", help="Show each request on stderr.")],
        False,
    ),
}


Options = dict[str, tuple[Any, Any]]
Command = Callable[..., None]


def spread(parameter: str, kind: Callable[..., Any], options: Options) -> Callable[[Command], Command]:
    """A decorator that gives a command the `options`; it receives them in `parameter`, as one `kind`.

    `options` maps `kind`'s field names to the option's annotation and its default
    (`inspect.Parameter.empty` where it must be given).
    """

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)
        kept = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own.parameters.values()]
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in options.items()
        ]

        @functools.wraps(command)
        def wrapper(**arguments: Any) -> None:
            value = kind(**{name: arguments.pop(name) for name in options})
            command(**{parameter: value}, **arguments)

        parameters = [p for p in kept if p.name != parameter] + added
        wrapper.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]  # inspect reads it
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapper

    return decorate


connected = spread("flags", Flags, CONNECTION_OPTIONS)
"""Gives a command the connection options; it receives them as one `Flags` in its parameter `flags`."""


def settings_of(flags: Flags, *, offline: bool = False) -> Settings:
    """The settings that `flags`, environment and file make, their notes told on stderr."""
    settings = resolve(flags, offline=offline)
    for text in settings.notes:
        note(text)
    return settings


class Group(TyperGroup):
    """A command group that answers a call without a command with its help, on stderr, and exit code 2."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the help where nothing more was typed."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands, each with its whole first sentence."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, command.get_short_help_str(limit=1000)) for name, command in self.commands.items()]
            )


class Leaf(TyperCommand):
    """A command whose example stands on one line: pasted in two, it would lose what ends it, such as --dryrun."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the example, for the terminal to break."""
        formatter.write(f"\n  {self.epilog}\n")


class _App(typer.Typer):
    def command(
        self, name: str | None = None, *, cls: type[TyperCommand] | None = None, **options: Any
    ) -> Callable[[F], F]:
        return super().command(name, cls=cls or Leaf, **options)


def group(help: str) -> typer.Typer:
    """A Typer app for a command group."""
    return _App(
        cls=Group,
        help=help,
        rich_markup_mode=None,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def single(command: Command, example: str) -> typer.Typer:
    """A Typer app that is one command, without a group above it."""
    app = _App(
        rich_markup_mode=None, add_completion=False, context_settings={"help_option_names": ["-h", "--help"]}
    )
    app.command(epilog=f"Example: {example}")(command)
    return app


class Format(StrEnum):
    """How a result is shown."""

    TEXT = "text"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="How to show the result.")]
YesOption = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask; answer yes.")]


def duration_option(name: str, help: str, *, shortest: float = 0.0) -> Any:
    """A typer option whose value is a duration; the command gets seconds, at least `shortest`."""

    def seconds(value: object) -> float:
        try:
            return parse_duration(str(value), shortest=shortest)
        except UsageError as error:
            # typer puts the option's name before it.
            raise typer.BadParameter(f"{error}; {error.hint}" if error.hint else str(error)) from error

    return typer.Option(name, metavar="DURATION", parser=seconds, help=help)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run the coroutine to its end."""
    import asyncio

    return asyncio.run(work)


def with_api(settings: Settings, work: "Callable[[FactoryApi], Coroutine[Any, Any, T]]") -> T:
    """Open the operator API that `settings` name, and run `work` with it."""
    from fioctl_rotate.ops.connect import open_api

    async def connected_work() -> T:
        async with open_api(settings, trace=note if settings.verbose else None) as api:
            return await work(api)

    return run(connected_work())


def emit(text: str) -> None:
    """A line of the result, to stdout."""
    typer.echo(_shown(text))


def emit_json(value: Any, *, lines: bool = False) -> None:
    """A result as one JSON document, to stdout; on one line where it is one of several (`lines`).

    msgspec structs are taken as they would go over the wire.
    """
    import json

    emit(json.dumps(value, indent=None if lines else 2, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    # Only what json does not know is msgspec's, so a plain document is shown without importing it.
    import msgspec

    return msgspec.to_builtins(value)


def note(text: str) -> None:
    """Something a person may want to know, to stderr."""
    typer.echo(_shown(text), err=True)


def _shown(text: str) -> str:
    """`text` without control of the terminal: names come from servers and devices. In JSON it means the same."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def warn(text: str) -> None:
    """Something a person should know before going on, to stderr."""
    typer.echo(f"warning: {printable(text)}", err=True)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person may see what `stream` says; None is what a process has that was started with it closed."""
    return stream is not None and stream.isatty()


def wrapped(text: str, *, indent: int = 0, stream: TextIO | None) -> str:
    """`text` as it is in a pipe; on a terminal broken between words, the lines after the first indented."""
    if not is_terminal(stream):
        return text
    width = shutil.get_terminal_size().columns
    return textwrap.fill(
        text, width, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False
    )


def check_lines(checks: "Sequence[Check]") -> list[str]:
    """A line a check: how it ended, its name, what was seen."""
    width = max((len(check.name) for check in checks), default=0)
    return [printable(f"{check.status:<4}  {check.name:<{width}}  {check.message}") for check in checks]


def emit_checks(checks: "Sequence[Check]") -> None:
    """What was looked at, to stdout; on a terminal each check's words stay in their column."""
    for check, line in zip(checks, check_lines(checks), strict=True):
        emit(wrapped(line, indent=len(line) - len(printable(check.message)), stream=sys.stdout))


def interactive() -> bool:
    """Whether a person sits at both ends: only then is anything asked, coloured or redrawn."""
    return is_terminal(sys.stdin) and is_terminal(sys.stdout)


def confirm(question: str, *, yes: bool) -> None:
    """Ask on a terminal; go on in a pipe or with `yes`; leave with exit code 1 where the answer is no."""
    if yes or not interactive():
        return
    with asking():
        agreed = typer.confirm(question, err=True)
    if not agreed:
        note("nothing was changed")
        raise typer.Exit(1)


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """While the block asks a person something, Ctrl-C ends the command at once.

    asyncio's own handler cancels its task, which a blocked prompt never notices: the answer would still count.
    """
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def console(*, stderr: bool = False) -> "Console":
    """rich's console for stdout or stderr; outside a terminal it neither colours nor cuts lines."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    if is_terminal(stream):
        return Console(file=stream, highlight=False)
    return Console(file=stream, highlight=False, width=100_000, no_color=True, force_terminal=False)


def table(headers: Sequence[str], rows: Iterable[Sequence[str | None]]) -> "Table":
    """A plain table; cells come from servers and devices, so they are neither markup nor terminal control."""
    from rich.table import Table
    from rich.text import Text

    result = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        result.add_column(header, overflow="fold")
    for row in rows:
        result.add_row(*(Text(printable(cell or "")) for cell in row))
    return result
