"""A rotation in stages: what to do next, from the plan and from what the Factory and the devices show. Pure.

`decide` is called again and again, and keeps nothing: killed at any point, the next call comes to the same end.
`Memory` only saves time: without it a soak starts again, and the group may be settled once more.

Why a device of an early stage is done only after it was *settled* (fioconfig: finalizeStep): after its last step it
still stores the configuration of before the push. A reboot writes that back, and an older entry in it makes the
device rotate again, at the EST server of that time. Once the device has fetched any later change of its
configuration, this cannot happen. So it gets its entry once more, unchanged. `applied-at` in its own log shows that
it fetched that; when it is seen once more after that, it has gone on.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from fioctl_rotate.rotation.entry import rotation_id_of
from fioctl_rotate.rotation.messages import some
from fioctl_rotate.rotation.picture import Memory, Picture, Reading
from fioctl_rotate.rotation.progress import Phase
from fioctl_rotate.rotation.stage_states import (
    Point,
    Rollout,
    StageState,
    StageStatus,
    remember,
    stage_state,
)
from fioctl_rotate.rotation.stages import StageDevice
from fioctl_rotate.rotation.state import DeviceState, State, is_offline

# While devices are still rotating, a group is settled again at most this often.
SETTLE_EVERY = timedelta(minutes=10)
# The log has whole seconds: a device that is done in the same second as a settling needs the next one.
SETTLE_PAUSE = timedelta(seconds=5)
# A device that was seen this long after a change without fetching it has missed it.
RESEND = timedelta(seconds=5)
# Times of the server further apart than this are from two check-ins.
CHECK_IN = timedelta(seconds=2)


class Do(StrEnum):
    """What can be sent; the value says it once that is done."""

    CLEAR_GROUP = "deleted the older entry of"
    CLEAR_FLEET = "deleted the older, fleet-wide entry above"
    GIVE = "gave the entry to"
    SETTLE = "settled"
    GIVE_GROUP = "gave the entry to the whole"
    TAKE_BACK = "deleted the own entry of"
    SETTLE_GROUP = "settled the whole"


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to send; `device` if it goes to one device."""

    do: Do
    device: StageDevice | None = None


class Verdict(StrEnum):
    """The status of the rollout. All but GO_ON are final."""

    GO_ON = "in progress"
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do next. Empty `actions` mean: wait and read again. `message` explains a verdict.

    `stage` is the number of the present stage: 0 while an older entry is cleared, the last for the whole group.
    """

    verdict: Verdict
    stage: int
    stages: tuple[StageState, ...]
    actions: tuple[Action, ...] = ()
    message: str = ""


def decide(rollout: Rollout, picture: Picture, memory: Memory, now: datetime) -> Decision:
    """What to do next; also brings `memory` up to date. `now` is aware."""

    def states_in(present: int) -> tuple[StageState, ...]:
        numbers = range(1, rollout.last)
        return tuple(stage_state(rollout, picture, memory, now, number, present) for number in numbers)

    stage = _present_stage(rollout, picture)
    remember(rollout, picture, memory, now)
    states = states_in(stage)
    wrong = _foreign_change(rollout, picture)
    if wrong is not None:
        return Decision(Verdict.REFUSED, stage, states, message=wrong)
    if stage == rollout.last:
        return _last_stage(rollout, picture, now, states)
    while 0 < stage < rollout.last - 1 and _passed(states, stage):
        # The next stage begins. If its devices are gone, that shows here, before any of them gets the entry.
        stage += 1
        states = states_in(stage)
    settling = tuple(
        action
        for state in states[:stage]
        for action in _early(rollout, picture, state)
        if action.do is Do.SETTLE
    )
    failed = next((state for state in states if state.status is StageStatus.FAILED), None)
    if failed is not None:
        # No other device gets the entry. Those that have rotated are settled: until then a reboot would harm them.
        return Decision(Verdict.FAILED, stage, states, settling, _failure(rollout, failed))
    if stage == 0:
        return Decision(Verdict.GO_ON, 0, states, _clearing(rollout, picture))
    if _passed(states, stage):
        return Decision(Verdict.GO_ON, rollout.last, states, (*settling, Action(Do.GIVE_GROUP)))
    giving = tuple(a for a in _early(rollout, picture, states[stage - 1]) if a.do is Do.GIVE)
    return Decision(Verdict.GO_ON, stage, states, (*settling, *giving))


def _passed(states: tuple[StageState, ...], stage: int) -> bool:
    """Whether that stage and each before it have passed."""
    return all(state.status is StageStatus.PASSED for state in states[:stage])


def _present_stage(rollout: Rollout, picture: Picture) -> int:
    """The highest stage that was given the entry; 0 while an older entry must be cleared, else the first."""
    if picture.group.value == rollout.value:
        return rollout.last
    for number in range(rollout.last - 1, 0, -1):
        if any(_was_given(picture.devices.get(device.uuid)) for device in rollout.stages.early[number - 1]):
            return number
    return 0 if _clearing(rollout, picture) else 1


def _has_begun(rollout: Rollout, picture: Picture) -> bool:
    """Whether any device of an early stage was given the entry."""
    return any(_was_given(picture.devices.get(device.uuid)) for device in rollout.stages.devices)


def _was_given(reading: Reading | None) -> bool:
    return reading is not None and (reading.own.ever or reading.progress.phase is not Phase.NONE)


def _clearing(rollout: Rollout, picture: Picture) -> tuple[Action, ...]:
    """The older entry to delete next. First the fleet-wide one: without the group's entry devices follow it."""
    if rollout.stages.clear_fleet and picture.fleet.value is not None:
        return (Action(Do.CLEAR_FLEET),)
    if rollout.stages.clear_group and picture.group.value is not None:
        return (Action(Do.CLEAR_GROUP),)
    return ()


def _cleared_at(rollout: Rollout, picture: Picture) -> datetime | None:
    """When the last older entry was deleted, if any was; a device seen after that has stored the change."""
    logs = [
        log
        for log, wanted in (
            (picture.group, rollout.stages.clear_group),
            (picture.fleet, rollout.stages.clear_fleet),
        )
        if wanted and log.value is None
    ]
    return max(filter(None, (log.value_since for log in logs)), default=None)


def _foreign_change(rollout: Rollout, picture: Picture) -> str | None:
    """A message about what somebody else pushed or deleted; None where all is as the plan found it or made it.

    Only values are compared. Who wrote an entry proves nothing: a device writes its own entry anew, and a log keeps
    only ten entries.
    """
    value = picture.group.value
    cleared = rollout.stages.clear_group and value is None
    if value not in (rollout.older, rollout.value) and not cleared:
        return f"group {rollout.group} has {_named(value)} now, which is not from this plan"
    if rollout.stages.clear_group and value not in (None, rollout.value) and _has_begun(rollout, picture):
        return f"group {rollout.group} has {_named(value)} again, which this plan has deleted"
    if picture.group.stopped:
        return f"rotation {rollout.id} of group {rollout.group} was stopped"
    if picture.group.ever and value != rollout.value:
        return f"group {rollout.group} had rotation {rollout.id}, and has {_named(value)} now: it was stopped"
    fleet = picture.fleet.value
    # As long as the group has an entry of its own, that hides the fleet-wide one.
    hidden = value == rollout.value or (value is not None and not rollout.stages.clear_group)
    if not hidden and fleet not in (None, rollout.older_fleet):
        return f"the fleet has {_named(fleet)} now, which is not from this plan"
    for device in rollout.stages.devices:
        reading = picture.devices.get(device.uuid)
        if reading is None or not reading.member:
            continue
        own = reading.own
        if own.value not in (None, rollout.value):
            return f"device {device.name} has {_named(own.value)} of its own now, which is not from this plan"
        if own.stopped:
            return f"rotation {rollout.id} was stopped on device {device.name}"
        if own.ever and own.value is None and value != rollout.value:
            return f"device {device.name} had rotation {rollout.id}, and has no entry now: it was stopped"
    return None


def _named(value: str | None) -> str:
    return "no entry" if value is None else f"rotation {rotation_id_of(value) or 'without an id'}"


def _early(rollout: Rollout, picture: Picture, state: StageState) -> tuple[Action, ...]:
    """What to send to the devices of an early stage now."""
    cleared = _cleared_at(rollout, picture)
    # While it is not known whether a failure counts, no other device gets the entry.
    hold = any(staged.point is Point.FAILING for staged in state.devices)
    actions = []
    for staged in state.devices:
        reading = picture.devices.get(staged.device.uuid)
        if reading is None or not reading.member or reading.other is not None:
            continue
        if staged.reached is Point.NOT_GIVEN and not hold:
            stored = cleared is None or (
                reading.last_seen is not None and reading.last_seen > cleared + CHECK_IN
            )
            if stored:
                actions.append(Action(Do.GIVE, staged.device))
        elif staged.reached is Point.GIVEN and not hold and _missed(reading, reading.own.given_at):
            actions.append(Action(Do.GIVE, staged.device))
        elif staged.reached in (Point.FINALIZED, Point.BACK) or (
            staged.reached is Point.SETTLING and _missed(reading, reading.own.first_settled_at)
        ):
            actions.append(Action(Do.SETTLE, staged.device))
    return tuple(actions)


def _missed(reading: Reading, first: datetime | None) -> bool:
    """Whether the device was seen after its own configuration changed, but did not fetch the change.

    It will never fetch that: the change was made in the second in which the device finalized, or the device's clock
    is ahead. Sent again, the same change is a new one. `first` is when it was first sent; each wait is twice as
    long as the one before.
    """
    own = reading.own
    if own.applied or own.changed_at is None or reading.last_seen is None or first is None:
        return False
    return reading.last_seen - own.changed_at > max(RESEND, own.changed_at - first)


def _failure(rollout: Rollout, state: StageState) -> str:
    failures = state.failures
    return (
        f"stage {state.number} of {rollout.last} failed on {len(failures)} of {len(state.devices)} devices "
        f"({state.allowed} allowed): "
        + some((f"{staged.device.name}: {staged.message}" for staged in failures), separator="; ")
    )


# --- The last stage: the whole group ---


def _last_stage(
    rollout: Rollout, picture: Picture, now: datetime, states: tuple[StageState, ...]
) -> Decision:
    def reachable(last_seen: datetime | None) -> bool:
        return not is_offline(last_seen, now)

    own = [
        (device, reading)
        for device in rollout.stages.devices
        if (reading := picture.devices.get(device.uuid))
        and reading.member
        and reading.own.value == rollout.value
    ]
    planned = {device.uuid for device in rollout.stages.devices}
    strays = [
        StageDevice(state.uuid, state.name, "")
        for state in picture.states
        if state.own_entry == rollout.id and state.uuid not in planned
    ]
    actions = [Action(Do.TAKE_BACK, device) for device in [*(device for device, _ in own), *strays]]
    done = [state for state in picture.states if state.state == State.DONE]
    unsettled = [state for state in done if not _covered(picture, state)]
    settled_at = picture.group.settled_at
    moving = any(
        state.state in (State.RUNNING, State.FINALIZED) and state.reason is None for state in picture.states
    )
    if unsettled and (
        settled_at is None or abs(now - settled_at) >= (SETTLE_EVERY if moving else SETTLE_PAUSE)
    ):
        actions.append(Action(Do.SETTLE_GROUP))
    waits = (
        unsettled
        or any(reachable(reading.last_seen) for _, reading in own)
        or any(reachable(state.last_seen) and not _stored(picture, state) for state in done)
    )
    if waits or not picture.resting:
        return Decision(Verdict.GO_ON, rollout.last, states, tuple(actions))
    # A device that finalized and did not come back has failed, too: the gateway may not trust its certificate.
    failing = {state.uuid for state in picture.states if state.state in (State.FAILING, State.FINALIZED)}
    named = _harmed(picture, states)
    failing |= named.keys()
    allowed = rollout.stages.allowed(len(picture.states))
    counts = f"{len(failing)} of {len(picture.states)} devices failed ({allowed} allowed)"
    counts += f": {some(named.values(), separator='; ')}" if named else ""
    if not done or len(failing) > allowed:
        message = counts if done else f"no device of group {rollout.group} has rotated"
        return Decision(Verdict.FAILED, rollout.last, states, tuple(actions), message)
    messages = [counts] if failing else []
    rest = [state.name for state in picture.states if state.state not in (State.DONE, State.LEFT)]
    if rest:
        messages.append(f"without {some(rest)}; apply the plan again once they are back, to settle them")
    return Decision(Verdict.DONE, rollout.last, states, tuple(actions), "; ".join(messages))


def _harmed(picture: Picture, states: Iterable[StageState]) -> dict[str, str]:
    """Messages, by uuid, about devices that count as failed in the last stage, whatever their events say.

    These are devices that have begun another rotation, and devices of early stages that failed and are not done
    now. (One that was done before it left the group did rotate.)
    """
    done = {state.uuid for state in picture.states if state.state is State.DONE}
    named = {}
    for staged in (staged for state in states for staged in state.failures):
        reading = picture.devices.get(staged.device.uuid)
        if staged.device.uuid not in done or (reading and reading.other is not None):
            named[staged.device.uuid] = f"{staged.device.name}: {staged.message}"
    for state in picture.states:
        if (again := picture.again.get(state.uuid)) is not None:
            named.setdefault(state.uuid, f"{state.name}: {again.message}")
    return named


def _covered(picture: Picture, state: DeviceState) -> bool:
    """Whether the device was certainly done before the group was last settled, so that it stores the present entry.

    A device that was settled by itself needs no more. Without earlier polls the times of its events decide.
    """
    settled = picture.group.settled_at
    if (again := picture.again.get(state.uuid)) is not None:
        return settled is not None and again.since < settled
    if (reading := picture.devices.get(state.uuid)) and reading.own.settled_at and reading.own.fetched:
        return True
    if settled is None:
        return False
    if state.done_by is not None and state.done_by < settled:
        return True
    begin = picture.group.given_at
    times = [event.time for event in state.progress.events]
    known = [time for time in times if time is not None]
    if not known or len(known) < len(times) or begin is None or state.last_seen is None:
        return False
    minute = timedelta(minutes=1)
    right = all(begin - minute <= time <= state.last_seen + minute for time in known)
    return right and max(known) + minute < settled and state.last_seen > settled


def _stored(picture: Picture, state: DeviceState) -> bool:
    """Whether the device was seen after the group was settled, or was settled by itself."""
    reading = picture.devices.get(state.uuid)
    if state.uuid not in picture.again and reading and reading.own.settled_at and reading.own.fetched:
        return True
    settled = picture.group.settled_at
    return settled is not None and state.last_seen is not None and state.last_seen > settled + CHECK_IN
