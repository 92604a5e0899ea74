"""What every command shares: groups, how a command runs and what it talks to; options and output by import."""

import contextlib
import functools
import gc
import inspect
import shlex
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command_from_info, get_command_name, get_group
from typer.models import CommandInfo

from fioctl_rotate.cli.completion import Described
from fioctl_rotate.cli.options import CONNECTION_OPTIONS as CONNECTION_OPTIONS
from fioctl_rotate.cli.options import GROUP as GROUP
from fioctl_rotate.cli.options import FormatOption as FormatOption
from fioctl_rotate.cli.options import GroupOption as GroupOption
from fioctl_rotate.cli.options import LimitOption as LimitOption
from fioctl_rotate.cli.options import OptionalGroup as OptionalGroup
from fioctl_rotate.cli.options import Options as Options
from fioctl_rotate.cli.options import Spread
from fioctl_rotate.cli.options import YesOption as YesOption
from fioctl_rotate.cli.options import connected as connected
from fioctl_rotate.cli.options import duration_option as duration_option
from fioctl_rotate.cli.options import option as option
from fioctl_rotate.cli.options import spread as spread
from fioctl_rotate.cli.output import Format as Format
from fioctl_rotate.cli.output import Result as Result
from fioctl_rotate.cli.output import Table as Table
from fioctl_rotate.cli.output import asking as asking
from fioctl_rotate.cli.output import check_lines as check_lines
from fioctl_rotate.cli.output import confirm as confirm
from fioctl_rotate.cli.output import console as console
from fioctl_rotate.cli.output import emit as emit
from fioctl_rotate.cli.output import emit_json as emit_json
from fioctl_rotate.cli.output import flush as flush
from fioctl_rotate.cli.output import interactive as interactive
from fioctl_rotate.cli.output import is_terminal as is_terminal
from fioctl_rotate.cli.output import note as note
from fioctl_rotate.cli.output import require_stdout_for
from fioctl_rotate.cli.output import table as table
from fioctl_rotate.cli.output import warn as warn
from fioctl_rotate.cli.output import wrapped as wrapped
from fioctl_rotate.cli.reading import READING
from fioctl_rotate.errors import UsageError
from fioctl_rotate.settings import Flags, Settings, resolve
from fioctl_rotate.signals import ended_by, handling, not_ignored

if TYPE_CHECKING:
    from fioctl_rotate.api.client import FactoryApi

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

# --- Groups and commands ---


class Group(Described, TyperGroup):
    """A command group, whose commands are made when they are typed.

    Without a command it shows its help on stderr, and ends with exit code 2.
    """

    app: "App"

    def list_commands(self, ctx: Any) -> list[str]:
        """The names in the order in which they are declared, groups after commands."""
        return list(dict.fromkeys((*self.app.declared, *self.commands)))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Make the command."""
        if cmd_name not in self.commands and cmd_name in self.app.declared:
            self.commands[cmd_name] = self.app.make(cmd_name)
        return self.commands.get(cmd_name)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the help where nothing more was typed."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command. An unknown one is refused with what to type: fioctl's command, or a similar name."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            _refuse(ctx, args, self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands, each with its whole first sentence."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, self.get_command(ctx, name).get_short_help_str()) for name in self.list_commands(ctx)]
            )


def _refuse(ctx: Any, args: list[str], known: list[str]) -> None:
    from difflib import get_close_matches

    from fioctl_rotate.cli.fioctl_alone import FIOCTL_ALONE

    above = ["devices" if word == "device" else word for word in ctx.command_path.split()[1:]]
    if (*above, args[0]) in FIOCTL_ALONE:
        command = shlex.join(["fioctl", *above, *args])
        raise UsageError(f"only fioctl has this command: `{command}`", hint=FIOCTL_ALONE[*above, args[0]])
    close = ", ".join(f"'{name}'" for name in get_close_matches(args[0], known))
    ctx.fail(f"no such command '{args[0]}'." + (f" Did you mean {close}?" if close else ""))


class Leaf(Described, TyperCommand):
    """A command. Its example stays on one line: pasted as two, it would lose its end, such as --dryrun."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the example, for the terminal to break."""
        formatter.write(f"\n  {self.epilog}\n")


class App(typer.Typer):
    """A Typer app for one command, or for a group of them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            cls=type("Group", (Group,), {"app": self}),
            rich_markup_mode=None,
            add_completion=False,
            **HELP,
            **options,
        )
        self.declared: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {}

    def command(
        self, name: str | None = None, *, cls: type[TyperCommand] | None = None, **options: Any
    ) -> Callable[[F], F]:
        """Declare a command; it is made when it is typed."""

        def decorate(command: F) -> F:
            called = get_command_name(command.__name__) if name is None else name
            self.declared[called] = (command, {"cls": cls or Leaf, **HELP, **options})
            return command

        return decorate

    def make(self, name: str) -> Any:
        """Make a declared command."""
        command, options = self.declared[name]
        info = CommandInfo(name, callback=runner(command), **options)
        return get_command_from_info(info, pretty_exceptions_short=False, rich_markup_mode=None)


def build(app: App) -> Any:
    """What typer makes of an app: its group, or the one command of `single`."""
    return app.make(SINGLE) if SINGLE in app.declared else get_group(app)


def runner(command: Callable[..., Any]) -> Callable[..., None]:
    """The function that typer calls for `command`: it makes the `spread` values, runs it, and shows its `Result`.

    A coroutine runs in an event loop. A command that returns a `Result`, and has no `format` of its own, gets the
    option `--format`. One that returns None (a server, a watch) has shown its result itself.
    """
    own = inspect.signature(command, eval_str=True)
    noted: list[Spread] = command.__dict__.get("spread", [])
    taken = {each.parameter for each in noted}
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in own.parameters.values() if p.name not in taken]
    parameters += [parameter for each in reversed(noted) for parameter in each.added()]
    add_format = own.return_annotation is not None and not any(p.name == "format" for p in parameters)
    if add_format:
        parameters.append(_FORMAT)

    @functools.wraps(command)
    def wrapper(**arguments: Any) -> None:
        if not gc.isenabled():
            # __main__ switched it off for a faster start. The objects made so far stay until the end, so they are
            # left out. A collection after 50,000 new ones (some megabytes) is soon enough.
            gc.freeze()
            gc.set_threshold(50_000)
            gc.enable()
        format = arguments.pop("format") if add_format else arguments.get("format")
        require_stdout_for(format)
        for each in noted:
            each.take(arguments)
        result = command(**arguments)
        if inspect.iscoroutine(result):
            result = run(result)
        if result is not None:
            result.show(format)

    # typer reads these.
    wrapper.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]  # inspect reads it
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


_FORMAT = inspect.Parameter(
    "format", inspect.Parameter.KEYWORD_ONLY, default=Format.TEXT, annotation=FormatOption
)
HELP: Any = {"context_settings": {"help_option_names": ["-h", "--help"]}}
SINGLE = ""  # the name of a command without a group above it


def group(help: str) -> App:
    """An app for a command group."""
    return App(help=help)


def single(command: Callable[..., Any], example: str) -> App:
    """An app that is one command, without a group above it."""
    app = App()
    app.command(SINGLE, epilog=f"Example: {example}")(command)
    return app


# --- What a command talks to ---


def settings_of(flags: Flags, *, offline: bool = False) -> Settings:
    """The settings from `flags`, environment and file. Notes about them go to stderr."""
    settings = resolve(flags, offline=offline)
    for text in settings.notes:
        note(text)
    return settings


@contextlib.asynccontextmanager
async def connect(flags: Flags, *, timeout: float | None = None) -> "AsyncIterator[FactoryApi]":
    """The operator API that `flags`, environment and settings file name, while the block runs; see `open_api`."""
    async with open_api(settings_of(flags), timeout=timeout) as api:
        yield api


def open_api(
    settings: Settings, *, timeout: float | None = None
) -> "contextlib.AbstractAsyncContextManager[FactoryApi]":
    """The operator API that `settings` name, while the block runs; with -v each request is shown on stderr.

    `timeout` is how long the command may take, in seconds; see `ops.connect.open_api`.
    """
    from fioctl_rotate.ops import connect

    if settings.verbose:
        return connect.open_api(settings, trace=note, announce=note, timeout=timeout)
    return connect.open_api(settings, announce=note, timeout=timeout, counted=READING.counted)


def at(api: "FactoryApi", outcome: str) -> str:
    """`outcome`, with the Factory and the server."""
    return f"{outcome} in factory {api.factory} at {api.server}"


def done(api: "FactoryApi", outcome: str, **document: Any) -> Result:
    """The result of a change: one line for people; `document`, with Factory and server, as JSON."""
    line = at(api, outcome)
    return Result({"factory": api.factory, "server": api.server, **document}, [line], outcome=line)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run the coroutine and return its result. A signal cancels it: see `ended_by` for what that raises.

    A second signal also cancels what it still does before it ends, and a third one ends the process at once. With
    asyncio's own handler the second one raises KeyboardInterrupt wherever the code is: a task can get lost there,
    and the loop waits for it forever. After a signal SIGINT stays ignored, until a caller's `signals.kept` ends.
    """
    import asyncio

    heard: list[int] = []
    running: list[asyncio.Task[T]] = []

    def stop(number: int, _frame: object) -> None:
        heard.append(number)
        if len(heard) == 2:
            signal.signal(number, signal.SIG_DFL)
        for task in running:
            task.get_loop().call_soon_threadsafe(task.cancel)

    async def stoppable() -> T:
        task = cast("asyncio.Task[T]", asyncio.current_task())
        running.append(task)
        if heard:
            task.cancel()
        try:
            return await work
        finally:
            running.clear()

    try:
        with handling(stop, not_ignored()):
            return asyncio.run(stoppable())
    except asyncio.CancelledError:
        if not heard:
            raise
        # What is left takes no time: another Ctrl-C must not change how the command ends.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise ended_by(heard[0]) from None
