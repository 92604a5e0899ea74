"""`devices config`: rotate one device's certificate, and a device's own configuration."""

from typing import Annotated

import typer

from fioctl_rotate.cli import common
from fioctl_rotate.cli.common import LimitOption, Result, YesOption
from fioctl_rotate.cli.completion import names
from fioctl_rotate.cli.configs import (
    AppsOption,
    Change,
    FileArgument,
    FilesArgument,
    TagOption,
    log_lines,
    set_files,
    show_overrides,
    with_change,
)
from fioctl_rotate.cli.planning import Modes, with_modes, with_request
from fioctl_rotate.cli.pushing import rotate
from fioctl_rotate.errors import UsageError
from fioctl_rotate.rotation.plan import RotationRequest
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.settings import Flags

app = common.group("A device's own configuration, and its group.")

DeviceArgument = Annotated[
    str, typer.Argument(metavar="DEVICE", help="Name of the device.", autocompletion=names("devices"))
]
ByUuidOption = Annotated[bool, common.option("-u --by-uuid", "DEVICE is a uuid, not a name.")]


@app.command(
    "rotate-certs",
    epilog="Example: fioctl-rotate device config rotate-certs pump-7 -r 'key may have leaked' --dryrun",
)
@common.connected
@with_modes
@with_request
def rotate_certs(
    flags: Flags,
    device: DeviceArgument,
    request: RotationRequest,
    modes: Modes,
    by_uuid: ByUuidOption = False,
) -> Result | None:
    """Rotate the client certificate of one device.

    Sends the entry fio-rotate-certs to the device's own configuration. From then on the device does not follow its
    group's entry; it follows again when its own entry is deleted. With --dryrun, sends nothing.
    """
    return rotate(flags, Scope.of_device(device), request, modes, by_uuid=by_uuid)


@app.command("log", epilog="Example: fioctl-rotate device config log pump-7 -n 1")
@common.connected
async def config_log(
    flags: Flags, device: DeviceArgument, by_uuid: ByUuidOption = False, limit: LimitOption = None
) -> Result:
    """Show the configuration log of one device, newest first, and when the device fetched each entry."""
    async with common.connect(flags) as api:
        from fioctl_rotate.ops.configs import read_log

        found, users = await read_log(api, Scope.of_device(device), limit, by_uuid=by_uuid)
        return Result({"config": found}, log_lines(found, users, applied=True))


@app.command("delete", epilog="Example: fioctl-rotate device config delete pump-7 fio-rotate-certs")
@common.connected
async def config_delete(
    flags: Flags,
    device: DeviceArgument,
    file: FileArgument,
    by_uuid: ByUuidOption = False,
    yes: YesOption = False,
) -> Result:
    """Delete a file of a device's own configuration.

    A device whose own fio-rotate-certs is deleted follows its group's entry again.
    """
    async with common.connect(flags) as api:
        from fioctl_rotate.ops.configs import delete_file

        common.confirm(f"Delete {file} of device {device} in factory {api.factory}?", yes=yes)
        found = await delete_file(api, Scope.of_device(device), file, by_uuid=by_uuid)
        return common.done(api, f"deleted {file} of {found}", file=file, device=found.name)


@app.command("set", epilog="Example: fioctl-rotate device config set pump-7 npmtok==./token -m 'new token'")
@common.connected
@with_change
async def set_config(
    flags: Flags,
    device: DeviceArgument,
    files: FilesArgument,
    change: Change,
    by_uuid: ByUuidOption = False,
) -> Result:
    """Set files of a device's own configuration, each value encrypted for that device alone.

    The other files stay. With --raw, a file may say `"unencrypted": true` and an `"on-changed"` command.
    """
    return await set_files(flags, Scope.of_device(device), files, change, by_uuid=by_uuid)


@app.command("group", epilog="Example: fioctl-rotate device config group pump-7 field")
@common.connected
async def group(
    flags: Flags,
    device: DeviceArgument,
    group: Annotated[
        str | None,
        typer.Argument(metavar="[GROUP]", help="Group to put it into.", autocompletion=names("groups")),
    ] = None,
    unset: Annotated[bool, common.option("--unset", "Take it out of its group.")] = False,
    by_uuid: ByUuidOption = False,
) -> Result:
    """Put a device into a group, or with --unset out of its group.

    A device that joins a group with a rotation gets its entry, and rotates.
    """
    if (group is None) != unset:
        raise UsageError("give either GROUP or --unset")
    async with common.connect(flags) as api:
        from fioctl_rotate.ops.devices import set_group

        found, changed = await set_group(api, device, group or "", by_uuid=by_uuid)
        where = f"in group {group}" if group else "in no group"
        outcome = f"device {found.name} is {where}" if changed else f"device {found.name} was {where} already"
        return common.done(api, outcome, device=found.name, uuid=found.uuid, group=group, changed=changed)


@app.command("updates", epilog="Example: fioctl-rotate device config updates pump-7")
@common.connected
async def updates(
    flags: Flags,
    device: DeviceArgument,
    by_uuid: ByUuidOption = False,
    tag: TagOption = None,
    apps: AppsOption = None,
) -> Result:
    """Show which tag and apps a device's own configuration sets."""
    return await show_overrides(flags, Scope.of_device(device), bool(tag or apps), by_uuid=by_uuid)
