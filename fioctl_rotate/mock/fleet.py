"""Groups and devices of the mocked Factory, the devices denied, and the Factory's event queue."""

import datetime
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from fioctl_rotate import wire
from fioctl_rotate.mock import configs
from fioctl_rotate.mock.configs import Target
from fioctl_rotate.mock.problem import Problem
from fioctl_rotate.mock.store import moment, stamp

_WITH_GROUP = (
    "SELECT device.*, device_group.name AS group_name"
    " FROM device LEFT JOIN device_group ON group_id = device_group.id"
)
_SORTS = {"name": "device.name", "last_seen": "device.last_seen"}


# --- Groups -------------------------------------------------------------------------------------------------


def groups(db: sqlite3.Connection, factory: str) -> list[wire.DeviceGroup]:
    """The factory's groups by name."""
    rows = db.execute("SELECT * FROM device_group WHERE factory = ? ORDER BY name", (factory,))
    return [_group(row) for row in rows]


def find_group(db: sqlite3.Connection, factory: str, name: str) -> wire.DeviceGroup:
    """The group; raises Problem (404)."""
    row = db.execute("SELECT * FROM device_group WHERE factory = ? AND name = ?", (factory, name)).fetchone()
    if row is None:
        raise Problem(404, f"no device group {name}")
    return _group(row)


def create_group(
    db: sqlite3.Connection,
    factory: str,
    name: str,
    description: str | None,
    *,
    author: str,
    now: datetime.datetime,
) -> wire.DeviceGroup:
    """A new group; raises Problem: no name (400), a name that exists (409)."""
    _check_name(name, "group")
    try:
        db.execute(
            "INSERT INTO device_group (factory, name, description, created_at, created_by) VALUES (?, ?, ?, ?, ?)",
            (factory, name, description, stamp(now), author),
        )
    except sqlite3.IntegrityError:
        raise Problem(409, f"a device group {name} exists already") from None
    return find_group(db, factory, name)


def update_group(
    db: sqlite3.Connection,
    factory: str,
    name: str,
    changes: Mapping[str, str],
    *,
    author: str,
    now: datetime.datetime,
) -> wire.DeviceGroup:
    """Change a group's `name` or `description`; raises Problem (400, 404, 409)."""
    group = find_group(db, factory, name)
    new_name = changes.get("name", group.name)
    _check_name(new_name, "group")
    try:
        db.execute(
            "UPDATE device_group SET name = ?, description = ?, updated_at = ?, updated_by = ? WHERE id = ?",
            (new_name, changes.get("description", group.description), stamp(now), author, group.id),
        )
    except sqlite3.IntegrityError:
        raise Problem(409, f"a device group {new_name} exists already") from None
    return find_group(db, factory, new_name)


def delete_group(db: sqlite3.Connection, factory: str, name: str) -> None:
    """Delete a group and its configuration; raises Problem: unknown (404), it has devices (409)."""
    group = find_group(db, factory, name)
    count = db.execute("SELECT count(*) FROM device WHERE group_id = ?", (group.id,)).fetchone()[0]
    if count:
        raise Problem(409, f"the device group {name} has {count} devices")
    db.execute("DELETE FROM config WHERE target = ?", (Target("group", str(group.id)).key,))
    db.execute("DELETE FROM device_group WHERE id = ?", (group.id,))


# --- Devices ------------------------------------------------------------------------------------------------


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
) -> sqlite3.Row:
    """A new device, known by `uuid` and its public key (PEM).

    Raises Problem: unknown group (404); uuid or name taken, or device or key denied (409).
    """
    name = name or uuid
    _check_name(name, "device")
    group_id = find_group(db, factory, group).id if group else None
    if db.execute("SELECT 1 FROM denied_device WHERE uuid = ?", (uuid,)).fetchone():
        raise Problem(409, f"device {uuid} was deleted and is denied")
    if is_denied(db, public_key):
        raise Problem(409, f"device {uuid} comes with a key that is denied")
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
        raise Problem(409, f"a device with the uuid {uuid} or the name {name} exists already") from None
    return find_device(db, factory, uuid, by_uuid=True)


def find_device(db: sqlite3.Connection, factory: str, key: str, *, by_uuid: bool) -> sqlite3.Row:
    """The device's row, by name or uuid, with its `group_name`; raises Problem (404)."""
    column = "device.uuid" if by_uuid else "device.name"
    row: sqlite3.Row | None = db.execute(
        f"{_WITH_GROUP} WHERE device.factory = ? AND {column} = ?", (factory, key)
    ).fetchone()
    if row is None:
        raise Problem(404, f"no device {key}")
    return row


def update_device(
    db: sqlite3.Connection,
    device: sqlite3.Row,
    changes: Mapping[str, str],
    *,
    author: str,
    now: datetime.datetime,
) -> None:
    """Change a device's `name`, `owner` or `group` ("" takes it out of its group).

    Raises Problem: no name (400), unknown group (404), a name that is taken (409).
    """
    name = changes.get("name", device["name"])
    _check_name(name, "device")
    group_id, group_changed_at = device["group_id"], device["group_changed_at"]
    if "group" in changes:
        group = changes["group"]
        group_id = find_group(db, device["factory"], group).id if group else None
        if group_id != device["group_id"]:
            group_changed_at = configs.change_time(db, Target("device", device["uuid"]), now)
    try:
        db.execute(
            "UPDATE device SET name = ?, owner = ?, group_id = ?, group_changed_at = ?,"
            " updated_at = ?, updated_by = ? WHERE uuid = ?",
            (
                name,
                changes.get("owner", device["owner"]),
                group_id,
                group_changed_at,
                stamp(now),
                author,
                device["uuid"],
            ),
        )
    except sqlite3.IntegrityError:
        raise Problem(409, f"a device named {name} exists already") from None


def delete_device(db: sqlite3.Connection, device: sqlite3.Row, *, now: datetime.datetime) -> None:
    """Delete a device with all that is kept of it, and deny it from then on."""
    uuid = device["uuid"]
    db.execute(
        "INSERT INTO denied_device (uuid, factory, name, owner, public_key, denied_at) VALUES (?, ?, ?, ?, ?, ?)",
        (uuid, device["factory"], device["name"], device["owner"], device["public_key"], stamp(now)),
    )
    db.execute("DELETE FROM config WHERE target = ?", (Target("device", uuid).key,))
    db.execute("DELETE FROM event WHERE uuid = ?", (uuid,))
    db.execute("DELETE FROM device WHERE uuid = ?", (uuid,))


def see_device(db: sqlite3.Connection, device: sqlite3.Row, now: datetime.datetime) -> None:
    """Note that the device was there."""
    if device["last_seen"] != stamp(now):
        db.execute("UPDATE device SET last_seen = ? WHERE uuid = ?", (stamp(now), device["uuid"]))


def report(
    db: sqlite3.Connection, uuid: str, *, lmp_ver: str | None, target_name: str | None, tag: str | None
) -> None:
    """What the device runs, as its update agent would tell it."""
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
    """A page of devices, without `next`. `filters` are the API's parameters; `mine` is the caller's polis id.

    `sort` holds `[-]name` and `[-]last_seen`; without it the order is by owner and name.
    """
    names = list(factories)
    where = [f"device.factory IN ({', '.join('?' * len(names))})"]
    values: list[str | int] = [*names]
    for parameter, condition in (
        ("group", "device_group.name = ?"),
        ("uuid", "device.uuid = ?"),
        ("name", "device.name GLOB ?"),
        ("match_tag", "device.tag = ?"),
        ("target_name", "device.target_name = ?"),
        ("mine", "device.owner = ?"),
        ("prod", "device.is_prod = ?"),
    ):
        if parameter in filters:
            where.append(condition)
            value = filters[parameter]
            # SQLite negates a set of characters as [^…], a shell as [!…].
            values.append(value.replace("[!", "[^") if isinstance(value, str) else value)
    order = [f"{_SORTS[key.lstrip('-')]} {'DESC' if key.startswith('-') else 'ASC'}" for key in sort]
    order += ["device.uuid"] if order else ["device.owner", "device.name"]
    found = f"{_WITH_GROUP} WHERE {' AND '.join(where)}"
    total = db.execute(f"SELECT count(*) FROM ({found})", values).fetchone()[0]  # noqa: S608  our own text
    rows = db.execute(
        f"{found} ORDER BY {', '.join(order)} LIMIT ? OFFSET ?", (*values, limit, (page - 1) * limit)
    )
    return wire.DeviceList(devices=[brief(row) for row in rows], total=total)


def brief(row: sqlite3.Row) -> wire.Device:
    """A device as lists show it."""
    return wire.Device(
        uuid=row["uuid"],
        name=row["name"],
        owner=row["owner"],
        factory=row["factory"],
        device_group=row["group_name"],
        last_seen=_zoned(row["last_seen"]),
        lmp_ver=row["lmp_ver"],
        target_name=row["target_name"],
        tag=row["tag"],
        status="OK",
        up_to_date=True,
        is_prod=bool(row["is_prod"]),
        is_wave=False,
        change_meta=_change_meta(row),
    )


def record(db: sqlite3.Connection, row: sqlite3.Row) -> wire.Device:
    """A device as it is shown alone: with its group, its public key and its configuration in force."""
    device = brief(row)
    device.device_group = None
    device.group = find_group(db, row["factory"], row["group_name"]) if row["group_id"] is not None else None
    device.public_key = row["public_key"]
    device.active_config = configs.latest(db, Target("device", row["uuid"]))
    return device


# --- Deny list ----------------------------------------------------------------------------------------------


def is_denied(db: sqlite3.Connection, public_key: str) -> bool:
    """Whether the key was once a device's and has been replaced."""
    return db.execute("SELECT 1 FROM denied_key WHERE public_key = ?", (public_key,)).fetchone() is not None


def list_denied(db: sqlite3.Connection, factory: str, *, page: int, limit: int) -> wire.DeviceList:
    """A page of the devices that were deleted, without `next`."""
    rows = db.execute(
        "SELECT * FROM denied_device WHERE factory = ? ORDER BY denied_at, uuid LIMIT ? OFFSET ?",
        (factory, limit, (page - 1) * limit),
    )
    devices = [
        wire.Device(uuid=row["uuid"], name=row["name"], owner=row["owner"], factory=factory) for row in rows
    ]
    total = db.execute("SELECT count(*) FROM denied_device WHERE factory = ?", (factory,)).fetchone()[0]
    return wire.DeviceList(devices=devices, total=total)


def allow(db: sqlite3.Connection, factory: str, uuid: str) -> None:
    """Take a deleted device off the deny list, so that it may register anew; raises Problem (404)."""
    if not db.execute("DELETE FROM denied_device WHERE factory = ? AND uuid = ?", (factory, uuid)).rowcount:
        raise Problem(404, f"no denied device {uuid}")


# --- The event queue ----------------------------------------------------------------------------------------


def push(db: sqlite3.Connection, factory: str, event_type: str, body: msgspec.Struct) -> None:
    """Put an event on the factory's queue."""
    db.execute(
        "INSERT INTO queue (factory, type, body) VALUES (?, ?, ?)",
        (factory, event_type, msgspec.json.encode(body).decode()),
    )


def queue(db: sqlite3.Connection, factory: str) -> list[tuple[str, dict[str, Any]]]:
    """The factory's queue, oldest first: type and body."""
    rows = db.execute("SELECT type, body FROM queue WHERE factory = ? ORDER BY id", (factory,))
    return [(row["type"], msgspec.json.decode(row["body"])) for row in rows]


def _group(row: sqlite3.Row) -> wire.DeviceGroup:
    return wire.DeviceGroup(
        id=row["id"], name=row["name"], description=row["description"], change_meta=_change_meta(row)
    )


def _change_meta(row: sqlite3.Row) -> wire.ChangeMeta:
    return wire.ChangeMeta(
        created_by=row["created_by"],
        created_at=row["created_at"],
        updated_by=row["updated_by"],
        updated_at=row["updated_at"],
    )


def _zoned(stamped: str | None) -> str | None:
    return moment(stamped).isoformat() if stamped else None


def _check_name(name: str, what: str) -> None:
    if not name or "/" in name or not name.isprintable() or len(name) > 255:
        raise Problem(
            400, f"not a name for a {what}", {"name": "needs 1 to 255 printable characters without /"}
        )
