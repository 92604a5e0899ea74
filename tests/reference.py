"""The command tree as data."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from typer.main import get_command

from fioctl_rotate.cli.app import root
from fioctl_rotate.cli.common import CONNECTION_OPTIONS


@dataclass(frozen=True)
class Leaf:
    """A command that does something: its words after `fioctl-rotate`, and typer's command."""

    path: tuple[str, ...]
    command: Any

    @property
    def arguments(self) -> list[Any]:
        return [p for p in self.command.params if p.param_type_name == "argument"]

    @property
    def options(self) -> list[Any]:
        return [p for p in self.command.params if p.param_type_name == "option" and p.name != "help"]

    @property
    def connected(self) -> bool:
        return CONNECTION_OPTIONS.keys() <= {p.name for p in self.command.params}


@functools.cache
def leaves() -> tuple[Leaf, ...]:
    """Every command of the tree that is listed in a help."""
    return tuple(_walk(get_command(root), (), None))


def _walk(command: Any, path: tuple[str, ...], parent: Any) -> Iterator[Leaf]:
    if not hasattr(command, "list_commands"):
        yield Leaf(path, command)
        return
    from typer import Context

    context = Context(command, info_name=path[-1] if path else "fioctl-rotate", parent=parent)
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        if not child.hidden:
            yield from _walk(child, (*path, name), context)
