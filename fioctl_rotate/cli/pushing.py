"""The steps of a push to a group or a device: plan, show, check, ask, send, read back, wait."""

import shlex
import sys
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fioctl_rotate.cli import plan_view, planning
from fioctl_rotate.cli.common import (
    Format,
    Result,
    confirm,
    interactive,
    note,
    open_api,
    run,
    settings_of,
    warn,
    wrapped,
)
from fioctl_rotate.cli.out_files import write_out
from fioctl_rotate.cli.output import result_stream
from fioctl_rotate.cli.planning import Modes, Sending
from fioctl_rotate.cli.stages import NO_STAGES, StageOptions
from fioctl_rotate.errors import Error, InProgress, Refused, TimedOut, UsageError, message_of, printable
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
) -> Result | None:
    """Run `config rotate-certs` or `device config rotate-certs`.

    Returns the result of a dry run; None after a push, which has shown its result.
    """
    if not scope.name:
        raise UsageError(f"the {scope.kind}'s name is empty")
    request.check()
    staging.check()
    modes.check(staged=staging.wanted)
    if modes.offline and not request.server_name:
        raise UsageError("--offline needs --server-name: the Factory's own EST server is not known offline")
    if modes.offline and staging.wanted:
        raise UsageError(
            "--offline cannot be used with stages: devices are chosen from what the Factory knows"
        )
    settings = settings_of(flags, offline=modes.offline)
    allow = waivers(modes)
    if modes.offline:
        plan = planning.offline_plan(request, settings, scope)
        unknown = "the Factory was not asked: how this differs from what it has now is not known"
        return _dry_run(plan, modes, request.server_name, [unknown])

    async def push() -> Result | None:
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
                _require_new(plan)
                staged = await staging.add_to(api, plan)
                plan = staged.plan.replace(checks=tuple(staged.checks))
                for text in staged.notes:
                    note(text)
            if modes.dryrun:
                plan = plan.replace(made=await ops.made_by(api))
                if not modes.no_checks:
                    plan = (await _check(api, plan, target)).added_to(plan)
                return _dry_run(plan, modes, request.server_name)
            await send(api, plan, target, modes, server_name=request.server_name)
            return None

    return run(push())


def _require_new(plan: Plan) -> None:
    """Refuse a rotation in stages that this machine has begun: now other devices might be chosen for its stages."""
    from fioctl_rotate.ops.plan_file import kept_plan

    if (kept := kept_plan(plan)) is not None:
        raise Refused(
            f"rotation {plan.rotation_id} was begun already",
            hint=f"go on with it: `{_apply_command(kept, plan)}`",
        )


async def in_time(api: "FactoryApi", work: "Awaitable[T]") -> T:
    """Await work that is done before anything is sent. Raises TimedOut if --timeout ends it."""
    import asyncio

    limit = asyncio.timeout_at(api.deadline)
    try:
        async with limit:
            return await work
    except TimeoutError:
        if not limit.expired():
            raise
        raise TimedOut("time ran out: nothing was sent") from None


def waivers(sending: Sending, *more: str) -> tuple[str, ...]:
    """The checks that --allow names; `more` are names of this command alone. Raises UsageError for others."""
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
    """Check, ask, push and, if asked for, wait. `target` may be None for a plan in stages, which is read later."""
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
    # Shown while the connection is open, so that a signal during its closing cannot hide the result.
    try:
        outcome = await ops.push(api, plan, tell=note)
    except ops.Interrupted as interrupted:
        try:
            _outcome(plan, sending, interrupted.outcome).show(sending.format, one_line=sending.wait)
        except Error as error:
            note(error.diagnostics())
        raise
    _outcome(plan, sending, outcome).show(sending.format, one_line=sending.wait)
    if sending.wait:
        await _wait(api, plan, sending)


def _dry_run(plan: Plan, modes: Modes, server_name: str | None, notes: Sequence[str] = ()) -> Result:
    """The result of a dry run. Writes plan and summary if asked for. Failed checks are part of it, no error.

    With --detailed-exitcode the exit code says whether a push would change anything.
    """
    result = plan_view.plan_result(plan, modes.format, modes.out)
    about, warnings = plan_view.about(plan, server_name)
    if modes.out is not None:
        from fioctl_rotate.ops.plan_file import write_plan

        write_plan(modes.out, plan)
        if str(modes.out) != "-":
            about.append(f"plan written to {modes.out}")
    if modes.summary is not None:
        from fioctl_rotate.ops import markdown

        write_out(modes.summary, markdown.of_plan(plan), append=True)
    pending = modes.detailed and not plan.already_there
    return result.replace(
        notes=[*about, *notes], warnings=warnings, exit_code=InProgress.exit_code if pending else 0
    )


async def _roll_out(
    api: "FactoryApi", plan: Plan, target: "Target | None", sending: Sending, *, server_name: str | None
) -> None:
    """Check and ask before the first write of a plan in stages; then continue it from what the Factory has."""
    from fioctl_rotate.cli.rolling import Rolling, roll
    from fioctl_rotate.ops.push import require_same_devices
    from fioctl_rotate.ops.rollout import has_begun
    from fioctl_rotate.ops.targets import read_target

    applied = target is None
    if not await in_time(api, has_begun(api, plan)):
        if target is None:
            target = await in_time(api, read_target(api, plan.scope))
            require_same_devices(plan, target, sending.allow or ())
        plan, _ = await in_time(api, _checked(api, plan, target, sending))
        _ask(plan, sending, "Begin with the first stage?", server_name)
    kept = None if applied else await _keep(api, plan)
    go_on = f"`{_apply_command(kept, plan)}`" if kept else "no command"
    rolling = Rolling(
        sending.interval,
        sending.timeout,
        Format(sending.format),
        sending.junit,
        sending.summary,
        sending.detailed,
        sending.note,
        goes_on="the same command" if applied else go_on,
    )
    await roll(api, plan, rolling)
    if kept is not None:
        kept.unlink(missing_ok=True)


async def _keep(api: "FactoryApi", plan: Plan) -> Path | None:
    """Keep a plan that is in no file. Returns its new file; None, with a warning, if it cannot be written."""
    from fioctl_rotate.ops.plan_file import keep_plan
    from fioctl_rotate.ops.push import made_by

    try:
        return keep_plan(plan.replace(made=await made_by(api)))
    except OSError as error:
        warn(f"the plan cannot be kept: {message_of(error)}")
        return None


def _apply_command(kept: Path, plan: Plan) -> str:
    """The command that continues a kept plan. The command that was typed would begin another rollout."""
    return shlex.join(["fioctl-rotate", "apply", str(kept), *plan.factory_options])


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
    from fioctl_rotate.checks import allow_options, blocking

    findings = await _check(api, plan, target)
    plan = findings.added_to(plan)
    stops = blocking(plan.checks, allow=plan.allow, strict=sending.strict)
    if stops:
        for line in plan_view.check_summary(plan.checks, sys.stderr):
            note(line)
        raise Refused(
            f"nothing was sent because of {', '.join(check.name for check in stops)}",
            hint=f"repair it; or push anyway with {allow_options(stops)}",
        )
    return plan, findings


def _ask(plan: Plan, sending: Sending, question: str, server_name: str | None) -> None:
    """Show on stderr what will be pushed, and ask. In a pipe nothing is asked, and one line is enough."""
    if interactive() and not sending.yes:
        plan_view.note_plan(plan)
    else:
        note(f"about to push {printable(plan_view.summary(plan))}")
        for line in plan_view.check_summary(plan.checks, sys.stderr) if plan.checks else ():
            note(line)
    notes, warnings = plan_view.about(plan, server_name)
    for text in notes:
        note(text)
    for text in warnings:
        warn(text)
    confirm(question, yes=sending.yes)


def _outcome(plan: Plan, sending: Sending, outcome: "Outcome") -> Result:
    """The outcome of a push, what to do next, and an error if the entry is not in force."""
    message = outcome.message(plan)
    repeat = plan.command() + (" --no-checks" if sending.no_checks else "")
    log = commands.config_log(plan.scope, plan.factory_options)
    result = Result(
        {
            "kind": "push",
            **outcome.document(),
            "rotation-id": plan.rotation_id,
            "repeat": repeat,
            **plan.document(),
        },
        warnings=[f"{message}; `{log}` shows who pushed that"] if outcome.replaced else [],
        outcome=message,
    )
    if not outcome.in_force:
        hint = f"`{repeat}` repeats it safely; `{log}` shows what is there"
        if outcome.kind == "replaced":
            another = new_rotation_id(int(time.time()), {plan.rotation_id})
            hint = f"`{log}` shows who replaced it; `{plan.command(another)}` pushes it again"
        return result.replace(error=Error(message, hint=hint))
    done = "already there, nothing sent:" if outcome.kind == "already-there" else "pushed"
    watch = commands.rotations("watch", plan.rotation_id, plan.scope, plan.factory_options)
    return result.replace(
        lines=[wrapped(f"{done} {printable(plan_view.summary(plan))}", stream=result_stream())],
        notes=[
            *([printable(f"{outcome.problem}; it landed anyway")] if outcome.problem else []),
            *([] if sending.wait else [f"watch it with: {watch}"]),
        ],
    )


async def _wait(api: "FactoryApi", plan: Plan, sending: Sending) -> None:
    from fioctl_rotate.cli.watching import Following, follow
    from fioctl_rotate.ops.watch import Watch, open_watch
    from fioctl_rotate.rotation.state import Rotation

    async def find() -> Watch:
        return await open_watch(api, plan.rotation_id, plan.scope)

    following = Following(
        sending.interval, sending.timeout, True, Format(sending.format), sending.junit, sending.summary
    )
    await follow(api, Rotation(plan.rotation_id, plan.scope), find, following)
