"""A mocked Factory of the same shape as a real one: its groups, devices and rotations, with keys of its own."""

import datetime
import re
import sqlite3
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.clock import Clock, utc_now
from fioctl_rotate.device.new_device import Kind
from fioctl_rotate.mock import new_factory
from fioctl_rotate.mock.new_factory import Addresses
from fioctl_rotate.mock.store import config_levels, device_groups, updates
from fioctl_rotate.mock.store.accounts import FactoryRecord
from fioctl_rotate.mock.store.config_levels import Level
from fioctl_rotate.ops.connect import open_api
from fioctl_rotate.ops.factory_reading import (
    UPDATES_KEPT,
    DeviceRead,
    FactoryReading,
    RotationEntry,
    read_factory,
)
from fioctl_rotate.ops.mock_fleet import NewDevice, Say, make_devices
from fioctl_rotate.ops.mock_making import begun, claimed, in_directory, set_up
from fioctl_rotate.rotation.entry import est_url
from fioctl_rotate.rotation.faults import ClockOffset
from fioctl_rotate.rotation.progress import parse_time
from fioctl_rotate.rotation.state import OLDEST_LMP, is_offline, lmp_release

_READ_SO_FAR = "clone.jsonl"
_EST_SERVER = re.compile(r"^ESTSERVER=(.*)$", re.MULTILINE)
_UUID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Cloned:
    """A clone. It counts the devices that are offline, unsupported (too old to rotate), shadowed, or completed.

    `completed` devices have completed a rotation. `notes` says what could not be read or was left out.
    """

    factory: FactoryRecord
    groups: list[str]
    devices: int
    offline: int
    unsupported: int
    shadowed: int
    completed: int
    notes: list[str]


async def clone(
    api: FactoryApi,
    directory: Path,
    *,
    groups: Sequence[str] = (),
    addresses: Addresses,
    clocks: ClockOffset | None = None,
    check_in: int | None = None,
    clock: Clock = utc_now,
    say: Say = lambda _text: None,
) -> Cloned:
    """Make a clone of the Factory, or of these `groups` of it, in `directory`, new or empty.

    `clocks` says which of its devices have wrong clocks; `check_in` is the seconds between two check-ins. Offline
    devices stay offline. A rotation that a device has completed is marked as completed, so it does not run again.
    Each ESTSERVER becomes the clone's EST server. After an interruption, run it again: it continues. Raises Error,
    UsageError and Refused as `read_factory` and `mock.init` do.
    """
    new_factory.check(api.factory, addresses)
    with claimed(directory):
        factory = begun(directory, api.factory, addresses, clock=clock)
        say(f"reading factory {api.factory} at {api.server}")
        reading = await read_factory(api, groups, directory / _READ_SO_FAR)
        usable = [read for read in reading.devices if _UUID.fullmatch(read.device.uuid)]
        now, est = clock(), est_url(factory.est_name, factory.est_port)
        async with open_api(in_directory(directory, factory.name)) as mock:
            pki = await set_up(mock, directory, factory, clock=clock, say=say)
            filled = await mock.device_count() or await mock.groups()

        def shape(db: sqlite3.Connection) -> None:
            author = factory.created_by
            _keep_entry(db, Level("fleet", factory.name), reading.fleet, author, est, now)
            for group in reading.groups:
                made = device_groups.create_group(
                    db, factory.name, group.name, group.description, author=author, now=now
                )
                _keep_entry(db, Level("group", str(made.id)), group.entry, author, est, now)
            for read in usable:
                _keep_entry(db, Level("device", read.device.uuid), read.entry, author, est, now)
                _keep_rotations(db, read, now)

        offsets = clocks.of([read.device.uuid for read in usable]) if clocks else {}
        devices = [_new_device(read, now, offsets.get(read.device.uuid, 0), check_in) for read in usable]
        if not filled:
            make_devices(directory, factory, pki, devices, clock=clock, say=say, before=shape)
        new_factory.finish(directory, factory.name)
        (directory / _READ_SO_FAR).unlink(missing_ok=True)
    kinds = [device.kind for device in devices]
    return Cloned(
        factory=factory,
        groups=[group.name for group in reading.groups],
        devices=len(usable),
        offline=sum(kind.offline for kind in kinds),
        unsupported=sum(kind.lmp < OLDEST_LMP for kind in kinds),
        shadowed=sum(read.entry is not None for read in usable),
        completed=sum(read.completed is not None for read in usable),
        notes=_notes(reading, len(usable)),
    )


def _new_device(
    read: DeviceRead, now: datetime.datetime, clock_offset: int, check_in: int | None
) -> NewDevice:
    device, seen = read.device, parse_time(read.device.last_seen)
    release = lmp_release(device.lmp_ver)
    kind = Kind(
        offline=is_offline(seen, now),
        completed=read.completed,
        clock_offset=clock_offset,
        interval=check_in,
    )
    version = re.search(r"[0-9]{1,9}\Z", device.target_name or "")
    return NewDevice(
        uuid=device.uuid,
        name=device.name,
        group=device.group_name,
        kind=kind if release is None else replace(kind, lmp=release),
        lmp_ver=device.lmp_ver,
        target=(device.target_name, int(version[0]) if version else 0) if device.target_name else None,
        tag=device.tag,
        last_seen=seen,
    )


def _keep_entry(
    db: sqlite3.Connection,
    level: Level,
    entry: RotationEntry | None,
    author: str,
    est: str,
    now: datetime.datetime,
) -> None:
    """Store the entry at the level, with the clone's EST server as its ESTSERVER."""
    if entry is None:
        return
    file = wire.ConfigFile(
        name=entry.file.name,
        value=_EST_SERVER.sub(f"ESTSERVER={est}", entry.file.value),
        unencrypted=True,
        on_changed=entry.file.on_changed,
    )
    config_levels.change(
        db,
        level,
        [file],
        reason=entry.reason,
        author=author,
        now=parse_time(entry.created_at) or now,
        replace=True,
    )
    if entry.applied_at is not None:
        config_levels.mark_applied(db, level, parse_time(entry.applied_at) or now)


def _keep_rotations(db: sqlite3.Connection, read: DeviceRead, now: datetime.datetime) -> None:
    """Keep the events of the device's last rotations, the oldest first, as it once sent them."""
    for rotation_id, events in reversed(read.rotations.items()):
        items = [msgspec.to_builtins(event) for event in events]
        for item in items:
            item["id"] = str(uuid.uuid4())
            item["event"]["correlationId"] = rotation_id
        updates.keep(db, read.device.uuid, items, now)


def _notes(reading: FactoryReading, usable: int) -> list[str]:
    """How the clone differs from the original."""
    notes = []
    found = len(reading.devices)
    if found != reading.expected:
        notes.append(f"the Factory says that it has {reading.expected} devices, but {found} were read")
    if usable != found:
        notes.append(
            f"{found - usable} devices were left out: their uuid is not valid as the name of a directory"
        )
    if unsure := sum(read.unsure for read in reading.devices):
        notes.append(
            f"{unsure} devices have no completed rotation among their last {UPDATES_KEPT} updates, and the Factory"
            " keeps no older ones: if they completed their entry earlier, they will rotate again"
        )
    entries = [reading.fleet, *(group.entry for group in reading.groups), *(d.entry for d in reading.devices)]
    values = [match[1] for entry in entries if entry and (match := _EST_SERVER.search(entry.file.value))]
    notes.extend(
        f"ESTSERVER is the clone's EST server in {values.count(url)} entries that had {url}"
        for url in dict.fromkeys(values)
    )
    return notes
