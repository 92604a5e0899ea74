"""A rotation followed over many readings: what is known of each device, and what is worth asking next. Pure.

A poll is: `begin`, then pages of devices by newest last-seen into `take_page` until it wants no more, then
`to_ask`. For each device of it the record, the events and the own entry are read in this order, as far as they
are wanted: the order is what makes the answers prove anything. Only devices that were seen since the last poll,
and are not done, are asked about.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from fioctl_rotate.rotation.progress import Phase, from_events, parse_time
from fioctl_rotate.rotation.state import (
    DeviceState,
    Facts,
    Reason,
    Rotation,
    State,
    device_state,
    proof_of_new_key,
)
from fioctl_rotate.wire import Device, DeviceList, Event

# Up to here each device's record and own configuration are read at the start, whether or not it was seen.
SMALL_FLEET = 200
# So many polls without news after a failure or Finalize, and nothing more is expected: at the default interval of
# 15 seconds they are ten minutes, two check-ins of a device.
PATIENCE = 40
# The push and last-seen are both the server's times, perhaps of two of its machines.
_SKEW = timedelta(seconds=5)
_PAGE = 100
_CENSUS_PAGE = 1000


@dataclass(frozen=True)
class Baseline:
    """What earlier readings of a device left to compare with; see Facts."""

    first_key: str | None = None
    first_key_is_old: bool = False
    finalized_by: datetime | None = None


def key_digest(public_key: str | None) -> str | None:
    """A short text that differs where public keys (PEM) do; None for a device that has none yet."""
    return hashlib.sha256("".join(public_key.split()).encode()).hexdigest()[:32] if public_key else None


class Tracker:
    """What is known of a rotation.

    `baselines` (by uuid) are those of an earlier watch, or were taken before the push.
    """

    def __init__(self, rotation: Rotation, baselines: Mapping[str, Baseline] | None = None) -> None:
        self.rotation = rotation
        self.polls = 0
        self._facts: dict[str, Facts] = {}
        self._baselines = dict(baselines or {})
        self._news: dict[str, int] = {}
        self._asked_events: set[str] = set()
        self._asked_own_entry: set[str] = set()
        self._mark: datetime | None = None
        self._total: int | None = None
        self._seen: list[datetime] = []
        self._touched: dict[str, None] = {}
        self._listed: set[str] = set()
        self._census = True

    # --- A poll, step by step ---

    def begin(self) -> int:
        """Begin a poll; returns the size of page to list devices with."""
        self.polls += 1
        self._seen, self._listed = [], set()
        return _CENSUS_PAGE if self._census else _PAGE

    def take_page(self, page: DeviceList) -> bool:
        """Take a page of devices, newest last-seen first; returns whether the next page is wanted."""
        if not self._census and self._total is not None and page.total != self._total:
            # Somebody joined or left; the ones not seen since the mark can only be found in the whole list.
            self._census = True
        self._total = page.total
        reached = False
        for device in page.devices:
            seen = self._take(device)
            # A device that was never seen may stand anywhere in the order: it is no mark.
            reached = reached or (self._mark is not None and seen is not None and seen < self._mark)
        return self._census or not reached

    def to_ask(self) -> list[str]:
        """End the listing of a poll; returns the uuids of the devices to ask about now."""
        if self._census:
            # While pages are turned a device may move past us: only a whole list tells who left.
            if len(self._listed) == self._total:
                for uuid in set(self._facts) - self._listed:
                    del self._facts[uuid]
            self._census = False
        if self._seen:
            # What is seen while pages are turned has a last-seen after the first page's: it comes next time.
            self._mark = max(self._seen) if self._mark is None else max(self._mark, *self._seen)
        for facts in self._facts.values():
            if facts.progress.phase == Phase.FINALIZED and facts.finalized_by is None:
                # The whole fleet's newest last-seen, listed after the events that showed Finalize, is not before
                # the moment when Finalize arrived, for that moved the device's own.
                facts.finalized_by = self._mark
        asked = [
            uuid
            for uuid in self._touched
            if uuid in self._facts
            and (self.wants_record(uuid) or self.wants_events(uuid) or self.wants_own_entry(uuid))
        ]
        self._touched = {}
        return asked

    def wants_record(self, uuid: str) -> bool:
        """Whether the device's record tells something new: a key to compare with, or a changed one.

        In a large fleet most devices go through all steps between two polls, and come back: a record read then
        proves nothing, and being seen again has to. Those seen under way have theirs read before the next events.
        """
        facts = self._facts[uuid]
        if proof_of_new_key(self.rotation, facts):
            return False
        if facts.progress.phase == Phase.FINALIZED:
            return self._small or facts.first_key is not None
        # Not seen since the push, a device has its old key for certain.
        return facts.first_key is None and (self._small or uuid in self._asked_events)

    def take_record(self, uuid: str, record: Device) -> None:
        """Take the device's record."""
        facts = self._facts[uuid]
        seen = parse_time(record.last_seen)
        facts.key = key_digest(record.public_key)
        facts.lmp_ver = record.lmp_ver or facts.lmp_ver
        if facts.first_key is None and facts.key is not None:
            facts.first_key = facts.key
            pushed = self.rotation.pushed_at
            facts.first_key_is_old = pushed is not None and (seen is None or seen < pushed - _SKEW)
        facts.last_seen = max(filter(None, (facts.last_seen, seen)), default=None)

    def wants_events(self, uuid: str) -> bool:
        """Whether the device may have events to tell: seen since the push, and not known to be done."""
        facts = self._facts[uuid]
        return self._seen_since_push(facts) and not proof_of_new_key(self.rotation, facts)

    def take_events(self, uuid: str, events: Sequence[Event]) -> None:
        """Take the device's events of this rotation, in the order the API gave them."""
        facts = self._facts[uuid]
        self._asked_events.add(uuid)
        progress = from_events(events)
        # A step that fails again and again, an attempt every few seconds, is no news.
        if (progress.step, progress.finalized) != (facts.progress.step, facts.progress.finalized):
            self._news[uuid] = self.polls
        facts.progress = progress
        if not progress.finalized and facts.first_key is not None:
            # It was read before these events, so before Finalize: it is the old one.
            facts.first_key_is_old = True

    def wants_own_entry(self, uuid: str) -> bool:
        """Whether to look for an entry of its own: in a small fleet once, else where nothing else explains it."""
        if self.rotation.device is not None or uuid in self._asked_own_entry:
            return False
        facts = self._facts[uuid]
        return self._small or (facts.progress.phase == Phase.NONE and self._seen_since_push(facts))

    def take_own_entry(self, uuid: str, rotation_id: str | None) -> None:
        """Take the ROTATIONID of the entry that the device has for itself, None where it has none."""
        self._asked_own_entry.add(uuid)
        self._facts[uuid].own_entry = rotation_id

    def ask_again(self, uuid: str) -> None:
        """The device could not be asked; it comes again in the next poll."""
        self._touched[uuid] = None

    # --- What is known ---

    def states(self, now: datetime) -> list[DeviceState]:
        """Every device's state, by name."""
        states = [device_state(self.rotation, facts, now) for facts in self._facts.values()]
        return sorted(states, key=lambda state: (state.name, state.uuid))

    def settled(self, state: DeviceState) -> bool:
        """Whether nothing more is to be expected of the device.

        A failure may recover and a finalized device come back; they are given PATIENCE polls since they last got
        further. Another attempt at the failed step, seen while it runs, is no recovery.
        """
        if state.state == State.DONE or state.reason is not None:
            return True
        again = state.state == State.RUNNING and state.attempts > 1
        waits = again or state.state in (State.FAILING, State.FINALIZED)
        return waits and self.polls - self._news.get(state.uuid, 0) >= PATIENCE

    def baselines(self) -> dict[str, Baseline]:
        """What a later look at this rotation can compare with, by uuid."""
        return self._baselines | {
            facts.uuid: Baseline(facts.first_key, facts.first_key_is_old, facts.finalized_by)
            for facts in self._facts.values()
            if facts.first_key or facts.finalized_by
        }

    # --- Underneath ---

    def _take(self, device: Device) -> datetime | None:
        seen = parse_time(device.last_seen)
        facts = self._facts.get(device.uuid)
        if facts is None:
            base = self._baselines.get(device.uuid, Baseline())
            facts = self._facts[device.uuid] = Facts(
                device.uuid,
                first_key=base.first_key,
                first_key_is_old=base.first_key_is_old,
                finalized_by=base.finalized_by,
            )
            self._touched[device.uuid] = None
        elif facts.last_seen != seen or (seen is not None and seen == self._mark and not seen.microsecond):
            # In whole seconds, the newest device may have told more in the second in which it was last listed.
            self._touched[device.uuid] = None
        facts.name = device.name
        facts.lmp_ver = device.lmp_ver or facts.lmp_ver
        facts.last_seen = seen or facts.last_seen
        self._listed.add(device.uuid)
        if seen is not None:
            self._seen.append(seen)
        return seen

    @property
    def _small(self) -> bool:
        return len(self._facts) <= SMALL_FLEET

    def _seen_since_push(self, facts: Facts) -> bool:
        pushed = self.rotation.pushed_at
        return facts.last_seen is not None and (pushed is None or facts.last_seen >= pushed - _SKEW)


@dataclass(frozen=True)
class Summary:
    """How many devices stand where. `not_following` counts by reason, among those that are not done."""

    total: int
    states: Mapping[State, int]
    not_following: Mapping[Reason, int]

    @property
    def done(self) -> int:
        """How many are done."""
        return self.states[State.DONE]

    @property
    def complete(self) -> bool:
        """Whether the rotation succeeded: every device is done."""
        return self.done == self.total

    @property
    def words(self) -> str:
        """In one line, the counts that are not zero: `3 of 5 done, 1 failing, 1 pending (1 offline)`."""
        parts = [f"{count} {state}" for state, count in self.states.items() if count and state != State.DONE]
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.not_following.items() if count)
        text = ", ".join((f"{self.done} of {self.total} done", *parts))
        return f"{text} (not following: {reasons})" if reasons else text


def summarize(states: Sequence[DeviceState]) -> Summary:
    """Count the states."""
    by_state = Counter(state.state for state in states)
    by_reason = Counter(state.reason for state in states if state.reason)
    return Summary(
        len(states),
        {state: by_state[state] for state in reversed(State)},
        {reason: by_reason[reason] for reason in Reason},
    )
