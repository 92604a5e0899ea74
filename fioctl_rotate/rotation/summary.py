"""The states of all devices, and their counts; only what may have changed is computed again. Pure."""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from fioctl_rotate.rotation.state import (
    OFFLINE_AFTER,
    DeviceState,
    Facts,
    Reason,
    Rotation,
    State,
    device_state,
)


@dataclass(frozen=True)
class Summary:
    """How many devices are in each state.

    `not_following` counts by reason, among those that are not done. `moving` is how many may still get further
    without anybody's help. `unlisted` is how many devices the list has that were not read yet, because it changed
    while it was read; `total` includes them.
    """

    total: int
    states: Mapping[State, int]
    not_following: Mapping[Reason, int]
    moving: int = 0
    unlisted: int = 0

    @property
    def done(self) -> int:
        """How many are done."""
        return self.states[State.DONE]

    @property
    def complete(self) -> bool:
        """Whether the rotation succeeded: there are devices, and every one is done."""
        return 0 < self.done == self.total

    @property
    def message(self) -> str:
        """The counts that are not zero: `3 of 5 done, 1 failing, 1 pending (not following: 1 offline)`."""
        parts = [f"{count} {state}" for state, count in self.states.items() if count and state != State.DONE]
        parts += [f"{self.unlisted} not listed yet"] if self.unlisted else []
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.not_following.items() if count)
        text = ", ".join((f"{self.done} of {self.total} done", *parts))
        return f"{text} (not following: {reasons})" if reasons else text


class States:
    """The states of a rotation's devices, from `facts` (by uuid). Call `touch` after each change of these."""

    def __init__(self, rotation: Rotation, facts: Mapping[str, Facts]) -> None:
        self._rotation, self._facts = rotation, facts
        self._states: dict[str, DeviceState] = {}
        self._dirty: dict[str, None] = dict.fromkeys(facts)
        self._sorted: list[DeviceState] | None = []
        self._order: list[str] | None = []
        self._by_state: Counter[State] = Counter()
        self._by_reason: Counter[Reason] = Counter()
        # The last-seen of each device that becomes offline if it is not seen again: one entry a device.
        self._clock: list[tuple[datetime, str]] = []
        self._on_clock: set[str] = set()
        self.moving: set[str] = set()
        """Devices that may still get further without anybody's help."""
        self.waiting: set[str] = set()
        """Devices that failed or finalized, and may still recover or come back."""

    def touch(self, uuid: str) -> None:
        """Note that the facts of the device have changed."""
        self._dirty[uuid] = None

    def refresh(self, now: datetime) -> list[DeviceState]:
        """Compute the states again that may have changed; returns those that did."""
        while self._clock and now - self._clock[0][0] > OFFLINE_AFTER:
            _, uuid = heapq.heappop(self._clock)
            self._on_clock.discard(uuid)
            self._dirty[uuid] = None
        changed = [state for uuid in self._dirty if (state := self._make(uuid, now)) is not None]
        self._dirty = {}
        if changed:
            self._sorted = None
        return changed

    def all(self) -> list[DeviceState]:
        """Every device's state, sorted by name. The list itself does not change when states change later."""
        if self._order is None:
            self._order = sorted(self._states, key=lambda uuid: (self._states[uuid].name, uuid))
        if self._sorted is None:
            self._sorted = [self._states[uuid] for uuid in self._order]
        return self._sorted

    def summary(self, unlisted: int) -> Summary:
        """The counts."""
        return Summary(
            len(self._states) + unlisted,
            {state: self._by_state[state] for state in reversed(State)},
            {reason: self._by_reason[reason] for reason in Reason},
            len(self.moving),
            unlisted,
        )

    def _make(self, uuid: str, now: datetime) -> DeviceState | None:
        facts, before = self._facts[uuid], self._states.get(uuid)
        state = device_state(self._rotation, facts, now)
        if state.state == State.DONE and facts.done_by is None:
            facts.done_by = facts.last_seen
            state = device_state(self._rotation, facts, now)
        if state.reason is None and state.state not in (State.DONE, State.LEFT):
            self._watch_clock(uuid, facts.last_seen)
        if state == before:
            return None
        if before is None or before.name != state.name:
            self._order = None
        self._states[uuid] = state
        self._count(before, -1)
        self._count(state, 1)
        return state

    def _watch_clock(self, uuid: str, last_seen: datetime | None) -> None:
        if last_seen is not None and uuid not in self._on_clock:
            self._on_clock.add(uuid)
            heapq.heappush(self._clock, (last_seen, uuid))

    def _count(self, state: DeviceState | None, change: int) -> None:
        if state is None:
            return
        self._by_state[state.state] += change
        if state.reason is not None:
            self._by_reason[state.reason] += change
        self.moving.discard(state.uuid)
        self.waiting.discard(state.uuid)
        if change > 0 and state.reason is None and state.state not in (State.DONE, State.LEFT):
            # Another attempt at the failed step, seen while it runs, is not a recovery.
            again = state.state == State.RUNNING and state.attempts > 1
            waits = again or state.state in (State.FAILING, State.FINALIZED)
            (self.waiting if waits else self.moving).add(state.uuid)


def summarize(states: Iterable[DeviceState]) -> Summary:
    """Count the states."""
    by_state: Counter[State] = Counter()
    by_reason: Counter[Reason] = Counter()
    for state in states:
        by_state[state.state] += 1
        if state.reason:
            by_reason[state.reason] += 1
    return Summary(
        by_state.total(),
        {state: by_state[state] for state in reversed(State)},
        {reason: by_reason[reason] for reason in Reason},
    )
