"""Following a rotation through the operator API: states, proofs, and which devices are asked."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from fioctl_rotate.ops.rotations import find_rotation
from fioctl_rotate.ops.watch import Watch
from fioctl_rotate.rotation.progress import STARTED, STEPS
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.state import Proof, Reason, State
from fioctl_rotate.rotation.tracker import PATIENCE, SMALL_FLEET, Tracker

HOUR = timedelta(hours=1)


class Watcher:
    """Polls the world's rotation `certs-1`, once a call."""

    def __init__(self, world, rotation="certs-1", device=None, readings=None):
        self.world = world
        self._rotation, self._device, self._readings = rotation, device, readings
        self.tracker: Any = None

    def look(self):
        return asyncio.run(self._look())

    async def _look(self):
        async with self.world.api() as api:
            if self.tracker is None:
                target = Scope.of_device(self._device) if self._device else Scope.of_group("field")
                found = (await find_rotation(api, self._rotation, target)).rotation
                self.tracker = Tracker(found, self._readings)
            self.world.requests.clear()
            watch = Watch(
                api,
                self.tracker.rotation,
                tracker=self.tracker,
                now=lambda: self.world.now,
            )
            return await watch.poll()

    def states(self):
        return {state.name: state for state in self.look().states}

    def state(self, name):
        return self.states()[name]


def push(world, rotation="certs-1", **how):
    world.wait(minutes=1)
    asyncio.run(world.push(rotation, **how))
    world.wait(seconds=5)


def test_device_is_done_once_the_gateway_took_its_new_key(world):
    world.add("a")
    push(world)
    watcher = Watcher(world)
    assert watcher.state("a").state == State.PENDING
    world.rotate("a", upto=2)
    running = watcher.state("a")
    assert (running.state, running.step) == (State.RUNNING, 3)
    world.wait(seconds=1)
    for step in STEPS[2:]:
        world.tell("a", step)
    assert watcher.state("a").state == State.FINALIZED
    world.wait(seconds=10)
    world.come_back("a")
    done = watcher.state("a")
    assert (done.state, done.proof) == (State.DONE, Proof.PUBLIC_KEY)


def test_certificate_that_the_gateway_does_not_trust_is_finalized_and_never_done(world):
    world.add("a")
    push(world)
    watcher = Watcher(world)
    watcher.look()
    world.rotate("a")
    for _ in range(5):
        assert watcher.state("a").state == State.FINALIZED
        world.wait(hours=1)


def test_known_old_key_outweighs_being_seen_again(world):
    """An update agent that could not be restarted goes on with the old certificate, and is seen with it."""
    world.add("a")
    push(world)
    watcher = Watcher(world)
    watcher.look()
    world.rotate("a")
    watcher.look()
    for _ in range(5):
        world.wait(minutes=30)
        world.see("a")
        assert watcher.state("a").state == State.FINALIZED


@pytest.mark.parametrize("clock", [timedelta(), -HOUR, timedelta(days=-9999), HOUR])
def test_first_poll_after_finalize_waits_until_the_device_is_seen_again(world, clock):
    """Nobody looked before, so no old key is known, and the device's clock cannot be believed."""
    world.add("a")
    push(world)
    world.rotate("a", clock=clock)
    world.wait(seconds=2)
    world.come_back("a")
    watcher = Watcher(world)
    assert watcher.state("a").state == State.FINALIZED
    world.wait(seconds=30)
    world.see("a")
    assert watcher.state("a").state == State.FINALIZED
    world.wait(minutes=5)
    world.see("a")
    seen = watcher.state("a")
    assert (seen.state, seen.proof) == (State.DONE, Proof.SEEN_AGAIN)


def test_completed_after_finalize_is_not_taken_for_being_seen_again(world):
    world.add("a")
    push(world)
    world.rotate("a")
    watcher = Watcher(world)
    assert watcher.state("a").state == State.FINALIZED
    for pause in (1, 2, 5, 13, 30):
        world.wait(seconds=pause)
        world.tell("a", "CertRotationCompleted")
        assert watcher.state("a").state == State.FINALIZED


@pytest.mark.parametrize(
    ("clock", "later", "expected"),
    [
        (timedelta(), timedelta(minutes=20), State.DONE),
        (timedelta(), timedelta(minutes=10), State.FINALIZED),
        # Behind, so that Finalize seems long past: found out by events that are older than the push.
        (-HOUR, timedelta(), State.FINALIZED),
        (timedelta(days=-9999), timedelta(minutes=20), State.FINALIZED),
        # Ahead: its Finalize is still to come.
        (HOUR, timedelta(minutes=20), State.FINALIZED),
    ],
)
def test_single_poll_believes_a_right_clock_only(world, clock, later, expected):
    world.add("a")
    push(world)
    world.rotate("a", clock=clock)
    world.wait(seconds=1)
    if later:
        world.now += later
        world.come_back("a")
    assert Watcher(world).state("a").state == expected


def test_later_poll_proves_with_what_an_earlier_one_kept(world):
    world.add("a")
    push(world)
    earlier = Watcher(world)
    earlier.look()
    world.rotate("a")
    world.come_back("a")
    assert Watcher(world, readings=earlier.tracker.readings()).state("a").proof == Proof.PUBLIC_KEY


def test_failing_device_is_shown_with_its_own_message_and_recovers(world):
    world.add("a")
    push(world)
    watcher = Watcher(world)
    watcher.look()
    world.rotate("a", fail=1, words="Unable to obtain new certificate: HTTP_400")
    failing = watcher.state("a")
    assert (failing.state, failing.step, failing.message) == (
        State.FAILING,
        1,
        "Unable to obtain new certificate: HTTP_400",
    )
    world.wait(minutes=5)
    world.rotate("a")
    assert (watcher.state("a").state, watcher.state("a").attempts) == (State.FINALIZED, 2)
    world.come_back("a")
    assert watcher.state("a").state == State.DONE


def test_reasons_that_keep_a_device_from_following(world):
    world.add("own", "same", "online")
    world.add("old", lmp="4.0.1-3-89")
    world.add("never", seen=False)
    world.wait(hours=5)
    world.add("gone")
    world.see("own", "same", "online", "old")
    with world.store.transaction() as db:
        db.execute("UPDATE device SET last_seen = '2026-11-24T12:00:00' WHERE name = 'gone'")
    asyncio.run(world.push("certs-0", device="own"))
    asyncio.run(world.push("certs-1", device="same"))
    push(world)
    states = Watcher(world).states()
    assert {name: state.reason for name, state in states.items()} == {
        "own": Reason.SHADOWED,
        "same": None,
        "online": None,
        "old": Reason.UNSUPPORTED,
        "never": Reason.OFFLINE,
        "gone": Reason.OFFLINE,
    }
    assert states["own"].own_entry == "certs-0"


def test_rotation_that_another_one_replaced_is_superseded_where_it_had_not_begun(world):
    world.add("begun", "pending")
    push(world)
    world.rotate("begun", upto=1)
    push(world, "certs-2")
    states = Watcher(world).states()
    assert states["begun"].state == State.RUNNING
    assert states["pending"].reason == Reason.SUPERSEDED
    assert {state.state for state in Watcher(world, "certs-2").look().states} == {State.PENDING}


def test_one_device_of_its_own_rotation(world):
    world.add("a", "b")
    world.wait(minutes=1)
    asyncio.run(world.push(device="a"))
    world.wait(seconds=1)
    world.rotate("a")
    snapshot = Watcher(world, device="a").look()
    assert [(state.name, state.state) for state in snapshot.states] == [("a", State.FINALIZED)]


def large(world):
    names = [f"d{number:04}" for number in range(SMALL_FLEET + 50)]
    world.add(*names)
    push(world)
    return names


def test_poll_asks_only_devices_seen_since_that_are_not_done(world):
    names = large(world)
    watcher = Watcher(world)
    watcher.look()
    # Nobody was seen since the push: the list alone, in one large page.
    assert world.requests == ["GET /ota/devices/"]

    world.rotate(*names[:3])
    watcher.look()
    asked = [request for request in world.requests if "updates" in request]
    assert sorted(asked) == [f"GET /ota/devices/uuid-{name}/updates/certs-1/" for name in names[:3]]

    world.wait(seconds=15)
    world.see(names[0])
    assert watcher.state(names[0]).state == State.FINALIZED

    world.wait(minutes=5)
    world.see(names[0], names[10])
    states = watcher.states()
    assert {path.split("/")[3] for path in world.requests} - {""} == {f"uuid-{names[10]}"}
    # One was seen again long enough after; what is known of it needs no request.
    assert states[names[0]].state == State.DONE

    world.wait(seconds=15)
    world.see(names[0], names[20])
    watcher.look()
    # The newest of the last poll is asked once more: it may have posted something later in the same second.
    newest = {f"uuid-{names[20]}", f"uuid-{names[10]}"}
    assert {path.split("/")[3] for path in world.requests} - {""} == newest


def test_device_that_joins_or_leaves_the_group_is_noticed(world):
    names = large(world)
    watcher = Watcher(world)
    watcher.look()
    world.add("new", seen=False)
    assert "new" in watcher.states()
    with world.store.transaction() as db:
        db.execute("UPDATE device SET group_id = NULL WHERE name = ?", (names[7],))
    states = watcher.states()
    assert (states[names[7]].state, states[names[7]].left) == (State.LEFT, "now in no group")
    assert len(states) == len(names) + 1


def test_events_posted_in_the_second_of_the_last_poll_are_not_missed(world):
    world.add("a")
    push(world)
    watcher = Watcher(world)
    world.tell("a", STARTED)
    assert watcher.state("a").step == 1
    world.tell("a", STEPS[0])
    assert watcher.state("a").step == 2


def test_watch_ends_when_each_device_is_done_or_will_not_follow(world):
    world.add("a", "b")
    world.add("old", lmp="89")
    push(world)
    steps = iter([lambda: world.rotate("a", "b"), lambda: world.come_back("a", "b")])
    snapshots: list[Any] = []

    async def sleep(seconds):
        world.now += timedelta(seconds=seconds)
        next(steps)()

    async def run():
        async with world.api() as api:
            rotation = (await find_rotation(api, "certs-1", Scope.of_group("field"))).rotation
            watch = Watch(api, rotation, now=lambda: world.now)
            return await watch.until_resting(interval=15, tell=snapshots.append, sleep=sleep)

    last = asyncio.run(run())
    assert last.resting
    assert last.summary.message == "2 of 3 done, 1 pending (not following: 1 unsupported)"
    assert len(snapshots) == 3


def test_watch_gives_a_failed_device_time_to_get_further_and_then_ends(world):
    world.add("a")
    push(world)
    world.rotate("a", fail=2)
    polls: list[Any] = []

    async def sleep(seconds):
        world.now += timedelta(seconds=seconds)
        assert len(polls) < 3 * PATIENCE
        # It retries before each poll, which changes nothing; once it gets a step further.
        world.tell("a", STARTED)
        if len(polls) == 20:
            world.tell("a", STEPS[1])
        if len(polls) % 2:
            world.tell("a", STEPS[1 if len(polls) < 20 else 2], False, "no")

    async def run():
        async with world.api() as api:
            rotation = (await find_rotation(api, "certs-1", Scope.of_group("field"))).rotation
            watch = Watch(api, rotation, now=lambda: world.now)
            return await watch.until_resting(interval=15, tell=polls.append, sleep=sleep)

    last = asyncio.run(run())
    assert last.states[0].step == 3
    assert len(polls) == 20 + 1 + PATIENCE


def test_device_of_a_large_fleet_seen_under_way_is_proven_by_its_key(world):
    names = large(world)
    watcher = Watcher(world)
    world.rotate(names[3], upto=1)
    assert watcher.state(names[3]).step == 2
    world.wait(seconds=15)
    world.tell(names[3], STEPS[1])
    assert watcher.state(names[3]).step == 3
    world.wait(seconds=15)
    for step in STEPS[2:]:
        world.tell(names[3], step)
    world.come_back(names[3])
    assert watcher.state(names[3]).proof == Proof.PUBLIC_KEY
