"""Following a rotation while the operator API does not answer as it should."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
import stamina

from fioctl_rotate.api.failures import ApiError
from fioctl_rotate.ops.rotations import find_rotation
from fioctl_rotate.ops.watch import BAD_POLLS, Watch
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.state import State

LIST, EVENTS = "/ota/devices/", "/updates/"


@pytest.fixture(autouse=True)
def _without_pauses():
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


@pytest.fixture
def pushed(world):
    world.add("a")
    world.wait(minutes=1)
    asyncio.run(world.push())
    world.wait(seconds=5)
    return world


def follow(world, between):
    """Watch to the end; `between` is called with the number of polls so far. Returns all snapshots."""
    snapshots: list[Any] = []

    async def sleep(seconds):
        world.now += timedelta(seconds=seconds)
        assert len(snapshots) < 200, "a watch that does not end"
        between(len(snapshots))

    async def run():
        async with world.api() as api:
            rotation = (await find_rotation(api, "certs-1", Scope.of_group("field"))).rotation
            watch = Watch(api, rotation, now=lambda: world.now)
            await watch.until_resting(interval=15, tell=snapshots.append, sleep=sleep)

    asyncio.run(run())
    return snapshots


def test_poll_that_fails_is_reported_and_retried(pushed):
    def between(polls):
        pushed.broken = {LIST: 502} if polls < BAD_POLLS - 1 else {}
        if polls == BAD_POLLS:
            pushed.rotate("a")
            pushed.come_back("a")

    snapshots = follow(pushed, between)
    failed = ["502" in " ".join(snapshot.problems) for snapshot in snapshots]
    assert failed == [False, *[True] * (BAD_POLLS - 2), False, False]
    assert snapshots[-1].summary.complete


def test_server_that_stays_away_ends_the_watch(pushed):
    def between(_polls):
        pushed.broken = {LIST: 503}

    with pytest.raises(ApiError, match="503"):
        follow(pushed, between)


@pytest.mark.parametrize(("part", "status"), [(LIST, 401), (LIST, 403), (EVENTS, 401)])
def test_refused_token_ends_the_watch_at_once(pushed, part, status):
    pushed.rotate("a", upto=1)
    with pytest.raises(ApiError) as failure:
        follow(pushed, lambda polls: pushed.broken.update({part: status}))
    assert failure.value.status == status


@pytest.mark.parametrize("status", [429, 500, 503])
def test_device_that_could_not_be_asked_is_asked_again(pushed, status):
    """Although it was not seen again since."""

    async def run():
        async with pushed.api() as api:
            rotation = (await find_rotation(api, "certs-1", Scope.of_group("field"))).rotation
            watch = Watch(api, rotation)
            pushed.add("b")
            pushed.rotate("a")
            pushed.wait(seconds=5)
            pushed.see("b")
            pushed.broken = {EVENTS: status}
            first = await watch.poll()
            pushed.broken = {}
            return first, await watch.poll()

    first, second = asyncio.run(run())
    assert not first.resting
    assert first.problems[0].startswith("2 device(s) could not be asked: mock answered " + str(status))
    assert [state.state for state in first.states] == [State.PENDING, State.PENDING]
    assert [state.state for state in second.states] == [State.FINALIZED, State.PENDING]
    assert second.problems == []


def test_device_that_is_gone_by_the_time_it_is_asked_does_no_harm(pushed):
    pushed.rotate("a", upto=2)

    def between(polls):
        pushed.broken = {"/ota/devices/uuid-a/": 404} if polls == 1 else {}
        if polls == 2:
            pushed.rotate("a")
            pushed.come_back("a")
        else:
            pushed.see("a")

    assert follow(pushed, between)[-1].summary.complete
