"""The options of a rotation in stages, and how its stages are shown in a dry run."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fioctl_rotate.cli.common import Options, Table, duration_option, option, spread
from fioctl_rotate.errors import UsageError, printable
from fioctl_rotate.value import Value

if TYPE_CHECKING:
    from fioctl_rotate.api.client import FactoryApi
    from fioctl_rotate.ops.staging import Staged
    from fioctl_rotate.rotation.plan import Plan

STAGE_OPTIONS: Options = {
    "stages": option("--stages SIZES", "Rotate in stages, such as 1,5%,25%; the last stage is the whole group."),
    "canary": option("--canary DEVICE", "Begin with this device, as an extra first stage (repeatable)."),
    "soak": duration_option("--soak", "With stages: time to wait after each early stage [default: 10m]."),
    "max_failures": option("--max-failures N|P%", "With stages: failures allowed per stage [default: 0]."),
    "stage_timeout": duration_option("--stage-timeout", "Longest time for a stage [default: 24h].", shortest=1.0),
    "clear_older": option("--clear-older", "With stages: delete the group's older entry first, as stage 0."),
    "clear_fleet_wide": option("--clear-fleet-wide", "With stages: delete the fleet-wide entry first, too."),
}  # fmt: skip


class StageOptions(Value):
    """How to rotate in stages, as typed. `soak` and `stage_timeout` are in seconds."""

    stages: str | None = None
    canary: list[str] | None = None
    soak: float | None = None
    max_failures: str | None = None
    stage_timeout: float | None = None
    clear_older: bool = False
    clear_fleet_wide: bool = False

    @property
    def wanted(self) -> bool:
        """Whether stages were asked for."""
        return self.stages is not None or bool(self.canary)

    def check(self) -> None:
        """Raises UsageError for options that are not valid, before any server is asked."""
        given = {
            "--soak": self.soak is not None,
            "--max-failures": self.max_failures is not None,
            "--stage-timeout": self.stage_timeout is not None,
            "--clear-older": self.clear_older,
            "--clear-fleet-wide": self.clear_fleet_wide,
        }
        for name, typed in given.items():
            if typed and not self.wanted:
                raise UsageError(f"{name} needs --stages or --canary")
        if self.wanted:
            from fioctl_rotate.rotation.stages import parse_share, parse_sizes

            if self.stages is not None:
                parse_sizes(self.stages)
            if self.max_failures is not None:
                parse_share(self.max_failures, "--max-failures")

    async def add_to(self, api: "FactoryApi", plan: "Plan") -> "Staged":
        """The plan with stages, and what a reviewer should know. Raises Refused; see `ops.staging`."""
        from fioctl_rotate.clock import utc_now
        from fioctl_rotate.ops.staging import StageRequest, plan_stages
        from fioctl_rotate.rotation import stages

        request = StageRequest(
            sizes=stages.parse_sizes(self.stages) if self.stages is not None else (),
            canaries=self.canary or (),
            soak=int(stages.DEFAULT_SOAK if self.soak is None else self.soak),
            max_failures=stages.parse_share(
                self.max_failures or stages.DEFAULT_MAX_FAILURES, "--max-failures"
            ),
            stage_timeout=int(
                stages.DEFAULT_STAGE_TIMEOUT if self.stage_timeout is None else self.stage_timeout
            ),
            clear_older=self.clear_older,
            clear_fleet_wide=self.clear_fleet_wide,
        )
        return await plan_stages(api, plan, request, now=utc_now())


NO_STAGES = StageOptions()

with_stages = spread("staging", StageOptions, STAGE_OPTIONS)
"""Gives a command the options of stages; it receives them as one `StageOptions` in its parameter `staging`."""


def stage_lines(plan: "Plan") -> "Iterator[str | Table]":
    """The stages of a plan, for people: one row per device of an early stage, then the rules."""
    stages = plan.stages
    if stages is None:
        return
    yield f"In {len(stages.early) + 1} stages, each after the one before it is done:"
    yield Table(("STAGE", "DEVICE", "WHY"), stages.rows())
    yield f"Rules: {stages.rules}"
    yield from map(printable, plan.older_rotation_warnings())


def with_max_failures(plan: "Plan", text: str) -> "Plan":
    """The plan with another number of allowed failures. Raises UsageError."""
    from fioctl_rotate.rotation.stages import parse_share

    if plan.stages is None:
        raise UsageError("--max-failures needs a plan in stages")
    from dataclasses import replace  # only plans with stages need dataclasses

    return plan.replace(stages=replace(plan.stages, max_failures=parse_share(text, "--max-failures")))
