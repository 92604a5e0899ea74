"""How a configuration log is shown, for groups, devices and the fleet alike."""

from typing import TYPE_CHECKING, Annotated

import typer

from fioctl_rotate.cli.common import Format, emit, emit_json
from fioctl_rotate.errors import printable

if TYPE_CHECKING:
    from fioctl_rotate import wire

LimitOption = Annotated[
    int | None, typer.Option("-n", "--limit", min=1, metavar="N", help="Show the newest N only.")
]


def show_log(
    log: "list[wire.Config]",
    users: dict[str, str],
    *,
    format: Format,
    applied: bool = False,
) -> None:
    """Show a log, newest first; `users` gives names to ids; `applied` shows when a device fetched an entry."""
    if format is Format.JSON:
        emit_json({"config": log})
        return
    for number, config in enumerate(log):
        if number:
            emit("")
        emit(f"Created At:    {printable(config.created_at or '')}")
        if config.created_by:
            emit(
                f"Created By:    {printable(config.created_by)} / {printable(users.get(config.created_by, '?'))}"
            )
        if applied:
            emit(f"Applied At:    {printable(str(config.applied_at or 'not yet'))}")
        emit(f"Change Reason: {printable(config.reason or '')}")
        emit("Files:")
        for file in config.files or []:
            handler = f" - [{printable(' '.join(file.on_changed))}]" if file.on_changed else ""
            emit(f"\t{printable(file.name)}{handler}")
            for line in file.value.splitlines() if file.unencrypted else ():
                emit(f"\t | {printable(line)}")
