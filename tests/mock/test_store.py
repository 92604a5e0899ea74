"""The state: several processes at once, a process that is killed, directories that hold none."""

import ast
import contextlib
import datetime
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import fioctl_rotate
from fioctl_rotate.errors import Error, UsageError
from fioctl_rotate.mock import new_factory
from fioctl_rotate.mock.store.database import StateUnusable, Store, initialize, moment, stamp

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)

# Adds 1 to a number, again and again, each time in a transaction that reads first.
COUNT = """
import sys
from pathlib import Path
from fioctl_rotate.mock.store.database import Store
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    with store.transaction() as db:
        value = int(db.execute("SELECT value FROM setting WHERE name = 'count'").fetchone()[0])
        db.execute("UPDATE setting SET value = ? WHERE name = 'count'", (value + 1,))
    print(value + 1, flush=True)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    new_factory.create(tmp_path / "mock", "acme", now=NOW)
    with contextlib.closing(Store(tmp_path / "mock")) as store, store.transaction() as db:
        db.execute("INSERT INTO setting VALUES ('count', '0')")
    return tmp_path / "mock"


def counter(directory: Path, times: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COUNT, str(directory), str(times)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def count(directory: Path) -> int:
    with contextlib.closing(Store(directory)) as store, store.reading() as db:
        return int(db.execute("SELECT value FROM setting WHERE name = 'count'").fetchone()[0])


def test_processes_that_write_at_once_lose_nothing(directory: Path) -> None:
    with contextlib.ExitStack() as stack:
        counters = [stack.enter_context(counter(directory, 200)) for _ in range(3)]
        for process in counters:
            assert process.stdout is not None
            process.stdout.readline()
        for process in counters:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in counters:
            process.communicate()
            assert process.returncode == 0
    assert count(directory) == 600


def test_what_was_committed_outlives_kill_9(directory: Path) -> None:
    with counter(directory, 1_000_000) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        lines = [process.stdout.readline() for _ in range(100)]
        os.kill(process.pid, signal.SIGKILL)
        told = [*lines, *process.stdout.read().splitlines()]
    # A number is printed after it was committed, so at most one more is in the state; the last line may be cut.
    last = max(int(line) for line in told[1:-1])
    assert last <= count(directory) <= last + 2
    with contextlib.closing(Store(directory)) as store, store.transaction() as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_a_transaction_that_raises_changes_nothing(directory: Path) -> None:
    with contextlib.closing(Store(directory)) as store:
        with pytest.raises(sqlite3.IntegrityError), store.transaction() as db:
            db.executemany("INSERT INTO setting VALUES (?, '7')", [("new",), ("count",)])
        with store.transaction() as db:  # and the next one begins
            assert db.execute("SELECT * FROM setting WHERE name = 'new'").fetchone() is None


def test_a_full_disk_is_reported_and_the_next_change_works(directory: Path) -> None:
    with contextlib.closing(Store(directory)) as store:
        with store.transaction() as db:
            pages = db.execute("PRAGMA page_count").fetchone()[0]
            db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StateUnusable, match="disk is full"), store.transaction() as db:
            db.execute("INSERT INTO setting VALUES ('big', ?)", ("x" * 100_000,))
        with store.transaction() as db:
            db.execute("UPDATE setting SET value = '7' WHERE name = 'count'")
    assert count(directory) == 7


def test_a_reader_waits_for_no_writer(directory: Path) -> None:
    with (
        contextlib.closing(Store(directory)) as writer,
        contextlib.closing(Store(directory)) as reader,
        writer.transaction() as db,
    ):
        db.execute("UPDATE setting SET value = '7' WHERE name = 'count'")
        with reader.reading() as seen:
            assert seen.execute("SELECT value FROM setting WHERE name = 'count'").fetchone()[0] == "0"


def test_a_directory_without_a_state(tmp_path: Path) -> None:
    with pytest.raises(Error) as caught:
        Store(tmp_path)
    assert "mock init" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_is_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "mock.db").write_bytes(b"not a database" * 100)
    with pytest.raises(Error, match="not a mocked Factory"):
        Store(tmp_path)


def test_a_state_of_another_version(directory: Path) -> None:
    with contextlib.closing(sqlite3.connect(directory / "mock.db")) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(Error, match="another version"):
        Store(directory)


def test_initializing_twice_keeps_the_state(directory: Path) -> None:
    initialize(directory)
    assert count(directory) == 0


def test_the_directory_is_its_owners(directory: Path) -> None:
    assert directory.stat().st_mode & 0o777 == 0o700
    tokens = list((directory / "tokens").iterdir())
    assert len(tokens) == 2
    assert {token.stat().st_mode & 0o777 for token in tokens} == {0o600}


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "ä", "x" * 64])
def test_names_that_are_not_valid(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        new_factory.create(tmp_path / "new", name, now=NOW)
    assert not (tmp_path / "new").exists()


def test_a_factory_is_made_once(directory: Path) -> None:
    token = new_factory.token_file(directory, "acme").read_text()
    with pytest.raises(UsageError, match="already"):
        new_factory.create(directory, "acme", now=NOW)
    assert new_factory.token_file(directory, "acme").read_text() == token


def test_sql_stays_in_the_store_s_rooms() -> None:
    rooms = Path(fioctl_rotate.__file__).parent
    calls = {
        str(path.relative_to(rooms))
        for path in rooms.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("execute", "executemany")
    }
    assert calls
    assert {call for call in calls if not call.startswith("mock/store/")} == set()


def test_stamps_are_naive_utc_seconds() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    local = datetime.datetime(2024, 11, 11, 17, 59, 7, 999_999, tzinfo=zone)
    assert stamp(local) == "2024-11-11T15:59:07"
    assert moment(stamp(local)) == datetime.datetime(2024, 11, 11, 15, 59, 7, tzinfo=datetime.UTC)
