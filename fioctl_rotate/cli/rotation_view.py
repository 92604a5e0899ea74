"""One rotation read and shown: what `rotations list`, `show` and `report` have in common."""

import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from fioctl_rotate.cli.output import Table, is_terminal, warn
from fioctl_rotate.rotation.scope import Scope

if TYPE_CHECKING:
    from fioctl_rotate.api.client import FactoryApi
    from fioctl_rotate.ops.watch import Snapshot
    from fioctl_rotate.rotation.state import DeviceState, Rotation


async def snapshot_of(
    api: "FactoryApi", rotation_id: str, scope: Scope | None, concurrency: int
) -> "Snapshot":
    """One poll of a rotation. It reads only what has changed since earlier polls on this machine."""
    from fioctl_rotate.ops.at_once import Pace
    from fioctl_rotate.ops.watch import open_watch

    watch = await open_watch(api, rotation_id, scope, pace=Pace(concurrency))
    try:
        snapshot = await watch.poll()
    finally:
        watch.keep()
    for problem in snapshot.problems:
        warn(problem)
    return snapshot


def status_of(rotation: "Rotation") -> str:
    """Whether devices still get the rotation, and whether it is settled."""
    current = "current" if rotation.current else "replaced"
    return f"{current}, settled" if rotation.settled else current


def pushed_line(rotation: "Rotation") -> str:
    """When the rotation was pushed, why, and with which EST server."""
    pushed = (
        f"pushed {rotation.pushed_at:%Y-%m-%d %H:%M:%S} UTC"
        if rotation.pushed_at
        else f"not in the log of {rotation.scope} (pushed before it begins, or to single devices)"
    )
    reason = f", {rotation.reason}" if rotation.reason else ""
    return f"{pushed}{reason}, EST server {rotation.est_server or 'not known'}"


def device_lines(
    rotation: "Rotation", states: "Sequence[DeviceState]", *, every: bool, now: int
) -> "Iterator[str | Table]":
    """One row per device. On a terminal at most a screen of them, and the number of others, unless `every`."""
    room = max(shutil.get_terminal_size().lines - 10, 5)
    cut = is_terminal(sys.stdout) and not every and len(states) > room
    yield Table(("DEVICE", "STATE", "SINCE", "WHY"), _rows(rotation, states[:room] if cut else states, now))
    if cut:
        counts = Counter(str(state.state) for state in states[room:])
        rest = ", ".join(f"{count} {state}" for state, count in counts.items())
        yield f"and {len(states) - room} more ({rest}); --all shows every device"


def _rows(
    rotation: "Rotation", states: "Iterable[DeviceState]", year: int
) -> "Iterator[tuple[str, str, str, str]]":
    from fioctl_rotate.rotation.messages import where, why

    for state in states:
        since = "" if state.since is None else f"{state.since:%m-%d %H:%M:%S}"
        if state.since is not None and state.since.year != year:
            since = f"{state.since.year:04}-{since}"
        yield state.name, where(state), since, why(rotation, state)
