"""Command lines that the program suggests: whole, so that each works as it is typed."""

import shlex
from collections.abc import Iterable

from fioctl_rotate.rotation.scope import Scope


def factory_options(factory: str, server: str) -> list[str]:
    """The options that name a Factory, whatever flags and environment say. `server` is a URL, or `mock DIR`."""
    mock = server.removeprefix("mock ")
    return ["-f", factory, *(("--server", server) if mock == server else ("--mock", mock))]


def config_log(scope: Scope, factory: Iterable[str]) -> str:
    """Shows the newest entry of the scope's configuration; `factory` are `factory_options`."""
    return shlex.join([*scope.config_command("log"), "-n", "1", *factory])


def rotations(action: str, rotation_id: str, scope: Scope, factory: Iterable[str] = ()) -> str:
    """A command of `rotations` for the scope: `factory` are `factory_options`."""
    return shlex.join(["fioctl-rotate", "rotations", action, rotation_id, *scope.options, *factory])
