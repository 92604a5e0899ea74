"""The devices of a mocked Factory."""

import datetime
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import replace

from fioctl_rotate import wire
from fioctl_rotate.mock.problem import Problem
from fioctl_rotate.mock.store import config_levels, deny_list, event_queue, updates
from fioctl_rotate.mock.store.config_levels import Level
from fioctl_rotate.mock.store.database import DeviceRecord, change_meta, check_name, moment, stamp
from fioctl_rotate.mock.store.device_groups import find_group

_WITH_GROUP = (
    "SELECT device.*, device_group.name AS group_name"
    " FROM device LEFT JOIN device_group ON group_id = device_group.id"
)
_SORTS = {"name": "device.name", "last_seen": "device.last_seen"}


def register(
    db: sqlite3.Connection,
    factory: str,
    uuid: str,
    public_key: str,
    *,
    owner: str,
    author: str,
    now: datetime.datetime,
    name: str | None = None,
    group: str | None = None,
    production: bool = False,
) -> DeviceRecord:
    """Add a device, which is known by `uuid` and its public key (PEM).

    Raises Problem: unknown group (404); uuid or name taken, or device or key denied (409).
    """
    name = name or uuid
    check_name(name, "device")
    group_id = find_group(db, factory, group).id if group else None
    if deny_list.is_denied_device(db, uuid):
        raise Problem(409, f"device {uuid} was deleted and is denied")
    if deny_list.is_denied(db, public_key):
        raise Problem(409, f"the key of device {uuid} is denied")
    try:
        db.execute(
            "INSERT INTO device (uuid, factory, name, owner, group_id, group_changed_at, is_prod, public_key,"
            " created_at, created_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                uuid,
                factory,
                name,
                owner,
                group_id,
                stamp(now) if group_id else None,
                production,
                public_key,
                stamp(now),
                author,
            ),
        )
    except sqlite3.IntegrityError:
        raise Problem(409, f"a device with the uuid {uuid} or the name {name} already exists") from None
    return find_device(db, factory, uuid, by_uuid=True)


def find_device(db: sqlite3.Connection, factory: str, key: str, *, by_uuid: bool) -> DeviceRecord:
    """The device, by name or uuid; raises Problem (404)."""
    device = _find(db, factory, "uuid" if by_uuid else "name", key)
    if device is None:
        raise Problem(404, f"no device {key}")
    return device


def known_device(db: sqlite3.Connection, factory: str, uuid: str) -> DeviceRecord | None:
    """The device, or None where it is not registered."""
    return _find(db, factory, "uuid", uuid)


def is_taken(db: sqlite3.Connection, uuid: str) -> bool:
    """Whether any factory of the mock has a device with that uuid."""
    return db.execute("SELECT 1 FROM device WHERE uuid = ?", (uuid,)).fetchone() is not None


def uuids(db: sqlite3.Connection, factory: str) -> list[str]:
    """The uuids of all devices of the factory."""
    return [row["uuid"] for row in db.execute("SELECT uuid FROM device WHERE factory = ?", (factory,))]


def update_device(
    db: sqlite3.Connection,
    device: DeviceRecord,
    changes: Mapping[str, str],
    *,
    author: str,
    now: datetime.datetime,
) -> None:
    """Change a device's `name`, `owner` or `group` ("" takes it out of its group).

    Raises Problem: not a valid name (400), unknown group (404), a name that is taken (409).
    """
    name = changes.get("name", device.name)
    check_name(name, "device")
    group_id, group_changed_at = device.group_id, device.group_changed_at
    if "group" in changes:
        group = changes["group"]
        group_id = find_group(db, device.factory, group).id if group else None
        if group_id != device.group_id:
            group_changed_at = config_levels.change_time(db, Level("device", device.uuid), now)
    try:
        db.execute(
            "UPDATE device SET name = ?, owner = ?, group_id = ?, group_changed_at = ?,"
            " updated_at = ?, updated_by = ? WHERE uuid = ?",
            (
                name,
                changes.get("owner", device.owner),
                group_id,
                group_changed_at,
                stamp(now),
                author,
                device.uuid,
            ),
        )
    except sqlite3.IntegrityError:
        raise Problem(409, f"a device named {name} already exists") from None


def delete_device(db: sqlite3.Connection, device: DeviceRecord, *, now: datetime.datetime) -> None:
    """Delete a device with its configuration and events, and deny it from then on."""
    deny_list.deny_device(db, device.factory, brief(device), device.public_key, now)
    config_levels.forget(db, Level("device", device.uuid))
    updates.forget(db, device.uuid)
    db.execute("DELETE FROM device WHERE uuid = ?", (device.uuid,))


def announce_key(db: sqlite3.Connection, device: DeviceRecord, public_key: str) -> None:
    """Keep the key (PEM) that the device will use next; raises Problem (400): it is or was a device's key."""
    if public_key == device.public_key or deny_list.is_denied(db, public_key):
        raise Problem(400, "the key is not valid", {"next_pubkey": "is or was the device's key"})
    db.execute("UPDATE device SET next_public_key = ? WHERE uuid = ?", (public_key, device.uuid))


def take_new_key(
    db: sqlite3.Connection, device: DeviceRecord, new: str, now: datetime.datetime
) -> DeviceRecord:
    """Make the announced key the device's own, deny the old one, and put the change on the event queue."""
    old = device.public_key
    db.execute("UPDATE device SET public_key = ?, next_public_key = NULL WHERE uuid = ?", (new, device.uuid))
    deny_list.deny_key(db, old, device.uuid, now)
    event_queue.push_key_change(
        db, device.factory, device.uuid, group_id=device.group_id, new=new, old=old, now=now
    )
    return replace(device, public_key=new, next_public_key=None)


def mark_fetched(
    db: sqlite3.Connection, device: DeviceRecord, changed: datetime.datetime, now: datetime.datetime
) -> None:
    """Keep that the device has fetched its configuration as of `changed`, its own newest entry included."""
    db.execute("UPDATE device SET served_at = ? WHERE uuid = ?", (stamp(changed), device.uuid))
    config_levels.mark_applied(db, Level("device", device.uuid), now)
    event_queue.push_config_applied(db, device.factory, device.uuid, now)


def see_device(db: sqlite3.Connection, device: DeviceRecord, now: datetime.datetime) -> DeviceRecord:
    """Keep that the device was last seen `now`; returns the device with that."""
    if device.last_seen != stamp(now):
        db.execute("UPDATE device SET last_seen = ? WHERE uuid = ?", (stamp(now), device.uuid))
    return replace(device, last_seen=stamp(now))


def newest_seen(db: sqlite3.Connection, factory: str) -> datetime.datetime | None:
    """When a device of the factory was last seen; None where none ever was."""
    seen = db.execute("SELECT max(last_seen) FROM device WHERE factory = ?", (factory,)).fetchone()[0]
    return moment(seen) if seen else None


def see_devices(db: sqlite3.Connection, seen: Mapping[str, datetime.datetime]) -> None:
    """Keep when these devices (by uuid) were last seen, unless a later time is known."""
    db.executemany(
        "UPDATE device SET last_seen = :seen WHERE uuid = :uuid AND coalesce(last_seen, '') < :seen",
        [{"uuid": uuid, "seen": stamp(when)} for uuid, when in seen.items()],
    )


def report(
    db: sqlite3.Connection, uuid: str, *, lmp_ver: str | None, target_name: str | None, tag: str | None
) -> None:
    """Keep what the device runs, as its update agent would report it."""
    db.execute(
        "UPDATE device SET lmp_ver = ?, target_name = ?, tag = ? WHERE uuid = ?",
        (lmp_ver, target_name, tag, uuid),
    )


def list_devices(
    db: sqlite3.Connection,
    factories: Iterable[str],
    filters: Mapping[str, str | int],
    *,
    sort: Iterable[str],
    page: int,
    limit: int,
) -> wire.DeviceList:
    """A page of devices, without `next`. `filters` are the API's parameters, but `mine` is the caller's polis id.

    `sort` holds `[-]name` and `[-]last_seen`; without it the order is by owner and name.
    """
    names = list(factories)
    where = [f"device.factory IN ({', '.join('?' * len(names))})"]
    values: list[str | int] = [*names]
    for parameter, condition in (
        ("group", "device_group.name = ?"),
        ("uuid", "device.uuid = ?"),
        # SQLite negates a set of characters as [^…], a shell as [!…].
        ("name", "device.name GLOB replace(?, '[!', '[^')"),
        ("match_tag", "device.tag = ?"),
        ("target_name", "device.target_name = ?"),
        ("mine", "device.owner = ?"),
        ("prod", "device.is_prod = ?"),
    ):
        if parameter in filters:
            where.append(condition)
            values.append(filters[parameter])
    order = [f"{_SORTS[key.lstrip('-')]} {'DESC' if key.startswith('-') else 'ASC'}" for key in sort]
    order += ["device.uuid"] if order else ["device.owner", "device.name"]
    found = f"{_WITH_GROUP} WHERE {' AND '.join(where)}"
    total = db.execute(f"SELECT count(*) FROM ({found})", values).fetchone()[0]  # noqa: S608  only our own text
    rows = db.execute(
        f"{found} ORDER BY {', '.join(order)} LIMIT ? OFFSET ?", (*values, limit, (page - 1) * limit)
    )
    return wire.DeviceList(devices=[brief(DeviceRecord(**dict(row))) for row in rows], total=total)


def brief(device: DeviceRecord) -> wire.Device:
    """A device as lists show it."""
    return wire.Device(
        uuid=device.uuid,
        name=device.name,
        owner=device.owner,
        factory=device.factory,
        device_group=device.group_name,
        last_seen=moment(device.last_seen).isoformat() if device.last_seen else None,
        lmp_ver=device.lmp_ver,
        target_name=device.target_name,
        tag=device.tag,
        status="OK",
        up_to_date=True,
        is_prod=bool(device.is_prod),
        is_wave=False,
        change_meta=change_meta(vars(device)),
    )


def record(db: sqlite3.Connection, device: DeviceRecord) -> wire.Device:
    """A device as it is shown by itself: with its group, its public key and its configuration in force."""
    shown = brief(device)
    shown.device_group = None
    shown.group = find_group(db, device.factory, device.group_name) if device.group_name else None
    shown.public_key = device.public_key
    shown.active_config = config_levels.latest(db, Level("device", device.uuid))
    return shown


def _find(db: sqlite3.Connection, factory: str, column: str, value: str) -> DeviceRecord | None:
    row = db.execute(
        f"{_WITH_GROUP} WHERE device.factory = ? AND device.{column} = ?", (factory, value)
    ).fetchone()
    return DeviceRecord(**dict(row)) if row else None
