"""Devices that leave, join or fall silent while a rotation is watched: none is dropped without a word."""

import asyncio
from datetime import timedelta

import pytest

from fioctl_rotate.ops.rotations import find_rotation
from fioctl_rotate.ops.watch import Watch
from fioctl_rotate.rotation.messages import advice
from fioctl_rotate.rotation.progress import STARTED
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.state import Reason, State
from fioctl_rotate.rotation.tracker import (
    PATIENCE,
    SIGHTINGS,
    SILENT_AFTER,
    SMALL_FLEET,
    WHOLE_LIST_EVERY,
    Tracker,
)


@pytest.fixture
def pushed(world):
    world.add("a", "b", "c")
    world.wait(minutes=1)
    asyncio.run(world.push())
    world.wait(seconds=5)
    return world


class Follower:
    """Polls the world's rotation `certs-1`."""

    def __init__(self, world):
        self.world = world
        self.tracker: Tracker | None = None

    def poll(self):
        return asyncio.run(self._poll())

    async def _poll(self):
        async with self.world.api() as api:
            found = await find_rotation(api, "certs-1", Scope.of_group("field"))
            watch = Watch(api, found.rotation, tracker=self.tracker, now=lambda: self.world.now)
            self.tracker = watch.tracker
            return await watch.poll()

    def states(self):
        return {state.name: state for state in self.poll().states}


def leave(world, name):
    with world.store.transaction() as db:
        db.execute("UPDATE device SET group_id = NULL WHERE name = ?", (name,))


def delete(world, name):
    with world.store.transaction() as db:
        db.execute("DELETE FROM device WHERE name = ?", (name,))


def test_device_that_was_moved_or_deleted_is_named_and_the_rotation_is_not_complete(pushed):
    follower = Follower(pushed)
    follower.poll()
    leave(pushed, "a")
    delete(pushed, "b")
    pushed.rotate("c")
    pushed.come_back("c")
    snapshot = follower.poll()
    states = {state.name: (state.state, state.left) for state in snapshot.states}
    assert states == {
        "a": (State.LEFT, "now in no group"),
        "b": (State.LEFT, "deleted"),
        "c": (State.DONE, None),
    }
    assert (snapshot.resting, snapshot.summary.complete) == (True, False)
    assert snapshot.summary.message == "1 of 3 done, 2 left"


def test_done_device_that_leaves_stays_done(pushed):
    follower = Follower(pushed)
    follower.poll()
    pushed.rotate("a", "b", "c")
    pushed.come_back("a", "b", "c")
    follower.poll()
    leave(pushed, "a")
    snapshot = follower.poll()
    assert (snapshot.summary.done, snapshot.summary.complete) == (3, True)


def test_device_that_comes_back_into_the_group_goes_on(pushed):
    follower = Follower(pushed)
    follower.poll()
    with pushed.store.transaction() as db:
        (group,) = db.execute("SELECT group_id FROM device WHERE name = 'a'").fetchone()
    leave(pushed, "a")
    assert follower.states()["a"].state == State.LEFT
    with pushed.store.transaction() as db:
        db.execute("UPDATE device SET group_id = ? WHERE name = 'a'", (group,))
    assert follower.states()["a"].state == State.PENDING


def test_one_that_leaves_while_another_joins_is_noticed_at_once_in_a_list_of_one_page(pushed):
    follower = Follower(pushed)
    follower.poll()
    leave(pushed, "a")
    pushed.add("d", seen=False)
    states = follower.states()
    assert (states["a"].state, states["d"].state) == (State.LEFT, State.PENDING)


def test_one_that_leaves_while_another_joins_is_noticed_by_the_next_whole_list(pushed):
    pushed.add(*(f"other-{number}" for number in range(SMALL_FLEET)))
    pushed.wait(minutes=1)
    pushed.see("b")
    follower = Follower(pushed)
    follower.poll()
    leave(pushed, "a")
    pushed.add("d", seen=False)
    states = follower.states()
    assert (states["a"].state, "d" in states) == (State.PENDING, False)
    pushed.now += WHOLE_LIST_EVERY
    states = follower.states()
    assert (states["a"].state, states["d"].state) == (State.LEFT, State.PENDING)


def test_device_that_is_known_from_before_the_push_and_gone_since_is_named(pushed):
    from fioctl_rotate.rotation.tracker import before_push
    from fioctl_rotate.wire import Device

    follower = Follower(pushed)
    follower.poll()
    assert follower.tracker is not None
    gone = Device(uuid="uuid-gone", name="gone")
    follower.tracker = Tracker(follower.tracker.rotation, before_push([gone], []))
    state = follower.states()["gone"]
    assert (state.state, state.left) == (State.LEFT, "deleted")


def see_often(world, follower, name, times, *, apart):
    state = None
    for _ in range(times):
        world.now += apart
        world.see(name)
        state = follower.states()[name]
    return state


def test_advice_for_a_silent_device_names_what_helps(pushed):
    follower = Follower(pushed)
    follower.poll()
    silent = see_often(pushed, follower, "a", SIGHTINGS + 1, apart=SILENT_AFTER)
    assert follower.tracker is not None
    (line,) = advice(follower.tracker.rotation, [silent], ["-f", "acme"])
    assert "`fioctl-rotate rotations settle certs-1 -g field --allow not-done -f acme`" in line
    assert "`fioctl-rotate device config rotate-certs a -r 'silent in certs-1' -f acme`" in line


@pytest.mark.parametrize("started", [False, True])
def test_device_that_checks_in_and_reports_nothing_is_silent_and_the_watch_ends(pushed, started):
    """It missed the change, or was killed after CertRotationStarted and lost the rotation."""
    follower = Follower(pushed)
    delete(pushed, "b")
    delete(pushed, "c")
    if started:
        pushed.tell("a", STARTED)
    follower.poll()
    state = see_often(pushed, follower, "a", SIGHTINGS, apart=SILENT_AFTER / SIGHTINGS)
    assert state.reason is None
    state = see_often(pushed, follower, "a", 1, apart=SILENT_AFTER / SIGHTINGS)
    assert (state.state, state.reason) == (State.RUNNING if started else State.PENDING, Reason.SILENT)
    assert follower.poll().resting


def test_device_that_is_seen_often_within_a_moment_is_not_silent(pushed):
    """An update agent may ask every few seconds, while the configuration is fetched every five minutes."""
    follower = Follower(pushed)
    follower.poll()
    state = see_often(pushed, follower, "a", PATIENCE - 1, apart=timedelta(seconds=1))
    assert state.reason is None


def test_device_that_was_seen_once_long_after_the_push_is_not_silent(pushed):
    follower = Follower(pushed)
    follower.poll()
    state = see_often(pushed, follower, "a", 1, apart=2 * SILENT_AFTER)
    assert state.reason is None


def test_device_that_was_seen_twice_in_ten_minutes_is_not_silent(pushed):
    follower = Follower(pushed)
    follower.poll()
    assert see_often(pushed, follower, "a", SIGHTINGS - 1, apart=SILENT_AFTER).reason is None


def test_silent_device_that_reports_after_all_is_not_silent_any_more(pushed):
    follower = Follower(pushed)
    follower.poll()
    assert see_often(pushed, follower, "a", SIGHTINGS + 1, apart=SILENT_AFTER).reason == Reason.SILENT
    pushed.wait(seconds=5)
    pushed.tell("a", STARTED)
    state = follower.states()["a"]
    assert (state.state, state.reason) == (State.RUNNING, None)


def test_device_goes_offline_by_the_clock_alone(pushed):
    """Nothing is read of it any more: the time that passes is the news."""
    follower = Follower(pushed)
    follower.poll()
    pushed.wait(hours=3)
    pushed.see("b")
    assert follower.states()["a"].reason is None
    pushed.wait(hours=2)
    snapshot = follower.poll()
    reasons = {state.name: state.reason for state in snapshot.states}
    assert reasons == {"a": Reason.OFFLINE, "b": None, "c": Reason.OFFLINE}
    assert snapshot.summary.not_following[Reason.OFFLINE] == 2
    assert {state.name for state in snapshot.changed} == {"a", "c"}
