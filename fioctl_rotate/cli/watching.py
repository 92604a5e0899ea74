"""Shows a rotation: live on a terminal, one line per change in a pipe. For `rotations watch` and `--wait`."""

import asyncio
import json
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fioctl_rotate.cli.live import Screen
from fioctl_rotate.cli.out_files import write_out
from fioctl_rotate.cli.output import Format, emit, note, warn, wrapped
from fioctl_rotate.cli.reading import READING, can_redraw
from fioctl_rotate.errors import DeviceFailed, Error, TimedOut, printable
from fioctl_rotate.rotation import commands

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fioctl_rotate.api.client import FactoryApi
    from fioctl_rotate.ops.watch import Snapshot, Watch
    from fioctl_rotate.rotation.state import DeviceState, Rotation

RATE_WINDOW = timedelta(minutes=10)


@dataclass(frozen=True)
class Following:
    """How to follow a rotation.

    `interval` is in seconds, and so is `timeout`, which began with the connection (`api.deadline`). `junit` and
    `summary` are files to write at the end.
    """

    interval: float = 15.0
    timeout: float | None = None
    exit_status: bool = False
    format: Format = Format.TEXT
    junit: Path | None = None
    summary: Path | None = None


async def follow(
    api: "FactoryApi", named: "Rotation", find: "Callable[[], Awaitable[Watch]]", following: Following
) -> None:
    """Show a rotation until no device is expected to get any further.

    `find` makes the watch; `named` is what is known of the rotation before that. However this ends, the summary
    and the files are written from what is known: when the time runs out, at a signal, when the server stays away.
    Raises TimedOut, and with `following.exit_status` DeviceFailed unless every device is done.
    """
    from fioctl_rotate.clock import utc_now
    from fioctl_rotate.ops.watch import Snapshot
    from fioctl_rotate.rotation.summary import summarize

    watch: Watch | None = None
    view = _view(api, following)

    def known(problem: str) -> Snapshot:
        if watch is not None:
            return replace(watch.known(), problems=[problem])
        return Snapshot(named, utc_now(), [], summarize([]), problems=[problem])

    def end(snapshot: Snapshot, *, shown: bool = True) -> None:
        if watch is not None:
            watch.keep()
        write_files(api, snapshot, junit=following.junit, summary=following.summary)
        if shown:
            view.end(snapshot)

    limit = asyncio.timeout_at(api.deadline)
    try:
        async with limit:
            watch = await find()
            with view:
                last = await watch.until_resting(interval=following.interval, tell=view.show)
    except TimeoutError:
        if not limit.expired():
            raise
        snapshot = known("not read yet")
        end(snapshot)
        raise TimedOut(
            f"time ran out after {following.timeout:g} s: {snapshot.message}",
            hint=f"the rotation goes on; check it with: {_show_command(api, snapshot.rotation)}",
        ) from None
    except asyncio.CancelledError:
        snapshot = known("not read yet")
        end(snapshot)
        note(f"the rotation goes on; check it with: {_show_command(api, snapshot.rotation)}")
        raise
    except (Error, OSError) as error:
        # A closed stdout cannot show the summary.
        can_show = isinstance(error, TimedOut) or (watch is not None and isinstance(error, Error))
        end(known(str(error)), shown=can_show)
        raise
    end(last)
    if (failure := failure_of(last, exit_status=following.exit_status)) is not None:
        raise failure


def failure_of(snapshot: "Snapshot", *, exit_status: bool) -> Error | None:
    """The error of a rotation without devices or, with `exit_status`, with devices that are not done; else None."""
    from fioctl_rotate.rotation.state import State

    if not snapshot.states:
        return Error(snapshot.message, hint="a rotation without devices is not a success")
    if not exit_status or snapshot.summary.complete:
        return None
    failed = snapshot.summary.states[State.FAILING]
    devices = "1 device" if failed == 1 else f"{failed} devices"
    return DeviceFailed(
        f"{f'{devices} failed' if failed else 'not every device is done'}: {snapshot.message}"
    )


def write_files(api: "FactoryApi", snapshot: "Snapshot", *, junit: Path | None, summary: Path | None) -> None:
    """Write the rotation as JUnit XML and as Markdown, if asked for."""
    from fioctl_rotate.ops import junit as junit_xml
    from fioctl_rotate.ops import markdown

    if junit is not None:
        write_out(junit, junit_xml.render(snapshot))
    if summary is not None:
        page = markdown.of_rotation(snapshot, factory=api.factory, server=api.server)
        write_out(summary, page, append=True)


def tell_advice(api: "FactoryApi", rotation: "Rotation", states: "Sequence[DeviceState]") -> None:
    """Write to stderr what can be done next."""
    for line in advice_lines(api, rotation, states):
        note(line)


def advice_lines(api: "FactoryApi", rotation: "Rotation", states: "Sequence[DeviceState]") -> list[str]:
    """What can be done next, as lines for stderr."""
    from fioctl_rotate.rotation.messages import advice

    lines = advice(rotation, states, commands.factory_options(api.factory, api.server))
    return [f"hint: {printable(line)}" for line in lines]


def _show_command(api: "FactoryApi", rotation: "Rotation") -> str:
    factory = commands.factory_options(api.factory, api.server)
    return commands.rotations("show", rotation.id, rotation.scope, factory)


def _view(api: "FactoryApi", following: Following) -> "_Lines | _Live":
    if following.format is Format.TEXT and can_redraw(sys.stdout):
        return _Live(api, following.interval)
    return _Lines(api, following.format)


class _Lines:
    """One line per change: text, or one JSON object with `kind` device; the last one has `kind` summary."""

    def __init__(self, api: "FactoryApi", format: Format) -> None:
        self._api = api
        self._json = format is Format.JSON
        self._known: dict[str, tuple[tuple[str, ...], int]] = {}
        self._problems: list[str] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, snapshot: "Snapshot") -> None:
        """Write what has changed since the snapshot before."""
        READING.end()
        for problem in snapshot.problems:
            if problem not in self._problems:
                warn(f"{problem}; retrying")
        self._problems = snapshot.problems
        for state in sorted(snapshot.changed, key=lambda state: (state.name, state.uuid)):
            self._show_device(snapshot, state)
        sys.stdout.flush()

    def end(self, snapshot: "Snapshot") -> None:
        """Write the summary."""
        from fioctl_rotate.rotation import document

        if self._json:
            self._emit(
                {
                    "kind": "summary",
                    "factory": self._api.factory,
                    "server": self._api.server,
                    "rotation": document.of_rotation(snapshot.rotation),
                    "summary": document.of_summary(snapshot.summary),
                    "message": snapshot.message,
                },
                snapshot.at,
            )
        else:
            text = f"{headline(self._api, snapshot.rotation)}: {snapshot.message}"
            emit(f"{snapshot.at:%H:%M:%S}  {printable(text)}")
        sys.stdout.flush()
        if not self._json:
            tell_advice(self._api, snapshot.rotation, snapshot.states)

    def _show_device(self, snapshot: "Snapshot", state: "DeviceState") -> None:
        from fioctl_rotate.rotation import document
        from fioctl_rotate.rotation.messages import where, why
        from fioctl_rotate.rotation.state import State

        texts, step = (where(state), why(snapshot.rotation, state)), state.step
        known, known_step = self._known.get(state.uuid, ((), 0))
        # Another retry of the same failed step is not a change.
        again = state.state == State.RUNNING and state.attempts > 1 and step == known_step
        if texts == known or again:
            return
        self._known[state.uuid] = (texts, step)
        if self._json:
            self._emit({"kind": "device", **document.of_device(snapshot.rotation, state)}, snapshot.at)
        elif known or state.state != State.PENDING or state.reason:
            # A pending device gets a line only if there is a reason to name.
            text = f"{state.name}  {texts[0]}" + (f"  {texts[1]}" if texts[1] else "")
            emit(f"{snapshot.at:%H:%M:%S}  {printable(text)}")

    def _emit(self, value: dict[str, Any], at: datetime) -> None:
        from fioctl_rotate.rotation.document import time_text

        emit(json.dumps({"at": time_text(at), **value}, ensure_ascii=False))


class _Live:
    """A view that is redrawn: bar, counts, rate, and the devices that need attention."""

    def __init__(self, api: "FactoryApi", interval: float) -> None:
        self._api, self._interval = api, interval
        self._screen = Screen()
        self._done_rate = DoneRate()

    def __enter__(self) -> None:
        self._screen.__enter__()

    def __exit__(self, *args: Any) -> None:
        self._screen.__exit__(*args)

    def show(self, snapshot: "Snapshot") -> None:
        """Redraw."""
        self._done_rate.add(snapshot)
        self._screen.show(lambda: self._draw(snapshot))

    def end(self, snapshot: "Snapshot") -> None:
        """Write the advice below the last view. If there was no view, write what is known first."""
        if not self._done_rate.began:
            text = f"{headline(self._api, snapshot.rotation)}: {snapshot.message}"
            emit(wrapped(printable(text), stream=sys.stdout))
        tell_advice(self._api, snapshot.rotation, snapshot.states)

    def _draw(self, snapshot: "Snapshot") -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        summary, screen = snapshot.summary, self._screen
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        percent = 100 * summary.done // max(summary.total, 1)
        bar.add_row(
            ProgressBar(max(summary.total, 1), summary.done, complete_style="green", finished_style="green"),
            screen.text(f"{percent:>3} %  {summary.done} of {summary.total} done"),
        )
        top: list[RenderableType] = [
            screen.text(headline(self._api, snapshot.rotation), "bold"),
            bar,
            _counts(snapshot),
            *([] if snapshot.resting else [screen.text(self._done_rate.text(snapshot), "dim")]),
            *(screen.text(f"{problem}; retrying", "yellow") for problem in snapshot.problems),
        ]
        # The last line is short, because the terminal writes ^C after it.
        last = f"next poll in {self._interval:g} s; Ctrl-C does not stop the rotation"
        bottom = [
            screen.text(""),
            screen.line("no device can get any further" if snapshot.resting else last, "dim"),
        ]
        # The line below the view is the cursor's.
        room = screen.console.height - 1 - screen.height_of(*top, *bottom)
        return Group(*top, *self._attention(snapshot, room), *bottom)

    def _attention(self, snapshot: "Snapshot", room: int) -> "list[RenderableType]":
        """The devices that need attention, as many as fit into `room` lines."""
        from fioctl_rotate.rotation.messages import by_urgency, where, why
        from fioctl_rotate.rotation.state import State

        attention = (State.FAILING, State.FINALIZED, State.LEFT)
        urgent = by_urgency(state for state in snapshot.states if state.state in attention)
        if not urgent:
            return []
        screen = self._screen
        rows = [
            (state.name, where(state), state.message or why(snapshot.rotation, state))
            for state in urgent[: max(room, 1)]
        ]
        while True:
            parts: list[RenderableType] = [
                screen.text(""),
                screen.line("Needs attention", "bold"),
                screen.rows(("DEVICE", "STATE", "WHY"), rows),
            ]
            if len(urgent) > len(rows):
                more = f"and {len(urgent) - len(rows)} more: `rotations show` with --failed lists them"
                parts.append(screen.text(more, "dim"))
            if screen.height_of(*parts) <= room:
                return parts
            if len(rows) == 1:
                return [screen.line(f"need attention: {len(urgent)}", "bold")]
            rows.pop()


class DoneRate:
    """How fast devices get done, over the last ten minutes, and how long the others will take at that rate."""

    def __init__(self) -> None:
        self._samples: deque[tuple[datetime, int]] = deque()

    @property
    def began(self) -> bool:
        """Whether there was any snapshot."""
        return bool(self._samples)

    def add(self, snapshot: "Snapshot") -> None:
        """Take a snapshot's count."""
        self._samples.append((snapshot.at, snapshot.summary.done))
        while snapshot.at - self._samples[0][0] > RATE_WINDOW:
            self._samples.popleft()

    def text(self, snapshot: "Snapshot") -> str:
        """Like `12 per minute, about 8 min left`."""
        (first, before), (last, done) = self._samples[0], self._samples[-1]
        minutes = (last - first).total_seconds() / 60
        if minutes <= 0 or done <= before:
            return "rate not known yet"
        rate = (done - before) / minutes
        moving = snapshot.summary.moving
        left = f", about {max(1, round(moving / rate))} min left" if moving else ""
        return f"{rate:.3g} per minute{left}"


def headline(api: "FactoryApi", rotation: "Rotation") -> str:
    """The rotation that is watched, its Factory and server."""
    return f"Rotation {rotation.id} of {rotation.scope}, factory {api.factory} at {api.server}"


def _counts(snapshot: "Snapshot") -> "RenderableType":
    from rich.text import Text

    colours = {"done": "green", "finalized": "cyan", "failing": "red", "running": "blue"}
    text = Text()
    for state, count in snapshot.summary.states.items():
        if not count and state == "left":
            continue
        text.append(f"{count} {state}  ", style=colours.get(state, "") if count else "dim")
    reasons = [f"{count} {reason}" for reason, count in snapshot.summary.not_following.items() if count]
    if reasons:
        text.append(f"\nnot following: {', '.join(reasons)}", style="yellow")
    return text
