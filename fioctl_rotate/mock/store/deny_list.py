"""The deny list of a mocked Factory: devices that were deleted, keys that were replaced."""

import datetime
import sqlite3

from fioctl_rotate import wire
from fioctl_rotate.mock.problem import Problem
from fioctl_rotate.mock.store.database import stamp


def deny_key(db: sqlite3.Connection, public_key: str, uuid: str, now: datetime.datetime) -> None:
    """Deny a key (PEM) that the device has replaced."""
    db.execute(
        "INSERT OR REPLACE INTO denied_key (public_key, uuid, denied_at) VALUES (?, ?, ?)",
        (public_key, uuid, stamp(now)),
    )


def is_denied(db: sqlite3.Connection, public_key: str) -> bool:
    """Whether the key was once a device's and has been replaced."""
    return db.execute("SELECT 1 FROM denied_key WHERE public_key = ?", (public_key,)).fetchone() is not None


def deny_device(
    db: sqlite3.Connection, factory: str, device: wire.Device, public_key: str, now: datetime.datetime
) -> None:
    """Deny a device that was deleted."""
    db.execute(
        "INSERT INTO denied_device (uuid, factory, name, owner, public_key, denied_at) VALUES (?, ?, ?, ?, ?, ?)",
        (device.uuid, factory, device.name, device.owner, public_key, stamp(now)),
    )


def is_denied_device(db: sqlite3.Connection, uuid: str) -> bool:
    """Whether the device was deleted."""
    return db.execute("SELECT 1 FROM denied_device WHERE uuid = ?", (uuid,)).fetchone() is not None


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
    """Take a deleted device off the deny list, so that it may register again; raises Problem (404)."""
    if not db.execute("DELETE FROM denied_device WHERE factory = ? AND uuid = ?", (factory, uuid)).rowcount:
        raise Problem(404, f"no denied device {uuid}")
