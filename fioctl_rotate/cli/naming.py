"""How a command says which rotation it is about: its id, and whose configuration has its entry."""

from typing import Annotated

import typer

from fioctl_rotate.cli.completion import names
from fioctl_rotate.cli.options import GROUP, Options, option, spread
from fioctl_rotate.errors import UsageError
from fioctl_rotate.rotation.scope import Scope

IdArgument = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="ROTATIONID; `rotations list` shows them.", autocompletion=names("rotations")
    ),
]
SCOPE_OPTIONS: Options = {
    "group": GROUP,
    "device": option("--device DEVICE", "One device, in place of a group.", autocompletion=names("devices")),
}


def _any_scope(group: str | None = None, device: str | None = None) -> Scope | None:
    if group is not None and device is not None:
        raise UsageError("name either a group (-g GROUP) or a device (--device DEVICE), not both")
    if device is not None:
        return Scope.of_device(device)
    return None if group is None else Scope.of_group(group)


def _scope(group: str | None = None, device: str | None = None) -> Scope:
    scope = _any_scope(group, device)
    if scope is None:
        raise UsageError("name either a group (-g GROUP) or a device (--device DEVICE)")
    return scope


with_scope = spread("scope", _scope, SCOPE_OPTIONS)
"""Gives a command the options -g and --device, of which one must be given; it receives a `scope`."""
with_any_scope = spread("scope", _any_scope, SCOPE_OPTIONS)
"""As `with_scope`, but both may be left out: `scope` is None then."""
