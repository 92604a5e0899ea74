"""The options that are shared by commands that make a plan or push one."""

import time
from pathlib import Path
from typing import Annotated

import typer

from fioctl_rotate.cli.common import (
    Format,
    Options,
    duration_option,
    option,
    spread,
)
from fioctl_rotate.cli.completion import names
from fioctl_rotate.cli.out_files import JUNIT, SUMMARY, writable
from fioctl_rotate.cli.plan_view import PlanFormat
from fioctl_rotate.errors import UsageError
from fioctl_rotate.rotation.plan import Plan, RotationRequest, make_plan
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.settings import Settings
from fioctl_rotate.value import Value

IdOrPlan = Annotated[
    str,
    typer.Argument(
        metavar="ID|PLAN", help="ROTATIONID, or the file of a plan.", autocompletion=names("rotations")
    ),
]

SENDING_OPTIONS: Options = {
    "format": option("--format", "How to show the plan, or the result."),
    "yes": option("-y --yes", "Do not ask; answer yes."),
    "no_checks": option("--no-checks", "Push without checking first."),
    "allow": option("--allow NAME", "Push although this check fails (repeatable)."),
    "strict": option("--strict", "Let warnings stop a push, too."),
    "wait": option("--wait", "After the push, wait as `rotations watch` does."),
    "timeout": duration_option("--timeout", "--wait, stages: give up after this time, with exit code 4."),
    "interval": duration_option("--interval", "--wait, stages: polling interval [default: 15s].", shortest=0.05),
    "junit": JUNIT,
    "summary": SUMMARY,
    "detailed": option("--detailed-exitcode", "Exit with 6: changes pending (--dryrun), stages in progress."),
}  # fmt: skip

REQUEST_OPTIONS: Options = {
    "reason": option("-r --reason TEXT", "Reason, for the log."),
    "server_name": option("--server-name NAME", "DNS name of your own EST server [default: the managed one's]."),
    "port": option("-p --est-port PORT", "Port of the EST server."),
    "resource": option("-e --est-resource PATH", "Path of the EST resource on the server."),
    "pkey_ids": option("--hsm-pkey-ids ID,ID", "PKCS#11 slot ids for a device's private key."),
    "cert_ids": option("--hsm-cert-ids ID,ID", "PKCS#11 slot ids for a device's certificate."),
    "rotation_id": option("--rotation-id ID", "ROTATIONID, pushed only once [default: certs-<unix time>]."),
}  # fmt: skip

MODE_OPTIONS: Options = {
    "dryrun": option("--dryrun --dry-run", "Show what would be sent, to whom, and send nothing."),
    "offline": option("--offline", "With --dryrun and --server-name: ask the Factory nothing; needs no token."),
    "out": option("--out FILE", "With --dryrun: write the plan to FILE, for `apply`.", callback=writable),
    **SENDING_OPTIONS,
}  # fmt: skip


class Sending(Value):
    """How to push. `timeout` and `interval` (of polling, with `wait`) are in seconds.

    `allow` names checks that may fail; with `strict`, warnings stop a push. `junit` and `summary` are files to
    write at the end of the wait. `note` goes into the reason of each write of a plan in stages.
    """

    format: Format = Format.TEXT
    yes: bool = False
    no_checks: bool = False
    allow: list[str] | None = None
    strict: bool = False
    wait: bool = False
    timeout: float | None = None
    interval: float = 15.0
    junit: Path | None = None
    summary: Path | None = None
    detailed: bool = False
    note: str = ""

    def check(self, *, staged: bool = False) -> None:
        """Raises UsageError for options that make no sense together. A plan in stages is always followed."""
        self.check_waivers()
        for name, given in self._wait_options():
            if given and not (self.wait or staged):
                raise UsageError(f"{name} needs --wait, or a plan in stages")
        if self.summary is not None and not (self.wait or staged):
            raise UsageError("--summary needs --dryrun, --wait, or a plan in stages")
        if self.detailed and not staged:
            raise UsageError("--detailed-exitcode needs --dryrun, or a plan in stages")

    def check_waivers(self) -> None:
        """Raises UsageError for waivers that make no sense together."""
        if self.strict and self.no_checks:
            raise UsageError("--strict cannot be used with --no-checks, which checks nothing")

    def _wait_options(self) -> tuple[tuple[str, bool], ...]:
        return (
            ("--timeout", self.timeout is not None),
            ("--junit", self.junit is not None),
        )


class Modes(Sending):
    """How to run a rotate-certs command: as a push, or as a dry run."""

    format: PlanFormat = PlanFormat.TEXT  # type: ignore[assignment]  # a dry run has one more format
    dryrun: bool = False
    offline: bool = False
    out: Path | None = None

    def check(self, *, staged: bool = False) -> None:
        """Raises UsageError for options that make no sense together."""
        self.check_waivers()
        if not self.dryrun:
            for name, given in (
                ("--offline", self.offline),
                ("--out", self.out is not None),
                ("--format toml", self.format is PlanFormat.TOML),
            ):
                if given:
                    raise UsageError(f"{name} needs --dryrun")
            super().check(staged=staged)
        for name, given in (("--wait", self.wait), *self._wait_options()):
            if given and self.dryrun:
                raise UsageError(f"{name} cannot be used with --dryrun")
        if self.out is not None and self.offline:
            raise UsageError(
                "--out cannot be used with --offline: a plan holds what the target has now, which is not known"
            )
        if self.detailed and self.offline:
            raise UsageError(
                "--detailed-exitcode cannot be used with --offline: what the target has now is not known"
            )


with_request = spread("request", RotationRequest, REQUEST_OPTIONS)
"""Gives a command the options of a rotation; it receives them as one `RotationRequest` in `request`."""

with_modes = spread("modes", Modes, MODE_OPTIONS)
"""Gives a command the options of a push and of a dry run; it receives them as one `Modes` in `modes`."""

with_sending = spread("sending", Sending, SENDING_OPTIONS)
"""Gives a command only the options of a push; it receives them as one `Sending` in `sending`."""


def offline_plan(request: RotationRequest, settings: Settings, scope: Scope) -> Plan:
    """The plan as far as it is known without asking the Factory."""
    return make_plan(
        request,
        factory=settings.require_factory(),
        server=settings.destination,
        scope=scope,
        est_host=str(request.server_name),
        unix_seconds=int(time.time()),
    )


PlanArgument = Annotated[
    Path, typer.Argument(metavar="PLAN", help="Plan that a dry run wrote with --out; `-` reads stdin.")
]


def plan_named(text: str) -> Plan | None:
    """The plan in the file that `text` names, None where it is a ROTATIONID, which has no dot and no slash."""
    if not ("." in text or "/" in text or text == "-"):
        return None
    from fioctl_rotate.ops.plan_file import read_plan

    return read_plan(Path(text)).plan
