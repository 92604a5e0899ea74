"""The device groups of a mocked Factory."""

import datetime
import sqlite3
from collections.abc import Mapping

from fioctl_rotate import wire
from fioctl_rotate.mock.problem import Problem
from fioctl_rotate.mock.store import config_levels
from fioctl_rotate.mock.store.config_levels import Level
from fioctl_rotate.mock.store.database import change_meta, check_name, stamp


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
    """Make a group; raises Problem: not a valid name (400), a name that exists (409)."""
    check_name(name, "group")
    try:
        db.execute(
            "INSERT INTO device_group (factory, name, description, created_at, created_by) VALUES (?, ?, ?, ?, ?)",
            (factory, name, description, stamp(now), author),
        )
    except sqlite3.IntegrityError:
        raise Problem(409, f"a device group {name} already exists") from None
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
    check_name(new_name, "group")
    try:
        db.execute(
            "UPDATE device_group SET name = ?, description = ?, updated_at = ?, updated_by = ? WHERE id = ?",
            (new_name, changes.get("description", group.description), stamp(now), author, group.id),
        )
    except sqlite3.IntegrityError:
        raise Problem(409, f"a device group {new_name} already exists") from None
    return find_group(db, factory, new_name)


def delete_group(db: sqlite3.Connection, factory: str, name: str) -> None:
    """Delete a group and its configuration; raises Problem: unknown (404), it has devices (409)."""
    group = find_group(db, factory, name)
    count = db.execute("SELECT count(*) FROM device WHERE group_id = ?", (group.id,)).fetchone()[0]
    if count:
        raise Problem(409, f"the device group {name} has {count} devices")
    config_levels.forget(db, Level("group", str(group.id)))
    db.execute("DELETE FROM device_group WHERE id = ?", (group.id,))


def _group(row: sqlite3.Row) -> wire.DeviceGroup:
    return wire.DeviceGroup(
        id=row["id"], name=row["name"], description=row["description"], change_meta=change_meta(dict(row))
    )
