"""Rotate a group in stages: read the Factory, decide and send, again and again, until the rollout has ended.

Nothing that matters is kept here (see rotation/rollout.py). Every poll reads what is there, and every write is
checked once more right before it is sent. So two operators, or a run that was killed and started again, reach the
same end.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.api.failures import ApiError, Unreachable
from fioctl_rotate.clock import Clock, utc_now
from fioctl_rotate.errors import Refused
from fioctl_rotate.ops import rollout_memory
from fioctl_rotate.ops.at_once import Pace, for_each
from fioctl_rotate.ops.stage_reader import StageReader
from fioctl_rotate.ops.watch import BadPolls, events_of
from fioctl_rotate.rotation.entry import FILE_NAME, settle_reason
from fioctl_rotate.rotation.picture import EntryLog, Picture, entry_log
from fioctl_rotate.rotation.plan import Plan, request_body
from fioctl_rotate.rotation.rollout import Action, Decision, Do, Verdict, decide
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.stage_states import Rollout
from fioctl_rotate.rotation.stages import StageDevice

# The end of the reason of each write, after the operator's own text.
_PLAN = re.compile(r", plan ([0-9a-f]{12})(?:, [^()]*)?\)\Z")


@dataclass(frozen=True)
class Step:
    """One poll of a rollout: what was read, what was decided, and messages about what could not be read."""

    at: datetime
    picture: Picture
    decision: Decision
    problems: Sequence[str] = ()


class Reader:
    """Reads the Factory for a plan's rollout, and decides; sends nothing."""

    def __init__(self, api: FactoryApi, plan: Plan, *, now: Clock = utc_now) -> None:
        self.rollout = rollout_of(plan)
        self._api, self._plan, self._now = api, plan, now
        self._memory = rollout_memory.load(api, plan)
        self._reader = StageReader(api, self.rollout, self._memory)

    async def poll(self) -> Step:
        """One poll. Raises Error where the Factory cannot be read, Refused for an edited plan that was started."""
        picture = await self._reader.read(self._now)
        _check_same_plan(self._plan, self._reader.reasons)
        decision = decide(self.rollout, picture, self._memory, self._now())
        rollout_memory.save(self._api, self._plan, self._memory)
        return Step(self._now(), picture, decision, self._reader.problems)

    def forget(self, devices: Iterable[StageDevice]) -> None:
        """Read these devices anew in the next poll."""
        self._reader.forget(device.uuid for device in devices)


async def roll_out(
    api: FactoryApi,
    plan: Plan,
    *,
    interval: float,
    show: Callable[[Step], None] = lambda _step: None,
    sent: Callable[[str], None] = lambda _text: None,
    note: str = "",
    send: bool = True,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    now: Clock = utc_now,
) -> Step:
    """Bring the plan's rotation to its end, from wherever it stands; returns the last step.

    `interval` is the polling interval in seconds, `show` is given each poll, `sent` a line for each write. `note`
    goes into the reason of each write. Without `send` it only watches. Raises Refused where somebody else changed
    what the plan relies on, Error where the token is refused or the server stays away.
    """
    reader = Reader(api, plan, now=now)
    bad_polls = BadPolls()
    refused = confirmed = False
    while True:
        try:
            step = await reader.poll()
            bad_polls.end()
        except (ApiError, Unreachable) as error:
            bad_polls.add(error)
            sent(f"{error.message}; trying again")
            await sleep(interval)
            continue
        decision = step.decision
        if decision.verdict is Verdict.REFUSED and not refused:
            # Another run of this plan may have written between two requests of this poll: read it all once more.
            refused = True
            continue
        refused = False
        if send and not confirmed and any(action.do is Do.GIVE_GROUP for action in decision.actions):
            # It may have been stopped since its devices were read: before all get the entry, read them anew.
            confirmed = True
            reader.forget(reader.rollout.stages.devices)
            continue
        confirmed = False
        show(step)
        if decision.verdict is Verdict.REFUSED:
            hint = "make a new plan from what is there now"
            raise Refused(f"{decision.message}; nothing more is sent", hint=hint)
        sender = _Sender(api, plan, reader.rollout, decision.stage, note, sent)
        if send and await sender.send_all(decision.actions):
            reader.forget(action.device for action in decision.actions if action.device)
        elif decision.verdict is not Verdict.GO_ON:
            return step
        else:
            await sleep(interval)


async def has_begun(api: FactoryApi, plan: Plan) -> bool:
    """Whether anything of the plan was ever sent: to the group, or to a device of its first stage.

    Raises Refused where a device has begun the rotation, but no log has it any more: it was stopped.
    """
    first = plan.stages.early[0] if plan.stages else ()
    begun, gone = False, []

    async def read(scope: Scope) -> None:
        nonlocal begun
        ever = entry_log(await api.config(scope).log(), plan.rotation_id).ever
        begun = begun or ever
        if not ever and scope.uuid and await events_of(api, scope.uuid, plan.rotation_id):
            gone.append(scope)

    scopes = [plan.scope, *(Scope.of_device(device.name, device.uuid) for device in first)]
    await for_each(scopes, read, Pace(), api.counted)
    if gone and not begun:
        raise Refused(
            f"{gone[0]} has begun rotation {plan.rotation_id}, but no log has it now: it was stopped",
            hint="make a new plan; each has a ROTATIONID of its own",
        )
    return begun


def rollout_of(plan: Plan) -> Rollout:
    """What the decisions need of a plan that has stages."""
    assert plan.stages is not None  # noqa: S101  callers check it first
    return Rollout(
        group=plan.scope.name,
        value=plan.entry.render(),
        older=plan.current.value if plan.current else None,
        older_fleet=plan.fleet_wide,
        stages=plan.stages,
    )


def _check_same_plan(plan: Plan, reasons: Iterable[str]) -> None:
    """Refuse a plan whose devices or entry were edited after it was started; the first writes name the plan."""
    for reason in reasons:
        found = _PLAN.search(reason)
        if found and found[1] != plan.mark:
            raise Refused(
                f"rotation {plan.entry.rotation_id} was started from another plan ({found[1]}, not {plan.mark})",
                hint="apply that plan; of a started one only soak, max-failures and stage-timeout may be edited",
            )


class _Sender:
    """Sends the actions of one decision. Right before each one it reads again what the action changes."""

    def __init__(
        self,
        api: FactoryApi,
        plan: Plan,
        rollout: Rollout,
        stage: int,
        note: str,
        sent: Callable[[str], None],
    ) -> None:
        self._api, self._plan, self._rollout, self._sent = api, plan, rollout, sent
        where = f"stage {stage} of {rollout.last}, plan {plan.mark}"
        self._reason = f"{plan.reason} ({', '.join(filter(None, (where, note)))})"
        self._group = Scope.of_group(rollout.group)

    async def send_all(self, actions: Sequence[Action]) -> bool:
        """Send them: those for devices at the same time, then the others. Returns whether anything was sent."""
        sent = False

        async def send(action: Action) -> None:
            nonlocal sent
            sent = await self._send(action) or sent

        await for_each([action for action in actions if action.device is not None], send, Pace())
        for action in actions:
            if action.device is None:
                await send(action)
        return sent

    async def _send(self, action: Action) -> bool:
        send = {
            Do.CLEAR_GROUP: self._clear_group,
            Do.CLEAR_FLEET: self._clear_fleet,
            Do.GIVE_GROUP: self._give_group,
            Do.SETTLE_GROUP: self._settle,
            Do.GIVE: self._give,
            Do.SETTLE: self._settle,
            Do.TAKE_BACK: self._take_back,
        }[action.do]
        scope = Scope.of_device(action.device.name, action.device.uuid) if action.device else self._group
        try:
            done = await send(scope)
        except Unreachable as error:
            # Whether it landed is read in the next poll; sending it again does no harm.
            self._sent(f"{scope}: {error.message}; reading what is there")
            return error.sent
        except ApiError as error:
            if error.status == 401 or (action.device is None and error.status < 500):
                raise
            # A device's own configuration is locked while it rotates (409), and 5xx may pass.
            if error.status != 409:
                self._sent(f"{scope}: {error.message}; trying again")
            return False
        if done:
            self._sent(f"{action.do} {scope}")
        return done

    async def _newest(self, scope: Scope) -> EntryLog:
        return entry_log(await self._api.config(scope).log(1), self._rollout.id)

    async def _value(self, scope: Scope) -> str | None:
        return (await self._newest(scope)).value

    async def _log(self, scope: Scope) -> EntryLog:
        return entry_log(await self._api.config(scope).log(), self._rollout.id)

    async def _clear_group(self, scope: Scope) -> bool:
        return await self._delete(scope, self._rollout.older)

    async def _clear_fleet(self, _scope: Scope) -> bool:
        return await self._delete(Scope.fleet(), self._rollout.older_fleet)

    async def _delete(self, scope: Scope, expected: str | None) -> bool:
        if await self._value(scope) != expected:
            return False
        try:
            await self._api.config(scope).delete(FILE_NAME)
        except ApiError as error:
            if error.status != 404:
                raise
        return True

    async def _give_group(self, scope: Scope) -> bool:
        group = await self._newest(scope)
        if group.value not in (self._rollout.older, None) or group.stopped:
            return False
        await self._api.config(scope).merge(request_body(self._plan.entry, self._reason))
        return True

    async def _give(self, scope: Scope) -> bool:
        # Once the group has this id, an entry of the device's own would only hide later ones of the group.
        group, own = await asyncio.gather(self._newest(self._group), self._log(scope))
        if own.value not in (None, self._rollout.value) or own.taken_back:
            return False
        if group.value == self._rollout.value or group.stopped:
            return False
        await self._api.config(scope).merge(request_body(self._plan.entry, self._reason))
        return True

    async def _settle(self, scope: Scope) -> bool:
        if await self._value(scope) != self._rollout.value:
            return False
        await self._api.config(scope).merge(request_body(self._plan.entry, settle_reason(self._rollout.id)))
        return True

    async def _take_back(self, scope: Scope) -> bool:
        if await self._value(self._group) != self._rollout.value:
            return False
        return await self._delete(scope, self._rollout.value)
