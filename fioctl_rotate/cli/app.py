"""The command `fioctl-rotate`: its groups, each imported only when it is typed, and how it ends."""

import contextlib
import functools
import gc
import importlib
import os
import re
import signal
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.exceptions import Abort, TyperException
from typer.main import get_command

from fioctl_rotate import __version__, signals
from fioctl_rotate.cli import common
from fioctl_rotate.cli.common import note
from fioctl_rotate.cli.hints import TYPED
from fioctl_rotate.cli.output import FILE_ON_STDOUT, flush
from fioctl_rotate.cli.reading import READING
from fioctl_rotate.errors import Error, UsageError, printable
from fioctl_rotate.settings import Flags

# name: (module, or module:name where its app is not `app`; one line of help, or None for a name that is not listed)
COMMANDS: dict[str, tuple[str, str | None]] = {
    "demo": ("demo", "Show a whole rotation on a mocked Factory, from start to proof."),
    "config": ("config", "Rotate a group's certificates; show and change groups."),
    "devices": ("devices", "Rotate a device's certificate; show and change devices."),
    "device": ("devices", None),
    "plan": ("plan", "Show a plan that a dry run wrote."),
    "apply": ("apply", "Push a reviewed plan, exactly as it was shown."),
    "keys": ("keys", "The Factory's root key and certificates."),
    "est": ("est", "EST servers: authorize, show, check, run one."),
    "rotations": ("rotations", "The state of a rotation on every device."),
    "mock": ("mock", "A mocked Factory to rehearse on."),
    "login": ("login", "Try an API token, and keep it in the settings file."),
    "status": ("factory:status_app", "Show groups, their devices, and their rotation."),
    "users": ("factory:users_app", "List the Factory's users."),
    "version": ("factory:version_app", "Show the version of this program."),
    "completion": ("factory:completion_app", "Print the script for completion in a shell."),
    "profiles": ("profiles", "List the profiles of the settings file, and choose one."),
    "whoami": ("whoami", "Show which Factory, user and server commands talk to, and why."),
}

EXIT_CODES = """Exit codes: 0 done; 1 failed; 2 wrong usage; 3 some device's rotation failed; 4 time ran out
while waiting; 5 refused (a check failed, a plan is out of date, another Factory's root); 6 changes pending or in
progress, with --detailed-exitcode; 130 interrupted; 143 stopped by SIGTERM; 129 stopped by SIGHUP."""


class LazyGroup(common.Group):
    """The top-level group. Its help reads the table above; a command's module is imported to run it."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names in the order of the table, hidden spellings left out."""
        return [name for name, (_, text) in COMMANDS.items() if text is not None]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import the module of `cmd_name` and build its command."""
        if cmd_name not in self.commands and cmd_name in COMMANDS:
            name, _, attribute = COMMANDS[cmd_name][0].partition(":")
            module = importlib.import_module(f"fioctl_rotate.cli.{name}")
            command = common.build(getattr(module, attribute or "app"))
            command.name = cmd_name
            command.hidden = COMMANDS[cmd_name][1] is None
            command.short_help = COMMANDS[cmd_name][1]
            self.commands[cmd_name] = command
        return self.commands.get(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items() if text is not None])


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fioctl-rotate {__version__}")
        raise typer.Exit()


root = typer.Typer(
    cls=LazyGroup,
    rich_markup_mode=None,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@root.callback()
@common.runner
@common.spread("flags", Flags, common.CONNECTION_OPTIONS)
def _root(
    flags: Flags,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Rotate the client certificates of a FoundriesFactory fleet, and rehearse it on a mocked Factory first.

    Connection options can stand before the command or after it.
    """
    TYPED.set(flags)


@functools.cache
def tree() -> Any:
    """The command tree, made once. Each command in it is made when it is typed."""
    return get_command(root)


def main() -> None:
    """Run the command line of this process, and exit."""
    try:
        code = run()
    except KeyboardInterrupt:  # a second Ctrl-C, while the first was answered
        code = 130
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a late one does not change how the command ended
    # The process ends: a last garbage collection would only take time.
    gc.freeze()
    sys.exit(code)


@signals.kept()
def run(argv: list[str] | None = None) -> int:
    """Run `argv` (default: the process's) and return the exit code. Errors are shown on stderr, never raised."""
    TYPED.set(Flags())
    FILE_ON_STDOUT.set(False)
    READING.begin()
    _write_any_character()
    try:
        _check_encoding(sys.argv[1:] if argv is None else argv)
        code = tree().main(argv, prog_name="fioctl-rotate", standalone_mode=False)
        _flush()
        if code == 130:  # typer's code for Ctrl-C; it prints nothing
            note("interrupted")
    except Error as error:
        note(error.diagnostics())
        return error.exit_code
    except TyperException as error:
        note(f"error: {printable(_usage(error))}")
        context = getattr(error, "ctx", None)
        note(f"hint: `{context.command_path if context else 'fioctl-rotate'} --help` shows what it takes")
        return error.exit_code
    except (Abort, KeyboardInterrupt):
        note("interrupted")
        return 130
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # the reader of our output has gone
            subject = f"{error.filename}: " if error.filename else ""
            note(f"error: {printable(subject + (error.strerror or str(error)))}")
        with contextlib.suppress(OSError):
            _flush()
        return 1
    except Exception as error:
        # The one place that catches everything: a defect of ours ends in a line, not in a traceback.
        if {"-v", "--verbose"} & set(sys.argv):
            traceback.print_exc()
        note(f"error: {printable(f'unexpected {type(error).__name__}: {error}')}")
        note("hint: this is a defect in fioctl-rotate; the same command with -v shows where")
        return 1
    return code if isinstance(code, int) else 0


def _write_any_character() -> None:
    """Write a character that stdout's encoding lacks as an escape, as on stderr."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _check_encoding(argv: list[str]) -> None:
    for argument in argv:
        try:
            argument.encode()
        except UnicodeEncodeError as error:  # Python keeps what it cannot decode as surrogates
            shown = argument.encode("utf-8", "backslashreplace").decode()
            raise UsageError(f"the argument `{shown}` is not valid UTF-8") from error


def _flush() -> None:
    """Flush stdout. Raises OSError where that fails; the flush at the process's exit does not fail again then."""
    try:
        flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _usage(error: TyperException) -> str:
    message = " ".join(error.format_message().split())
    message = re.sub(r"('[^']{100})[^']+'", r"\1…'", message)
    return message[:1].lower() + message[1:] if not message[:2].isupper() else message
