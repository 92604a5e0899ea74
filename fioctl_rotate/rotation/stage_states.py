"""The state of a rollout's early stages: each device, each stage, and what is kept between polls. Pure."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from fioctl_rotate.rotation.entry import rotation_id_of
from fioctl_rotate.rotation.picture import Memory, Picture, Reading
from fioctl_rotate.rotation.progress import LAST, STEPS, Phase
from fioctl_rotate.rotation.stages import StageDevice, Stages

# A failed step counts as a failure after this long without progress: two check-ins of a device.
NO_PROGRESS = timedelta(minutes=10)


class Point(StrEnum):
    """How far a device of an early stage came. Only `done` is success: it is safe to reboot."""

    NOT_GIVEN = "not given"
    GIVEN = "given"
    RUNNING = "running"
    FAILING = "failing"
    FINALIZED = "finalized"
    BACK = "back"
    SETTLING = "settling"
    STORED = "stored"
    DONE = "done"
    FAILED = "failed"

    @property
    def open(self) -> bool:
        """Whether to name the device while its stage runs: not if it is done, or was not given the entry."""
        return self not in (Point.DONE, Point.NOT_GIVEN)


@dataclass(frozen=True, slots=True)
class StagedDevice:
    """A device of an early stage: how far it came, the reason in `message`, and whether it failed."""

    device: StageDevice
    reached: Point
    message: str = ""
    failed: bool = False

    @property
    def point(self) -> Point:
        """What is shown: how far it came, or `failed`."""
        return Point.FAILED if self.failed else self.reached


class StageStatus(StrEnum):
    """The status of a stage."""

    WAITING = "waiting"
    RUNNING = "running"
    SOAKING = "soaking"
    PASSED = "passed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StageState:
    """The state of an early stage. `allowed` is how many failures it may have; `until` is when its soak ends."""

    number: int
    status: StageStatus
    devices: tuple[StagedDevice, ...]
    allowed: int = 0
    until: datetime | None = None

    @property
    def done(self) -> int:
        """How many devices are done."""
        return sum(state.point is Point.DONE for state in self.devices)

    @property
    def failures(self) -> list[StagedDevice]:
        """The devices that count as failed."""
        return [state for state in self.devices if state.failed]


@dataclass(frozen=True, slots=True)
class Rollout:
    """The part of a plan that the decisions need; `group` is the group's name.

    `value` is the entry, `older` and `older_fleet` are what the group and the fleet had when the plan was made.
    """

    group: str
    value: str
    older: str | None
    older_fleet: str | None
    stages: Stages

    @property
    def id(self) -> str:
        """The ROTATIONID."""
        return rotation_id_of(self.value)

    @property
    def older_ids(self) -> set[str]:
        """The ids of the older entries of group and fleet when the plan was made."""
        found = (rotation_id_of(value) for value in (self.older, self.older_fleet) if value is not None)
        return {id for id in found if id and id != self.id}

    @property
    def last(self) -> int:
        """The number of the last stage, which is the whole group."""
        return len(self.stages.early) + 1


def remember(rollout: Rollout, picture: Picture, memory: Memory, now: datetime) -> None:
    """Bring `memory` up to date with what was read at `now`."""
    memory.given_at = memory.given_at or picture.group.given_at
    for device in rollout.stages.devices:
        reading = picture.devices.get(device.uuid)
        if reading is None:
            continue
        progress = reading.progress
        step, _ = memory.failing.get(device.uuid, (0, now))
        if progress.phase is Phase.FAILING and step != progress.step:
            memory.failing[device.uuid] = (progress.step, now)
        elif step and (progress.finalized or progress.step > step):
            del memory.failing[device.uuid]
        if reading.own.fetched and reading.last_seen is not None:
            memory.stored.setdefault(device.uuid, reading.last_seen)


def stage_state(
    rollout: Rollout, picture: Picture, memory: Memory, now: datetime, number: int, present: int
) -> StageState:
    """The state of the early stage with that number; `present` is the highest stage that was given the entry."""
    devices = rollout.stages.early[number - 1]
    allowed = rollout.stages.allowed(len(devices))
    if number > present:
        return StageState(
            number, StageStatus.WAITING, tuple(StagedDevice(d, Point.NOT_GIVEN) for d in devices), allowed
        )
    readings = [picture.devices.get(device.uuid) for device in devices]
    begun = min((r.own.given_at for r in readings if r and r.own.given_at), default=None)
    late = begun is not None and now - begun >= timedelta(seconds=rollout.stages.stage_timeout)
    late = late and number == present < rollout.last
    states = tuple(
        _staged(rollout, device, reading, memory, now, late=late)
        for device, reading in zip(devices, readings, strict=True)
    )
    failures = sum(state.failed for state in states)
    rest = [state for state in states if not state.failed]
    until = None
    if failures > allowed:
        status = StageStatus.FAILED
    elif number < present:
        status = StageStatus.PASSED
    elif any(state.point is not Point.DONE for state in rest):
        status = StageStatus.RUNNING
        memory.soak.pop(number, None)
    else:
        readings_of = ((s.device.uuid, picture.devices.get(s.device.uuid)) for s in rest)
        seen = {uuid: reading.last_seen for uuid, reading in readings_of if reading and reading.last_seen}
        if seen and rollout.stages.soak:
            # By the server's clock alone: each device must be seen once more at the end of the soak or later.
            soak = timedelta(seconds=rollout.stages.soak)
            until = memory.soak.setdefault(number, max(seen.values())) + soak
        unseen = {uuid for uuid, last_seen in seen.items() if until and last_seen < until}
        status = StageStatus.SOAKING if unseen else StageStatus.PASSED
        if until and unseen and late and now - until >= NO_PROGRESS:
            states = tuple(
                replace(s, message="not seen after the soak", failed=True) if s.device.uuid in unseen else s
                for s in states
            )
            status = StageStatus.FAILED if failures + len(unseen) > allowed else StageStatus.PASSED
    return StageState(number, status, states, allowed, until)


def _staged(
    rollout: Rollout,
    device: StageDevice,
    reading: Reading | None,
    memory: Memory,
    now: datetime,
    *,
    late: bool,
) -> StagedDevice:
    """How far one device came, and whether it counts as failed."""
    if reading is None:
        return StagedDevice(device, Point.NOT_GIVEN, "it was deleted", failed=True)
    point, message = _point(device, reading, memory)
    if not reading.member:
        own = " and keeps an entry of its own" if reading.own.value == rollout.value else ""
        return StagedDevice(device, point, f"it left group {rollout.group}{own}", failed=True)
    if reading.other is not None:
        return StagedDevice(device, point, f"it began another rotation, {reading.other}", failed=True)
    if point is Point.NOT_GIVEN and reading.key not in (None, device.key):
        text = "it has another key than when the plan was made"
        return StagedDevice(device, point, text, failed=True)
    step, since = memory.failing.get(device.uuid, (0, now))
    if step and now - since >= NO_PROGRESS:
        return StagedDevice(device, point, message or f"no progress at {STEPS[step - 1]}", failed=True)
    if late and point is not Point.DONE and not _recovered(device, reading, now):
        text = f"not done when the stage's time was over: {point}"
        return StagedDevice(device, point, text + (f", {message}" if message else ""), failed=True)
    return StagedDevice(device, point, message)


def _recovered(device: StageDevice, reading: Reading, now: datetime) -> bool:
    """Whether it came back with its new key, however late, and the time to settle it is not over yet."""
    settled = reading.own.first_settled_at
    return _is_back(device, reading) and (settled is None or now - settled < NO_PROGRESS)


def _is_back(device: StageDevice, reading: Reading) -> bool:
    """Whether the gateway accepted its new key. An event may be lost: the key itself is the proof."""
    begun = reading.progress.phase is not Phase.NONE
    return begun and reading.key is not None and reading.key != device.key


def _point(device: StageDevice, reading: Reading, memory: Memory) -> tuple[Point, str]:
    progress, own = reading.progress, reading.own
    back = _is_back(device, reading)
    if back or progress.finalized:
        if own.settled_at is None:
            return (Point.BACK if back else Point.FINALIZED), ""
        if not own.fetched:
            return Point.SETTLING, ""
        stored = memory.stored.get(device.uuid)
        again = stored is not None and reading.last_seen is not None and reading.last_seen > stored
        return (Point.DONE if back and again else Point.STORED), ""
    if progress.phase is Phase.FAILING:
        return Point.FAILING, f"{STEPS[progress.step - 1]}: {progress.message}"
    if progress.phase is not Phase.NONE:
        return Point.RUNNING, f"step {progress.step}/{LAST}, {STEPS[progress.step - 1]}"
    return (Point.GIVEN if own.ever else Point.NOT_GIVEN), ""
