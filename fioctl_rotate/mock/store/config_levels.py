"""Configuration of a Factory, its groups and devices: logs, changes, and what a device gets of them."""

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
"""So many entries of a log are kept."""

LIMIT = 1 << 20
"""A configuration's size in bytes at most (the manual: "1Mb")."""

MERGED_BY_KEY = "z-50-fioctl.toml"
"""The one file whose levels are merged key by key rather than the device's winning."""

_Files = list[wire.ConfigFile]


@dataclass(frozen=True)
class Level:
    """Whose configuration: `id` is the fleet's factory name, the group's number or the device's uuid."""

    kind: Literal["fleet", "group", "device"]
    id: str

    @property
    def key(self) -> str:
        """How the store names it."""
        return f"{self.kind}:{self.id}"


def log(db: sqlite3.Connection, level: Level) -> list[wire.Config]:
    """The log, newest first. Only devices' entries say when they were applied."""
    rows = db.execute("SELECT * FROM config WHERE target = ? ORDER BY id DESC", (level.key,))
    return [_entry(row, level) for row in rows]


def latest(db: sqlite3.Connection, level: Level) -> wire.Config | None:
    """The newest entry, which is the one in force."""
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
    """Make a new entry: the newest with the changed files put in by name, or, to `replace`, those alone.

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
    """Make a new entry without the file; raises Problem (404) where the newest has none of that name."""
    files = _files(_latest(db, level))
    kept = [file for file in files if file.name != name]
    if len(kept) == len(files):
        raise Problem(404, f"no file {name} in the configuration")
    _append(db, level, kept, f"Remove {name}", author, now)


def forget(db: sqlite3.Connection, level: Level) -> None:
    """Delete a configuration with its whole log, as of something that is deleted itself."""
    db.execute("DELETE FROM config WHERE target = ?", (level.key,))


def newest_change(db: sqlite3.Connection, levels: Sequence[Level]) -> int:
    """A number that differs where any of these levels has changed; 0 where nothing was ever set."""
    marks = ", ".join("?" * len(levels))
    row = db.execute(
        f"SELECT max(id) FROM config WHERE target IN ({marks})",  # noqa: S608  nothing but marks
        [level.key for level in levels],
    ).fetchone()
    return row[0] or 0


def replace_text(db: sqlite3.Connection, old: str, new: str) -> None:
    """Put `new` in the place of `old` in all files of all configurations, and change nothing else of them."""
    db.execute("UPDATE config SET files = replace(files, ?, ?)", (old, new))


def levels_of(device: DeviceRecord) -> list[Level]:
    """The levels that a device follows, the one that wins last."""
    group = [] if device.group_id is None else [Level("group", str(device.group_id))]
    return [Level("fleet", device.factory), *group, Level("device", device.uuid)]


def own_level(db: sqlite3.Connection, uuid: str) -> dict[str, wire.GatewayFile] | None:
    """The device's own level as it fetches it, or None where it never had one."""
    row = _latest(db, Level("device", uuid))
    return None if row is None else {file.name: _served(file) for file in _files(row)}


@dataclass(frozen=True)
class Merged:
    """What a device gets: its files, and when that last changed. `files` is None where nothing was ever set."""

    files: dict[str, wire.GatewayFile] | None
    changed: datetime.datetime


def merged(db: sqlite3.Connection, device: DeviceRecord) -> Merged:
    """The device's configuration: its own file over its group's over the Factory's, file by file.

    It changed when a level last did, or when the device last came into or left a group. A device that once was
    served a configuration and has none left gets an empty one, or it would keep the files.
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
            files[file.name] = _over(files.get(file.name), served) if file.name == MERGED_BY_KEY else served
    return Merged(files, moment(max([*changes, device.created_at])))


def mark_applied(db: sqlite3.Connection, level: Level, now: datetime.datetime) -> None:
    """Note that the device has fetched its newest entry; the time of the first fetch stays."""
    db.execute(
        "UPDATE config SET applied_at = ? WHERE applied_at IS NULL AND id ="
        " (SELECT max(id) FROM config WHERE target = ?)",
        (stamp(now), level.key),
    )


def change_time(db: sqlite3.Connection, level: Level, now: datetime.datetime) -> str:
    """When a change made now counts as made: later than all that its devices were served.

    The gateway knows whole seconds only, so a second change in one second would be answered 304.
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


def _over(below: wire.GatewayFile | None, above: wire.GatewayFile) -> wire.GatewayFile:
    """The TOML of both, `above` winning key by key; `above` alone where either cannot be read."""
    if below is None or not above.unencrypted:
        return above
    try:
        tables = [tomllib.loads(file.value) for file in (below, above)]
    except tomllib.TOMLDecodeError:
        return above
    return wire.GatewayFile(
        value=tomli_w.dumps(_deep(*tables)),
        on_changed=above.on_changed or below.on_changed,
        unencrypted=True,
    )


def _deep(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        present = result.get(key)
        if isinstance(present, dict) and isinstance(value, dict):
            result[key] = _deep(present, value)
        else:
            result[key] = value
    return result
