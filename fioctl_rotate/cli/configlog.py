"""How a configuration log is shown, for groups, devices and the fleet alike."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from fioctl_rotate.errors import printable

if TYPE_CHECKING:
    from fioctl_rotate import wire

FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="Name of the configuration file.")]


def log_lines(
    log: "Sequence[wire.Config]", users: Mapping[str, str], *, applied: bool = False
) -> Iterator[str]:
    """A log's lines, newest first; `users` gives names to ids; `applied` shows when a device fetched an entry."""
    for number, config in enumerate(log):
        if number:
            yield ""
        yield f"Created At:    {printable(config.created_at or '')}"
        if config.created_by:
            yield f"Created By:    {printable(config.created_by)} / {printable(users.get(config.created_by, '?'))}"
        if applied:
            yield f"Applied At:    {printable(str(config.applied_at or 'not yet'))}"
        yield f"Change Reason: {printable(config.reason or '')}"
        yield "Files:"
        for file in config.files or []:
            handler = f" - [{printable(' '.join(file.on_changed))}]" if file.on_changed else ""
            yield f"\t{printable(file.name)}{handler}"
            for line in file.value.splitlines() if file.unencrypted else ():
                yield f"\t | {printable(line)}"
