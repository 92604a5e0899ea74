"""What both rotate-certs commands share: their options, and how a plan is shown."""

import shlex
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fioctl_rotate.cli.common import (
    Format,
    Options,
    Result,
    duration_option,
    emit,
    emit_json,
    note,
    option,
    spread,
    warn,
    wrapped,
)
from fioctl_rotate.cli.stages import stage_lines
from fioctl_rotate.errors import UsageError, printable
from fioctl_rotate.rotation import entry as entries
from fioctl_rotate.rotation.plan import Plan, RotationRequest, make_plan, to_file, without_nulls
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.settings import Settings
from fioctl_rotate.value import Value

if TYPE_CHECKING:
    from collections.abc import Mapping


class PlanFormat(StrEnum):
    """How a plan is shown."""

    TEXT = "text"
    JSON = "json"
    TOML = "toml"


def _in_a_folder(path: Path | None) -> Path | None:
    """A file that is written at the end of a watch: hours later is too late to say that it cannot be."""
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent}")
    return path


JUNIT = typer.Option(
    "--junit", metavar="FILE", callback=_in_a_folder, help="Write JUnit XML too, one case a device."
)
JunitOption = Annotated[Path | None, JUNIT]
SUMMARY = typer.Option(
    "--summary", metavar="FILE", callback=_in_a_folder, help="Add a summary to FILE, as Markdown."
)
SummaryOption = Annotated[Path | None, SUMMARY]

SENDING_OPTIONS: Options = {
    "format": option("--format", "How to show the plan, or the result."),
    "yes": option("-y --yes", "Do not ask; answer yes."),
    "no_checks": option("--no-checks", "Push without the checks before it."),
    "wait": option("--wait", "After the push, wait as `rotations watch` does."),
    "timeout": duration_option("--timeout", "With --wait: give up, with exit code 4."),
    "interval": duration_option("--interval", "With --wait: polling interval.", shortest=0.05),
    "junit": JUNIT,
    "detailed": option("--detailed-exitcode", "With stages: exit code 6, not 4, when --timeout is over."),
}  # fmt: skip

REQUEST_OPTIONS: Options = {
    "reason": option("-r --reason TEXT", "Why; goes into the log."),
    "server_name": option("--server-name NAME", "DNS name of your own EST server [default: the managed one's]."),
    "port": option("-p --est-port PORT", "Port of the EST server."),
    "resource": option("-e --est-resource PATH", "Path of the EST resource on the server."),
    "pkey_ids": option("--hsm-pkey-ids ID,ID", "PKCS#11 slot ids for a device's private key."),
    "cert_ids": option("--hsm-cert-ids ID,ID", "PKCS#11 slot ids for a device's certificate."),
    "rotation_id": option("--rotation-id ID", "ROTATIONID [default: certs-<unix time>]; pushed once."),
}  # fmt: skip

MODE_OPTIONS: Options = {
    "dryrun": option("--dryrun --dry-run", "Show what would be sent, to whom, and send nothing."),
    "offline": option("--offline", "With --dryrun and --server-name: ask the Factory nothing; needs no token."),
    "out": option("--out FILE", "With --dryrun: write the plan to FILE, for `apply`."),
    **SENDING_OPTIONS,
}  # fmt: skip


class Sending(Value):
    """How a push shall go about it. `timeout` and `interval` (between two looks, with `wait`) are in seconds.

    `junit` is the file to write at the end of the wait. `note` goes into the reason of each write of a plan in
    stages.
    """

    format: Format = Format.TEXT
    yes: bool = False
    no_checks: bool = False
    wait: bool = False
    timeout: float | None = None
    interval: float = 15.0
    junit: Path | None = None
    detailed: bool = False
    note: str = ""

    def check(self, *, staged: bool = False) -> None:
        """Refuse options that make no sense together (UsageError). A plan in stages is always followed."""
        for name, given in self._of_a_wait():
            if given and not (self.wait or staged):
                raise UsageError(f"{name} goes with --wait, or with a plan in stages")
        if self.detailed and not staged:
            raise UsageError("--detailed-exitcode goes with a plan in stages")

    def _of_a_wait(self) -> tuple[tuple[str, bool], ...]:
        return ("--timeout", self.timeout is not None), ("--junit", self.junit is not None)


class Modes(Sending):
    """How a rotate-certs command shall go about it: a push, or a dry run."""

    format: PlanFormat = PlanFormat.TEXT  # type: ignore[assignment]  # a dry run has one format more
    dryrun: bool = False
    offline: bool = False
    out: Path | None = None

    def check(self, *, staged: bool = False) -> None:
        """Refuse options that make no sense together (UsageError)."""
        if not self.dryrun:
            for name, given in (
                ("--offline", self.offline),
                ("--out", self.out is not None),
                ("--format toml", self.format is PlanFormat.TOML),
            ):
                if given:
                    raise UsageError(f"{name} goes with --dryrun")
            super().check(staged=staged)
        for name, given in (("--wait", self.wait), *self._of_a_wait()):
            if given and self.dryrun:
                raise UsageError(f"{name} does not go with --dryrun")
        if self.out is not None and self.offline:
            raise UsageError(
                "--out does not go with --offline: a plan holds what the target has now, and nobody was asked"
            )


with_wish = spread("wish", RotationRequest, REQUEST_OPTIONS)
"""Gives a command the options of a wish; it receives them as one `RotationRequest` in its parameter `wish`."""

with_modes = spread("modes", Modes, MODE_OPTIONS)
"""Gives a command the options of how to go about it; it receives them as one `Modes` in `modes`."""

with_sending = spread("sending", Sending, SENDING_OPTIONS)
"""Gives a command the options of a push alone; it receives them as one `Sending` in `sending`."""


def offline_plan(request: RotationRequest, settings: Settings, scope: Scope) -> Plan:
    """The plan as far as it can be told without asking anybody."""
    return make_plan(
        request,
        factory=settings.require_factory(),
        server=settings.destination,
        scope=scope,
        est_host=str(request.server_name),
        unix_seconds=int(time.time()),
    )


def tell_about(plan: Plan, server_name: str | None) -> None:
    """What a person should know of a plan before it is sent, on stderr."""
    if server_name and plan.entry.host != server_name:
        note(f"EST server name {printable(server_name)} goes out as {plan.entry.host}")
    for text in entries.slot_warnings(plan.entry):
        warn(text)
    scope = plan.scope
    if not scope.shared:
        group = f" `{plan.of_group}`" if plan.of_group else ""
        command = shlex.join([*scope.config_command("delete"), entries.FILE_NAME])
        warn(
            f"with an entry of its own, {scope.name} will no longer follow its group{group}; delete the entry to "
            f"have it follow again: {command}"
        )
        return
    note(f"devices that join {printable(str(scope))} later will get this entry too, and rotate then")
    if plan.devices == 0:
        warn(f"{scope} has no devices: nobody would rotate now")


def summary(plan: Plan) -> str:
    """One line: what goes to whom, where."""
    devices = {None: "an unknown number of devices", 1: "1 device"}.get(
        plan.devices, f"{plan.devices} devices"
    )
    return (
        f"rotation {plan.rotation_id} to {plan.scope} ({devices}) of factory {plan.factory} at {plan.server}, "
        f"EST server {plan.entry.est_server}"
    )


def show_plan(plan: Plan, plan_format: PlanFormat) -> None:
    """The dry run, to stdout."""
    if plan_format is PlanFormat.JSON:
        emit_json(plan.document())
    elif plan_format is PlanFormat.TOML:
        emit(to_toml(without_nulls(plan.document())).rstrip("\n"))
    else:
        _show_text(plan)


def save_plan(plan: Plan, path: Path) -> None:
    """Write the plan's file, for `apply`."""
    from fioctl_rotate.files import write_atomic

    head = f"# {printable(summary(plan))}\n# Review it, then: {printable(apply_command(path))}\n"
    write_atomic(path, (head + to_toml(to_file(plan))).encode(), 0o644)


def apply_command(path: Path) -> str:
    """The command line that pushes the plan in that file."""
    return shlex.join(["fioctl-rotate", "apply", str(path)])


def to_toml(document: "Mapping[str, Any]") -> str:
    """A document as TOML; the entry's value spans lines, so that it can be read and compared."""
    import tomllib

    import tomli_w

    text = tomli_w.dumps(document, multiline_strings=True)
    # In strings that span lines tomli-w writes CR LF as LF: where somebody's entry has one, none may span lines.
    return text if tomllib.loads(text) == document else tomli_w.dumps(document)


def _show_text(plan: Plan) -> None:
    emit(wrapped(f"Would send {printable(summary(plan))}", stream=sys.stdout))
    emit(f"Reason: {printable(plan.reason)}")
    emit(f"\t{entries.FILE_NAME} - [{entries.HANDLER}]")
    for line in plan.entry.render().splitlines():
        emit(f"\t | {line}")
    emit("")
    if plan.current is None:
        emit("Not compared with what is there now: the Factory was not asked.")
    elif plan.already_there:
        emit(f"The {plan.scope.kind} has just this entry: a push would send nothing.")
    elif plan.current.file is None:
        emit(f"The {plan.scope.kind} has no {entries.FILE_NAME} now.")
    else:
        emit(f"Compared with what the {plan.scope.kind} has now:")
        for line in plan.changes():
            emit(f"\t {printable(line)}")
    emit("")
    Result(None, stage_lines(plan)).show_text()
    if plan.stages:
        emit("")
        emit("Write it with --out, review it, and push it with `fioctl-rotate apply FILE`.")
        return
    emit("To push just this:")
    emit(f"  {printable(plan.command())}")
