"""The configurations of a Factory, its groups and devices: logs, changes, and their merge for a device."""

import datetime
import sqlite3
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import tomli_w
from msgspec import UNSET

from fioctl_rotate import wire
from fioctl_rotate.mock.problem import Problem
from fioctl_rotate.mock.store.database import DeviceRecord, moment, stamp

KEPT = 10
"""The number of entries that a log keeps."""

LIMIT = 1 << 20
"""The most bytes of a configuration (the manual: "1Mb")."""

MERGED_BY_KEY = "z-50-fioctl.toml"
"""The only file that is merged key by key. Of any other, one level's is used: device before group before fleet."""

_Files = list[wire.ConfigFile]


@dataclass(frozen=True)
class Level:
    """Where a configuration lives; `id` is the factory's name, the group's number or the device's uuid."""

    kind: Literal["fleet", "group", "device"]
    id: str

    @property
    def key(self) -> str:
        """The level's name in the store."""
        return f"{self.kind}:{self.id}"


def log(db: sqlite3.Connection, level: Level) -> list[wire.Config]:
    """The log, newest first. Only devices' entries say when they were applied."""
    rows = db.execute("SELECT * FROM config WHERE target = ? ORDER BY id DESC", (level.key,))
    return [_entry(row, level) for row in rows]


def latest(db: sqlite3.Connection, level: Level) -> wire.Config | None:
    """The newest entry, which is the one in force, or None."""
    row = _latest(db, level)
    return _entry(row, level) if row else None


def change(
    db: sqlite3.Connection,
    level: Level,
    changed: Sequence[wire.ConfigFile],
    *,
    reason: str,
    author: str,
    now: datetime.datetime,
    replace: bool,
) -> None:
    """Add an entry: the newest one with the `changed` files merged in by name; with `replace` only these files.

    Raises Problem: a file's name is not valid or there twice (400); the result is too large (413).
    """
    _check(changed)
    row = None if replace else _latest(db, level)
    files = {file.name: file for file in _files(row)}
    files.update((file.name, file) for file in changed)
    _append(db, level, list(files.values()), reason, author, now)


def delete_file(
    db: sqlite3.Connection, level: Level, name: str, *, author: str, now: datetime.datetime
) -> None:
    """Add an entry without the file; raises Problem (404) where the newest has none of that name."""
    files = _files(_latest(db, level))
    kept = [file for file in files if file.name != name]
    if len(kept) == len(files):
        raise Problem(404, f"no file {name} in the configuration")
    _append(db, level, kept, f"Remove {name}", author, now)


def forget(db: sqlite3.Connection, level: Level) -> None:
    """Delete the configuration with its whole log, because its group or device is deleted."""
    db.execute("DELETE FROM config WHERE target = ?", (level.key,))


def newest_change(db: sqlite3.Connection, levels: Sequence[Level]) -> int:
    """A number that differs after each change of these levels; 0 where nothing was ever set."""
    marks = ", ".join("?" * len(levels))
    row = db.execute(
        f"SELECT max(id) FROM config WHERE target IN ({marks})",  # noqa: S608  only question marks
        [level.key for level in levels],
    ).fetchone()
    return row[0] or 0


def replace_text(db: sqlite3.Connection, old: str, new: str) -> None:
    """Replace the text `old` by `new` in all files of all configurations, without new entries."""
    db.execute("UPDATE config SET files = replace(files, ?, ?)", (old, new))


def levels_of(device: DeviceRecord) -> list[Level]:
    """The levels that a device follows. A later one overrides an earlier one."""
    group = [] if device.group_id is None else [Level("group", str(device.group_id))]
    return [Level("fleet", device.factory), *group, Level("device", device.uuid)]


def own_level(db: sqlite3.Connection, uuid: str) -> dict[str, wire.GatewayFile] | None:
    """The device's own level as the device fetches it, or None where it never had one."""
    row = _latest(db, Level("device", uuid))
    return None if row is None else {file.name: _served(file) for file in _files(row)}


@dataclass(frozen=True)
class Merged:
    """A device's merged configuration, and when it last changed. `files` is None where nothing was ever set."""

    files: dict[str, wire.GatewayFile] | None
    changed: datetime.datetime


def merged(db: sqlite3.Connection, device: DeviceRecord) -> Merged:
    """The device's configuration: its own file over its group's over the Factory's, file by file.

    It counts as changed when one of the levels or the device's group changes. A device that has fetched a
    configuration and now has none gets an empty one: otherwise it would keep the files.
    """
    rows = [(level, row) for level in levels_of(device) if (row := _latest(db, level)) is not None]
    changes = [row["created_at"] for _, row in rows]
    if not rows and device.served_at is None:
        return Merged(None, moment(device.created_at))
    if device.group_changed_at is not None:
        changes.append(device.group_changed_at)
    files: dict[str, wire.GatewayFile] = {}
    for level, row in rows:
        for file in _files(row):
            # Values above the device's level are stored in clear: the device must not try to decrypt them.
            served = _served(file, clear=level.kind != "device")
            files[file.name] = (
                _merged_file(files.get(file.name), served) if file.name == MERGED_BY_KEY else served
            )
    return Merged(files, moment(max([*changes, device.created_at])))


def mark_applied(db: sqlite3.Connection, level: Level, now: datetime.datetime) -> None:
    """Note that the device has fetched its newest entry; the time of the first fetch stays."""
    db.execute(
        "UPDATE config SET applied_at = ? WHERE applied_at IS NULL AND id ="
        " (SELECT max(id) FROM config WHERE target = ?)",
        (stamp(now), level.key),
    )


def change_time(db: sqlite3.Connection, level: Level, now: datetime.datetime) -> str:
    """The time to store for a change made now: later than any change that the level's devices have fetched.

    The gateway knows only whole seconds: the second of two changes in one second would be answered 304.
    """
    column = {"fleet": "factory", "group": "group_id", "device": "uuid"}[level.kind]
    served = db.execute(f"SELECT max(served_at) FROM device WHERE {column} = ?", (level.id,)).fetchone()[0]  # noqa: S608  one of the three names above
    if served is None or served < stamp(now):
        return stamp(now)
    return stamp(moment(served) + datetime.timedelta(seconds=1))


def _append(
    db: sqlite3.Connection, level: Level, files: _Files, reason: str, author: str, now: datetime.datetime
) -> None:
    encoded = msgspec.json.encode(files)
    if len(encoded) > LIMIT:
        raise Problem(413, f"the configuration would have {len(encoded)} bytes; {LIMIT} is the limit")
    db.execute(
        "INSERT INTO config (target, created_at, created_by, reason, files) VALUES (?, ?, ?, ?, ?)",
        (level.key, change_time(db, level, now), author, reason, encoded.decode()),
    )
    db.execute(
        "DELETE FROM config WHERE target = ? AND id NOT IN"
        " (SELECT id FROM config WHERE target = ? ORDER BY id DESC LIMIT ?)",
        (level.key, level.key, KEPT),
    )


def _check(files: Sequence[wire.ConfigFile]) -> None:
    errors: dict[str, str] = {}
    seen: set[str] = set()
    for file in files:
        parts = file.name.split("/")
        if not file.name or any(part in ("", ".", "..") for part in parts) or not file.name.isprintable():
            errors[file.name] = "not a relative file name"
        elif file.name in seen:
            errors[file.name] = "given twice"
        seen.add(file.name)
    if errors:
        raise Problem(400, "the configuration has unusable files", errors)


def _latest(db: sqlite3.Connection, level: Level) -> sqlite3.Row | None:
    row: sqlite3.Row | None = db.execute(
        "SELECT * FROM config WHERE target = ? ORDER BY id DESC LIMIT 1", (level.key,)
    ).fetchone()
    return row


def _files(row: sqlite3.Row | None) -> _Files:
    return [] if row is None else msgspec.json.decode(row["files"], type=_Files)


def _entry(row: sqlite3.Row, level: Level) -> wire.Config:
    return wire.Config(
        created_at=row["created_at"],
        created_by=row["created_by"],
        applied_at=row["applied_at"] if level.kind == "device" else UNSET,
        reason=row["reason"],
        files=_files(row),
    )


def _served(file: wire.ConfigFile, *, clear: bool = False) -> wire.GatewayFile:
    return wire.GatewayFile(
        value=file.value,
        on_changed=file.on_changed or None,
        unencrypted=clear or file.unencrypted,
    )


def _merged_file(below: wire.GatewayFile | None, above: wire.GatewayFile) -> wire.GatewayFile:
    """The TOML of both; where both have a key, `above` wins. `above` alone where either is not TOML in clear."""
    if below is None or not above.unencrypted:
        return above
    try:
        tables = [tomllib.loads(file.value) for file in (below, above)]
    except tomllib.TOMLDecodeError:
        return above
    return wire.GatewayFile(
        value=tomli_w.dumps(_merged_tables(*tables)),
        on_changed=above.on_changed or below.on_changed,
        unencrypted=True,
    )


def _merged_tables(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        present = result.get(key)
        if isinstance(present, dict) and isinstance(value, dict):
            result[key] = _merged_tables(present, value)
        else:
            result[key] = value
    return result
