"""`rotations`: what became of a rotation on every device."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fioctl_rotate.cli import stopping
from fioctl_rotate.cli.common import (
    GROUP,
    Format,
    FormatOption,
    GroupOption,
    Options,
    YesOption,
    check_lines,
    confirm,
    connected,
    console,
    duration_option,
    emit,
    emit_json,
    group,
    note,
    option,
    settings_of,
    spread,
    table,
    warn,
    with_api,
    wrapped,
)
from fioctl_rotate.cli.planning import REQUEST_OPTIONS, JunitOption
from fioctl_rotate.errors import Refused, UsageError, printable
from fioctl_rotate.rotation.plan import RotationRequest
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.settings import Flags

if TYPE_CHECKING:
    from fioctl_rotate.api.client import FactoryApi
    from fioctl_rotate.ops.push_checks import Findings
    from fioctl_rotate.ops.watch import Snapshot
    from fioctl_rotate.rotation.state import Rotation

app = group("What became of a rotation on every device.")
stopping.add_to(app)

CHECKED = ("server_name", "port", "resource", "pkey_ids", "cert_ids")

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="ROTATIONID; `rotations list` shows them.")]
SCOPE_OPTIONS: Options = {
    "group": GROUP,
    "device": option("--device DEVICE", "One device, in place of a group."),
}


def _scope(group: str | None = None, device: str | None = None) -> Scope:
    if group is not None and device is None:
        return Scope.of_group(group)
    if device is not None and group is None:
        return Scope.of_device(device)
    raise UsageError("name either a group (-g GROUP) or a device (--device DEVICE)")


with_scope = spread("scope", _scope, SCOPE_OPTIONS)
"""Gives a command the options -g and --device, of which one must be given; it receives a `scope`."""


@app.command("list", epilog="Example: fioctl-rotate rotations list -g field")
@connected
@with_scope
def list_rotations(
    flags: Flags,
    scope: Scope,
    format: FormatOption = Format.TEXT,
) -> None:
    """List the rotations of a group or a device, newest first, as far back as the configuration log goes.

    A device's updates are looked at too: they name rotations that no log has any more.
    """

    async def fetch(api: "FactoryApi") -> "list[Rotation]":
        from fioctl_rotate.ops.rotations import of_scope

        return (await of_scope(api, scope))[1]

    found = with_api(settings_of(flags), fetch)
    from fioctl_rotate.rotation import document

    if format is Format.JSON:
        emit_json({"rotations": [document.of_rotation(rotation) for rotation in found]})
        return
    rows = [
        (
            rotation.id,
            document.time_text(rotation.pushed_at) or "before the log",
            "current" if rotation.current else "",
            rotation.reason,
            rotation.est_server,
        )
        for rotation in found
    ]
    console().print(table(("ID", "PUSHED AT", "", "REASON", "EST SERVER"), rows))
    if not found:
        note(f"no rotation is known of {scope}")


@app.command("show", epilog="Example: fioctl-rotate rotations show certs-1763989200 -g field --failed")
@connected
@with_scope
def show(
    flags: Flags,
    rotation_id: IdArgument,
    scope: Scope,
    failed: Annotated[
        bool, option("--failed", "Only devices that are failing, or finalized and not done.")
    ] = False,
    pending: Annotated[bool, option("--pending", "Only devices that show no sign of it.")] = False,
    junit: JunitOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Show the state of a rotation: how many devices stand where, and a row for each.

    pending: no sign of it yet. running k/5: at that step. failing: the newest attempt has a failed step. finalized:
    the device has its new certificate. done: and the gateway has taken it; nothing less is success. Times in SINCE
    are the devices' own.
    """
    wanted = {"failing", "finalized"} if failed else set()
    wanted |= {"pending"} if pending else set()

    async def work(api: "FactoryApi") -> None:
        snapshot = await snapshot_of(api, rotation_id, scope)
        states = [state for state in snapshot.states if not wanted or state.state in wanted]
        if junit is not None:
            from fioctl_rotate.ops.junit import write

            write(junit, snapshot.rotation, states)
        if format is Format.JSON:
            from fioctl_rotate.rotation import document

            emit_json(
                document.of_all(
                    factory=api.factory,
                    server=api.server,
                    rotation=snapshot.rotation,
                    at=snapshot.at,
                    states=states,
                    summary=snapshot.summary,
                )
            )
            return
        from fioctl_rotate.cli.watching import device_table, headline, tell_advice

        emit(printable(headline(api, snapshot.rotation)))
        for line in (_pushed(snapshot.rotation), snapshot.summary.message):
            emit(wrapped(printable(line), stream=sys.stdout))
        emit("")
        console().print(device_table(snapshot.rotation, states))
        tell_advice(api, snapshot.rotation, states)

    with_api(settings_of(flags), work)


@app.command(
    "watch",
    epilog="Example: fioctl-rotate rotations watch certs-1763989200 -g field --exit-status --timeout 1h",
)
@connected
@with_scope
def watch(
    flags: Flags,
    rotation_id: IdArgument,
    scope: Scope,
    interval: Annotated[float, duration_option("--interval", "Polling interval.", shortest=0.05)] = 15.0,
    timeout: Annotated[
        float | None,
        duration_option("--timeout", "Give up after this time, with exit code 4."),
    ] = None,
    exit_status: Annotated[bool, option("--exit-status", "Exit with 3 unless every device is done.")] = False,
    junit: JunitOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Watch a rotation until nothing more is to be expected.

    On a terminal a live view; in a pipe a line a change, with --format json an object a line. It ends when each
    device is done, or will not follow (offline, shadowed, unsupported), or has failed or not come back for 40
    looks. Ctrl-C leaves the rotation alone.
    """

    async def work(api: "FactoryApi") -> None:
        from fioctl_rotate.cli.watching import Watch, follow
        from fioctl_rotate.ops.rotations import find_rotation

        rotation, only = await find_rotation(api, rotation_id, scope)
        tell_unknown(rotation)
        await follow(api, rotation, Watch(interval, timeout, exit_status, format, junit), only=only)

    with_api(settings_of(flags), work)


@app.command("check", epilog="Example: fioctl-rotate rotations check -g field --each-device")
@connected
@spread("wish", RotationRequest, {name: REQUEST_OPTIONS[name] for name in CHECKED}, reason="check")
def check(
    flags: Flags,
    group: GroupOption,
    wish: RotationRequest,
    each_device: Annotated[
        bool,
        option("--each-device", "Ask each device, also where there are more than 200."),
    ] = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Look for what would go wrong if a group were told to rotate now, and send nothing.

    The EST server as devices will see it, certificates that expire too soon, slot ids, an earlier rotation under
    way, and which devices will not follow. Each is a line; exit code 5 where one fails. The rotate-certs commands
    do the same before a push.
    """

    async def work(api: "FactoryApi") -> "Findings":
        from fioctl_rotate.clock import utc_now
        from fioctl_rotate.ops.push import plan_push
        from fioctl_rotate.ops.push_checks import check_push

        now = utc_now()
        plan = await plan_push(api, Scope.of_group(group), wish, unix_seconds=int(now.timestamp()))
        return await check_push(api, plan, now=now, each_device=each_device)

    findings = with_api(settings_of(flags), work)
    if format is Format.JSON:
        emit_json({"ok": not findings.failed, "checks": list(findings.checks)})
    else:
        for line in check_lines(findings.checks, sys.stdout):
            emit(line)
    if findings.failed:
        raise Refused(f"a check failed: group {group} is not ready to rotate")


@app.command("settle", epilog="Example: fioctl-rotate rotations settle certs-1763989200 -g field")
@connected
@with_scope
def settle(
    flags: Flags,
    rotation_id: IdArgument,
    scope: Scope,
    yes: YesOption = False,
) -> None:
    """Have the devices store a rotation's entry, once they are done; to do after each rotation.

    A device that has rotated still stores the configuration of before the push. Without a later change, a reboot
    brings the entry of an earlier rotation back, and the device rotates once more as that says, against the EST
    server of that time. This sends the present entry again, unchanged: devices that are done store it and do no
    more.
    """
    settings = settings_of(flags)
    factory = settings.require_factory()
    confirm(f"Send the entry of {rotation_id} to {scope} of factory {factory} again?", yes=yes)

    async def work(api: "FactoryApi") -> None:
        from fioctl_rotate.ops.push import settle

        await settle(api, scope, rotation_id)

    with_api(settings, work)
    emit(f"settled rotation {rotation_id} of {scope} in factory {factory} at {settings.destination}")


@app.command(
    "report", epilog="Example: fioctl-rotate rotations report certs-1763989200 -g field --html rotation.html"
)
@connected
@with_scope
def report(
    flags: Flags,
    rotation_id: IdArgument,
    html: Annotated[Path, option("--html FILE", "File to write.")],
    scope: Scope,
) -> None:
    """Write a page that a person keeps: how the rotation went, what failed and why, who did not follow.

    One self-contained HTML file that prints well and reads well on a phone.
    """

    async def work(api: "FactoryApi") -> None:
        from fioctl_rotate.files import write_atomic
        from fioctl_rotate.ops.report import render

        snapshot = await snapshot_of(api, rotation_id, scope)
        page = render(snapshot, factory=api.factory, server=api.server)
        write_atomic(html, page.encode(), 0o644)
        emit(f"wrote {html}: {snapshot.summary.message}")

    with_api(settings_of(flags), work)


async def snapshot_of(api: "FactoryApi", rotation_id: str, scope: Scope) -> "Snapshot":
    """One look at a rotation, compared with what earlier looks left on this machine."""
    from fioctl_rotate.cli.watching import tell_asking
    from fioctl_rotate.ops.rotations import find_rotation
    from fioctl_rotate.ops.watch import Watch

    rotation, only = await find_rotation(api, rotation_id, scope)
    tell_unknown(rotation)
    watch = Watch(api, rotation, only=only, asking=tell_asking)
    snapshot = await watch.poll()
    watch.keep()
    for problem in snapshot.problems:
        warn(problem)
    return snapshot


def tell_unknown(rotation: "Rotation") -> None:
    """Say on stderr where no log knows the rotation: a misspelled id looks just like one that nobody follows."""
    if not rotation.est_server:
        warn(f"the configuration log of {rotation.scope} has no rotation {rotation.id}")


def _pushed(rotation: "Rotation") -> str:
    pushed = (
        f"pushed {rotation.pushed_at:%Y-%m-%d %H:%M:%S} UTC"
        if rotation.pushed_at
        else "pushed before the log"
    )
    reason = f", {rotation.reason}" if rotation.reason else ""
    return f"{pushed}{reason}, EST server {rotation.est_server or 'not known'}"
