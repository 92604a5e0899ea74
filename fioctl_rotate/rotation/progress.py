"""How far a device came in one rotation, by the events that it posted alone.

What the events can and cannot prove (fioconfig: stateHandler.execute): a device posts them one after the
other, so their order of arrival is the truth, and their times, by the device's clock, are for people to read.
An attempt begins with CertRotationStarted and ends at its first failed step; a later attempt does only the
remaining steps. So inside one attempt steps only go up, and a failure is believed only above the highest step that
succeeded in it: one below it arrived late. CertRotationCompleted proves nothing and is ignored. Events
that are posted again are dropped: those with a known id, or without an id and equal in every part.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Annotated

from msgspec import Meta, Struct

from fioctl_rotate.wire import Event

STARTED = "CertRotationStarted"
STEPS = (
    "Generate new certificate",
    "Lock device configuration on server",
    "Update local configuration with new key",
    "Update device specific configuration on server with new key",
    "Finalize aktualizr configuration",
)
LAST = len(STEPS)
Time = Annotated[datetime, Meta(tz=True)]
"""An aware time, also where it is read from a file."""
Step = Annotated[int, Meta(ge=0, le=LAST)]
_NUMBER = {name: number for number, name in enumerate(STEPS, 1)}


class Phase(StrEnum):
    """The state that the events alone show."""

    NONE = "none"
    RUNNING = "running"
    FAILING = "failing"
    FINALIZED = "finalized"


class StepEvent(Struct, frozen=True, array_like=True, gc=False):
    """One step's outcome: `step` 1 to 5, or 0 where an attempt began. `time` is by the device's clock.

    `seconds` is how long the step took: the time since the same attempt's event before it, None where the clock
    went back or a time is missing. `message` is the device's own, of a failed step.
    """

    attempt: int
    step: Step
    success: bool
    time: Time | None
    message: str | None = None
    seconds: float | None = None


class Progress(Struct, frozen=True, array_like=True, gc=False):
    """The result of the events of one device in one rotation.

    `step` is 1 to 5: the one under way, the failed one, or the last. `since` is the device's clock. `finalized`
    says whether the Finalize step ever succeeded, in this or an earlier attempt.
    """

    phase: Phase = Phase.NONE
    step: Step = 0
    attempts: int = 0
    since: Time | None = None
    message: str | None = None
    finalized: bool = False
    events: tuple[StepEvent, ...] = ()

    @property
    def finals(self) -> list[datetime | None]:
        """When each Finalize step succeeded, by the device's clock."""
        return [event.time for event in self.events if event.step == LAST and event.success]

    def began_again_after(self, time: datetime | None) -> bool:
        """Whether a new attempt began at or after `time`, when the same device finalized another rotation.

        Both times are by the device's own clock: a wrong clock can hide this. A first attempt never counts.
        """
        begun = [event.time for event in self.events if event.step == 0 and event.time]
        return self.attempts > 1 and time is not None and bool(begun) and begun[-1] >= time

    @property
    def started(self) -> datetime | None:
        """The time of the first event that has one, by the device's clock."""
        return next((event.time for event in self.events if event.time), None)


@dataclass(slots=True)
class _Attempt:
    succeeded: dict[int, datetime | None] = field(default_factory=dict)
    failed: list[StepEvent] = field(default_factory=list)

    @property
    def reached(self) -> int:
        return max(self.succeeded, default=0)

    @property
    def failure(self) -> StepEvent | None:
        return next((event for event in reversed(self.failed) if event.step > self.reached), None)


def from_events(events: Iterable[Event]) -> Progress:
    """Fold the events of one device and one rotation, in their order of arrival, into its progress."""
    attempts: list[_Attempt] = []
    history = _history(events)
    for event in history:
        if event.step == 0 or not attempts:
            attempts.append(_Attempt())
        if event.step and event.success:
            attempts[-1].succeeded[event.step] = event.time
        elif event.step:
            attempts[-1].failed.append(event)
    if not attempts:
        return Progress()

    newest = attempts[-1]
    finals = [attempt.succeeded[LAST] for attempt in attempts if LAST in attempt.succeeded]
    phase, since, message = Phase.RUNNING, history[-1].time, None
    # An attempt without a step yet goes on where the attempts before it stopped.
    step = min(newest.reached or max(attempt.reached for attempt in attempts), LAST - 1) + 1
    if (failure := newest.failure) is not None:
        phase, step, since, message = Phase.FAILING, failure.step, failure.time, failure.message
    elif finals and newest.reached in (0, LAST):
        phase, step, since = Phase.FINALIZED, LAST, finals[-1]
    return Progress(phase, step, history[-1].attempt, since, message, bool(finals), tuple(history))


@lru_cache(
    maxsize=4096
)  # the devices of a fleet share most of their seconds: one object each, not one a device
def parse_time(text: str | None) -> datetime | None:
    """An RFC 3339 time, aware; a naive one is UTC, as the API means it; None where it is missing or not valid."""
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _history(events: Iterable[Event]) -> list[StepEvent]:
    """The events that count, each once, numbered by attempt, in their order of arrival."""
    seen: set[object] = set()
    history: list[StepEvent] = []
    attempt = 0
    for event in events:
        kind = event.event_type.id
        step = 0 if kind == STARTED else _NUMBER.get(kind)
        identity = event.id or (kind, event.device_time, event.event.success, event.event.details or None)
        if step is None or identity in seen:
            continue
        seen.add(identity)
        # A first event other than CertRotationStarted means that CertRotationStarted was lost.
        attempt += 1 if step == 0 or not attempt else 0
        details = event.event.details or None
        success = event.event.success if event.event.success is not None else details is None
        time = parse_time(event.device_time)
        history.append(
            StepEvent(
                attempt=attempt,
                step=step,
                success=success or step == 0,
                time=time,
                message=None if success or step == 0 else details or "the device gave no reason",
                seconds=_elapsed(history, attempt, time) if step else None,
            )
        )
    return history


def _elapsed(history: list[StepEvent], attempt: int, time: datetime | None) -> float | None:
    before = history[-1] if history else None
    if before is None or before.attempt != attempt or before.time is None or time is None:
        return None
    seconds = (time - before.time).total_seconds()
    return seconds if seconds >= 0 else None
