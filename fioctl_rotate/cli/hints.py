"""Commands that the program prints work as they are printed: they keep the connection flags that were typed."""

import re
import shlex
from contextvars import ContextVar
from typing import Any

from fioctl_rotate.settings import Flags

TYPED: ContextVar[Flags] = ContextVar("connection flags of this command", default=Flags())  # noqa: B039  frozen

# A command stands between backquotes, or at the end of a line.
_COMMAND = r"fioctl-rotate [a-z][^`\n]*"


def with_typed_flags(text: str) -> str:
    """`text`, with the connection flags that were typed added to each command in it that lacks them.

    A token is not repeated: it would show on the screen.
    """
    if "fioctl-rotate " not in text or TYPED.get() == Flags():
        return text
    return re.sub(_COMMAND, lambda found: _extended(found[0], TYPED.get()), text)


def _extended(command: str, flags: Flags) -> str:
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    leaf = find_command(words[1:])
    if "--help" in words or leaf is None or "mock" not in {parameter.name for parameter in leaf.params}:
        return command
    given = {word.partition("=")[0] for word in words}
    more: list[str] = []
    for spellings, value in (
        (("--factory", "-f"), flags.factory),
        (("--mock", "--server"), flags.mock),
        (("--server", "--mock"), flags.server),
        (("--config", "-c"), flags.config),
        (("--profile",), flags.profile),
    ):
        if value is not None and given.isdisjoint(spellings):
            more += spellings[0], value
    return f"{command} {shlex.join(more)}" if more else command


def find_command(words: list[str]) -> Any:
    """The command that the words after `fioctl-rotate` name; None for a group or an unknown command."""
    from typer import Context

    from fioctl_rotate.cli.app import tree

    command: Any = tree()
    context = None
    for word in words:
        if not hasattr(command, "get_command"):
            break
        context = Context(command, info_name=word, parent=context)
        command = command.get_command(context, word)
    return None if command is None or hasattr(command, "get_command") else command
