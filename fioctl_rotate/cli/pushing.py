"""The way of a push: plan, show, check, ask, send, read back, wait. For groups and devices alike."""

import contextlib
import sys
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar

import typer

from fioctl_rotate.cli import plan_view, planning
from fioctl_rotate.cli.common import (
    Format,
    confirm,
    emit,
    emit_json,
    flush,
    interactive,
    note,
    open_api,
    run,
    settings_of,
    warn,
    wrapped,
)
from fioctl_rotate.cli.planning import Modes, Sending
from fioctl_rotate.cli.stages import NO_STAGES, StageOptions
from fioctl_rotate.errors import Error, InProgress, Refused, TimedOut, UsageError, printable
from fioctl_rotate.rotation import commands
from fioctl_rotate.rotation.entry import new_rotation_id
from fioctl_rotate.rotation.plan import Plan, RotationRequest
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.settings import Flags

if TYPE_CHECKING:
    from fioctl_rotate.api.client import FactoryApi
    from fioctl_rotate.ops.push_checks import Findings
    from fioctl_rotate.ops.targets import Target
    from fioctl_rotate.rotation.outcome import Outcome

T = TypeVar("T")


def rotate(
    flags: Flags,
    scope: Scope,
    request: RotationRequest,
    modes: Modes,
    *,
    by_uuid: bool = False,
    staging: StageOptions = NO_STAGES,
) -> None:
    """Run `config rotate-certs` or `device config rotate-certs`."""
    if not scope.name:
        raise UsageError(f"the {scope.kind}'s name is empty")
    request.check()
    staging.check()
    modes.check(staged=staging.wanted)
    if modes.offline and not request.server_name:
        raise UsageError(
            "--offline goes with --server-name: the Factory's own EST server is not known offline"
        )
    if modes.offline and staging.wanted:
        raise UsageError("--offline does not go with stages: devices are chosen from what the Factory knows")
    settings = settings_of(flags, offline=modes.offline)
    allow = waivers(modes)
    if modes.offline:
        plan = planning.offline_plan(request, settings, scope)
        plan_view.show_plan(plan, modes.format)
        plan_view.tell_about(plan, request.server_name)
        note("nothing was asked of the Factory: how this compares with what is there now is not known")
        return

    async def push() -> None:
        from fioctl_rotate.ops import push as ops

        async with open_api(settings, timeout=modes.timeout) as api:
            planned = ops.plan_push(
                api,
                scope,
                request,
                by_uuid=by_uuid,
                unix_seconds=int(time.time()),
                allow=allow,
                checked=not modes.no_checks,
            )
            plan, target = await in_time(api, planned)
            if staging.wanted:
                staged = await staging.add_to(api, plan)
                plan = staged.plan.replace(checks=tuple(staged.checks))
                for text in staged.notes:
                    note(text)
            if modes.dryrun:
                await _dry_run(api, plan, target, modes, request.server_name)
            else:
                await send(api, plan, target, modes, server_name=request.server_name)

    run(push())


async def in_time(api: "FactoryApi", work: "Awaitable[T]") -> T:
    """Await what comes before anything is sent. Raises TimedOut where --timeout ends it."""
    import asyncio

    try:
        async with asyncio.timeout_at(api.deadline) as time:
            return await work
    except TimeoutError:
        if not time.expired():
            raise
        raise TimedOut("time ran out: nothing was sent") from None


def waivers(sending: Sending, *more: str) -> tuple[str, ...]:
    """The checks that --allow names; `more` are names that this command knows, too. Raises UsageError."""
    if not sending.allow:
        return ()
    from fioctl_rotate.ops.push_checks import CHECKS, check_names

    return check_names(sending.allow, (*CHECKS, *more))


async def send(
    api: "FactoryApi",
    plan: Plan,
    target: "Target | None",
    sending: Sending,
    *,
    server_name: str | None = None,
) -> None:
    """Check, ask, push and, where wanted, wait. `target` is what was read; a plan in stages may do without."""
    if plan.stages is not None or target is None:
        await _roll_out(api, plan, target, sending, server_name=server_name)
        return
    from fioctl_rotate.ops import push as ops
    from fioctl_rotate.ops.push_checks import keep_baselines

    if not plan.already_there:
        plan, findings = await in_time(api, _checked(api, plan, target, sending))
        _ask(plan, sending, "Push it?", server_name)
        if findings is not None:
            keep_baselines(api, plan, findings)
    try:
        outcome = await ops.push(api, plan, tell=note)
    except ops.Interrupted as interrupted:
        error = _show_outcome(plan, sending, interrupted.outcome)
        if error is not None:
            note(error.diagnostics())
        raise
    error = _show_outcome(plan, sending, outcome)
    if error is not None:
        raise error
    if sending.wait:
        await _wait(api, plan, sending)


async def _dry_run(
    api: "FactoryApi", plan: Plan, target: "Target", modes: Modes, server_name: str | None
) -> None:
    """Check, and show the plan, or write it to a file. Checks that fail are part of it, and no error.

    With --detailed-exitcode the exit code says whether a push would change anything.
    """
    from fioctl_rotate.ops.plan_file import write_plan
    from fioctl_rotate.ops.push import made_by

    plan = plan.replace(made=await made_by(api))
    if not modes.no_checks:
        plan = (await _check(api, plan, target)).added_to(plan)
    if not modes.to_stdout:
        plan_view.show_plan(plan, modes.format)
    plan_view.tell_about(plan, server_name)
    if modes.out is not None:
        write_plan(modes.out, plan)
        if modes.to_stdout:
            note(f"digest: {plan.digest}")
        else:
            note(f"plan written to {modes.out}; push it with: {planning.apply_command(modes.out)}")
    if modes.detailed and not plan.already_there:
        raise typer.Exit(InProgress.exit_code)


async def _roll_out(
    api: "FactoryApi", plan: Plan, target: "Target | None", sending: Sending, *, server_name: str | None
) -> None:
    """Check and ask before the first write of a plan in stages; then go on with it, from wherever it stands."""
    from fioctl_rotate.cli.rolling import Rolling, roll
    from fioctl_rotate.ops.push import require_same_devices
    from fioctl_rotate.ops.rollout import has_begun
    from fioctl_rotate.ops.targets import read_target

    if not await has_begun(api, plan):
        if target is None:
            target = await read_target(api, plan.scope)
            require_same_devices(plan, target, sending.allow or ())
        plan, _ = await _checked(api, plan, target, sending)
        _ask(plan, sending, "Begin with the first stage?", server_name)
    rolling = Rolling(
        sending.interval,
        sending.timeout,
        Format(sending.format),
        sending.junit,
        sending.summary,
        sending.detailed,
        sending.note,
    )
    await roll(api, plan, rolling)


async def _check(api: "FactoryApi", plan: Plan, target: "Target") -> "Findings":
    from fioctl_rotate.clock import utc_now
    from fioctl_rotate.ops.push_checks import check_push

    return await check_push(api, plan, target, now=utc_now())


async def _checked(
    api: "FactoryApi", plan: Plan, target: "Target", sending: Sending
) -> "tuple[Plan, Findings | None]":
    """The plan with what the checks found. Raises Refused where a check stops the push."""
    if sending.no_checks:
        return plan, None
    from fioctl_rotate.checks import blocking

    findings = await _check(api, plan, target)
    plan = findings.added_to(plan)
    stops = [check.name for check in blocking(plan.checks, allow=plan.allow, strict=sending.strict)]
    if stops:
        for line in plan_view.check_summary(plan.checks):
            note(line)
        raise Refused(
            f"nothing was sent because of {', '.join(stops)}",
            hint=f"repair it; or push all the same with {' '.join(f'--allow {name}' for name in stops)}",
        )
    return plan, findings


def _ask(plan: Plan, sending: Sending, question: str, server_name: str | None) -> None:
    """Show on stderr what is about to be pushed, and ask. In a pipe, where nothing is asked, one line is enough."""
    if interactive() and not sending.yes:
        plan_view.note_plan(plan)
    else:
        note(wrapped(f"about to push {printable(plan_view.summary(plan))}", stream=sys.stderr))
        for line in plan_view.check_summary(plan.checks) if plan.checks else ():
            note(line)
    plan_view.tell_about(plan, server_name)
    confirm(question, yes=sending.yes)


def _show_outcome(plan: Plan, sending: Sending, outcome: "Outcome") -> Error | None:
    """The outcome of a push, to stdout; what to do next, to stderr. Returns the error where it is not in force.

    With `wait`, JSON is one object a line. A stdout that cannot be written does not hide the outcome.
    """
    message = outcome.message(plan)
    repeat = plan.command() + (" --no-checks" if sending.no_checks else "")
    try:
        if sending.format == Format.JSON:
            result = {"kind": "push", **outcome.document(), "rotation-id": plan.rotation_id, "repeat": repeat}
            emit_json({**result, **plan.document()}, lines=sending.wait)
        elif outcome.in_force:
            done = "already there, nothing sent:" if outcome.kind == "already-there" else "pushed"
            emit(wrapped(f"{done} {printable(plan_view.summary(plan))}", stream=sys.stdout))
        flush()
    except OSError as error:
        with contextlib.suppress(OSError):
            note(printable(f"{message}; stdout cannot be written: {error.strerror}"))
        raise
    log = commands.config_log(plan.scope, plan.factory_options)
    if outcome.replaced:
        warn(f"{message}; `{log}` shows who pushed that")
    if outcome.in_force:
        if outcome.problem:
            note(printable(f"{outcome.problem}; it landed all the same"))
        if not sending.wait:
            watch = commands.rotations("watch", plan.rotation_id, plan.scope, plan.factory_options)
            note(f"see it through with: {watch}")
        return None
    hint = f"`{repeat}` repeats it safely; `{log}` shows what is there"
    if outcome.kind == "replaced":
        another = new_rotation_id(int(time.time()), {plan.rotation_id})
        hint = f"`{log}` shows who replaced it; `{plan.command(another)}` pushes it again"
    return Error(message, hint=hint)


async def _wait(api: "FactoryApi", plan: Plan, sending: Sending) -> None:
    from fioctl_rotate.cli.watching import Following, follow, tell_asking
    from fioctl_rotate.ops.watch import Watch, open_watch
    from fioctl_rotate.rotation.state import Rotation

    async def find() -> Watch:
        return await open_watch(api, plan.rotation_id, plan.scope, asking=tell_asking)

    following = Following(
        sending.interval, sending.timeout, True, Format(sending.format), sending.junit, sending.summary
    )
    await follow(api, Rotation(plan.rotation_id, plan.scope), find, following)
