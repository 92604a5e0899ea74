"""What the commands for the configuration of fleet, groups and devices share: options, and how a log is shown."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fioctl_rotate.cli import common
from fioctl_rotate.cli.common import Result, option
from fioctl_rotate.errors import UsageError, printable
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.settings import Flags
from fioctl_rotate.value import Value

if TYPE_CHECKING:
    from fioctl_rotate import wire

FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="Name of the configuration file.")]
FilesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE=VALUE...",
        help="A file and its value; FILE==PATH reads the value from PATH (- is stdin).",
    ),
]
TagOption = Annotated[str | None, option("--tag TAG", "Only in fioctl: changes the tag.")]
AppsOption = Annotated[str | None, option("--apps APPS", "Only in fioctl: changes the apps.")]


class Change(Value):
    """How to set files. With `raw`, FILES name one JSON file; `create` replaces the whole configuration."""

    reason: str = ""
    raw: bool = False
    create: bool = False
    dryrun: bool = False


CHANGE_OPTIONS: common.Options = {
    "reason": option("-m -r --reason TEXT", "Reason, for the log."),
    "raw": option("--raw", "FILE is a JSON file with reason and files (- is stdin)."),
    "create": option("--create", "Replace the whole configuration with these files."),
    "dryrun": option("--dryrun --dry-run", "Show what would be set, and send nothing."),
}

with_change = common.spread("change", Change, CHANGE_OPTIONS)
"""Gives a command the options of setting files; it receives them as one `Change` in its parameter `change`."""


async def set_files(
    flags: Flags, scope: Scope, files: list[str], change: Change, *, by_uuid: bool = False
) -> Result:
    """Run `config set` and `device config set`."""
    from fioctl_rotate.ops import config_set as ops

    if change.raw and len(files) != 1:
        raise UsageError("--raw takes one FILE")
    request = ops.raw_request(Path(files[0])) if change.raw else ops.request(change.reason, files)
    names = [file.name for file in request.files]
    async with common.connect(flags) as api:
        if change.dryrun:
            return Result(request, (f"would set {name} of {scope}" for name in names))
        found = await ops.set_config(api, scope, request, by_uuid=by_uuid, replace=change.create)
        return common.done(api, f"set {', '.join(names)} of {found}", files=names, **found.document())


async def show_overrides(flags: Flags, scope: Scope, changes: bool, *, by_uuid: bool = False) -> Result:
    """Run `config updates` and `device config updates`. Unlike fioctl's, they only show."""
    if changes:
        command = "config updates" if scope.shared else f"devices config updates {scope.name}"
        raise UsageError(f"only fioctl changes tag and apps: `fioctl {command}`")
    async with common.connect(flags) as api:
        from fioctl_rotate.ops.config_set import read_overrides

        found, device, values = await read_overrides(api, scope, by_uuid=by_uuid)
    reported = {"tag": device.tag, "apps": device.docker_apps or None} if device else None
    lines = [f"{key} of {found}: {value}" for key, value in values.items()]
    if device:
        lines.insert(0, f"tag that the device reports: {device.tag or '-'}")
    if not values:
        lines.append(f"{found} sets neither tag nor apps")
    return Result({"reported": reported, "configured": values}, map(printable, lines))


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
