"""Shows a rollout in stages: one line per change, as text or JSON, or a live view on a terminal."""

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fioctl_rotate.cli.common import Format, Result, Table, emit, note, warn
from fioctl_rotate.cli.live import Screen
from fioctl_rotate.cli.output import REHEARSAL
from fioctl_rotate.cli.reading import READING, can_redraw
from fioctl_rotate.duration import elapsed_text
from fioctl_rotate.errors import DeviceFailed, InProgress, Refused, TimedOut, printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from rich.console import RenderableType

    from fioctl_rotate.api.client import FactoryApi
    from fioctl_rotate.ops.rollout import Step
    from fioctl_rotate.ops.watch import Snapshot
    from fioctl_rotate.rotation.plan import Plan
    from fioctl_rotate.rotation.stage_states import Rollout


STAGES = ("STAGE", "STATUS", "DONE", "DEVICES")


@dataclass(frozen=True)
class Rolling:
    """How to follow a rollout.

    `interval` is in seconds, and so is `timeout`, which began with the connection (`api.deadline`). `junit` and
    `summary` are files to write.

    With `detailed`, a run that times out ends with exit code 6, or with 4 if a step fails. `note` goes into the
    reason of each write; without `send` nothing is written. A `rehearsal` is marked as one. `goes_on` names the
    command that continues the rollout after this run.
    """

    interval: float = 15.0
    timeout: float | None = None
    format: Format = Format.TEXT
    junit: Path | None = None
    summary: Path | None = None
    detailed: bool = False
    note: str = ""
    send: bool = True
    rehearsal: bool = False
    goes_on: str = "the same command"


async def roll(api: "FactoryApi", plan: "Plan", rolling: Rolling) -> None:
    """Bring a plan with stages to its end, and show the progress.

    Raises DeviceFailed where a stage failed, TimedOut or InProgress when the time of this run is over, and Refused
    where somebody else changed what the plan relies on. The summary and the JUnit file are written in each case.
    """
    from fioctl_rotate.ops.rollout import roll_out, rollout_of
    from fioctl_rotate.rotation.rollout import Verdict

    view = view_of(api, plan, rolling)
    timed_out = False
    limit = asyncio.timeout_at(api.deadline)
    try:
        with view:
            try:
                async with limit:
                    await roll_out(
                        api,
                        plan,
                        interval=rolling.interval,
                        show=view.show,
                        sent=view.sent,
                        note=rolling.note,
                        send=rolling.send,
                    )
            except TimeoutError:
                if not limit.expired():
                    raise
                timed_out = True
            except TimedOut:
                timed_out = True
    except asyncio.CancelledError:
        note(f"the rollout stays as it is; {rolling.goes_on} goes on with it")
        raise
    finally:
        view.end()
        if view.last:
            write_files(api, plan, view.last, rolling.junit, rolling.summary)
    last = view.last
    if timed_out:
        state = stage_of(last, rollout_of(plan)) if last else "not read yet"
        in_order = rolling.detailed and not (last and _failing(last))
        error = InProgress if in_order else TimedOut
        raise error(
            f"time ran out after {rolling.timeout:g} s: {state}",
            hint=f"{rolling.goes_on} goes on from what the Factory has",
        )
    if last is not None and last.decision.verdict is Verdict.FAILED:
        from fioctl_rotate.rotation import commands

        where = commands.factory_options(api.factory, api.server)
        stop = commands.rotations("stop", plan.rotation_id, plan.scope, where)
        whole_group = last.decision.stage == rollout_of(plan).last
        raise DeviceFailed(
            last.decision.message + ("" if whole_group else "; no other device gets the entry"),
            hint=f"`--max-failures N` allows more failures; `{stop}` takes the entry back",
        )


def _head(api: "FactoryApi", plan: "Plan") -> str:
    return f"Rotation {plan.rotation_id} of {plan.scope} in stages, factory {api.factory} at {api.server}"


def write_files(
    api: "FactoryApi",
    plan: "Plan",
    step: "Step",
    junit: Path | None,
    summary: Path | None,
    mark: str = "",
) -> None:
    """Write the rollout as JUnit XML and as Markdown, if asked for; `mark` stands before their titles."""
    from fioctl_rotate.cli.out_files import write_out
    from fioctl_rotate.ops import markdown
    from fioctl_rotate.ops.junit import render_rollout
    from fioctl_rotate.ops.rollout import rollout_of
    from fioctl_rotate.rotation import rollout_document as document

    rollout = rollout_of(plan)
    if junit is not None:
        write_out(junit, render_rollout(rollout, step.decision, step.picture, mark=mark))
    if summary is not None:
        rows = list(document.rows(rollout, step.decision, step.picture))
        head, decision = mark + _head(api, plan), step.decision
        state = f"{decision.verdict}, stage {decision.stage} of {rollout.last}"
        write_out(summary, markdown.of_rollout(head, state, rows, decision.message), append=True)


async def shown(
    api: "FactoryApi", plan: "Plan", *, junit: Path | None = None, summary: Path | None = None
) -> Result:
    """The state of the rollout, one row per stage, from one poll. Nothing is sent."""
    from fioctl_rotate.rotation import rollout_document as document
    from fioctl_rotate.rotation.rollout import Verdict

    rollout, step = await _one_poll(api, plan)
    write_files(api, plan, step, junit, summary)
    rows = document.rows(rollout, step.decision, step.picture)
    head = _head(api, plan)
    devices = [
        document.of_staged_device(stage.number, staged)
        for stage in step.decision.stages
        for staged in stage.devices
    ]
    bad = {Verdict.FAILED: DeviceFailed, Verdict.REFUSED: Refused}.get(step.decision.verdict)
    return Result(
        {
            "factory": api.factory,
            "server": api.server,
            **document.of_decision(rollout, step.decision, step.picture),
            "devices": devices,
        },
        [
            printable(head),
            f"{step.decision.verdict}, stage {step.decision.stage} of {rollout.last}",
            "",
            Table(STAGES, rows),
        ],
        warnings=step.problems,
        error=bad(step.decision.message) if bad else None,
    )


async def stage_rows(api: "FactoryApi", plan: "Plan") -> "tuple[list[tuple[str, str, str, str]], Snapshot]":
    """For a report: one row per stage (number, status, how many are done, who is not), and the group's devices.

    The group's log does not have the rotation before the last stage, so what is said of it comes from the plan.
    """
    from fioctl_rotate.ops.watch import Watch
    from fioctl_rotate.rotation.rollout_document import rows
    from fioctl_rotate.rotation.state import Rotation

    rollout, step = await _one_poll(api, plan)
    rotation = Rotation(
        plan.rotation_id,
        plan.scope,
        est_server=plan.entry.est_server,
        pushed_at=step.picture.group.given_at,
        reason=plan.reason,
    )
    return list(rows(rollout, step.decision, step.picture)), await Watch(api, rotation).poll()


async def _one_poll(api: "FactoryApi", plan: "Plan") -> "tuple[Rollout, Step]":
    from fioctl_rotate.ops.rollout import Reader

    reader = Reader(api, plan)
    return reader.rollout, await reader.poll()


def stage_of(step: "Step", rollout: "Rollout") -> str:
    """`in progress, stage 2 of 4; failing: device-3`."""
    from fioctl_rotate.rotation.messages import some

    text = f"in progress, stage {step.decision.stage} of {rollout.last}"
    failing = _failing(step)
    return f"{text}; failing: {some(failing)}" if failing else text


def _failing(step: "Step") -> list[str]:
    """The devices whose newest attempt has a failed step; in the last stage those of the whole group."""
    from fioctl_rotate.rotation.stage_states import Point
    from fioctl_rotate.rotation.state import State

    staged = (device for stage in step.decision.stages for device in stage.devices)
    early = [state.device.name for state in staged if state.point is Point.FAILING]
    group = [state.name for state in step.picture.states if state.state is State.FAILING]
    return list(dict.fromkeys([*early, *group]))


def view_of(
    api: "FactoryApi", plan: "Plan", rolling: Rolling, now: "Callable[[], datetime] | None" = None
) -> "Lines":
    """The view of a rollout. `now` is the clock for what is sent, by default the real one."""
    from fioctl_rotate.clock import utc_now
    from fioctl_rotate.ops.rollout import rollout_of

    live = rolling.format is Format.TEXT and can_redraw(sys.stdout)
    return (_Live if live else Lines)(api, plan, rolling, rollout_of(plan), now or utc_now)


@dataclass(eq=False)
class Lines:
    """One line per change: text, or one JSON object with `kind` write, device, stage, group or summary."""

    _api: "FactoryApi"
    _plan: "Plan"
    _rolling: Rolling
    _rollout: "Rollout"
    _now: "Callable[[], datetime]"

    def __post_init__(self) -> None:
        self._json = self._rolling.format is Format.JSON
        self._start = self._now()
        self._known: dict[object, object] = {}
        self.last: Step | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, step: "Step") -> None:
        """Write what has changed since the step before."""
        from fioctl_rotate.rotation import rollout_document as document

        READING.end()
        self.last = step
        for problem in step.problems:
            warn(f"{problem}; retrying")
        for state in step.decision.stages:
            for staged in state.devices:
                if self._changed(staged.device.uuid, (staged.point, staged.message), when=staged.point.open):
                    self._emit(
                        step.at,
                        "device",
                        document.of_staged_device(state.number, staged),
                        document.device_line(staged),
                    )
            shown = (state.status, len(state.failures))
            if self._changed(state.number, shown, when=state.number <= step.decision.stage):
                self._emit(
                    step.at,
                    "stage",
                    document.of_stage(state, self._rollout.last),
                    document.stage_line(state, self._rollout.last),
                )
        summary = step.picture.summary
        if summary is not None and self._changed("group", summary.message):
            last = self._rollout.last
            self._emit(
                step.at,
                "group",
                {"stage": last, **document.of_decision(self._rollout, step.decision, step.picture)["group"]},
                f"stage {last} of {last}: {summary.message}",
            )
        sys.stdout.flush()

    def sent(self, text: str) -> None:
        """Write that something was sent, or could not be."""
        self._emit(self._now(), "write", {"message": text}, text)

    def end(self) -> None:
        """Write the summary."""
        from fioctl_rotate.rotation import rollout_document as document
        from fioctl_rotate.rotation.rollout import Verdict

        if self.last is None:
            return
        decision = self.last.decision
        value = {
            "factory": self._api.factory,
            "server": self._api.server,
            **document.of_decision(self._rollout, decision, self.last.picture),
        }
        stage = f"stage {decision.stage} of {self._rollout.last}"
        # The error says what is wrong. Only this line says who is not done yet.
        rest = f", {decision.message}" if decision.verdict is Verdict.DONE and decision.message else ""
        text = f"rollout of {self._plan.rotation_id}: {decision.verdict}, {stage}{rest}"
        self._emit(self.last.at, "summary", value, text)

    def _changed(self, key: object, value: object, *, when: bool = True) -> bool:
        known = self._known.get(key)
        self._known[key] = value
        return value != known and (when or known is not None)

    def _emit(self, at: "datetime", kind: str, value: dict[str, Any], text: str) -> None:
        from fioctl_rotate.rotation.document import time_text

        if self._json:
            marked = {"rehearsal": True} if self._rolling.rehearsal else {}
            emit(json.dumps({**marked, "at": time_text(at), "kind": kind, **value}, ensure_ascii=False))
        elif self._rolling.rehearsal:
            emit(f"{REHEARSAL}{elapsed_text((at - self._start).total_seconds())}  {printable(text)}")
        else:
            emit(f"{at:%H:%M:%S}  {printable(text)}")


class _Live(Lines):
    """A table of the stages that is redrawn, with the last things that were sent."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._writes: list[str] = []
        self._screen = Screen()

    def __enter__(self) -> None:
        self._screen.__enter__()

    def __exit__(self, *args: Any) -> None:
        self._screen.__exit__(*args)

    def show(self, step: "Step") -> None:
        """Redraw."""
        self.last = step
        self._screen.show(lambda: self._draw(step))

    def sent(self, text: str) -> None:
        """Redraw with what was sent."""
        self._writes = [*self._writes[-4:], text]
        if self.last is not None:
            self.show(self.last)

    def _draw(self, step: "Step") -> "RenderableType":
        from rich.console import Group

        from fioctl_rotate.rotation.rollout import Verdict
        from fioctl_rotate.rotation.rollout_document import rows

        screen = self._screen
        head = f"Rotation {self._plan.rotation_id} of {self._plan.scope}, factory {self._api.factory}"
        rest = f"polls every {self._rolling.interval:g} s; Ctrl-C pauses the rollout"
        if self._rolling.rehearsal:
            after = elapsed_text((step.at - self._start).total_seconds())
            head, rest = f"{REHEARSAL}{head}", f"{after} of simulated time"
        parts: list[RenderableType] = [
            screen.text(head, "bold"),
            screen.rows(STAGES, list(rows(self._rollout, step.decision, step.picture))),
            *(screen.text(f"{problem}; retrying", "yellow") for problem in step.problems),
        ]
        ended = step.decision.verdict is not Verdict.GO_ON
        bottom = [] if ended else [screen.text(""), screen.line(rest, "dim")]
        room = screen.console.height - 1 - screen.height_of(*parts, *bottom)
        writes = [screen.line(text, "dim") for text in self._writes]
        return Group(*parts, *writes[max(0, len(writes) - max(0, room)) :], *bottom)
