"""`rotations`: the state of a rotation on every device."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fioctl_rotate.cli import due, stopping
from fioctl_rotate.cli.apply import settings_for
from fioctl_rotate.cli.common import (
    Format,
    FormatOption,
    GroupOption,
    Result,
    Table,
    YesOption,
    check_lines,
    confirm,
    connect,
    connected,
    done,
    duration_option,
    group,
    open_api,
    option,
    spread,
    wrapped,
)
from fioctl_rotate.cli.naming import IdArgument, with_any_scope, with_scope
from fioctl_rotate.cli.out_files import (
    JunitOption,
    SummaryOption,
    require_new,
    summarize_checks,
    writable,
    write_out,
)
from fioctl_rotate.cli.planning import REQUEST_OPTIONS, IdOrPlan, plan_named
from fioctl_rotate.cli.rotation_view import device_lines, pushed_line, snapshot_of, status_of
from fioctl_rotate.errors import Refused, UsageError, printable
from fioctl_rotate.rotation.plan import RotationRequest
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.settings import Flags

if TYPE_CHECKING:
    from fioctl_rotate.api.client import FactoryApi
    from fioctl_rotate.ops.watch import Snapshot

app = group("The state of a rotation on every device.")

NOT_DONE = "not-done"
"""The name with which --allow settles although devices are not done."""

CONCURRENCY = 32
"""Requests at the same time, unless --concurrency says otherwise."""

ConcurrencyOption = Annotated[
    int, option("--concurrency N", "Most requests at the same time.", min=1, max=256)
]

CHECKED = ("server_name", "port", "resource", "pkey_ids", "cert_ids")


@app.command("list", epilog="Example: fioctl-rotate rotations list")
@connected
@with_any_scope
async def list_rotations(flags: Flags, scope: Scope | None) -> Result:
    """List the rotations of all groups, of one group, or of a device, newest first.

    The list goes back as far as the configuration logs. Without -g and --device, DONE is read for the current
    rotation of each group; for other rotations it is what this machine saw last. With --device the device's updates
    are read too: they name rotations that are no longer in a log.
    """
    from fioctl_rotate.ops import overview
    from fioctl_rotate.rotation import document

    async with connect(flags) as api:
        listed = await overview.rotations(api, scope)
    rows = (
        (
            found.rotation.id,
            *([] if scope else [str(found.rotation.scope)]),
            document.time_text(found.rotation.pushed_at) or "before the log",
            "" if found.total is None else f"{found.done} of {found.total}",
            status_of(found.rotation),
            found.rotation.reason,
            *([found.rotation.est_server] if scope else []),
        )
        for found in listed
    )
    headers = ("ID", *([] if scope else ["TARGET"]), "PUSHED AT", "DONE", "STATUS", "REASON")
    early = "; one in its early stages is not listed: `rotations show` takes its plan, or its ID with -g"
    return Result(
        {
            "rotations": [
                {**document.of_rotation(found.rotation), "done": found.done, "total": found.total}
                for found in listed
            ]
        },
        [Table((*headers, "EST SERVER") if scope else headers, rows)],
        [] if listed else [f"{scope or 'this factory'} has no rotation{early}"],
    )


@app.command("show", epilog="Example: fioctl-rotate rotations show certs-1763989200 --failed")
@connected
@with_any_scope
async def show(
    flags: Flags,
    rotation_id: IdOrPlan,
    scope: Scope | None,
    failed: Annotated[
        bool, option("--failed", "Only devices that are failing, or finalized and not done.")
    ] = False,
    pending: Annotated[bool, option("--pending", "Only devices that have not begun.")] = False,
    every: Annotated[bool, option("--all", "Every device, also if they do not fit on the screen.")] = False,
    concurrency: ConcurrencyOption = CONCURRENCY,
    junit: JunitOption = None,
    summary: SummaryOption = None,
) -> Result:
    """Show the state of a rotation: how many devices are in each state, and a row for each, failing ones first.

    pending: it has not begun. running k/5: at that step. failing: the newest attempt has a failed step. finalized:
    the device has its new certificate. done: the gateway has accepted that; only this is success. left: no longer
    in the group. Times in SINCE are the devices' own.
    """
    from fioctl_rotate.cli.watching import advice_lines, failure_of, headline, write_files
    from fioctl_rotate.rotation import document
    from fioctl_rotate.rotation.messages import by_urgency

    if (plan := plan_named(rotation_id)) is not None:
        if plan.stages is not None:
            async with open_api(settings_for(flags, plan)) as api:
                from fioctl_rotate.cli import rolling

                return await rolling.shown(api, plan, junit=junit, summary=summary)
        rotation_id, scope = plan.rotation_id, plan.scope
    wanted = {"failing", "finalized"} if failed else set()
    wanted |= {"pending"} if pending else set()
    async with connect(flags) as api:
        snapshot = await snapshot_of(api, rotation_id, scope, concurrency)
    states = by_urgency(state for state in snapshot.states if not wanted or state.state in wanted)
    write_files(api, replace(snapshot, states=states), junit=junit, summary=summary)
    rotation = snapshot.rotation
    heading = (headline(api, rotation), pushed_line(rotation), snapshot.message)
    return Result(
        document.of_all(
            factory=api.factory,
            server=api.server,
            rotation=rotation,
            at=snapshot.at,
            states=states,
            summary=snapshot.summary,
        ),
        [
            *(wrapped(printable(line), stream=sys.stdout) for line in heading),
            "",
            *device_lines(rotation, states, every=every, now=snapshot.at.year),
        ],
        advice_lines(api, rotation, states),
        error=failure_of(snapshot, exit_status=False),
    )


@app.command(
    "watch",
    epilog="Example: fioctl-rotate rotations watch certs-1763989200 --exit-status --timeout 1h",
)
@connected
@with_any_scope
async def watch(
    flags: Flags,
    rotation_id: IdOrPlan,
    scope: Scope | None,
    interval: Annotated[
        float, duration_option("--interval", "Polling interval [default: 15s].", shortest=0.05)
    ] = 15.0,
    timeout: Annotated[
        float | None,
        duration_option("--timeout", "Give up after this time, with exit code 4."),
    ] = None,
    exit_status: Annotated[bool, option("--exit-status", "Exit with 3 unless every device is done.")] = False,
    concurrency: ConcurrencyOption = CONCURRENCY,
    junit: JunitOption = None,
    summary: SummaryOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Watch a rotation until no device can get any further.

    On a terminal it is a live view. In a pipe it prints one line per change, with --format json one object per
    line. It ends when each device is done, does not follow (offline, shadowed, unsupported, silent), or has failed
    or stayed away for 40 polls. However it ends, also by --timeout or a signal, the summary and the files are
    written. The rotation itself goes on.
    """
    from fioctl_rotate.cli.watching import Following, follow
    from fioctl_rotate.ops.at_once import Pace
    from fioctl_rotate.ops.watch import Watch, open_watch
    from fioctl_rotate.rotation.state import Rotation

    if (plan := plan_named(rotation_id)) is not None:
        if plan.stages is not None:
            async with open_api(settings_for(flags, plan), timeout=timeout) as api:
                from fioctl_rotate.cli import rolling

                how = rolling.Rolling(interval, timeout, format, junit, summary, send=False)
                await rolling.roll(api, plan, how)
            return
        rotation_id, scope = plan.rotation_id, plan.scope
    following = Following(interval, timeout, exit_status, format, junit, summary)
    async with connect(flags, timeout=timeout) as api:

        async def find() -> Watch:
            return await open_watch(api, rotation_id, scope, pace=Pace(concurrency))

        await follow(api, Rotation(rotation_id, scope or Scope.unknown()), find, following)


@app.command("check", epilog="Example: fioctl-rotate rotations check -g field --each-device")
@connected
@spread("request", RotationRequest, {name: REQUEST_OPTIONS[name] for name in CHECKED}, reason="check")
async def check(
    flags: Flags,
    group: GroupOption,
    request: RotationRequest,
    each_device: Annotated[
        bool,
        option("--each-device", "Read each device, also if there are more than 200."),
    ] = False,
    allow: Annotated[list[str] | None, option("--allow NAME", "Let this check fail (repeatable).")] = None,
    strict: Annotated[bool, option("--strict", "Let warnings count as failures.")] = False,
    summary: SummaryOption = None,
) -> Result:
    """Check what would go wrong if a group rotated now, and send nothing.

    It checks the EST server as devices will see it, certificates that expire too soon, slot ids, an earlier
    rotation under way, and which devices will not follow. Each check is one line; exit code 5 if one fails. The
    rotate-certs commands make the same checks before a push.
    """
    from fioctl_rotate.checks import allow_options, blocking
    from fioctl_rotate.clock import utc_now
    from fioctl_rotate.ops.push import plan_push
    from fioctl_rotate.ops.push_checks import check_names, check_push

    now, scope, waived = utc_now(), Scope.of_group(group), check_names(allow or ())
    async with connect(flags) as api:
        plan, target = await plan_push(api, scope, request, unix_seconds=int(now.timestamp()))
        findings = await check_push(api, plan, target, now=now, each_device=each_device)
    stops = blocking(findings.checks, allow=waived, strict=strict)
    error = Refused(
        f"group {group} is not ready to rotate because of {', '.join(check.name for check in stops)}",
        hint=f"repair it; or let it pass, here and in the push, with {allow_options(stops)}",
    )
    result = Result(
        {"ok": not stops, "checks": list(findings.checks), "allow": list(waived)},
        check_lines(findings.checks, sys.stdout),
        notes=[f"allowed to fail: {', '.join(waived)}"] if waived else [],
        error=error if stops else None,
    )
    summarize_checks(summary, f"Check of group {group} before a rotation", findings.checks, result)
    return result


@app.command("settle", epilog="Example: fioctl-rotate rotations settle certs-1763989200 -g field")
@connected
@with_scope
async def settle(
    flags: Flags,
    rotation_id: IdArgument,
    scope: Scope,
    yes: YesOption = False,
    allow: Annotated[
        list[str] | None, option("--allow NAME", f"Settle although devices are not done: {NOT_DONE}.")
    ] = None,
) -> Result:
    """Make devices that are done store the rotation's entry. Do this after each rotation.

    A device that has rotated still stores the configuration from before the push. Without a later change, a reboot
    brings back the entry of an earlier rotation, and the device rotates once more, with the EST server in that
    entry. This command sends the present entry again, unchanged: devices that are done store it and do nothing
    else. Refused (5) while a device that follows is not done.
    """
    from fioctl_rotate.ops.push import require_present, settle
    from fioctl_rotate.ops.push_checks import check_names

    waived = check_names(allow or (), (NOT_DONE,))
    async with connect(flags) as api:
        await require_present(api, scope, rotation_id)
        if NOT_DONE not in waived:
            _require_done(api, await snapshot_of(api, rotation_id, scope, CONCURRENCY))
            import asyncio

            # Changes have whole seconds: a device misses one of the second in which it took its last step.
            await asyncio.sleep(1)
        confirm(f"Send the entry of {rotation_id} to {scope} of factory {api.factory} again?", yes=yes)
        await settle(api, scope, rotation_id)
        document = {"kind": "settle", "rotation-id": rotation_id}
        return done(api, f"settled rotation {rotation_id} of {scope}", **document)


@app.command("report", epilog="Example: fioctl-rotate rotations report certs-1763989200 --html rotation.html")
@connected
@with_any_scope
async def report(
    flags: Flags,
    rotation_id: IdOrPlan,
    scope: Scope | None,
    html: Annotated[Path | None, option("--html FILE", "HTML page to write.", callback=writable)] = None,
    csv: Annotated[
        Path | None, option("--csv FILE", "CSV file to write, a row for each device.", callback=writable)
    ] = None,
    force: Annotated[bool, option("--force", "Overwrite files that exist.")] = False,
    concurrency: ConcurrencyOption = CONCURRENCY,
) -> Result:
    """Write a self-contained HTML report: how the rotation went, what failed and why, who did not follow.

    The page is made for paper and phones, too. The devices of a large fleet are grouped by what they have in
    common; --csv writes a row for each of them.
    """
    from fioctl_rotate.cli.watching import failure_of
    from fioctl_rotate.ops import report as ops
    from fioctl_rotate.ops.configs import user_names

    written = [path for path in (html, csv) if path is not None]
    if not written:
        raise UsageError("name a file to write: --html FILE or --csv FILE")
    if not force:
        for path in written:
            require_new(path)
    plan = plan_named(rotation_id)
    if plan is not None:
        rotation_id, scope = plan.rotation_id, plan.scope
    stages: list[tuple[str, str, str, str]] = []
    async with connect(flags) if plan is None else open_api(settings_for(flags, plan)) as api:
        if plan is not None and plan.stages is not None:
            from fioctl_rotate.cli import rolling

            stages, snapshot = await rolling.stage_rows(api, plan)
        else:
            snapshot = await snapshot_of(api, rotation_id, scope, concurrency)
        names = await user_names(api) if snapshot.rotation.pushed_by else {}
    if html is not None:
        page = ops.render(snapshot, factory=api.factory, server=api.server, users=names, stages=stages)
        write_out(html, page)
    if csv is not None:
        write_out(csv, ops.table(snapshot))
    error = failure_of(snapshot, exit_status=False)
    files = [str(path) for path in written]
    return Result({"files": files}, [f"wrote {' and '.join(files)}: {snapshot.message}"], error=error)


stopping.add_to(app)
due.add_to(app)


def _require_done(api: "FactoryApi", snapshot: "Snapshot") -> None:
    """Refuse to settle while a device may still change: it would miss this for what it stores at its end."""
    from fioctl_rotate.rotation import commands
    from fioctl_rotate.rotation.state import Reason, State

    apart = (Reason.SHADOWED, Reason.UNSUPPORTED)
    open_states = [
        state
        for state in snapshot.states
        if state.state not in (State.DONE, State.LEFT) and state.reason not in apart
    ]
    if open_states:
        where = commands.factory_options(api.factory, api.server)
        show = commands.rotations("show", snapshot.rotation.id, snapshot.rotation.scope, where)
        devices = "1 device is" if len(open_states) == 1 else f"{len(open_states)} devices are"
        raise Refused(
            f"{devices} not done: {snapshot.message}",
            hint=f"`{show}` shows them; `--allow {NOT_DONE}` settles now, and once more when they are done",
        )
