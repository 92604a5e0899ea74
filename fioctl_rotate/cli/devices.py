"""`devices` (also `device`): rotate one device's certificate, and look at devices."""

from typing import TYPE_CHECKING, Annotated

import typer

from fioctl_rotate.cli.common import (
    Format,
    FormatOption,
    LimitOption,
    YesOption,
    confirm,
    connected,
    console,
    emit,
    emit_json,
    group,
    settings_of,
    table,
    with_api,
)
from fioctl_rotate.cli.configlog import log_lines
from fioctl_rotate.cli.planning import Modes, with_modes, with_wish
from fioctl_rotate.cli.pushing import rotate
from fioctl_rotate.errors import printable
from fioctl_rotate.rotation.plan import RotationRequest, Target
from fioctl_rotate.settings import Flags

if TYPE_CHECKING:
    from fioctl_rotate import wire
    from fioctl_rotate.api.client import FactoryApi

app = group("Rotate a device's certificate; look at devices.")
config_app = group("A device's own configuration.")
app.add_typer(config_app, name="config")

DeviceArgument = Annotated[str, typer.Argument(metavar="DEVICE", help="Name of the device.")]
ByUuidOption = Annotated[bool, typer.Option("-u", "--by-uuid", help="DEVICE is a uuid rather than a name.")]


@config_app.command(
    "rotate-certs",
    epilog="Example: fioctl-rotate device config rotate-certs pump-7 -r 'key may have leaked' --dryrun",
)
@connected
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
    rotate(flags, Target("device", device), wish, modes, by_uuid=by_uuid)


@config_app.command("log", epilog="Example: fioctl-rotate device config log pump-7 -n 1")
@connected
def config_log(
    flags: Flags,
    device: DeviceArgument,
    by_uuid: ByUuidOption = False,
    limit: LimitOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Show what was configured for one device alone, newest first, and when it fetched it."""

    async def fetch(api: "FactoryApi") -> "tuple[list[wire.Config], dict[str, str]]":
        from fioctl_rotate.ops.configs import user_names
        from fioctl_rotate.ops.push import find_device

        found = await find_device(api, device, by_uuid=by_uuid)
        log = await api.device_config(found.uuid, limit)
        return log, await user_names(api)

    log, users = with_api(settings_of(flags), fetch)
    if format is Format.JSON:
        emit_json({"config": log})
        return
    for line in log_lines(log, users, applied=True):
        emit(line)


@config_app.command("delete", epilog="Example: fioctl-rotate device config delete pump-7 fio-rotate-certs")
@connected
def config_delete(
    flags: Flags,
    device: DeviceArgument,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Name of the configuration file.")],
    by_uuid: ByUuidOption = False,
    yes: YesOption = False,
) -> None:
    """Delete a file of a device's own configuration.

    A device whose own fio-rotate-certs is deleted follows its group's entry again.
    """
    settings = settings_of(flags)
    confirm(f"Delete {file} of device {device} in factory {settings.factory}?", yes=yes)

    async def work(api: "FactoryApi") -> "wire.Device":
        from fioctl_rotate.ops.configs import delete_device_file

        return await delete_device_file(api, device, file, by_uuid=by_uuid)

    found = with_api(settings, work)
    emit(f"deleted {file} of device {found.name} in factory {settings.factory} at {settings.destination}")


@app.command("list", epilog="Example: fioctl-rotate devices list -g field")
@connected
def list_devices(
    flags: Flags,
    group: Annotated[
        str | None, typer.Option("-g", "--group", metavar="GROUP", help="Devices of this group only.")
    ] = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """List devices, by name."""

    async def fetch(api: "FactoryApi") -> "list[wire.Device]":
        from fioctl_rotate.ops.push import find_group

        if group is not None:
            await find_group(api, group)
        return await api.devices(group)

    devices = with_api(settings_of(flags), fetch)
    if format is Format.JSON:
        emit_json({"devices": devices})
        return
    rows = [(d.name, d.group_name, d.last_seen, d.lmp_ver, d.target_name, d.uuid) for d in devices]
    console().print(table(("NAME", "GROUP", "LAST SEEN", "LMP", "TARGET", "UUID"), rows))


@app.command("show", epilog="Example: fioctl-rotate devices show pump-7")
@connected
def show(
    flags: Flags,
    device: DeviceArgument,
    by_uuid: ByUuidOption = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Show one device: its group, when it was seen, its public key, and the configuration in force."""

    async def fetch(api: "FactoryApi") -> "wire.Device":
        from fioctl_rotate.ops.push import find_device

        return await find_device(api, device, by_uuid=by_uuid)

    found = with_api(settings_of(flags), fetch)
    if format is Format.JSON:
        emit_json(found)
        return
    for label, value in (
        ("Name", found.name),
        ("UUID", found.uuid),
        ("Factory", found.factory),
        ("Group", found.group_name),
        ("Owner", found.owner),
        ("Last seen", found.last_seen),
        ("LmP", found.lmp_ver),
        ("Target", found.target_name),
        ("Tag", found.tag),
        ("Status", found.status),
        ("Production", None if found.is_prod is None else str(found.is_prod).lower()),
    ):
        emit(f"{label + ':':<12}{printable(value or '-')}")
    if found.public_key:
        emit(found.public_key.strip())
    if found.active_config is not None:
        emit("")
        emit("Configuration in force:")
        for line in log_lines([found.active_config], {}, applied=True):
            emit(line)


@app.command("updates", epilog="Example: fioctl-rotate devices updates pump-7 certs-1763989200")
@connected
def updates(
    flags: Flags,
    device: DeviceArgument,
    update: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="ROTATIONID or another update's id: show its events."),
    ] = None,
    by_uuid: ByUuidOption = False,
    limit: LimitOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """List a device's updates, rotations among them, or the events of one."""

    async def fetch(api: "FactoryApi") -> "tuple[list[wire.Update], list[wire.Event]]":
        from fioctl_rotate.ops.push import find_device

        found = await find_device(api, device, by_uuid=by_uuid)
        if update is None:
            return (await api.device_updates(found.uuid))[:limit], []
        return [], (await api.device_events(found.uuid, update))[:limit]

    found, events = with_api(settings_of(flags), fetch)
    if format is Format.JSON:
        emit_json({"updates": found} if update is None else {"events": events})
    elif update is None:
        rows = [(u.correlation_id, u.target, u.version, u.time) for u in found]
        console().print(table(("ID", "TARGET", "VERSION", "TIME"), rows))
    else:
        outcome = {None: "", True: "ok", False: "failed"}
        rows = [
            (e.device_time, e.event_type.id, outcome[e.event.success], e.event.details or "") for e in events
        ]
        console().print(table(("DEVICE TIME", "EVENT", "RESULT", "DETAILS"), rows))
