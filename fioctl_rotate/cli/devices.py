"""`devices` (also `device`): rotate one device's certificate, and show devices."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from fioctl_rotate.cli import common
from fioctl_rotate.cli.common import LimitOption, OptionalGroup, Result, Table, YesOption
from fioctl_rotate.cli.configlog import FileArgument, log_lines
from fioctl_rotate.cli.planning import Modes, with_modes, with_wish
from fioctl_rotate.cli.pushing import rotate
from fioctl_rotate.errors import printable
from fioctl_rotate.rotation.plan import RotationRequest
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.settings import Flags

if TYPE_CHECKING:
    from fioctl_rotate import wire

app = common.group("Rotate a device's certificate; show devices.")
config_app = common.group("A device's own configuration.")
app.add_typer(config_app, name="config")

DeviceArgument = Annotated[str, typer.Argument(metavar="DEVICE", help="Name of the device.")]
ByUuidOption = Annotated[bool, common.option("-u --by-uuid", "DEVICE is a uuid, not a name.")]


@config_app.command(
    "rotate-certs",
    epilog="Example: fioctl-rotate device config rotate-certs pump-7 -r 'key may have leaked' --dryrun",
)
@common.connected
@with_modes
@with_wish
def rotate_certs(
    flags: Flags,
    device: DeviceArgument,
    wish: RotationRequest,
    modes: Modes,
    by_uuid: ByUuidOption = False,
) -> None:
    """Have one device get a new client certificate from the EST server.

    Sends the entry fio-rotate-certs to the device's own configuration. From then on the device does not follow its
    group's entry: delete the device's own one to have it follow again. With --dryrun, sends nothing.
    """
    rotate(flags, Scope.of_device(device), wish, modes, by_uuid=by_uuid)


@config_app.command("log", epilog="Example: fioctl-rotate device config log pump-7 -n 1")
@common.connected
async def config_log(
    flags: Flags, device: DeviceArgument, by_uuid: ByUuidOption = False, limit: LimitOption = None
) -> Result:
    """Show what was configured for one device alone, newest first, and when it fetched it."""
    async with common.connect(flags) as api:
        from fioctl_rotate.ops.configs import read_log

        found, users = await read_log(api, Scope.of_device(device), limit, by_uuid=by_uuid)
        return Result({"config": found}, log_lines(found, users, applied=True))


@config_app.command("delete", epilog="Example: fioctl-rotate device config delete pump-7 fio-rotate-certs")
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


@app.command("list", epilog="Example: fioctl-rotate devices list -g field")
@common.connected
async def list_devices(flags: Flags, group: OptionalGroup = None) -> Result:
    """List devices, by name; with -g, those of one group."""
    async with common.connect(flags) as api:
        from fioctl_rotate.ops.targets import find

        scope, _ = await find(api, Scope.group_or_fleet(group))
        devices = await api.devices(scope.device_filters)
    rows = ((d.name, d.group_name, d.last_seen, d.lmp_ver, d.target_name, d.uuid) for d in devices)
    table = Table(("NAME", "GROUP", "LAST SEEN", "LMP", "TARGET", "UUID"), rows)
    return Result({"devices": devices}, [table])


@app.command("show", epilog="Example: fioctl-rotate devices show pump-7")
@common.connected
async def show(flags: Flags, device: DeviceArgument, by_uuid: ByUuidOption = False) -> Result:
    """Show one device: its group, when it was seen, its public key, and the configuration in force."""
    async with common.connect(flags) as api:
        from fioctl_rotate.ops.targets import find_device

        found = await find_device(api, device, by_uuid=by_uuid)
    return Result(found, _device_lines(found))


def _device_lines(device: "wire.Device") -> Iterator[str]:
    for label, value in (
        ("Name", device.name),
        ("UUID", device.uuid),
        ("Factory", device.factory),
        ("Group", device.group_name),
        ("Owner", device.owner),
        ("Last seen", device.last_seen),
        ("LmP", device.lmp_ver),
        ("Target", device.target_name),
        ("Tag", device.tag),
        ("Status", device.status),
        ("Production", None if device.is_prod is None else str(device.is_prod).lower()),
    ):
        yield f"{label + ':':<12}{printable(value or '-')}"
    if device.public_key:
        yield device.public_key.strip()
    if device.active_config is not None:
        yield ""
        yield "Configuration in force:"
        yield from log_lines([device.active_config], {}, applied=True)


@app.command("updates", epilog="Example: fioctl-rotate devices updates pump-7 certs-1763989200")
@common.connected
async def updates(
    flags: Flags,
    device: DeviceArgument,
    update: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="ROTATIONID or another update's id: show its events."),
    ] = None,
    by_uuid: ByUuidOption = False,
    limit: LimitOption = None,
) -> Result:
    """List a device's updates, rotations among them, or the events of one."""
    async with common.connect(flags) as api:
        from fioctl_rotate.ops.targets import find_device

        found = await find_device(api, device, by_uuid=by_uuid)
        if update is None:
            known = (await api.device_updates(found.uuid))[:limit]
            rows = [(u.correlation_id, u.target, u.version, u.time) for u in known]
            return Result({"updates": known}, [Table(("ID", "TARGET", "VERSION", "TIME"), rows)])
        events = (await api.device_events(found.uuid, update))[:limit]
    outcome = {None: "", True: "ok", False: "failed"}
    rows = [(e.device_time, e.event_type.id, outcome[e.event.success], e.event.details or "") for e in events]
    return Result({"events": events}, [Table(("DEVICE TIME", "EVENT", "RESULT", "DETAILS"), rows)])
