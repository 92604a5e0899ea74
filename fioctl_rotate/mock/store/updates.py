"""The events that devices send of their updates, certificate rotations among them."""

import datetime
import re
import sqlite3
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import UNSET

from fioctl_rotate import wire
from fioctl_rotate.mock.problem import Problem

_SHOWN = 10
"""The number of updates that the API shows of a device."""

_CORRELATION_ID = re.compile(r"[A-Za-z0-9_-]+")


def keep(db: sqlite3.Connection, uuid: str, items: Iterable[Any], now: datetime.datetime) -> int:
    """Keep a device's events; returns how many were new.

    An event without an id or a valid correlation id is skipped. So is one whose id is known: devices retry their
    posts. A time that is not valid is replaced by now.
    """
    new = 0
    for item in items:
        event = _event(item, now)
        if event is not None:
            new += db.execute(
                "INSERT OR IGNORE INTO event (uuid, id, correlation_id, body) VALUES (?, ?, ?, ?)",
                (uuid, event.id, event.event.correlation_id, msgspec.json.encode(event).decode()),
            ).rowcount
    return new


def forget(db: sqlite3.Connection, uuid: str) -> None:
    """Delete all events of a device."""
    db.execute("DELETE FROM event WHERE uuid = ?", (uuid,))


def updates(db: sqlite3.Connection, uuid: str) -> list[wire.Update]:
    """The device's last updates, newest first, each with target, version and time of its first event."""
    rows = db.execute(
        "SELECT correlation_id, body FROM event WHERE seq IN"
        " (SELECT min(seq) FROM event WHERE uuid = ? GROUP BY correlation_id) ORDER BY seq DESC LIMIT ?",
        (uuid, _SHOWN),
    )
    found = []
    for row in rows:
        first = msgspec.json.decode(row["body"], type=wire.Event)
        found.append(
            wire.Update(
                correlation_id=row["correlation_id"],
                target=first.event.target_name or "",
                version=first.event.version or "",
                time=first.device_time,
            )
        )
    return found


def of_update(db: sqlite3.Connection, uuid: str, correlation_id: str) -> list[wire.Event]:
    """An update's events in the order in which they arrived; raises Problem (404)."""
    rows = db.execute(
        "SELECT body FROM event WHERE uuid = ? AND correlation_id = ? ORDER BY seq", (uuid, correlation_id)
    )
    found = [msgspec.json.decode(row["body"], type=wire.Event) for row in rows]
    if not found:
        raise Problem(404, f"no update {correlation_id}")
    for event in found:
        event.id = UNSET
        event.event_type.version = UNSET
        event.event.correlation_id = UNSET
    return found


def _event(item: Any, now: datetime.datetime) -> wire.Event | None:
    """`item` as an event, or None where it is not a valid one."""
    if not isinstance(item, dict):
        return None
    try:
        event = msgspec.convert({**item, "deviceTime": _time(item.get("deviceTime"), now)}, wire.Event)
    except msgspec.ValidationError:
        return None
    correlation_id = event.event.correlation_id
    if not event.id or not isinstance(correlation_id, str) or not _CORRELATION_ID.fullmatch(correlation_id):
        return None
    return event


def _time(reported: Any, now: datetime.datetime) -> str:
    """`reported` where it is a time with a zone, else now."""
    try:
        if datetime.datetime.fromisoformat(reported).tzinfo is not None:
            return str(reported)
    except (TypeError, ValueError):
        pass
    return now.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
