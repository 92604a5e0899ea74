"""A rotation as it goes on: live on a terminal, a line a change in a pipe. For `rotations watch` and `--wait`."""

import asyncio
import json
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fioctl_rotate.cli.common import Format, console, emit, is_terminal, note, warn, wrapped
from fioctl_rotate.cli.output import write_out
from fioctl_rotate.errors import DeviceFailed, TimedOut, printable
from fioctl_rotate.rotation.commands import factory_options, rotations

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fioctl_rotate.api.client import FactoryApi
    from fioctl_rotate.ops.watch import Snapshot
    from fioctl_rotate.rotation.state import DeviceState, Rotation

PACE_OVER = timedelta(minutes=10)
_MANY = 500  # devices to ask, which takes more than a few seconds
_WIDEST = 24  # columns of a terminal for a device's name


@dataclass(frozen=True)
class Watch:
    """How to watch: `interval` and `timeout` in seconds (None: no end), `junit` the file to write at the end."""

    interval: float = 15.0
    timeout: float | None = None
    exit_status: bool = False
    format: Format = Format.TEXT
    junit: Path | None = None


async def follow(api: "FactoryApi", rotation: "Rotation", watch: Watch, *, only: str | None = None) -> None:
    """Show what becomes of the rotation until nothing more is to be expected; `only` is the uuid of one device.

    Raises TimedOut when `watch.timeout` is over, and with `watch.exit_status` DeviceFailed unless every device is
    done. Interrupted, it says how to look again: the rotation goes on without us.
    """
    from fioctl_rotate.ops import junit
    from fioctl_rotate.ops import watch as ops

    followed = ops.Watch(api, rotation, only=only, asking=tell_asking)
    last: Snapshot | None = None
    view = _view(api, rotation, watch)

    def tell(snapshot: "Snapshot") -> None:
        nonlocal last
        last = snapshot
        view.show(snapshot)

    timed_out = False
    try:
        with view:
            try:
                async with asyncio.timeout(watch.timeout):
                    await followed.until_settled(interval=watch.interval, tell=tell)
            except TimeoutError:
                timed_out = True
    except asyncio.CancelledError:
        note(f"the rotation goes on; look again with: {_look(api, rotation)}")
        raise
    finally:
        followed.keep()
    if last is not None:
        view.end(last)
        if not last.states:
            warn(f"{rotation.scope} has no devices")
        if watch.junit:
            write_out(watch.junit, junit.render([(f"rotation {rotation.id} of {rotation.target}", last)]))
    summary = last.summary.message if last else "no answer yet"
    if timed_out:
        raise TimedOut(
            f"time ran out after {watch.timeout:g} s: {summary}",
            hint=f"the rotation goes on; look again with: {_look(api, rotation)}",
        )
    if watch.exit_status and last is not None and not last.summary.complete:
        raise DeviceFailed(f"not every device is done: {summary}")


def tell_advice(api: "FactoryApi", rotation: "Rotation", states: "Sequence[DeviceState]") -> None:
    """What can be done next, on stderr."""
    from fioctl_rotate.rotation.messages import advice

    for line in advice(rotation, states, factory_options(api.factory, api.server)):
        note(wrapped(f"hint: {printable(line)}", indent=6, stream=sys.stderr))


def tell_asking(count: int) -> None:
    """Say on stderr what a long silence is about."""
    if count > _MANY:
        note(f"asking {count} devices for their events")


def _look(api: "FactoryApi", rotation: "Rotation") -> str:
    return rotations("show", rotation.id, rotation.scope, factory_options(api.factory, api.server))


def _view(api: "FactoryApi", rotation: "Rotation", watch: Watch) -> "_Lines | _Live":
    live = watch.format is Format.TEXT and is_terminal(sys.stdout)
    return _Live(api, rotation, watch) if live else _Lines(api, rotation, watch)


class _Lines:
    """One line a change: text, or one JSON object with `kind` device, problem or summary."""

    def __init__(self, api: "FactoryApi", rotation: "Rotation", watch: Watch) -> None:
        self._api, self._rotation = api, rotation
        self._json = watch.format is Format.JSON
        self._known: dict[str, tuple[tuple[str, ...], int]] = {}
        self._problems: list[str] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, snapshot: "Snapshot") -> None:
        """Write what has changed since the snapshot before."""
        from fioctl_rotate.rotation import document
        from fioctl_rotate.rotation.messages import where, why
        from fioctl_rotate.rotation.state import State

        for problem in snapshot.problems:
            if problem not in self._problems:
                warn(f"{problem}; asking again")
        self._problems = snapshot.problems
        for state in snapshot.states:
            words, step = (where(state), why(self._rotation, state)), state.step
            known, known_step = self._known.get(state.uuid, ((), 0))
            # A failed step that is tried again, and again, is no change.
            again = state.state == State.RUNNING and state.attempts > 1 and step == known_step
            if words == known or again:
                continue
            self._known[state.uuid] = (words, step)
            if self._json:
                self._emit({"kind": "device", **document.of_device(self._rotation, state)}, snapshot.at)
            elif known or state.state != State.PENDING or state.reason:
                # That a device has not begun yet is worth a line only where there is more to say of it.
                text = f"{state.name}  {words[0]}" + (f"  {words[1]}" if words[1] else "")
                emit(f"{snapshot.at:%H:%M:%S}  {printable(text)}")
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
                    "rotation": document.of_rotation(self._rotation),
                    "summary": document.of_summary(snapshot.summary),
                },
                snapshot.at,
            )
            return
        emit(
            f"{snapshot.at:%H:%M:%S}  {printable(headline(self._api, self._rotation))}: {snapshot.summary.message}"
        )
        tell_advice(self._api, self._rotation, snapshot.states)

    def _emit(self, value: dict[str, Any], at: datetime) -> None:
        from fioctl_rotate.rotation.document import time_text

        emit(json.dumps({"at": time_text(at), **value}, ensure_ascii=False))


class _Live:
    """A view that is redrawn: bar, counts, pace, and the devices that need attention."""

    def __init__(self, api: "FactoryApi", rotation: "Rotation", watch: Watch) -> None:
        from rich.live import Live

        self._api, self._rotation, self._watch = api, rotation, watch
        self._console = console()
        self._pace = Pace()
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> None:
        self._live.__enter__()

    def __exit__(self, *args: Any) -> None:
        self._live.__exit__(*args)

    def show(self, snapshot: "Snapshot") -> None:
        """Redraw."""
        self._pace.add(snapshot)
        self._live.update(self._draw(snapshot), refresh=True)

    def end(self, snapshot: "Snapshot") -> None:
        """Leave the advice below the last view."""
        tell_advice(self._api, self._rotation, snapshot.states)

    def _draw(self, snapshot: "Snapshot") -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        summary = snapshot.summary
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        percent = 100 * summary.done // max(summary.total, 1)
        bar.add_row(
            ProgressBar(total=max(summary.total, 1), completed=summary.done),
            Text(f"{percent:>3} %  {summary.done} of {summary.total} done"),
        )
        parts: list[RenderableType] = [
            Text(printable(headline(self._api, self._rotation)), style="bold"),
            bar,
            _counts(snapshot),
            *([] if snapshot.settled else [Text(self._pace.words(snapshot), style="dim")]),
            *(Text(f"{printable(problem)}; asking again", style="yellow") for problem in snapshot.problems),
            *self._attention(snapshot),
            Text(""),
        ]
        # The last line is a short one: the terminal writes ^C behind it.
        last = f"next look in {self._watch.interval:g} s; Ctrl-C leaves the rotation alone"
        parts.append(Text("nothing more is to be expected" if snapshot.settled else last, style="dim"))
        return Group(*parts)

    def _attention(self, snapshot: "Snapshot") -> "list[RenderableType]":
        from rich.text import Text

        from fioctl_rotate.rotation.state import State

        urgent = [state for state in snapshot.states if state.state in (State.FAILING, State.FINALIZED)]
        # What is failing says more than what may still come back.
        urgent.sort(key=lambda state: (state.state != State.FAILING, state.name))
        if not urgent:
            return []
        room = max(self._console.height - 12, 3)
        parts: list[RenderableType] = [
            Text(""),
            Text("Not there yet, and worth a look", style="bold"),
            device_table(self._rotation, urgent[:room], one_line=True),
        ]
        if len(urgent) > room:
            parts.append(
                Text(f"and {len(urgent) - room} more: `rotations show` with --failed lists them", style="dim")
            )
        return parts


class Pace:
    """How fast devices get done, over the last ten minutes, and how long the rest will take at that."""

    def __init__(self) -> None:
        self._samples: deque[tuple[datetime, int]] = deque()

    def add(self, snapshot: "Snapshot") -> None:
        """Take a snapshot's count."""
        self._samples.append((snapshot.at, snapshot.summary.done))
        while snapshot.at - self._samples[0][0] > PACE_OVER:
            self._samples.popleft()

    def words(self, snapshot: "Snapshot") -> str:
        """Like `12 a minute, about 8 min left`."""
        (first, before), (last, done) = self._samples[0], self._samples[-1]
        minutes = (last - first).total_seconds() / 60
        if minutes <= 0 or done <= before:
            return "no pace yet"
        pace = (done - before) / minutes
        waiting = sum(
            1 for state in snapshot.states if state.reason is None and state.state in ("pending", "running")
        )
        left = f", about {max(1, round(waiting / pace))} min left" if waiting else ""
        return f"{pace:.3g} a minute{left}"


def headline(api: "FactoryApi", rotation: "Rotation") -> str:
    """What is watched, where."""
    return f"Rotation {rotation.id} of {rotation.scope}, factory {api.factory} at {api.server}"


def device_table(
    rotation: "Rotation", states: "Sequence[DeviceState]", *, one_line: bool = False
) -> "RenderableType":
    """A row a device: name, state, since when (by its own clock), and what is behind it."""
    from fioctl_rotate.cli.common import table
    from fioctl_rotate.rotation.messages import where, why

    def row(state: "DeviceState") -> tuple[str, ...]:
        since = f"{state.since:%m-%d %H:%M:%S}" if state.since else ""
        if one_line:
            return state.name, where(state), state.message or why(rotation, state)
        return state.name, where(state), since, why(rotation, state)

    rows = [row(state) for state in states]
    headers = ("DEVICE", "STATE", "WHY") if one_line else ("DEVICE", "STATE", "SINCE", "WHY")
    result = table(headers, rows)
    *columns, last = result.columns
    for number, column in enumerate(columns):
        # What stands beside a long text must not be squeezed for it.
        longest = max((len(row[number]) for row in rows), default=0)
        column.min_width = min(max(longest, len(headers[number])), _WIDEST)
    if one_line:
        result.expand, last.ratio, last.no_wrap, last.overflow = True, 1, True, "ellipsis"
    return result


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
