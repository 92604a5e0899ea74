"""Push a rotation: make the plan from what the Factory has, send it, and read back what landed."""

import asyncio
import contextlib
from collections.abc import Callable, Collection

from fioctl_rotate import __version__, wire
from fioctl_rotate.api.client import FactoryApi, ScopeConfig
from fioctl_rotate.api.failures import ApiError, Unreachable
from fioctl_rotate.clock import utc_now
from fioctl_rotate.errors import Error, Refused
from fioctl_rotate.ops.targets import Target, current_entry_of, find, read_target
from fioctl_rotate.rotation.entry import FILE_NAME, settle_reason
from fioctl_rotate.rotation.outcome import Outcome, OutcomeKind, entry_in, judge
from fioctl_rotate.rotation.plan import Made, Plan, RotationRequest, make_plan, members_digest
from fioctl_rotate.rotation.scope import Scope

Tell = Callable[[str], None]

DEVICES_CHANGED = "devices-changed"
"""The name for --allow, to apply a plan to other devices than it was made for."""

_INTERRUPTED = 3.0  # seconds for reading back after a signal
# Statuses that mean: refused for good. Others may be a proxy's, 408 and 425 too: the request may still arrive.
_REFUSALS = frozenset({*range(300, 400), *range(400, 500)} - {408, 425})


async def plan_push(
    api: FactoryApi,
    scope: Scope,
    request: RotationRequest,
    *,
    by_uuid: bool = False,
    unix_seconds: int,
    allow: tuple[str, ...] = (),
    checked: bool = True,
) -> tuple[Plan, Target]:
    """The plan that rotates the devices of `scope`, and what was read for it.

    With `by_uuid` the scope's name is a device's uuid. `allow` are checks that may fail; `checked` says whether
    `check_push` follows. Raises UsageError for a request that is not valid, Refused for a used id, Error for an
    unknown group or device, or a Factory without an EST server.
    """
    request.check()
    target = await read_target(api, scope, by_uuid=by_uuid, certs=checked or request.server_name is None)
    plan = make_plan(
        request,
        factory=api.factory,
        server=api.server,
        scope=target.scope,
        est_host=request.server_name or _est_host(target.certs, api.factory),
        unix_seconds=unix_seconds,
        current=current_entry_of(target.log),
        # With an id of its group, nobody could tell the device's events of the two rotations apart.
        taken=current_entry_of(target.group_log).ids,
        devices=len(target.devices),
        members=members_digest(device.uuid for device in target.devices),
        of_group=target.of_group,
        allow=allow,
    )
    return plan, target


async def resume(
    api: FactoryApi, plan: Plan, *, allow: Collection[str], checked: bool = True
) -> tuple[Plan, Target]:
    """A plan from a file with what its scope has now, and what was read for that.

    Raises Refused where the scope has another entry or other devices than the plan was made for. The devices of a
    plan that is already applied are not compared.
    """
    target = await read_target(api, plan.scope, certs=checked)
    plan = plan.at(current_entry_of(target.log))
    if not plan.already_there:
        require_same_devices(plan, target, allow)
    return plan, target


def require_same_devices(plan: Plan, target: Target, allow: Collection[str]) -> None:
    """Refuse other devices than those that the plan was made for, unless `allow` has DEVICES_CHANGED."""
    if DEVICES_CHANGED in allow or members_digest(d.uuid for d in target.devices) == plan.members:
        return
    now = f"{len(target.devices)}" if len(target.devices) != plan.devices else "as many, but others"
    raise Refused(
        f"{plan.scope} had {plan.devices} device(s) when the plan was made; now it has {now}",
        hint=f"make a new plan and review it, or apply this one with `--allow {DEVICES_CHANGED}`",
    )


async def made_by(api: FactoryApi) -> Made:
    """Who makes a plan, and when. The name is None where the token may not read its own user."""
    by = None
    with contextlib.suppress(ApiError):
        by = (await api.user()).name or None
    return Made(by, f"{utc_now():%Y-%m-%dT%H:%M:%SZ}", __version__)


class Interrupted(asyncio.CancelledError):
    """A signal came once the push had left. `outcome` is the outcome of the push."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


async def push(api: FactoryApi, plan: Plan, *, tell: Tell = lambda _text: None) -> Outcome:
    """Send the plan's body, unless it is there already, and read back whether it landed.

    Raises Refused where the scope's entry has changed since the plan was made, Interrupted after a signal once the
    push has left: then reading back takes at most 3 seconds; `tell` gets a line about that.
    """
    config = api.config(plan.scope)
    # Checks and a question may have taken minutes, in which somebody else may have pushed.
    before = await config.log()
    plan = plan.at(current_entry_of(before))
    if plan.already_there:
        return Outcome(OutcomeKind.ALREADY_THERE, f"rotation {plan.rotation_id}")
    try:
        try:
            refused, problem = await _send(config, plan)
        except Unreachable as error:
            return Outcome(OutcomeKind.NOT_LANDED, problem=error.message)
        return await _read_back(config, plan, before, refused=refused, problem=problem)
    except asyncio.CancelledError:
        # The program that started us may have closed stderr. That must not stop us from reading back.
        with contextlib.suppress(OSError):
            tell(f"interrupted; reading back whether the push landed, {_INTERRUPTED:g} s at most")
        outcome = await _read_back_in_time(config, plan, before)
        raise Interrupted(outcome) from None


async def _send(config: ScopeConfig, plan: Plan) -> tuple[bool, str | None]:
    """Send; returns whether the server has refused it for good, and what went wrong.

    Raises Unreachable where the request cannot have reached the server.
    """
    try:
        await config.merge(plan.body)
    except Unreachable as error:
        if not error.sent:
            raise
        return False, error.message
    except ApiError as error:
        return error.status in _REFUSALS, error.message
    except Exception as error:
        # Whatever it is: the push may have left, and only reading back shows whether it landed.
        return False, error.message if isinstance(error, Error) else f"{type(error).__name__}: {error}"
    return False, None


async def _read_back(
    config: ScopeConfig, plan: Plan, before: list[wire.Config], *, refused: bool, problem: str | None
) -> Outcome:
    try:
        after = await config.log()
    except Error as error:
        problems = (problem, f"reading back: {error.message}")
        return Outcome(OutcomeKind.UNKNOWN, problem="; ".join(filter(None, problems)))
    return judge(plan, before, after, refused=refused, accepted=problem is None).with_problem(problem)


async def _read_back_in_time(config: ScopeConfig, plan: Plan, before: list[wire.Config]) -> Outcome:
    try:
        async with asyncio.timeout(_INTERRUPTED):
            return await _read_back(config, plan, before, refused=False, problem="interrupted")
    except (TimeoutError, asyncio.CancelledError):
        return Outcome(OutcomeKind.UNKNOWN, problem="interrupted; it could not be read back in time")


async def settle(api: FactoryApi, scope: Scope, rotation_id: str) -> None:
    """Send the scope's present entry once more, unchanged, so that its devices store it.

    A device that has rotated still stores the configuration of before the push, with a time that hides the push
    (fioconfig: finalizeStep). At its next boot it would write that older entry again. Since its id differs, the
    device would rotate by it, against an EST server that may be gone. After any later change the device stores the
    present configuration. This change is the smallest: devices that are done see the same ROTATIONID, do nothing.

    Raises Refused as `require_present` does. Raises Error where it is not known whether the change landed: to send
    it again does no harm.
    """
    scope, before = await require_present(api, scope, rotation_id)
    config, reason = api.config(scope), settle_reason(rotation_id)
    try:
        await config.merge({"reason": reason, "files": [entry_in(before)]})
    except (Unreachable, ApiError) as error:
        newest = (await config.log(1))[:1]
        if not newest or newest[0] == before or newest[0].reason != reason:
            raise Error(
                f"rotation {rotation_id} is not settled yet: {error.message}",
                hint="settle it again, which does no harm",
            ) from error


async def require_present(api: FactoryApi, scope: Scope, rotation_id: str) -> tuple[Scope, wire.Config]:
    """The scope as the Factory knows it, and its newest configuration, which has the entry of that rotation.

    Raises Refused where it has another one, or none.
    """
    scope, _ = await find(api, scope)
    log = await api.config(scope).log(1)
    current = current_entry_of(log)
    if current.rotation_id != rotation_id:
        found = f"rotation {current.rotation_id}" if current.rotation_id else f"no {FILE_NAME}"
        raise Refused(
            f"{scope} has {found} now, not {rotation_id}",
            hint="settle the rotation that is there; a superseded one has nothing to settle",
        )
    return scope, log[0]


def _est_host(certs: wire.Certs, factory: str) -> str:
    # Imported here, since certificates need a library that loads slowly, and a push with --server-name needs none.
    from fioctl_rotate.ops.est_host import est_host

    return est_host(certs, factory)
