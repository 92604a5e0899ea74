"""One rollout of a rehearsal: what the operator does on a copy of the clone, and how each device ended."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fioctl_rotate import wire
from fioctl_rotate.device.runner import stays_off
from fioctl_rotate.errors import Refused
from fioctl_rotate.mock.store import config_levels
from fioctl_rotate.mock.store.config_levels import Level
from fioctl_rotate.mock.store.database import Store
from fioctl_rotate.ops.push import push, settle
from fioctl_rotate.ops.rehearsal_plan import plan_for_copy
from fioctl_rotate.ops.rehearsal_world import Sleep, TimeIsOver, World, live, open_world
from fioctl_rotate.ops.rehearsed import DeviceEnd, End, Played, StageEnd
from fioctl_rotate.ops.rollout import Step, roll_out, rollout_of
from fioctl_rotate.ops.simulated_fleet import Life
from fioctl_rotate.ops.watch import Snapshot, Watch
from fioctl_rotate.rotation.document import time_text
from fioctl_rotate.rotation.entry import FILE_NAME
from fioctl_rotate.rotation.faults import Faults
from fioctl_rotate.rotation.plan import Plan
from fioctl_rotate.rotation.progress import STEPS
from fioctl_rotate.rotation.rollout import Verdict
from fioctl_rotate.rotation.stage_states import StageStatus
from fioctl_rotate.rotation.state import OLDEST_LMP, Rotation, State, lmp_release

TIME_OVER = "time over"
_DAY = 86400


@dataclass(frozen=True)
class RehearsalOptions:
    """How to rehearse. `interval` is the polling interval, `check_in` that of check-ins (None: each device's own).

    `timeout` ends a rollout (None: after the time that its stages may take). All are simulated seconds. `allow` are
    checks that may fail; `note` goes into the reason of each write.
    """

    faults: Faults = field(default_factory=Faults)
    check_in: float | None = None
    interval: float = 15.0
    timeout: float | None = None
    allow: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True)
class Audience:
    """What is called while a rehearsal runs: with the rewritten plan, each poll, each write, and other messages."""

    begin: Callable[[World, Plan], None] = lambda _world, _plan: None
    step: Callable[[Step], None] = lambda _step: None
    snapshot: Callable[[Snapshot], None] = lambda _snapshot: None
    sent: Callable[[str], None] = lambda _text: None
    say: Callable[[str], None] = lambda _text: None


NOBODY = Audience()


@dataclass(frozen=True)
class _Outcome:
    """How the operator's work ended."""

    verdict: str
    message: str
    stages: Sequence[StageEnd]


async def play(
    directory: Path,
    copy: Path,
    plan: Plan,
    options: RehearsalOptions,
    *,
    audience: Audience = NOBODY,
    refused: Callable[[str], None],
) -> Played:
    """Copy the clone in `directory` to `copy`, and rehearse a plan there.

    `refused` is given each connection that would have left this machine. Raises Refused as `plan_for_copy` does.
    """
    audience.say(f"copying {directory}")
    async with open_world(
        directory, copy, plan.factory, options.faults, refused, check_in=options.check_in
    ) as world:
        plan, devices = await plan_for_copy(
            world.api, plan, world.factory, allow=options.allow, now=world.clock()
        )
        untouched = _untouched(directory, plan.factory, devices)
        audience.begin(world, plan)
        operate = _roll_out if plan.stages is not None else _push

        async def work(sleep: Sleep) -> _Outcome:
            return await operate(world, plan, options, sleep, audience)

        outcome, lives = await live(world, devices, plan.rotation_id, work, limit=_limit(plan, options))
        stage_of = {
            device.uuid: number
            for number, stage in enumerate(plan.stages.early if plan.stages else (), 1)
            for device in stage
        }
        last = len(outcome.stages)
        return Played(
            began=str(time_text(world.clock.start)),
            verdict=outcome.verdict,
            message=outcome.message,
            took=world.clock.elapsed,
            stages=outcome.stages,
            devices=[
                _end(device, stage_of.get(device.uuid, last), lives.get(device.uuid), untouched)
                for device in sorted(devices, key=lambda device: device.name)
            ],
        )


def _limit(plan: Plan, options: RehearsalOptions) -> float:
    if options.timeout is not None:
        return options.timeout
    stages = plan.stages
    each = stages.stage_timeout + stages.soak if stages else 0
    return max(options.faults.over, each * (len(stages.early) if stages else 0)) + 2 * _DAY


# --- What the operator does ---


def _between_polls(world: World, options: RehearsalOptions) -> float:
    """Seconds between two polls. Many polls between two check-ins would see nothing new."""
    return max(options.interval, world.longest_interval / 10)


# After _QUIET seconds without a change, the time between two polls is _STRETCH times as long.
_QUIET, _STRETCH = 3600, 20


class _Polling:
    """The sleep between polls. It gets longer: a device that is stuck for a day needs no poll every 15 seconds."""

    def __init__(self, world: World, sleep: Sleep) -> None:
        self._clock, self._sleep = world.clock, sleep
        self._seen: object = None
        self._changed_at = 0

    def saw(self, picture: object) -> None:
        """Remember what a poll has shown. A picture that differs from the last one is a change."""
        if picture != self._seen:
            self._seen, self._changed_at = picture, self._clock.elapsed

    async def sleep(self, seconds: float) -> None:
        """Sleep, for longer where nothing changes."""
        quiet = self._clock.elapsed - self._changed_at >= _QUIET
        await self._sleep(seconds * _STRETCH if quiet else seconds)


async def _roll_out(
    world: World, plan: Plan, options: RehearsalOptions, sleep: Sleep, audience: Audience
) -> _Outcome:
    last_stage, polling = rollout_of(plan).last, _Polling(world, sleep)
    began: dict[int, int] = {}
    passed: dict[int, int] = {}
    status: dict[int, str] = dict.fromkeys(range(1, last_stage + 1), str(StageStatus.WAITING))

    def show(step: Step) -> None:
        now = world.clock.elapsed
        for number in range(1, step.decision.stage + 1):
            began.setdefault(number, now)
        for state in step.decision.stages:
            status[state.number] = str(state.status)
            if state.status is StageStatus.PASSED:
                passed.setdefault(state.number, now)
        if step.decision.stage == last_stage:
            status[last_stage] = str(step.decision.verdict)
            if step.decision.verdict is Verdict.DONE:
                passed.setdefault(last_stage, now)
        polling.saw((step.decision.stages, step.picture.summary))
        audience.step(step)

    try:
        last = await roll_out(
            world.api,
            plan,
            interval=_between_polls(world, options),
            show=show,
            sent=audience.sent,
            note=options.note,
            sleep=polling.sleep,
            now=world.clock,
        )
        verdict, message = str(last.decision.verdict), last.decision.message
    except TimeIsOver:
        verdict, message = TIME_OVER, "it had not ended when its time was over"
    except Refused as error:
        verdict, message = str(Verdict.REFUSED), error.message
    stages = [
        StageEnd(number, status[number], began.get(number), passed.get(number)) for number in sorted(status)
    ]
    return _Outcome(verdict, message, stages)


async def _push(
    world: World, plan: Plan, options: RehearsalOptions, sleep: Sleep, audience: Audience
) -> _Outcome:
    """Push, watch until no device can get any further, and settle: what we advise operators to do."""
    api = world.api
    # Devices must check in before the push, as real ones do: they store the configuration of that time.
    await sleep(2 * world.longest_interval)
    began = world.clock.elapsed
    pushed = await push(api, plan)
    if not pushed.in_force:
        return _Outcome(str(Verdict.FAILED), pushed.message(plan), [StageEnd(1, "failed", began, None)])
    rotation = Rotation(plan.rotation_id, plan.scope, pushed_at=world.clock(), reason=plan.reason)
    watch = Watch(api, rotation, now=world.clock)
    message, verdict, passed = "", Verdict.DONE, None
    polling = _Polling(world, sleep)

    def tell(snapshot: Snapshot) -> None:
        polling.saw(snapshot.summary)
        audience.snapshot(snapshot)

    try:
        snapshot = await watch.until_resting(
            interval=_between_polls(world, options), tell=tell, sleep=polling.sleep
        )
        passed = world.clock.elapsed
        if snapshot.summary.done:
            await settle(api, plan.scope, plan.rotation_id)
            await sleep(2 * world.longest_interval)
            snapshot = await watch.poll()
        audience.snapshot(snapshot)
        bad = [state for state in snapshot.states if state.state in (State.FAILING, State.FINALIZED)]
        if bad or not snapshot.summary.done:
            verdict, message, passed = Verdict.FAILED, snapshot.message, None
    except TimeIsOver:
        return _Outcome(TIME_OVER, watch.known().message, [StageEnd(1, TIME_OVER, began, None)])
    return _Outcome(str(verdict), message, [StageEnd(1, str(verdict), began, passed)])


# --- How the devices ended ---


def _untouched(directory: Path, factory: str, devices: Sequence[wire.Device]) -> Mapping[str, str]:
    """Why devices cannot follow, by uuid, as far as the clone knows it."""
    reasons = {}
    with contextlib.closing(Store(directory)) as store, store.reading() as db:
        for device in devices:
            path = directory / "devices" / device.uuid
            newest = config_levels.latest(db, Level("device", device.uuid))
            if not path.exists() or stays_off(path):
                reasons[device.uuid] = "offline"
            elif (lmp_release(device.lmp_ver) or OLDEST_LMP) < OLDEST_LMP:
                reasons[device.uuid] = "unsupported"
            elif newest and any(file.name == FILE_NAME for file in newest.files or []):
                reasons[device.uuid] = "shadowed"
    return reasons


def _end(device: wire.Device, stage: int, life: Life | None, untouched: Mapping[str, str]) -> DeviceEnd:
    life = life or Life()
    end, why = End.UNTOUCHED, untouched.get(device.uuid, "")
    if life.step:
        end = End.WEDGED if life.step == 1 else End.FAILED
        why = life.error or STEPS[life.step - 1]
    elif life.finalized is not None and life.error is None:
        end = End.DONE if life.back is not None else End.RUNNING
    elif life.cut_off:
        which = "its new certificate" if life.finalized is not None else "the certificate of another rotation"
        end, why = End.WEDGED, f"the gateway refuses {which}"
        if life.again == 0 and life.finalized is None:
            why = f"another rotation: {life.error}"
    elif life.begun is not None:
        end = End.RUNNING
    elif life.error is not None:
        why = life.error
    return DeviceEnd(
        uuid=device.uuid,
        name=device.name or device.uuid,
        stage=stage,
        end=end,
        why=why,
        begun=life.begun,
        finalized=life.finalized,
        back=life.back,
        again=life.again,
    )
