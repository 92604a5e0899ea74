"""`apply --rehearse`: run a plan on a clone of its Factory, in simulated time, and show how it would end."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fioctl_rotate.cli.common import (
    Format,
    Options,
    Table,
    duration_option,
    emit,
    emit_json,
    note,
    option,
    spread,
    warn,
    wrapped,
)
from fioctl_rotate.cli.out_files import writable, write_out
from fioctl_rotate.cli.output import REHEARSAL, result_stream
from fioctl_rotate.cli.planning import Sending
from fioctl_rotate.duration import elapsed_text
from fioctl_rotate.errors import DeviceFailed, Error, Refused, TimedOut, UsageError, printable
from fioctl_rotate.rotation.plan import Plan
from fioctl_rotate.value import Value

if TYPE_CHECKING:
    from fioctl_rotate.cli.rolling import Lines
    from fioctl_rotate.ops.rehearsal_world import World
    from fioctl_rotate.ops.rehearsed import Played, Rehearsal
    from fioctl_rotate.ops.rollout import Step
    from fioctl_rotate.ops.watch import Snapshot
    from fioctl_rotate.rotation.faults import Faults

REHEARSE_OPTIONS: Options = {
    "rehearse": option("--rehearse DIR", "Rehearse on the clone in DIR, which `mock clone` made; send nothing."),
    "check_in": duration_option("--check-in", "Rehearsal: time between check-ins [default: 5m].", shortest=1.0),
    "fail": option("--fail STEP[:PERCENT]", "Rehearsal: make a step fail (1 to 5), as in `mock devices`."),
    "reboot": option("--reboot PERCENT", "Rehearsal: chance of a reboot before a check-in.", min=0, max=100),
    "clock_offset": option("--clock-offset DURATION[:PERCENT]", "Rehearsal: how far device clocks are ahead."),
    "est_fault": option("--est-fault FAULT[@FROM[-TO]]", "Rehearsal: stop, 404 or foreign-ca; example: 404@2h-6h."),
    "gateway_fault": option("--gateway-fault FROM[-TO]", "Rehearsal: the gateway answers 500; example: 1h-2h."),
    "html": option("--html FILE", "Rehearsal: also write an HTML page with a plot.", callback=writable),
}  # fmt: skip


class Rehearsing(Value):
    """How to rehearse, as typed. `check_in` is in seconds."""

    rehearse: Path | None = None
    check_in: float | None = None
    fail: list[str] | None = None
    reboot: float = 0.0
    clock_offset: str | None = None
    est_fault: str | None = None
    gateway_fault: str | None = None
    html: Path | None = None

    def check(self) -> None:
        """Raises UsageError for options of a rehearsal without --rehearse."""
        for name, given in self._typed():
            if given and self.rehearse is None:
                raise UsageError(f"{name} needs --rehearse")

    def faults(self) -> "Faults":
        """The faults that were asked for. Raises UsageError if one is not valid."""
        from fioctl_rotate.rotation import faults
        from fioctl_rotate.rotation.made_to_fail import parse_made_to_fail

        est, window = faults.parse_est_fault(self.est_fault) if self.est_fault else (None, faults.Window())
        return faults.Faults(
            fail=tuple(parse_made_to_fail(text) for text in self.fail or ()),
            reboot=self.reboot / 100,
            clocks=faults.parse_clock_offset(self.clock_offset) if self.clock_offset else None,
            est=est,
            est_window=window,
            gateway=faults.parse_window(self.gateway_fault, "--gateway-fault")
            if self.gateway_fault
            else None,
            typed=tuple(
                f"{name} {value}"
                for name, given in self._typed()[1:-1]
                for value in (given if isinstance(given, list) else [given])
                if value
            ),
        )

    def _typed(self) -> list[tuple[str, Any]]:
        return [
            ("--check-in", self.check_in),
            ("--fail", self.fail),
            ("--reboot", f"{self.reboot:g}" if self.reboot else None),
            ("--clock-offset", self.clock_offset),
            ("--est-fault", self.est_fault),
            ("--gateway-fault", self.gateway_fault),
            ("--html", self.html),
        ]


with_rehearsing = spread("rehearsing", Rehearsing, REHEARSE_OPTIONS)
"""Gives a command the options of a rehearsal; it receives them as one `Rehearsing` in `rehearsing`."""


async def rehearse(plan: Plan, sending: Sending, rehearsing: Rehearsing, allow: tuple[str, ...]) -> None:
    """Rehearse the plan, show what happens, and write the files that were asked for.

    Raises DeviceFailed, TimedOut or Refused where the rollout would end so.
    """
    from fioctl_rotate.ops.rehearsal import rehearse as run
    from fioctl_rotate.ops.rehearsal_play import Audience, RehearsalOptions

    assert rehearsing.rehearse is not None  # noqa: S101  the caller has checked it
    options = RehearsalOptions(
        faults=rehearsing.faults(),
        check_in=rehearsing.check_in,
        interval=sending.interval,
        timeout=sending.timeout,
        allow=allow,
        note=sending.note,
    )
    with contextlib.ExitStack() as stack:
        watching = _Watching(sending, stack)
        audience = Audience(watching.begin, watching.step, watching.snapshot, watching.sent, watching.say)
        result = await run(rehearsing.rehearse, plan, options, audience)
    watching.write_files()
    if rehearsing.html is not None:
        from fioctl_rotate.ops.rehearsal_page import render

        write_out(rehearsing.html, render(result))
    if sending.format is Format.JSON:
        emit_json({"kind": "rehearsal", **result.document()}, lines=True)
    else:
        _show(result)
    for where in result.refused:
        warn(f"a connection to {where} was refused: it would have left this machine")
    error = _error(result.main)
    if error is not None:
        raise error


class _Watching:
    """Shows the rollout while it is rehearsed, marked as a rehearsal in each line."""

    def __init__(self, sending: Sending, stack: contextlib.ExitStack) -> None:
        self._sending, self._stack = sending, stack
        self._view: Lines | None = None
        self._world: World | None = None
        self._plan: Plan | None = None
        self._snapshot: Snapshot | None = None

    def begin(self, world: "World", plan: Plan) -> None:
        """Called once the copy runs, with the plan for it."""
        from fioctl_rotate.cli.rolling import Rolling, view_of

        self._world, self._plan = world, plan
        if plan.stages is not None:
            rolling = Rolling(self._sending.interval, format=Format(self._sending.format), rehearsal=True)
            self._view = view_of(world.api, plan, rolling, world.clock)
            self._stack.enter_context(self._view)

    def step(self, step: "Step") -> None:
        """Show a poll of the rollout in stages."""
        if self._view is not None:
            self._view.show(step)

    def snapshot(self, snapshot: "Snapshot") -> None:
        """Show a poll of the plain push."""
        known, self._snapshot = self._snapshot, snapshot
        if known is not None and known.message == snapshot.message:
            return
        if self._sending.format is Format.JSON:
            from fioctl_rotate.rotation import document

            summary = {"summary": document.of_summary(snapshot.summary), "message": snapshot.message}
            at = document.time_text(snapshot.at)
            emit_json({"rehearsal": True, "at": at, "kind": "group", **summary}, lines=True)
        else:
            after = (snapshot.at - self._world.clock.start).total_seconds() if self._world else 0
            emit(f"{REHEARSAL}{elapsed_text(after)}  {printable(snapshot.message)}")

    def sent(self, text: str) -> None:
        """Show what was sent to the copy."""
        if self._view is not None:
            self._view.sent(text)

    def say(self, text: str) -> None:
        """Write a note about anything else."""
        note(f"{REHEARSAL}{text}")

    def write_files(self) -> None:
        """Write JUnit and Markdown, if asked for."""
        from fioctl_rotate.cli.rolling import write_files
        from fioctl_rotate.ops import junit, markdown

        sending, mark = self._sending, "REHEARSAL: "
        if self._world is None or self._plan is None:
            return
        if self._view is not None and self._view.last is not None:
            write_files(self._world.api, self._plan, self._view.last, sending.junit, sending.summary, mark)
        elif self._snapshot is not None:
            if sending.junit is not None:
                write_out(sending.junit, junit.render(self._snapshot, mark=mark))
            if sending.summary is not None:
                api = self._world.api
                page = markdown.of_rotation(self._snapshot, factory=api.factory, server=api.server, mark=mark)
                write_out(sending.summary, page, append=True)


def _show(result: "Rehearsal") -> None:
    for line in _lines(result):
        if isinstance(line, Table):
            line.show()
        else:
            emit(wrapped(line, indent=2, stream=result_stream()))


def _lines(result: "Rehearsal") -> "Iterator[str | Table]":
    from fioctl_rotate.ops import rehearsed

    yield ""
    yield (
        f"REHEARSAL of rotation {result.planned_id} of {result.target} on the clone in {result.directory}: "
        f"nothing was sent to factory {result.factory}"
    )
    if result.faults:
        yield f"Faults: {', '.join(result.faults)}"
    yield ""
    if result.staged is not None:
        yield Table(rehearsed.STAGE_HEADERS, rehearsed.stage_rows(result.staged))
        yield ""
    yield Table(rehearsed.BESIDE_HEADERS, rehearsed.beside_rows(result))
    for name, played in (("in stages", result.staged), ("with a plain push", result.plain)):
        reasons = rehearsed.why_rows(played) if played else []
        if reasons:
            yield ""
            yield f"Not done {name}:"
            yield Table(("DEVICES", "END", "WHY"), reasons[:10])
    yield ""
    for end, meaning in rehearsed.MEANING.items():
        yield f"{end}: {meaning}"
    for text in result.simulated:
        yield f"simulated: {text}"


def _error(played: "Played") -> Error | None:
    kind = {"done": None, "refused": Refused, "time over": TimedOut}.get(played.verdict, DeviceFailed)
    message = played.message or played.verdict
    return kind(f"REHEARSAL: {message}") if kind else None
