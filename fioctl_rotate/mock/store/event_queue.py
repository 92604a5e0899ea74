"""The event queue of a mocked Factory; the one of a real Factory is in the cloud."""

import datetime
import sqlite3
from typing import Any

import msgspec

from fioctl_rotate import wire

PUBLIC_KEY_CHANGE = "DEVICE_PUBKEY_CHANGE"
CONFIG_APPLIED = "DEVICE_CONFIG_APPLIED"


def push_key_change(
    db: sqlite3.Connection,
    factory: str,
    uuid: str,
    *,
    group_id: int | None,
    new: str,
    old: str,
    now: datetime.datetime,
) -> None:
    """Queue that a device uses its new key now. Both keys are PEM."""
    change = wire.PublicKeyChange(
        uuid=uuid, device_group_id=group_id, time=int(now.timestamp()), new_pub_key=new, old_pub_key=old
    )
    _push(db, factory, PUBLIC_KEY_CHANGE, change)


def push_config_applied(db: sqlite3.Connection, factory: str, uuid: str, now: datetime.datetime) -> None:
    """Queue that a device has fetched its configuration."""
    _push(db, factory, CONFIG_APPLIED, wire.ConfigApplied(uuid=uuid, time=int(now.timestamp())))


def queue(db: sqlite3.Connection, factory: str) -> list[tuple[str, dict[str, Any]]]:
    """The factory's queue, oldest first: type and body."""
    rows = db.execute("SELECT type, body FROM queue WHERE factory = ? ORDER BY id", (factory,))
    return [(row["type"], msgspec.json.decode(row["body"])) for row in rows]


def _push(db: sqlite3.Connection, factory: str, event_type: str, body: msgspec.Struct) -> None:
    db.execute(
        "INSERT INTO queue (factory, type, body) VALUES (?, ?, ?)",
        (factory, event_type, msgspec.json.encode(body).decode()),
    )
