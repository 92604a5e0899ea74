"""The mocked Factory's state: one SQLite file that several processes read and write at once.

Every change is one transaction that takes the write lock first (`BEGIN IMMEDIATE`). A transaction that begins with
a read would be refused where another process has written in between. The write-ahead log makes a committed change
survive kill -9.
"""

import contextlib
import datetime
import shlex
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fioctl_rotate import wire
from fioctl_rotate.errors import Error, UsageError
from fioctl_rotate.mock.problem import Problem

PATIENCE = 10
"""How many seconds a writer waits for the writer of another process."""

_VERSION = 1

_SCHEMA = """
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE factory (
    name TEXT PRIMARY KEY, reposerver_id TEXT NOT NULL,
    est_name TEXT NOT NULL, gateway_name TEXT NOT NULL,
    api_port INTEGER NOT NULL, gateway_port INTEGER NOT NULL, est_port INTEGER NOT NULL,
    root_crt TEXT, ca_crt TEXT, est_tls_crt TEXT, tls_crt TEXT,
    disabled_ca_serials TEXT NOT NULL DEFAULT '[]', certs_version INTEGER NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL, created_by TEXT NOT NULL, updated_at TEXT, updated_by TEXT
);
CREATE TABLE account (
    polis_id TEXT NOT NULL, factory TEXT NOT NULL REFERENCES factory, name TEXT NOT NULL, role TEXT NOT NULL,
    PRIMARY KEY (factory, polis_id)
);
CREATE TABLE token (
    value TEXT NOT NULL, factory TEXT NOT NULL REFERENCES factory, polis_id TEXT NOT NULL, role TEXT NOT NULL,
    PRIMARY KEY (value, factory)
);
CREATE TABLE backend_key (
    id INTEGER PRIMARY KEY AUTOINCREMENT, factory TEXT NOT NULL REFERENCES factory, kind TEXT NOT NULL,
    public_key TEXT NOT NULL UNIQUE, file TEXT NOT NULL, csr TEXT NOT NULL, certificate TEXT
);
CREATE TABLE device_group (
    id INTEGER PRIMARY KEY AUTOINCREMENT, factory TEXT NOT NULL REFERENCES factory, name TEXT NOT NULL,
    description TEXT, created_at TEXT NOT NULL, created_by TEXT NOT NULL, updated_at TEXT, updated_by TEXT,
    UNIQUE (factory, name)
);
CREATE TABLE device (
    uuid TEXT PRIMARY KEY, factory TEXT NOT NULL REFERENCES factory, name TEXT NOT NULL, owner TEXT NOT NULL,
    group_id INTEGER REFERENCES device_group, group_changed_at TEXT, is_prod INTEGER NOT NULL DEFAULT 0,
    public_key TEXT NOT NULL, next_public_key TEXT, last_seen TEXT, served_at TEXT,
    lmp_ver TEXT, target_name TEXT, tag TEXT,
    created_at TEXT NOT NULL, created_by TEXT NOT NULL, updated_at TEXT, updated_by TEXT,
    UNIQUE (factory, name)
);
CREATE INDEX device_by_group ON device (group_id);
CREATE TABLE denied_device (
    uuid TEXT PRIMARY KEY, factory TEXT NOT NULL REFERENCES factory, name TEXT NOT NULL, owner TEXT NOT NULL,
    public_key TEXT NOT NULL, denied_at TEXT NOT NULL
);
CREATE TABLE denied_key (public_key TEXT PRIMARY KEY, uuid TEXT NOT NULL, denied_at TEXT NOT NULL);
CREATE TABLE config (
    id INTEGER PRIMARY KEY AUTOINCREMENT, target TEXT NOT NULL, created_at TEXT NOT NULL, created_by TEXT NOT NULL,
    reason TEXT NOT NULL, files TEXT NOT NULL, applied_at TEXT
);
CREATE INDEX config_by_target ON config (target, id);
CREATE TABLE event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, uuid TEXT NOT NULL, id TEXT NOT NULL, correlation_id TEXT NOT NULL,
    body TEXT NOT NULL, UNIQUE (uuid, id)
);
CREATE INDEX event_by_update ON event (uuid, correlation_id, seq);
CREATE TABLE queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT, factory TEXT NOT NULL REFERENCES factory, type TEXT NOT NULL,
    body TEXT NOT NULL
);
"""


@dataclass(frozen=True)
class DeviceRecord:
    """A device in the store. Keys are PEM, times as by `stamp`; `served_at` is the newest change it has fetched."""

    uuid: str
    factory: str
    name: str
    owner: str
    group_id: int | None
    group_changed_at: str | None
    is_prod: int
    public_key: str
    next_public_key: str | None
    last_seen: str | None
    served_at: str | None
    lmp_ver: str | None
    target_name: str | None
    tag: str | None
    created_at: str
    created_by: str
    updated_at: str | None
    updated_by: str | None
    group_name: str | None = None


class StateUnusable(Error):
    """The state cannot be read or written now: locked for too long, disk full, damaged."""


class Store:
    """The state in `directory`. Threads use its one connection in turn; SQLite's locks keep processes apart."""

    def __init__(self, directory: Path) -> None:
        """Open the state; raises UsageError where `directory` holds none, Error where it cannot be used."""
        self._path = directory / "mock.db"
        if not self._path.is_file():
            raise UsageError(
                f"no mocked Factory in {directory}",
                hint=f"make one: fioctl-rotate mock init {shlex.quote(str(directory))} --factory NAME",
            )
        self.directory = directory
        self._turn = threading.RLock()
        with _reported(self._path):
            self._db = _connect(self._path)
        try:
            with _reported(self._path):
                version = self._db.execute("PRAGMA user_version").fetchone()[0]
                self._db.execute("PRAGMA synchronous = NORMAL")
            if version != _VERSION:
                raise Error(
                    f"{self._path} was made by another version of this program",
                    hint="make a new one in another directory",
                )
        except BaseException:
            self._db.close()
            raise

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A change: all of the block's statements take effect, or, where it raises, none."""
        with self._within("BEGIN IMMEDIATE") as db:
            yield db

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A consistent view of the state. It does not wait for a writer."""
        with self._within("BEGIN") as db:
            yield db

    def others_changes(self) -> int:
        """A number that differs after each change by another connection, also by one of this process."""
        with self._turn, _reported(self._path):
            return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close the state. It cannot be used after that."""
        with self._turn:
            self._db.close()

    @contextlib.contextmanager
    def _within(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._turn, _reported(self._path):
            self._db.execute(begin)
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                # On a full disk SQLite has rolled back by itself.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def copy_state(source: Path, target: Path) -> None:
    """Copy the state in the directory `source`, also while it is used, into `target`. Raises Error."""
    with contextlib.closing(Store(source)):
        pass  # raises where it is not a state of this version
    with (
        _reported(source / "mock.db"),
        contextlib.closing(_connect(source / "mock.db")) as here,
        contextlib.closing(_connect(target / "mock.db")) as there,
    ):
        here.backup(there)


def initialize(directory: Path) -> None:
    """Make `directory` (0700) and an empty state in it, unless one is there. Safe in two processes at once."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "mock.db"
    with _reported(path), contextlib.closing(_connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("BEGIN IMMEDIATE")
        if db.execute("PRAGMA user_version").fetchone()[0] == 0:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {_VERSION}")
        db.execute("COMMIT")


def stamp(moment: datetime.datetime) -> str:
    """`moment` as the API writes times: naive UTC, whole seconds (`2024-11-11T15:59:07`)."""
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")


def moment(stamped: str) -> datetime.datetime:
    """The time that `stamp` wrote, aware."""
    return datetime.datetime.fromisoformat(stamped).replace(tzinfo=datetime.UTC)


def change_meta(values: Mapping[str, Any]) -> wire.ChangeMeta:
    """Who made and last changed a record, and when, from the record's `values`."""
    return wire.ChangeMeta(
        created_by=values["created_by"],
        created_at=values["created_at"],
        updated_by=values["updated_by"],
        updated_at=values["updated_at"],
    )


def check_name(name: str, what: str) -> None:
    """Raise Problem (400) for a name that cannot be part of an API path."""
    if not name or "/" in name or name in (".", "..") or not name.isprintable() or len(name) > 255:
        raise Problem(
            400,
            f"not a valid name for a {what}",
            {"name": "expected 1 to 255 printable characters without `/`, not `.` or `..`"},
        )


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Raise StateUnusable where SQLite cannot read or write the state."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise
    except sqlite3.DatabaseError as error:
        if "not a database" in str(error):
            raise StateUnusable(f"{path} is not a mocked Factory's state: {error}") from error
        raise StateUnusable(
            f"the mock's state {path} cannot be used: {error}", hint=_hint(str(error))
        ) from error


def _hint(message: str) -> str | None:
    if "locked" in message:
        return f"another process has held it for {PATIENCE} s"
    return "free some space on that disk" if "full" in message else None


def _connect(path: Path) -> sqlite3.Connection:
    # Without an isolation level the module begins no transactions: `_within` does.
    db = sqlite3.connect(
        path, timeout=PATIENCE, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA foreign_keys = ON")
    return db
