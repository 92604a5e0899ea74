"""The fold of a device's events, under wrong clocks, repeated and late events, and resumed attempts."""

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from fioctl_rotate.rotation.progress import LAST, STARTED, STEPS, Phase, from_events, parse_time
from fioctl_rotate.wire import Event, EventDetail, EventType

EPOCH = datetime(2026, 11, 24, 12, tzinfo=UTC)
NUMBER = {name: number for number, name in enumerate(STEPS, 1)}


def event(kind, seconds=0, success=True, words=None, number=None):
    detail = EventDetail(correlation_id="certs-1", success=success)
    if words is not None:
        detail.details = words
    made = Event(
        device_time=(EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        event_type=EventType(id=kind),
        event=detail,
    )
    if number is not None:
        made.id = f"event-{number}"
    return made


@dataclass(frozen=True)
class Run:
    """A device's rotation: attempts, each a list of events as posted, and what the newest comes to."""

    attempts: list[list[Event]]
    phase: Phase
    step: int
    words: str | None

    @property
    def events(self):
        return [one for attempt in self.attempts for one in attempt]


OUTCOMES = st.lists(st.sampled_from(["ok", "ok", "ok", "fail", "power cut"]), min_size=1, max_size=6)
CLOCKS = st.lists(st.integers(-(10**9), 10**8), min_size=1, max_size=5)
WORDS = st.text(min_size=1, max_size=20)


@st.composite
def runs(draw):
    """A device as fioconfig runs it: attempts that resume, fail, are cut off or end well, by any clock."""
    clock = itertools.cycle(draw(CLOCKS))
    reasons = itertools.cycle(draw(st.lists(WORDS, min_size=1, max_size=3)))
    numbers = itertools.count()
    attempts, done = [], 0
    phase, step, words = Phase.NONE, 0, None
    for outcomes in draw(st.lists(OUTCOMES, min_size=1, max_size=4)):
        posted = [event(STARTED, next(clock), number=next(numbers))]
        phase, step, words = Phase.RUNNING, done + 1, None
        for outcome in outcomes:
            if done == LAST or outcome == "power cut":
                break
            if outcome == "fail":
                words, phase, step = next(reasons), Phase.FAILING, done + 1
                posted.append(event(STEPS[done], next(clock), False, words, next(numbers)))
                break
            posted.append(event(STEPS[done], next(clock), number=next(numbers)))
            done += 1
            phase, step = (Phase.FINALIZED, LAST) if done == LAST else (Phase.RUNNING, done + 1)
        if phase == Phase.FAILING:
            posted.append(event("CertRotationCompleted", next(clock), number=next(numbers)))
        attempts.append(posted)
        if done == LAST:
            break
    return Run(attempts, phase, step, words)


def told(progress):
    return progress.phase, progress.step, progress.message, progress.attempts


@given(runs())
def test_newest_attempt_counts_whatever_the_clock_says(run):
    assert told(from_events(run.events)) == (run.phase, run.step, run.words, len(run.attempts))


@given(runs(), st.data())
def test_events_posted_again_change_nothing(run, data):
    events = list(run.events)
    for original in data.draw(st.lists(st.sampled_from(run.events), max_size=6)):
        at = data.draw(st.integers(events.index(original) + 1, len(events)))
        events.insert(at, original)
    assert told(from_events(events)) == told(from_events(run.events))


@given(runs(), st.data())
def test_order_within_an_attempt_does_not_matter(run, data):
    events = []
    for started, *steps in run.attempts:
        events += [started, *data.draw(st.permutations(steps))]
    assert told(from_events(events)) == told(from_events(run.events))


@given(runs())
def test_completed_proves_nothing(run):
    without = [one for one in run.events if one.event_type.id != "CertRotationCompleted"]
    assert from_events(without) == from_events(run.events)


@given(runs(), st.data())
def test_failure_of_an_older_attempt_arriving_after_a_newer_step_is_not_believed(run, data):
    """A late failure of a step that the newest attempt has since got past."""
    progress = from_events(run.events)
    newest = {NUMBER.get(one.event_type.id, 0) for one in run.attempts[-1] if one.event.success}
    if reached := max(newest):
        late = event(STEPS[data.draw(st.integers(1, reached)) - 1], 0, False, "late", "late")
        assert told(from_events([*run.events, late])) == told(progress)


@given(runs())
def test_lost_start_of_the_first_attempt_changes_nothing(run):
    events = run.events[1:]
    progress = from_events(events)
    if len(run.attempts[0]) > 1:
        assert told(progress) == (run.phase, run.step, run.words, len(run.attempts))


def test_no_events_are_no_sign():
    assert from_events([]).phase == Phase.NONE
    assert from_events([event("CertRotationCompleted"), event("EcuDownloadStarted")]).phase == Phase.NONE


def test_completed_success_after_a_failed_step_is_failing_with_the_devices_message():
    progress = from_events(
        [
            event(STARTED, 0),
            event(STEPS[0], 3, False, "Unable to submit certificate signing request"),
            event("CertRotationCompleted", 3),
        ]
    )
    assert (progress.phase, progress.step) == (Phase.FAILING, 1)
    assert progress.message == "Unable to submit certificate signing request"
    assert progress.since == EPOCH + timedelta(seconds=3)


def test_resumed_attempt_without_a_step_yet_runs_the_step_that_had_failed():
    progress = from_events(
        [event(STARTED), event(STEPS[0], 1), event(STEPS[1], 2, False, "HTTP_500"), event(STARTED, 400)]
    )
    assert (progress.phase, progress.step, progress.attempts) == (Phase.RUNNING, 2, 2)


def test_finalize_posted_again_by_a_device_that_lost_power_before_it_saved_stays_finalized():
    events = [event(STARTED), *(event(name, n) for n, name in enumerate(STEPS, 1)), event(STARTED, 60)]
    assert from_events(events).phase == Phase.FINALIZED
    assert from_events([*events, event(STEPS[4], 61)]).phase == Phase.FINALIZED


def test_rotation_started_afresh_and_failed_after_a_finalized_one_is_failing():
    events = [event(STARTED), *(event(name, n) for n, name in enumerate(STEPS, 1))]
    progress = from_events([*events, event(STARTED, 60), event(STEPS[0], 61, False, "no")])
    assert (progress.phase, progress.step, progress.finalized) == (Phase.FAILING, 1, True)


def test_events_without_ids_are_the_same_only_where_all_their_fields_are():
    failed = event(STEPS[0], 1, False, "refused")
    progress = from_events(
        [event(STARTED), failed, failed, event(STARTED, 300), event(STEPS[0], 301, False, "refused")]
    )
    assert progress.attempts == 2
    assert len(progress.events) == 4


def test_failed_step_without_a_message_says_that_there_is_no_reason():
    assert from_events([event(STEPS[0], 1, False)]).message == "the device gave no reason"


def test_seconds_of_a_step_are_left_out_where_the_clock_went_back():
    progress = from_events([event(STARTED, 10), event(STEPS[0], 14), event(STEPS[1], 2), event(STEPS[2], 3)])
    assert [one.seconds for one in progress.events] == [None, 4, None, 1]


@given(st.text(max_size=30))
def test_any_text_is_an_aware_time_or_none(text):
    time = parse_time(text)
    assert time is None or time.tzinfo is not None


def test_times_as_the_api_gives_them():
    noon = datetime(2024, 11, 11, 12, tzinfo=UTC)
    for text in ("2024-11-11T12:00:00", "2024-11-11T12:00:00Z", "2024-11-11T13:00:00+01:00"):
        assert parse_time(text) == noon
    assert parse_time("2024-11-11T12:00:00.123456789Z") is not None
    assert parse_time("0001-01-01T00:00:00+14:00") is None
