"""How a plan is shown: by a dry run, before a push asks, and by `plan show`."""

import itertools
import shlex
import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TextIO

from fioctl_rotate.cli.common import Result, Table, note, wrapped
from fioctl_rotate.cli.output import result_stream
from fioctl_rotate.cli.stages import stage_lines
from fioctl_rotate.errors import printable
from fioctl_rotate.rotation import entry as entries
from fioctl_rotate.rotation.plan import VERSION, Plan, without_nulls

if TYPE_CHECKING:
    from pathlib import Path

    from fioctl_rotate.checks import Check


class PlanFormat(StrEnum):
    """How a plan is shown."""

    TEXT = "text"
    JSON = "json"
    TOML = "toml"


def plan_result(plan: Plan, plan_format: PlanFormat, file: "Path | None") -> Result:
    """The result of a dry run; `file` is where its plan was written, or None."""
    toml = ""
    if plan_format is PlanFormat.TOML:
        from fioctl_rotate.ops.plan_file import plan_text, to_toml

        # What --out writes; an offline dry run has no plan to apply.
        toml = to_toml(without_nulls(plan.document())) if plan.current is None else plan_text(plan)
    document = plan_document(plan) if plan_format is PlanFormat.JSON else None
    return Result(
        document,
        itertools.chain(plan_lines(plan, result_stream()), push_lines(plan, file)),
        toml=toml.rstrip("\n"),
    )


def plan_document(plan: Plan) -> dict[str, Any]:
    """The plan as JSON, with its digest; an offline one can't be applied, and has none."""
    document = plan.document()
    if plan.current is None:
        return document
    changed = not plan.already_there
    return {**document, "plan": {"version": VERSION, "digest": plan.digest}, "changed": changed}


def plan_lines(plan: Plan, stream: TextIO | None) -> Iterator[str | Table]:
    """The plan for people: what goes to whom, how that differs from now, what the checks said, who won't follow."""
    for line in _plan_lines(plan, stream):
        # Lines of the entry stay as they are, and so do those of checks, which are broken already.
        if isinstance(line, Table) or line.startswith("\t") or "\n" in line:
            yield line
        else:
            yield wrapped(line, stream=stream)


def _plan_lines(plan: Plan, stream: TextIO | None) -> Iterator[str | Table]:
    yield printable(f"Would send {summary(plan)}")
    yield printable(f"Reason: {plan.reason}")
    if plan.made is not None:
        by = f" by {plan.made.by}" if plan.made.by else ""
        yield printable(f"Made{by} at {plan.made.at} with fioctl-rotate {plan.made.version}")
    yield f"\t{entries.FILE_NAME} - [{entries.HANDLER}]"
    for line in plan.entry.render().splitlines():
        yield f"\t | {line}"
    yield ""
    yield plan.compared
    for line in plan.changes() if plan.current and plan.current.file and not plan.already_there else ():
        yield f"\t {printable(line)}"
    if plan.stages is not None:
        yield ""
        yield from stage_lines(plan)
    if plan.checks:
        yield ""
        yield from _checked(plan, stream)
    for of in plan.not_following:
        yield printable(f"Will not follow: {of}")
    if plan.current is not None:
        yield ""
        yield f"Digest: {plan.digest}"


def push_lines(plan: Plan, file: "Path | None") -> Iterator[str]:
    """How to push just this plan; `file` is where it was written, or None."""
    if file is None and plan.stages is not None:
        yield "To push just this, write it with --out FILE, and apply that."
        return
    command = plan.command()
    if file is not None:
        words = ["fioctl-rotate", "apply", str(file), "--digest", plan.digest, *plan.factory_options]
        command = shlex.join(words)
    yield "To push just this:"
    yield f"  {printable(command)}"


def note_plan(plan: Plan) -> None:
    """Write `plan_lines` to stderr, before the question whether to push."""
    for line in plan_lines(plan, sys.stderr):
        for text in line.lines(sys.stderr) if isinstance(line, Table) else [line]:
            note(text)


def check_summary(checks: "tuple[Check, ...]", stream: TextIO | None) -> Iterator[str]:
    """A line for each check that did not pass, and how many did."""
    from fioctl_rotate.checks import Status
    from fioctl_rotate.cli.common import check_lines

    open_checks = [check for check in checks if check.status is not Status.PASS]
    yield from check_lines(open_checks, stream)
    yield f"{len(checks) - len(open_checks)} of {len(checks)} checks passed"


def about(plan: Plan, server_name: str | None) -> tuple[list[str], list[str]]:
    """What a person should know of a plan before it is sent: notes and warnings."""
    notes = []
    if server_name and plan.entry.host != server_name:
        notes.append(f"EST server name {printable(server_name)} is sent as {plan.entry.host}")
    warnings = entries.slot_warnings(plan.entry)
    scope = plan.scope
    if not scope.shared:
        group = f" `{plan.of_group}`" if plan.of_group else ""
        command = shlex.join([*scope.config_command("delete"), entries.FILE_NAME])
        own = f"with an entry of its own, {scope.name} will no longer follow its group{group}"
        return notes, [*warnings, f"{own}; delete the entry to have it follow again: {command}"]
    notes.append(f"devices that join {printable(str(scope))} later will get this entry too, and rotate then")
    if plan.devices == 0:
        warnings = [*warnings, f"{scope} has no devices: no device would rotate now"]
    return notes, warnings


def summary(plan: Plan) -> str:
    """One line: what goes to whom, where."""
    devices = {None: "an unknown number of devices", 1: "1 device"}.get(
        plan.devices, f"{plan.devices} devices"
    )
    return (
        f"rotation {plan.rotation_id} to {plan.scope} ({devices}) of factory {plan.factory} at {plan.server}, "
        f"EST server {plan.entry.est_server}"
    )


def _checked(plan: Plan, stream: TextIO | None) -> Iterator[str]:
    from fioctl_rotate.checks import blocking

    yield from check_summary(plan.checks, stream)
    if plan.allow:
        yield f"Allowed to fail: {', '.join(plan.allow)}"
    stops = ", ".join(check.name for check in blocking(plan.checks, allow=plan.allow))
    if stops:
        yield f"A push is refused because of {stops}; --allow NAME waives one check."
