"""Read from a Factory what a clone needs: its groups, devices, rotation entries and completed rotations.

Of all configurations only the rotation entries are kept: the other files hold people's secrets. Each device is
written to a file as soon as it was read, so an interrupted reading continues where it stopped.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.errors import Error, Refused, message_of
from fioctl_rotate.files import write_atomic
from fioctl_rotate.ops.at_once import Pace, for_each
from fioctl_rotate.ops.targets import find_group
from fioctl_rotate.rotation.entry import FILE_NAME
from fioctl_rotate.rotation.progress import Phase, from_events
from fioctl_rotate.rotation.scope import Scope

UPDATES_KEPT = 10
"""How many updates of a device the Factory keeps."""


class RotationEntry(Struct, frozen=True):
    """The `fio-rotate-certs` of a configuration. Times are as the API writes them; a device's has `applied_at`."""

    file: wire.ConfigFile
    reason: str
    created_at: str | None
    applied_at: str | None = None


class GroupRead(Struct, frozen=True):
    """A device group, with its entry."""

    name: str
    description: str | None
    entry: RotationEntry | None


class DeviceRead(Struct, frozen=True):
    """A device: as the list shows it, its own entry, and the events of its last rotations, the newest first.

    `completed` is the id of the rotation that it completed last. If that is None, `unsure` says that the device may
    have completed a rotation that the Factory no longer keeps.
    """

    device: wire.Device
    entry: RotationEntry | None
    rotations: dict[str, list[wire.Event]]
    completed: str | None
    unsure: bool


class _Header(Struct, frozen=True):
    """The Factory of the devices in the lines after it."""

    server: str
    factory: str


class FactoryReading(Struct, frozen=True):
    """All that was read. `expected` is how many devices the Factory says it has."""

    fleet: RotationEntry | None
    groups: list[GroupRead]
    devices: list[DeviceRead]
    expected: int


async def read_factory(
    api: FactoryApi,
    groups: Sequence[str],
    kept: Path,
) -> FactoryReading:
    """Read the Factory, or only these `groups` of it; `kept` is the file for devices that were read.

    Raises Error where the Factory does not answer or has no such group, Refused where `kept` is of another Factory.
    """
    header = _Header(api.server, api.factory)
    known = {read.device.uuid: read for read in _kept_devices(kept, header)}
    chosen = [await find_group(api, name) for name in groups] if groups else await api.groups()
    devices: dict[str, wire.Device] = {}
    expected = 0
    for filters in [{"group": name} for name in groups] or [{}]:
        expected += await api.device_count(filters)
        devices |= {device.uuid: device for device in await api.devices(filters)}
    missing = [device for uuid, device in devices.items() if uuid not in known]
    try:
        # Write it anew: the last line of an interrupted reading may be half a line.
        write_atomic(kept, b"".join(msgspec.json.encode(item) + b"\n" for item in (header, *known.values())))
        with kept.open("ab") as file:

            async def read(device: wire.Device) -> None:
                known[device.uuid] = await _read_device(api, device)
                file.write(msgspec.json.encode(known[device.uuid]) + b"\n")
                file.flush()

            await for_each(missing, read, Pace(), api.counted)
    except OSError as error:
        raise Error(message_of(error)) from error
    return FactoryReading(
        fleet=await _entry(api, Scope.fleet()),
        groups=[
            GroupRead(group.name, group.description, await _entry(api, Scope.of_group(group.name)))
            for group in chosen
        ],
        devices=[known[uuid] for uuid in devices],
        expected=expected,
    )


async def _read_device(api: FactoryApi, device: wire.Device) -> DeviceRead:
    entry = await _entry(api, Scope.of_device(device.name, device.uuid))
    updates = await api.device_updates(device.uuid)
    rotations: dict[str, list[wire.Event]] = {}
    completed = None
    for update in updates:
        events = await api.device_events(device.uuid, update.correlation_id)
        progress = from_events(events)
        if progress.phase is not Phase.NONE:
            rotations[update.correlation_id] = events
        if progress.finalized:
            completed = update.correlation_id
            break
    unsure = completed is None and len(updates) >= UPDATES_KEPT
    return DeviceRead(device, entry, rotations, completed, unsure)


async def _entry(api: FactoryApi, scope: Scope) -> RotationEntry | None:
    for config in await api.config(scope).log(1):
        for file in config.files or []:
            # A file without a ROTATIONID in clear text is not an entry that a device follows.
            if file.name == FILE_NAME and "ROTATIONID=" in file.value:
                applied = config.applied_at if isinstance(config.applied_at, str) else None
                return RotationEntry(file, config.reason or "", config.created_at, applied)
    return None


def _kept_devices(kept: Path, header: _Header) -> list[DeviceRead]:
    try:
        first, *lines = kept.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Error(message_of(error)) from error
    try:
        if msgspec.json.decode(first, type=_Header) != header:
            raise Refused(f"{kept} is of another Factory", hint="clone into a new directory")
        found = []
        for line in lines[:-1]:  # after the last line feed comes nothing, or half a line
            found.append(msgspec.json.decode(line, type=DeviceRead))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        kept.unlink()  # damaged: read again
        return []
    return found
