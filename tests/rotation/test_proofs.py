"""A device is shown as `done` only after the gateway took its new key, and then always, with any clocks."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from fioctl_rotate.rotation.progress import STARTED, STEPS, from_events
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.state import (
    SEEN_AGAIN_AFTER_BY_DEVICE_CLOCK,
    Facts,
    Proof,
    Rotation,
    State,
    seen_again,
)
from fioctl_rotate.rotation.tracker import Tracker
from fioctl_rotate.wire import Device, DeviceList, Event, EventDetail, EventType

PUSH = datetime(2026, 11, 24, 12, tzinfo=UTC)
BYSTANDERS = 300  # enough for a large fleet


class Factory:
    """One device that rotates, by a clock that may be wrong, and what the operator API tells of it."""

    def __init__(self, clock, *, large):
        self.now = PUSH - timedelta(minutes=3)
        self.clock = timedelta(seconds=clock)
        self.seen = self.now
        self.key = "old"
        self.taken = False
        self.events = []
        self.steps = iter((STARTED, *STEPS))
        self.bystanders = BYSTANDERS if large else 0
        self.tracker: Any = None
        self.began = None
        self.finalized_at = None

    def wait(self, seconds):
        self.now += timedelta(seconds=seconds)

    def step(self):
        """The next event of the rotation, posted with the old certificate."""
        if self.now >= PUSH and (kind := next(self.steps, None)) is not None:
            self.began = self.began or self.now
            self.post(kind)

    def post(self, kind):
        time = (self.now + self.clock).strftime("%Y-%m-%dT%H:%M:%SZ")
        event = Event(device_time=time, event_type=EventType(id=kind), event=EventDetail(success=True))
        self.events.append(event)
        self.seen = self.now
        if kind == STEPS[-1]:
            self.finalized_at = self.now

    def completed(self):
        """CertRotationCompleted after Finalize, which is tried again for up to 51 seconds."""
        sent = self.now + timedelta(seconds=5)
        if self.finalized_at and not self.taken and sent - self.finalized_at <= timedelta(seconds=51):
            self.now = sent
            self.post("CertRotationCompleted")

    def come_back(self):
        """The gateway takes the new certificate."""
        if self.finalized_at:
            self.key, self.taken, self.seen = "new", True, self.now

    def watch_anew(self, *, baselines):
        """Somebody else polls from now on, with or without what the one before has kept."""
        kept = self.tracker.readings() if self.tracker and baselines else None
        self.tracker = Tracker(Rotation("certs-1", Scope.of_group("field"), pushed_at=PUSH), kept)

    def look(self):
        """A poll as ops/watch.py does it; returns the device's state."""
        if self.tracker is None:
            self.watch_anew(baselines=False)
        tracker = self.tracker
        tracker.begin(self.now)
        others = [Device(uuid=f"other-{n}", last_seen="2026-11-01T00:00:00Z") for n in range(self.bystanders)]
        page = sorted([self.record(), *others], key=lambda device: device.last_seen, reverse=True)
        tracker.take_page(DeviceList(devices=page, total=len(page)))
        for uuid in tracker.to_ask():
            if uuid != "device":
                continue
            first = tracker.wants_record(uuid)
            if first:
                tracker.take_record(uuid, self.record())
            if tracker.wants_events(uuid):
                tracker.take_events(uuid, self.events)
                if not first and tracker.wants_record(uuid):
                    tracker.take_record(uuid, self.record())
            tracker.asked(uuid)
        tracker.refresh(self.now)
        return next(state for state in tracker.states() if state.uuid == "device")

    def record(self):
        # The API gives whole seconds.
        return Device(uuid="device", last_seen=self.seen.strftime("%Y-%m-%dT%H:%M:%SZ"), public_key=self.key)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from([0.3, 1, 15, 60, 300, 1000, 20000])),
        st.tuples(st.sampled_from(["step", "step", "step", "look", "look", "completed"])),
        st.tuples(st.just("watch_anew"), st.booleans()),
    ),
    max_size=40,
)
CLOCK = st.one_of(st.sampled_from([0, 5, -5, 3600, -3600, -90_000_000]), st.integers(-(10**8), 10**8))


def play(factory, actions):
    states = []
    for name, *arguments in actions:
        if name == "watch_anew":
            factory.watch_anew(baselines=arguments[0])
        elif name == "look":
            states.append(factory.look())
        else:
            getattr(factory, name)(*arguments)
    return states


@given(CLOCK, st.booleans(), ACTIONS)
@settings(max_examples=300)
@example(0, False, [("look",), ("wait", 300), *[("step",)] * 6, ("look",), ("completed",), ("look",)])
@example(0, True, [("wait", 300), *[("step",)] * 6, ("look",), ("wait", 60), ("completed",), ("look",)])
def test_certificate_that_is_not_taken_is_never_done(clock, large, actions):
    factory = Factory(clock, large=large)
    states = play(factory, actions)
    states.append(factory.look())
    # The documented limit: a clock behind by more than 15 minutes, on a device that began as long after the push.
    behind = -factory.clock
    began = factory.began or PUSH
    assume(
        not SEEN_AGAIN_AFTER_BY_DEVICE_CLOCK - timedelta(minutes=2)
        <= behind
        <= began - PUSH + timedelta(minutes=2)
    )
    assert State.DONE not in {state.state for state in states}


@given(CLOCK, st.booleans(), ACTIONS)
def test_certificate_that_is_taken_is_done_in_the_end(clock, large, actions):
    factory = Factory(clock, large=large)
    play(factory, actions)
    factory.wait(300)
    for _ in range(len(STEPS) + 1):
        factory.step()
    factory.look()
    factory.wait(3)
    factory.come_back()
    # It checks in every five minutes, and somebody polls every minute.
    for minute in range(12):
        factory.wait(60)
        if minute % 5 == 4:
            factory.come_back()
        state = factory.look()
    assert state.state == State.DONE


@given(CLOCK, ACTIONS)
def test_who_polled_before_has_the_proof_by_key_at_once(clock, actions):
    factory = Factory(clock, large=False)
    factory.look()
    play(factory, [action for action in actions if action != ("watch_anew", False)])
    factory.wait(300)
    for _ in range(len(STEPS) + 1):
        factory.step()
    factory.wait(3)
    factory.come_back()
    assert factory.look().proof == Proof.PUBLIC_KEY


def test_device_that_changed_pages_while_the_list_was_read_is_not_taken_for_seen_again():
    """Finalize arrived after the list was read; in the next list the device is missed, then its old news comes."""

    def page(**seen):
        devices = [Device(uuid=uuid, last_seen=f"2026-11-24T{time}Z") for uuid, time in seen.items()]
        return DeviceList(devices=devices, total=BYSTANDERS)

    def poll(**seen):
        tracker.begin(PUSH)
        tracker.take_page(page(**seen))
        return tracker.to_ask()

    def state():
        tracker.refresh(PUSH)
        return next(state.state for state in tracker.states() if state.uuid == "device")

    factory = Factory(0, large=True)
    tracker = Tracker(Rotation("certs-1", Scope.of_group("field"), pushed_at=PUSH))
    poll(device="12:01:00", other="12:00:30")
    factory.wait(3600)
    for _ in range(len(STEPS) + 1):
        factory.step()
    tracker.take_events("device", factory.events)
    poll(other="12:10:01")
    poll(device="12:10:00", other="12:10:05")
    poll(device="12:11:30", other="12:12:00")
    assert state() == State.FINALIZED
    poll(device="12:12:05", other="12:12:00")
    assert state() == State.DONE


def test_a_device_clock_that_contradicts_the_server_proves_nothing():
    rotation = Rotation("certs-1", Scope.of_group("field"), pushed_at=PUSH)
    seen = PUSH + timedelta(minutes=30)

    def proves(started):
        events = [
            Event(
                device_time=time.isoformat(), event_type=EventType(id=kind), event=EventDetail(success=True)
            )
            for kind, time in ((STARTED, started), (STEPS[-1], PUSH + timedelta(minutes=10)))
        ]
        return seen_again(rotation, Facts("device", last_seen=seen, progress=from_events(events)))

    assert proves(PUSH)
    assert not proves(PUSH - timedelta(minutes=2))
    assert not proves(seen + timedelta(minutes=2))
