"""Options of commands: how one is declared, how a command gets several as one value, and those that many share."""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from fioctl_rotate.cli.completion import names
from fioctl_rotate.cli.hints import TYPED
from fioctl_rotate.cli.output import Format
from fioctl_rotate.duration import parse_duration
from fioctl_rotate.errors import UsageError
from fioctl_rotate.settings import Flags
from fioctl_rotate.value import Value

F = TypeVar("F", bound=Callable[..., Any])

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


class Spread(Value):
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
        noted.insert(0, Spread(parameter, kind, options, then, fixed))
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
