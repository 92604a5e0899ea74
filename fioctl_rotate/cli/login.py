"""`login`: try credentials and keep them in the settings file."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fioctl_rotate.cli import common
from fioctl_rotate.cli.common import Result, note
from fioctl_rotate.errors import UsageError, printable
from fioctl_rotate.settings import (
    DEFAULT_SERVER,
    TOKENS_PAGE,
    Flags,
    chosen_profile,
    default_config_file,
    load_file,
    named_config_file,
    refuse_empty,
)


@common.connected
def login(
    flags: Flags,
    fioctl_file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            help="With --from-fioctl: fioctl's settings file, if not FIOCTL_CONFIG or ~/.config/fioctl.yaml.",
        ),
    ] = None,
    from_fioctl: Annotated[
        bool, typer.Option("--from-fioctl", help="Use fioctl's API token or OAuth credentials.")
    ] = False,
) -> Result:
    """Try an API token, and keep it with Factory and server in the settings file (mode 0600).

    On a terminal it asks for what is missing from flags and environment; the token is not shown. In a pipe the
    token comes from FIOCTL_TOKEN or stdin. With --profile NAME all this is kept as that profile; other profiles
    stay. Only credentials that work are kept. With --from-fioctl they come from fioctl's file. An expired OAuth
    access token is refreshed, as in fioctl.
    """
    refuse_empty(flags)
    if flags.mock:
        raise UsageError("a mock needs no login", hint=f"name it with --mock {flags.mock}")
    if fioctl_file is not None and not from_fioctl:
        raise UsageError("FILE needs --from-fioctl")
    values = _from_fioctl(flags, fioctl_file) if from_fioctl else _asked(flags)
    path = named_config_file(flags, os.environ) or default_config_file()
    profile = chosen_profile(flags, os.environ, load_file(path))

    from fioctl_rotate.ops.login import log_in

    trace = note if flags.verbose else None
    # Questions are asked outside the event loop, where a signal ends them.
    user = common.run(log_in(values, path, profile, environ=os.environ, trace=trace))
    server = values.get("server", DEFAULT_SERVER)
    document = {
        "factory": values["factory"],
        "server": server,
        "user": user,
        "settings-file": str(path),
        "profile": profile,
    }
    as_user = f" as {printable(user.name)}, {printable(user.role)}" if user else ""
    kept = f", profile {profile}: use it with --profile {profile}" if profile else ""
    return Result(
        document,
        [f"logged in to factory {values['factory']} at {server}{as_user}"],
        (f"kept in {path}{kept}",),
    )


def _asked(flags: Flags) -> dict[str, Any]:
    """Factory, token and server from flags and environment; asks for the rest. Raises UsageError."""
    values = {
        "server": flags.server or os.environ.get("FIOCTL_ROTATE_SERVER"),
        "factory": flags.factory or os.environ.get("FIOCTL_FACTORY"),
        "token": flags.token or os.environ.get("FIOCTL_TOKEN"),
    }
    if flags.token is None and os.environ.get("FIOCTL_TOKEN") == "":
        raise UsageError("FIOCTL_TOKEN is set but empty", hint="unset it, or put a token in it")
    if common.interactive():
        with common.asking():
            values["server"] = values["server"] or typer.prompt("Server", default=DEFAULT_SERVER, err=True)
            values["factory"] = values["factory"] or typer.prompt("Factory", err=True)
            if not values["token"]:
                note(f"API tokens are made at {TOKENS_PAGE}")
                values["token"] = typer.prompt("Token (not shown)", hide_input=True, err=True)
    elif not values["factory"]:
        raise UsageError("no factory given", hint="name it with --factory or FIOCTL_FACTORY")
    elif not values["token"]:
        values["token"] = sys.stdin.readline() if sys.stdin else None
    values = {name: value.strip() for name, value in values.items() if value}
    if not values.get("token"):
        raise UsageError("no token given", hint="set FIOCTL_TOKEN, or write the token to stdin")
    return {**values, "server": str(values.get("server", DEFAULT_SERVER)).rstrip("/")}


def _from_fioctl(flags: Flags, file: Path | None) -> dict[str, Any]:
    """Factory, server and credentials from fioctl's settings file; flags override them. Raises UsageError."""
    from fioctl_rotate.ops.fioctl_config import read

    named = os.environ.get("FIOCTL_CONFIG")
    path = file or (Path(named) if named else Path("~/.config/fioctl.yaml"))
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise UsageError("there is no home directory", hint="name fioctl's settings file") from error
    values, left = read(path)
    for text in left:
        common.warn(text)
    given = {"factory": flags.factory, "token": flags.token, "server": flags.server}
    values = {"server": DEFAULT_SERVER, **values, **{name: value for name, value in given.items() if value}}
    values.setdefault("factory", os.environ.get("FIOCTL_FACTORY"))
    if not values["factory"]:
        raise UsageError(f"{path} names no factory", hint="name it with --factory")
    return {**values, "server": values["server"].rstrip("/")}


app = common.single(login, "fioctl-rotate login --factory acme --profile work")
