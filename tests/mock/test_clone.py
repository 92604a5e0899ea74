"""`mock clone`: the same shape, nothing secret, nothing replayed, and it goes on after it was cut off."""

import asyncio
import contextlib
import datetime
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.device.device import Device, StartOutcome
from fioctl_rotate.device.identity import Sota
from fioctl_rotate.device.new_device import create_device
from fioctl_rotate.device.runner import stays_off
from fioctl_rotate.mock import new_factory
from fioctl_rotate.mock.store import accounts, device_records
from fioctl_rotate.mock.store.database import Store
from fioctl_rotate.ops import factory_reading
from fioctl_rotate.ops import mock as ops
from fioctl_rotate.ops.mock_devices import check_in_intervals
from fioctl_rotate.rotation.scope import Scope
from tests.commandline import Cli
from tests.processes import FREE
from tests.scripted import Answer, Asked, Reply, Server
from tests.world import World

CANARY = "canary-secret-of-somebody"
Connection = tuple[object, ...]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Devices that are done, at an older rotation, failing, offline, too old, shadowed, or of no group."""
    start = datetime.datetime.now(datetime.UTC).replace(microsecond=0) - datetime.timedelta(hours=9)
    world = World(tmp_path / "original", start)
    world.add("offline-1", "offline-2", "behind")
    world.add("done-1", "done-2", "failing", "shadowed")
    world.add("old", lmp="4.0.20-2-88.1")
    world.add("alone", group=None)
    world.add("never", seen=False)
    asyncio.run(world.push("certs-0"))
    for names, rotation in ((("done-1", "behind"), "certs-0"), (("done-1", "done-2"), "certs-1")):
        world.wait(minutes=5)
        world.rotate(*names, rotation=rotation)
        asyncio.run(world.push("certs-1"))
    asyncio.run(world.push("certs-own", device="shadowed"))
    world.rotate("shadowed", rotation="certs-own")
    asyncio.run(secrets(world))
    world.wait(hours=8)
    world.see("done-1", "done-2", "shadowed", "old", "alone", "behind")
    world.rotate("failing", fail=2)
    yield world
    world.store.close()


async def secrets(world: World) -> None:
    """Other files in each configuration, as people have them."""
    file = {"name": "wifi.conf", "value": CANARY, "unencrypted": True}
    async with world.api() as api:
        for scope in (Scope.fleet(), Scope.of_group("field"), Scope.of_device("done-1", "uuid-done-1")):
            await api.config(scope).merge({"reason": "r", "files": [file]})


def clone(cli: Cli, source: Path, directory: Path, *more: object) -> Any:
    return cli("mock", "clone", directory, "-f", "acme", "--mock", source, *FREE, *more)


def at(directory: Path) -> Connection:
    return "-f", "acme", "--mock", directory, "--format", "json"


def by_name(cli: Cli, directory: Path) -> dict[str, Any]:
    listed = cli("devices", "list", *at(directory)).json["devices"]
    return {device["name"]: device for device in listed}


def test_the_shape_is_the_original_s(cli: Cli, world: World, mock_dir: Path) -> None:
    result = clone(cli, world.directory, mock_dir, "--format", "json")
    assert result.code == 0, result.err
    assert result.json == {
        "factory": "acme",
        "directory": str(mock_dir),
        "server": f"mock {world.directory}",
        "groups": ["field"],
        "devices": 10,
        "offline": 3,
        "unsupported": 1,
        "shadowed": 1,
        "completed": 4,
    }
    assert f"next: fioctl-rotate mock serve {mock_dir}\n" in result.err
    original, copy = by_name(cli, world.directory), by_name(cli, mock_dir)
    shown = ("uuid", "device-group", "last-seen", "lmp-ver", "target-name", "factory")
    assert [[device.get(key) for key in shown] for device in copy.values()] == [
        [device.get(key) for key in shown] for device in original.values()
    ]
    # Of the rotations before the one that a device has completed last, nothing needs to be known.
    newest = {
        "done-1": "certs-1",
        "done-2": "certs-1",
        "behind": "certs-0",
        "failing": "certs-1",
        "shadowed": "certs-own",
    }
    for name, rotation in newest.items():
        told = [
            cli("devices", "updates", name, rotation, *at(place)) for place in (world.directory, mock_dir)
        ]
        assert [answer.code for answer in told] == [0, 0]
        assert told[0].json["events"] == told[1].json["events"]


def test_entries_have_the_clone_s_est_server_and_their_own_ids(
    cli: Cli, world: World, mock_dir: Path
) -> None:
    result = clone(cli, world.directory, mock_dir)
    port = ops_factory(mock_dir).est_port
    for command in (("config", "log", "-g", "field"), ("devices", "config", "log", "shadowed")):
        copy, original = (cli(*command, "-n", 1, *at(place)).json for place in (mock_dir, world.directory))
        (file,) = copy["config"][0]["files"]
        known = next(f for f in original["config"][0]["files"] if f["name"] == "fio-rotate-certs")
        assert file["value"].splitlines()[0] == f"ESTSERVER=https://localhost:{port}/.well-known/est"
        assert file["value"].splitlines()[1:] == known["value"].splitlines()[1:]
        assert copy["config"][0]["reason"] == original["config"][0]["reason"]
        assert copy["config"][0]["created-at"] == original["config"][0]["created-at"]
    assert (
        "ESTSERVER is the clone's EST server in 2 entries that had https://est.example.com:8443/"
        in result.err
    )


def ops_factory(directory: Path) -> Any:
    with contextlib.closing(Store(directory)) as store, store.reading() as db:
        return accounts.choose_factory(db, None)


def test_updates_of_a_device_are_in_their_order(cli: Cli, tmp_path: Path, mock_dir: Path) -> None:
    world = World(tmp_path / "original", datetime.datetime.now(datetime.UTC).replace(microsecond=0))
    world.add("twice")
    world.rotate("twice", rotation="certs-0")
    world.rotate("twice", rotation="certs-1", fail=2)
    world.store.close()
    assert clone(cli, world.directory, mock_dir).code == 0
    for place in (world.directory, mock_dir):
        told = cli("devices", "updates", "twice", *at(place)).json["updates"]
        assert [update["correlation-id"] for update in told] == ["certs-1", "certs-0"]


def test_nothing_secret_of_the_original_is_in_it(cli: Cli, world: World, mock_dir: Path) -> None:
    assert clone(cli, world.directory, mock_dir).code == 0
    token = new_factory.token_file(world.directory, "acme").read_bytes()
    held = b"".join(path.read_bytes() for path in mock_dir.rglob("*") if path.is_file())
    for secret in (CANARY.encode(), b"wifi.conf", token, b"key of done-1"):
        assert secret not in held
    assert b"certs-own" in held
    assert not (mock_dir / "clone.jsonl").exists()


def test_the_original_stays_as_it_is(cli: Cli, world: World, mock_dir: Path) -> None:
    def state() -> list[str]:
        with contextlib.closing(sqlite3.connect(world.directory / "mock.db")) as db:
            return list(db.iterdump())

    before = state()
    assert clone(cli, world.directory, mock_dir).code == 0
    assert state() == before


def test_nothing_is_replayed_at_the_first_check_in(cli: Cli, world: World, mock_dir: Path) -> None:
    """Real TLS: only the devices rotate that have not completed the entry that they follow."""
    assert clone(cli, world.directory, mock_dir).code == 0
    names = {device["uuid"]: name for name, device in by_name(cli, mock_dir).items()}
    outcomes: dict[str, StartOutcome] = {}

    async def work() -> None:
        async with ops.serve(mock_dir):
            for path in sorted((mock_dir / "devices").iterdir()):
                if not stays_off(path):
                    outcomes[names[path.name]] = await Device(path).check_in()

    asyncio.run(work())
    assert outcomes == {
        "done-1": StartOutcome.CHANGED,
        "done-2": StartOutcome.CHANGED,
        "shadowed": StartOutcome.CHANGED,
        "old": StartOutcome.CHANGED,
        "alone": StartOutcome.UNCHANGED,
        "failing": StartOutcome.ROTATED,
        "behind": StartOutcome.ROTATED,
    }


def test_devices_that_are_offline_stay_off(cli: Cli, world: World, mock_dir: Path) -> None:
    assert clone(cli, world.directory, mock_dir).code == 0
    off = {path.name for path in (mock_dir / "devices").iterdir() if stays_off(path)}
    assert off == {"uuid-offline-1", "uuid-offline-2", "uuid-never"}


def test_a_clone_whose_devices_are_all_offline_says_so(cli: Cli, tmp_path: Path, mock_dir: Path) -> None:
    world = World(tmp_path / "original", datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC))
    world.add("a", "b")
    world.store.close()
    assert clone(cli, world.directory, mock_dir).code == 0
    result = cli("mock", "devices", mock_dir)
    assert (result.code, "every device of factory acme stays off" in result.err) == (1, True)


def test_clocks_and_check_ins_are_set_by_options(cli: Cli, world: World, mock_dir: Path) -> None:
    """Of ten devices a quarter, rounded up; no answer of the Factory says how they are."""
    wanted = ("--clock-offset", "-2h:25", "--check-in", "5m")
    assert clone(cli, world.directory, mock_dir, *wanted).code == 0
    sotas = [Sota(path / "sota.toml") for path in (mock_dir / "devices").iterdir()]
    offsets = sorted(sota.number("simulation.clock_offset", 0) for sota in sotas)
    assert offsets == [-7200] * 3 + [0] * 7
    uuids = [path.name for path in (mock_dir / "devices").iterdir()]
    assert set(check_in_intervals(mock_dir, uuids, None).values()) == {300}
    assert set(check_in_intervals(mock_dir, uuids, 5.0).values()) == {5}
    wrong = clone(cli, world.directory, mock_dir.with_name("other"), "--clock-offset", "2h:101")
    assert (wrong.code, "DURATION:PERCENT" in wrong.err) == (2, True)


def test_chosen_groups_alone(cli: Cli, world: World, mock_dir: Path) -> None:
    result = clone(cli, world.directory, mock_dir, "-g", "field", "--format", "json")
    assert (result.json["groups"], result.json["devices"]) == (["field"], 9)
    assert "alone" not in by_name(cli, mock_dir)
    unknown = clone(cli, world.directory, mock_dir.with_name("other"), "-g", "nope")
    assert (unknown.code, "nope" in unknown.err) == (1, True)


@pytest.mark.parametrize("half_a_line", [False, True])
def test_it_goes_on_where_it_was_cut_off(
    cli: Cli, world: World, mock_dir: Path, monkeypatch: pytest.MonkeyPatch, half_a_line: bool
) -> None:
    asked: list[str] = []
    cut = 6
    real: Callable[..., Any] = FactoryApi.device_updates

    async def updates(api: FactoryApi, uuid: str) -> Any:
        asked.append(uuid)
        if len(asked) == cut:
            signal.raise_signal(signal.SIGINT)
            await asyncio.Event().wait()  # the signal cancels it
        return await real(api, uuid)

    with monkeypatch.context() as patched:
        patched.setattr(FactoryApi, "device_updates", updates)
        patched.setattr(factory_reading, "Pace", lambda: type("One", (), {"limit": 1})())
        clone(cli, world.directory, mock_dir)
        kept = mock_dir / "clone.jsonl"
        assert len(kept.read_bytes().splitlines()) == 6
        if half_a_line:
            kept.write_bytes(kept.read_bytes()[:-9])
        asked_before, asked, cut = asked, [], 0
        assert clone(cli, world.directory, mock_dir).code == 0
    assert set(asked) & set(asked_before[: 4 if half_a_line else 5]) == set()
    assert len(asked) == (6 if half_a_line else 5)
    assert len(by_name(cli, mock_dir)) == 10
    again = clone(cli, world.directory, mock_dir)
    assert (again.code, "already" in again.err) == (2, True)


def test_it_goes_on_after_a_cut_while_devices_are_made(
    cli: Cli, world: World, mock_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def cut(path: Path, **how: Any) -> Any:
        made.append(path)
        if len(made) == 4:
            raise OSError
        return create_device(path, **how)

    with monkeypatch.context() as patched:
        patched.setattr("fioctl_rotate.ops.mock_fleet.create_device", cut)
        patched.setattr("shutil.rmtree", lambda *_args, **_how: None)  # as after kill -9
        assert clone(cli, world.directory, mock_dir).code == 1
    left = made[0] / "left-over"
    left.touch()
    assert clone(cli, world.directory, mock_dir).code == 0
    assert not left.exists()
    assert len(by_name(cli, mock_dir)) == 10


def test_a_device_of_another_factory_in_the_directory_stays_as_it_is(
    cli: Cli, world: World, mock_dir: Path, tmp_path: Path
) -> None:
    """Two clones in one directory would share their devices' uuids."""
    assert clone(cli, world.directory, mock_dir).code == 0
    other = tmp_path / "other"
    new_factory.create(other, "other", now=world.now)
    with contextlib.closing(Store(other)) as store, store.transaction() as db:
        device_records.register(db, "other", "uuid-done-1", "key", owner="me", author="me", now=world.now)
    key = (mock_dir / "devices" / "uuid-done-1" / "pkey.pem").read_bytes()
    result = cli("mock", "clone", mock_dir, "-f", "other", "--mock", other, *FREE)
    assert (result.code, f"{mock_dir} already has a device uuid-done-1" in result.err) == (1, True)
    assert (mock_dir / "devices" / "uuid-done-1" / "pkey.pem").read_bytes() == key


def test_what_was_read_of_another_factory_is_not_taken(cli: Cli, world: World, mock_dir: Path) -> None:
    assert cli("mock", "clone", mock_dir, "-f", "acme", "--mock", mock_dir.with_name("nowhere")).code == 2
    mock_dir.mkdir(exist_ok=True)
    new_factory.create(mock_dir, "acme", now=world.now, unfinished=True)
    (mock_dir / "clone.jsonl").write_text('{"server":"https://other.example.com","factory":"acme"}\n')
    result = clone(cli, world.directory, mock_dir)
    assert (result.code, "is of another Factory" in result.err) == (5, True)


def test_a_busy_server_is_asked_again(
    cli: Cli, world: World, mock_dir: Path, serve: Callable[[Answer], Server]
) -> None:
    from tests.scripted import running_mock

    with running_mock(world.directory) as answer:
        seen: set[str] = set()

        def busy(asked: Asked) -> Reply:
            first = asked.path not in seen
            seen.add(asked.path)
            return Reply(429) if first and len(seen) % 3 == 0 else answer(asked)

        serve(busy)
        result = cli("mock", "clone", mock_dir, "-f", "acme", *FREE, "--format", "json")
    assert result.code == 0, result.err
    assert result.json["devices"] == 10


def test_a_reading_that_may_not_be_complete_says_so(
    cli: Cli, world: World, mock_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        world.tell("alone", "EcuDownloadStarted", rotation=f"update-{number}")
    real: Callable[..., Any] = FactoryApi.device_count

    async def more(api: FactoryApi, filters: Any = None) -> int:
        return int(await real(api, filters)) + (0 if str(mock_dir) in api.server else 3)

    monkeypatch.setattr(FactoryApi, "device_count", more)
    result = clone(cli, world.directory, mock_dir)
    assert "the Factory says that it has 13 devices, but 10 were read\n" in result.err
    assert "1 devices have no completed rotation among their last 10 updates" in result.err
