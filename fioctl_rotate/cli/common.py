"""What every command shares: options, groups, how a command runs and what it talks to."""

import contextlib
import functools
import gc
import inspect
import shlex
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command_from_info, get_command_name, get_group
from typer.models import CommandInfo

from fioctl_rotate.cli.completion import Described, names
from fioctl_rotate.cli.hints import TYPED
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
from fioctl_rotate.duration import parse_duration
from fioctl_rotate.errors import Stopped, UsageError
from fioctl_rotate.settings import Flags, Settings, resolve
from fioctl_rotate.value import Value

if TYPE_CHECKING:
    from fioctl_rotate.api.client import FactoryApi

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

# --- Options ---

# Names of a dataclass's fields, or of a function's parameters, each with its `typer.Option`.
Options = Mapping[str, Any]


def option(names: str, help: str, **more: Any) -> Any:
    """A `typer.Option`. `names` has its flags and, if it takes a value, the value's name: `-f --factory NAME`."""
    flags = [name for name in names.split() if name.startswith("-")]
    metavar = next((name for name in names.split() if not name.startswith("-")), None)
    return typer.Option(*flags, metavar=metavar, help=help, **more)


def duration_option(name: str, help: str, *, shortest: float = 0.0, signed: bool = False) -> Any:
    """A typer option whose value is a duration; the command gets seconds, at least `shortest`.

    With `signed`, a minus may stand before it. `help` names the default, with a unit.
    """

    def seconds(value: object) -> float:
        try:
            text = str(value)
            if signed and text.startswith("-"):
                return -parse_duration(text[1:])
            return parse_duration(text, shortest=shortest)
        except UsageError as error:
            # typer puts the option's name before it.
            raise typer.BadParameter(f"{error}; {error.hint}" if error.hint else str(error)) from error

    return typer.Option(name, metavar="DURATION", parser=seconds, help=help, show_default=False)


CONNECTION_OPTIONS: Options = {
    "factory": option("-f --factory NAME", "Factory name [env: FIOCTL_FACTORY]."),
    "token": option("-t --token TOKEN", "API token; visible in the process list [env: FIOCTL_TOKEN]."),
    "server": option("--server URL", "Operator API [env: FIOCTL_ROTATE_SERVER] [default: https://api.foundries.io]."),
    "mock": option("--mock DIR", "Use the mocked Factory in DIR; needs no server [env: FIOCTL_ROTATE_MOCK]."),
    "config": option("-c --config FILE", "Settings file, TOML [env: FIOCTL_ROTATE_CONFIG]."),
    "profile": option("--profile NAME", "Profile [env: FIOCTL_ROTATE_PROFILE].", autocompletion=names("profiles")),
    "verbose": option("-v --verbose", "Show each request on stderr."),
}  # fmt: skip


class _Spread(Value):
    """Options that a command receives in one `parameter`: a `kind` made from them, or what `then` makes of it."""

    parameter: str
    kind: Callable[..., Any]
    options: Options
    then: Callable[[Any], Any] | None
    fixed: Mapping[str, Any]

    def added(self) -> list[inspect.Parameter]:
        """The options as parameters of a command. Types and defaults come from `kind`."""
        types = get_type_hints(self.kind)
        # A class keeps a field's default as an attribute.
        defaults = (
            {name: getattr(self.kind, name, inspect.Parameter.empty) for name in self.options}
            if isinstance(self.kind, type)
            else {name: given.default for name, given in inspect.signature(self.kind).parameters.items()}
        )
        return [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults[name],
                annotation=Annotated[types[name], option],
            )
            for name, option in self.options.items()
        ]

    def take(self, arguments: dict[str, Any]) -> None:
        """Put one value into `arguments` for all the options."""
        value = self.kind(**{name: arguments.pop(name) for name in self.options}, **self.fixed)
        arguments[self.parameter] = self.then(value) if self.then else value


def spread(
    parameter: str,
    kind: Callable[..., Any],
    options: Options,
    *,
    then: Callable[[Any], Any] | None = None,
    **fixed: Any,
) -> Callable[[F], F]:
    """A decorator that gives a command the `options`; it receives them in `parameter`, as one `kind`.

    An option's type and default are those of `kind`'s field or parameter of that name; one without a default must
    be given. `then` converts the `kind`; `fixed` are values for it that no option changes. The decorator only
    records all this: `runner` makes the command when it is typed.
    """

    def decorate(command: F) -> F:
        noted = command.__dict__.setdefault("spread", [])
        noted.insert(0, _Spread(parameter, kind, options, then, fixed))
        return command

    return decorate


def _with_typed_before(flags: Flags) -> Flags:
    """`flags`, with those typed before the command. A flag after the command wins. TYPED has all of them then."""
    before = TYPED.get()
    if flags.mock is not None or flags.server is not None:
        before = before.replace(mock=None, server=None)
    flags = before.replace(
        **{name: value for name, value in vars(flags).items() if value not in (None, False)}
    )
    TYPED.set(flags)
    return flags


connected = spread("flags", Flags, CONNECTION_OPTIONS, then=_with_typed_before)
"""Gives a command the connection options; it receives them as one `Flags` in its parameter `flags`."""


GROUP = option("-g --group GROUP", "Device group.", autocompletion=names("groups"))
GroupOption = Annotated[str, GROUP]
OptionalGroup = Annotated[str | None, GROUP]
FormatOption = Annotated[Format, option("--format", "How to show the result.")]
YesOption = Annotated[bool, option("-y --yes", "Do not ask; answer yes.")]
LimitOption = Annotated[int | None, option("-n --limit N", "Show only the newest N.", min=1)]


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
    noted: list[_Spread] = command.__dict__.get("spread", [])
    taken = {spread.parameter for spread in noted}
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in own.parameters.values() if p.name not in taken]
    parameters += [parameter for spread in reversed(noted) for parameter in spread.added()]
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
        for spread in noted:
            spread.take(arguments)
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
    """Run the coroutine and return its result. SIGTERM and SIGHUP cancel it, as Ctrl-C does, and raise Stopped."""
    import asyncio

    async def stoppable() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        heard: list[int] = []

        def stop(number: int) -> None:
            heard.append(number)
            if task is not None:
                task.cancel()

        # Signals belong to the main thread; one that is ignored, as `nohup` does with SIGHUP, stays ignored.
        in_main = threading.current_thread() is threading.main_thread()
        ours = [
            n for n in (signal.SIGTERM, signal.SIGHUP) if in_main and signal.getsignal(n) is signal.SIG_DFL
        ]
        for number in ours:
            loop.add_signal_handler(number, stop, number)
        try:
            return await work
        except asyncio.CancelledError:
            if heard:
                raise Stopped(heard[0]) from None
            raise
        finally:
            for number in ours:
                loop.remove_signal_handler(number)

    return asyncio.run(stoppable())
