"""A rotation as one HTML page for people to keep, and as a table of every device (CSV).

The page needs nothing from elsewhere. Its one script sorts and filters; without it everything can be read, too. It
stays small for any number of devices: devices with one state and reason are grouped, the most urgent first.
"""

import csv
import io
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fioctl_rotate.duration import duration_text
from fioctl_rotate.errors import printable
from fioctl_rotate.ops import pages
from fioctl_rotate.ops.curves import curves_of
from fioctl_rotate.ops.watch import Snapshot
from fioctl_rotate.rotation.document import time_text
from fioctl_rotate.rotation.messages import advice, by_urgency, some, where, why
from fioctl_rotate.rotation.progress import LAST, STEPS
from fioctl_rotate.rotation.state import DeviceState, State

_MOST_GROUPS = 50


@dataclass
class Group:
    """Devices with the same state and the same reason. `shown` are those that get a row."""

    where: str
    why: str
    state: State
    states: list[DeviceState] = field(default_factory=list)
    shown: Sequence[DeviceState] = ()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.states)


@dataclass(frozen=True)
class Recovered:
    """A failure that devices have recovered from."""

    step: str
    message: str
    count: int
    names: str


def render(
    snapshot: Snapshot,
    *,
    factory: str,
    server: str,
    users: Mapping[str, str],
    stages: Sequence[Sequence[str]] = (),
) -> str:
    """The page. `users` are names by polis id, `stages` a row for each stage. Foreign values are escaped."""
    return pages.render(
        "report.html",
        rotation=snapshot.rotation,
        snapshot=snapshot,
        facts=_facts(snapshot, factory, server, users),
        advice=advice(snapshot.rotation, snapshot.states),
        stages=stages,
        attention=_attention(snapshot),
        done=_done(snapshot),
        curves=curves_of(snapshot),
        durations=_durations(snapshot.states),
        recovered=_recovered(snapshot.states),
        steps=STEPS,
        timeline=_timeline,
    )


def table(snapshot: Snapshot) -> str:
    """All devices as CSV, a row for each."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(
        (
            "name",
            "uuid",
            "state",
            "step",
            "reason",
            "why",
            "since",
            "attempts",
            "last-seen",
            "lmp-ver",
            "proof",
        )
    )
    for state in by_urgency(snapshot.states):
        row = (
            state.name,
            state.uuid,
            state.state,
            state.step,
            state.reason or "",
            why(snapshot.rotation, state),
            time_text(state.since) or "",
            state.attempts,
            time_text(state.last_seen) or "",
            state.lmp_ver or "",
            state.proof or "",
        )
        writer.writerow(_cell(str(value)) for value in row)
    return out.getvalue()


def _facts(
    snapshot: Snapshot, factory: str, server: str, users: Mapping[str, str]
) -> Iterable[tuple[str, str]]:
    rotation = snapshot.rotation
    pushed = f"{rotation.pushed_at:%Y-%m-%d %H:%M:%S} UTC" if rotation.pushed_at else "not in the log"
    by = rotation.pushed_by
    facts = (
        ("Target", f"{rotation.scope}, factory {factory}"),
        ("Server", server),
        ("Pushed", f"{pushed} by {users.get(by, by)}" if by else pushed),
        ("Reason", rotation.reason),
        ("EST server", rotation.est_server),
        ("Read at", f"{snapshot.at:%Y-%m-%d %H:%M:%S} UTC"),
    )
    return [(name, value) for name, value in facts if value]


def _attention(snapshot: Snapshot) -> list[Group]:
    """The devices that are not done, grouped by state and reason, the most urgent first."""
    groups: dict[tuple[str, str], Group] = {}
    for state in by_urgency(state for state in snapshot.states if state.state != State.DONE):
        key = (where(state), why(snapshot.rotation, state) or "has not begun yet")
        if key not in groups and len(groups) >= _MOST_GROUPS:
            key = (str(state.state), "for other reasons")
        group = groups.setdefault(key, Group(*key, state.state))
        group.states.append(state)
    found = list(groups.values())
    for group, rows in zip(found, pages.rows_of([group.count for group in found]), strict=True):
        group.shown = group.states[:rows]
    return found


def _done(snapshot: Snapshot) -> Group:
    """The devices that are done. Those that needed the most attempts come first."""
    done = [state for state in snapshot.states if state.state == State.DONE]
    done.sort(key=lambda state: (-state.attempts, state.name))
    return Group("done", "", State.DONE, done, done[: pages.rows_of([len(done)])[0]])


def _durations(states: Sequence[DeviceState]) -> list[tuple[str, int, float, float]]:
    """For each step: its name, how many times are known, their median and the longest, in seconds."""
    seconds = defaultdict(list)
    for state in states:
        for event in state.progress.events:
            if event.success and event.step and event.seconds is not None:
                seconds[event.step].append(event.seconds)
    return [
        (f"{step}. {STEPS[step - 1]}", len(times), statistics.median(times), max(times))
        for step, times in sorted(seconds.items())
    ]


def _recovered(states: Sequence[DeviceState]) -> list[Recovered]:
    """Failed steps that devices recovered from, the most frequent first."""
    over: dict[tuple[int, str], list[str]] = defaultdict(list)
    for state in states:
        failed = {(event.step, event.message or "") for event in state.progress.events if not event.success}
        for step, message in failed:
            # A device that is still at that step has not recovered.
            if state.state not in (State.FAILING, State.RUNNING) or state.step > step:
                over[step, message].append(state.name)
    return [
        Recovered(
            f"{step}. {STEPS[step - 1]}",
            message,
            len(names),
            some(names),
        )
        for (step, message), names in sorted(over.items(), key=lambda item: (-len(item[1]), item[0]))
    ][:_MOST_GROUPS]


def _timeline(state: DeviceState) -> tuple[str, list[tuple[str, int, bool]]]:
    """A device's steps: as text, and as (a new attempt begins, step, success) for boxes."""
    events = [event for event in state.progress.events if event.step]
    texts = [
        f"step {event.step} {'done' if event.success else 'failed'}"
        + (f" after {duration_text(event.seconds)}" if event.seconds is not None else "")
        for event in events
    ]
    attempts = [0, *(event.attempt for event in events)]
    return ", ".join(texts), [
        ("new" if event.attempt != before and before else "", event.step, event.success)
        for event, before in zip(events[-3 * LAST :], attempts[-3 * LAST - 1 :], strict=False)
    ]


def _cell(text: str) -> str:
    """A cell that no spreadsheet reads as a formula."""
    shown = printable(text)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown
