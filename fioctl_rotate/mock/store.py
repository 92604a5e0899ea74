"""The mocked Factory's state: one SQLite file that several processes read and write at once.

Every change is one transaction that takes the write lock first (`BEGIN IMMEDIATE`): a read-modify-write that
starts with a read would be refused as soon as another process had written in between. The write-ahead log makes a
committed change survive kill -9.
"""

import contextlib
import datetime
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from fioctl_rotate.errors import Error, UsageError

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


class Store:
    """The state in `directory`. One connection, which threads take in turn; processes meet in SQLite's locks."""

    def __init__(self, directory: Path) -> None:
        """Open the state; raises UsageError where `directory` holds none, Error where it is of no use."""
        path = directory / "mock.db"
        if not path.is_file():
            raise UsageError(
                f"no mocked Factory in {directory}",
                hint=f"make one: fioctl-rotate mock init {directory} --factory NAME",
            )
        self.directory = directory
        self._turn = threading.RLock()
        self._db = _connect(path)
        try:
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            self._db.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise Error(f"{path} is not a mocked Factory's state: {error}") from error
        if version != _VERSION:
            self._db.close()
            raise Error(
                f"{path} was made by another version of this program", hint="make a new one: mock init"
            )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A change: all of the block's statements take effect, or, where it raises, none."""
        with self._within("BEGIN IMMEDIATE") as db:
            yield db

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A consistent look at the state, which waits for no writer."""
        with self._within("BEGIN") as db:
            yield db

    def close(self) -> None:
        """Close the state. A closed one is of no further use."""
        with self._turn:
            self._db.close()

    @contextlib.contextmanager
    def _within(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._turn:
            self._db.execute(begin)
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def initialize(directory: Path) -> None:
    """Make `directory` (0700) and an empty state in it, unless one is there. Safe to run twice at once."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    db = _connect(directory / "mock.db")
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("BEGIN IMMEDIATE")
        if db.execute("PRAGMA user_version").fetchone()[0] == 0:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {_VERSION}")
        db.execute("COMMIT")
    finally:
        db.close()


def stamp(moment: datetime.datetime) -> str:
    """`moment` as the API writes times: naive UTC, whole seconds (`2024-11-11T15:59:07`)."""
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")


def moment(stamped: str) -> datetime.datetime:
    """The time that `stamp` wrote, aware."""
    return datetime.datetime.fromisoformat(stamped).replace(tzinfo=datetime.UTC)


def _connect(path: Path) -> sqlite3.Connection:
    # Transactions are ours to begin; a writer waits for the other process's for up to a minute.
    db = sqlite3.connect(
        path, timeout=60, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA foreign_keys = ON")
    return db
