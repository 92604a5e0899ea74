"""What polls leave on this machine: a later one asks only for what has changed, and is never misled or stopped."""

import asyncio
import json
import os
from typing import cast

import pytest
import stamina
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.ops import baselines
from fioctl_rotate.ops.watch import Watch, open_watch
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.state import Proof, Reason, Rotation, State
from fioctl_rotate.rotation.tracker import SMALL_FLEET, WHOLE_LIST_EVERY, Readings

FIELD = Scope.of_group("field")
ROTATION = Rotation("certs-1", FIELD)


def poll(world, *, keep=True):
    """One poll as a command makes it; the snapshot, and the requests for devices that it took."""

    async def run():
        async with world.api() as api:
            watch = await open_watch(api, "certs-1", FIELD)
            watch._now = lambda: world.now
            world.requests.clear()
            snapshot = await watch.poll()
            if keep:
                watch.keep()
            return snapshot

    snapshot = asyncio.run(run())
    return snapshot, [request for request in world.requests if request != "GET /ota/devices/"]


@pytest.fixture
def large(world):
    names = [f"d{number:03}" for number in range(SMALL_FLEET + 50)]
    world.add(*names)
    world.wait(minutes=1)
    asyncio.run(world.push())
    world.wait(seconds=5)
    world.rotate(*names[:100])
    world.wait(minutes=20)
    world.come_back(*names[:100])
    world.wait(seconds=20)
    world.see(names[200])
    return world


def test_second_poll_asks_only_for_what_has_changed(large):
    first, asked = poll(large)
    assert first.summary.done == 100
    assert len(asked) > 100
    large.wait(minutes=1)
    large.rotate("d110", upto=2)
    second, asked = poll(large)
    assert second.summary.done == 100
    assert {path.split("/")[3] for path in asked} <= {"uuid-d110", "uuid-d200"}
    assert next(state for state in second.states if state.name == "d110").step == 3
    # Nothing has changed: only the newest is asked again, for it may have said more in the same second.
    _, asked = poll(large)
    assert {path.split("/")[3] for path in asked} <= {"uuid-d110"}
    assert large.requests.count("GET /ota/devices/") == 1


def test_states_are_the_same_with_and_without_what_was_kept(large):
    poll(large)
    large.wait(minutes=1)
    large.rotate("d110", "d111", fail=2)
    with_kept, _ = poll(large, keep=False)
    for file in baselines._file(api_of(large), ROTATION).parent.iterdir():
        file.unlink()
    without, _ = poll(large)
    assert [(s.name, s.state, s.step) for s in with_kept.states] == [
        (s.name, s.state, s.step) for s in without.states
    ]


def test_quiet_poll_makes_no_states_again_and_writes_nothing(large):
    async def run():
        async with large.api() as api:
            watch = await open_watch(api, "certs-1", FIELD)
            watch._now = lambda: large.now
            await watch.poll()
            large.wait(seconds=15)
            # The newest is asked again once: its record tells its key, now that it is known to be awake.
            first = await watch.poll()
            watch.keep()
            file = baselines._file(api, ROTATION)
            written = file.stat().st_mtime_ns
            large.wait(seconds=15)
            quiet = await watch.poll()
            watch.keep()
            assert quiet.changed == []
            assert quiet.states is first.states
            assert file.stat().st_mtime_ns == written

    asyncio.run(run())


def test_own_entry_that_was_deleted_meanwhile_is_not_remembered(world):
    world.add("a")
    asyncio.run(world.push("certs-0", device="a"))
    world.wait(minutes=1)
    asyncio.run(world.push())
    # The device that was seen last is read again anyway.
    world.add("last")
    assert poll(world)[0].states[0].reason == Reason.SHADOWED

    async def delete():
        async with world.api() as api:
            await api.config(Scope.of_device("a", "uuid-a")).delete("fio-rotate-certs")

    asyncio.run(delete())
    assert poll(world)[0].states[0].reason is None


def test_device_that_could_not_be_read_is_read_by_the_next_poll_of_another_process(large):
    large.wait(minutes=1)
    large.rotate("d110", upto=2)
    large.wait(seconds=5)
    large.see("d200")
    large.broken = {"/uuid-d110/": 500}
    with stamina.set_testing(True, attempts=1):
        unread, _ = poll(large)
    state = next(state for state in unread.states if state.name == "d110")
    assert (state.state, state.unread) == (State.PENDING, True)
    large.broken = {}
    large.wait(minutes=1)
    state = next(state for state in poll(large)[0].states if state.name == "d110")
    assert (state.step, state.unread) == (3, False)


def test_whole_list_is_read_again_after_ten_minutes(large):
    poll(large)
    large.now += WHOLE_LIST_EVERY
    with large.store.transaction() as db:
        db.execute("UPDATE device SET group_id = NULL WHERE name = 'd240'")
    large.add("new", seen=False)
    snapshot, _ = poll(large)
    states = {state.name: state.state for state in snapshot.states}
    assert (states["d240"], states["new"]) == (State.LEFT, State.PENDING)


def api_of(world) -> FactoryApi:
    async def run() -> FactoryApi:
        async with world.api() as api:
            return cast(FactoryApi, api)

    return asyncio.run(run())


def test_readings_of_another_server_factory_or_push_prove_nothing(world):
    """A mock whose devices have the same names must never make a real device done."""
    world.add("a")
    world.wait(minutes=1)
    asyncio.run(world.push())
    poll(world)
    world.wait(seconds=5)
    world.rotate("a")
    world.come_back("a")
    assert poll(world, keep=False)[0].states[0].proof == Proof.PUBLIC_KEY
    api = api_of(world)
    kept = baselines.load(api, ROTATION)
    assert kept.devices
    api.server = "https://api.example.com"
    assert baselines.load(api, ROTATION).devices == {}
    api = api_of(world)
    api.factory = "other"
    assert baselines.load(api, ROTATION).devices == {}
    api = api_of(world)
    rotation = poll(world)[0].rotation
    assert baselines.load(api, rotation).devices
    later = Rotation("certs-1", FIELD, pushed_at=world.now)
    assert baselines.load(api, later).devices == {}


def break_with(path, what):
    path.unlink(missing_ok=True)
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "zero":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(what)


def header(**fields):
    return json.dumps({"format": 1, **fields}).encode() + b"\n"


@pytest.mark.parametrize(
    "what",
    [
        *("fifo", "folder", "zero", b"", b"not JSON", b"[" * 100_000, header(format=9)),
        header() + b"[" * 100_000,
        header() + b'["uuid-a", "a", "2026-11-24T12:00:00"]\n',
        header() + b'["uuid-a", "a", null, null, ["running", 99]]\n',
        header() + b'["uuid-a", "a", null, null, ["finalized", 5, ' + b"9" * 5000 + b"]]\n",
        header(total=-1) + b'["uuid-\xff"]\n',
    ],
)
def test_file_that_is_not_ours_counts_as_missing(world, what):
    world.add("a")
    world.wait(minutes=1)
    asyncio.run(world.push())
    poll(world)
    path = baselines._file(api_of(world), ROTATION)
    break_with(path, what)
    snapshot, _ = poll(world)
    assert [(state.name, state.state) for state in snapshot.states] == [("a", State.PENDING)]


@given(st.binary(max_size=60), st.integers(0, 600), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_mutated_file_gives_readings_or_none(kept_file, junk, place, cut):
    world, path, good = kept_file
    path.write_bytes(good[:place] + junk + (b"" if cut else good[place:]))
    readings = baselines.load(api_of(world), ROTATION)
    assert isinstance(readings, Readings)

    async def run():
        async with world.api() as api:
            watch = Watch(api, ROTATION, now=lambda: world.now)
            return await watch.poll()

    assert {"uuid-a", "uuid-b"} <= {state.uuid for state in asyncio.run(run()).states}


@pytest.fixture
def kept_file(world):
    world.add("a", "b")
    world.wait(minutes=1)
    asyncio.run(world.push())
    world.wait(seconds=1)
    world.rotate("a")
    poll(world)
    path = baselines._file(api_of(world), ROTATION)
    return world, path, path.read_bytes()


def test_folder_that_cannot_be_written_stops_nothing(world, monkeypatch, tmp_path):
    world.add("a")
    world.wait(minutes=1)
    asyncio.run(world.push())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert poll(world)[0].summary.total == 1
