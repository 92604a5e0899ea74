"""How many devices had begun, finalized and were done, over time, as lines to draw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from fioctl_rotate.duration import elapsed_text
from fioctl_rotate.ops.watch import Snapshot
from fioctl_rotate.rotation.progress import LAST
from fioctl_rotate.rotation.state import DeviceState

# A device's clock can be wrong: times further than this before the push or after now do not stretch the axis.
_AROUND = timedelta(minutes=10)
_TICKS = [
    1, 2, 5, 10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800, 2592000,
]  # fmt: skip
_MOST_TICKS = 5
_COLUMNS = 500  # a line has at most this many steps, however many devices there are


@dataclass(frozen=True)
class Curve:
    """One line: its `name`, how many devices it counts in the end, and the path, in 100 x 100 units."""

    name: str
    count: int
    path: str


@dataclass(frozen=True)
class Curves:
    """What is drawn. `levels` and `ticks` are labels and their places in percent; `outside` counts wrong times."""

    curves: Sequence[Curve]
    total: int
    first: datetime
    outside: int
    levels: Sequence[tuple[float, str]]
    ticks: Sequence[tuple[float, str]]


def curves_of(snapshot: Snapshot) -> Curves | None:
    """The lines; None where there is no time to draw. Times come from the devices' clocks, which can be wrong."""
    times = {
        "begun": [time for state in snapshot.states if (time := state.progress.started)],
        "finalized": [time for state in snapshot.states if (time := _finalized(state))],
        "done": [state.done_by for state in snapshot.states if state.done_by],
    }
    every = [time for of_curve in times.values() for time in of_curve]
    pushed = snapshot.rotation.pushed_at
    low = pushed - _AROUND if pushed else min(times["begun"], default=snapshot.at)
    inside = [time for time in every if low <= time <= snapshot.at + _AROUND]
    if not inside:
        return None
    first = min(*inside, pushed) if pushed else min(inside)
    outside = len(every) - len(inside)
    return drawn(times, len(snapshot.states), first, max(inside), outside=outside)


def drawn(
    times: Mapping[str, Sequence[datetime]],
    total: int,
    first: datetime,
    last: datetime,
    *,
    outside: int = 0,
    elapsed: bool = False,
) -> Curves:
    """A line for each name, out of `total` devices, from `first` to `last`.

    The axis shows times of day, or with `elapsed` the time since `first`.
    """
    axis = _Axis(first, last)
    return Curves(
        [Curve(name, len(of_curve), _path(of_curve, axis, total)) for name, of_curve in times.items()],
        total,
        first,
        outside,
        [(100 * count / total, str(count)) for count in sorted({0, total // 2, total})],
        axis.ticks(elapsed=elapsed),
    )


class _Axis:
    """The axis of times, from `first` to a little after `last`."""

    def __init__(self, first: datetime, last: datetime) -> None:
        seconds = (last - first).total_seconds()
        self.first, self.last = first, last
        self._step = next((step for step in _TICKS if seconds / step < _MOST_TICKS), _TICKS[-1])
        self._span = max(seconds * 1.02, self._step)

    def at(self, time: datetime) -> float:
        """The place of `time`, in percent."""
        return round(100 * (time - self.first).total_seconds() / self._span, 2)

    def ticks(self, *, elapsed: bool) -> list[tuple[float, str]]:
        """Round times, with their places; or round times after the first."""
        if elapsed:
            steps = range(0, self._step * (_MOST_TICKS + 1), self._step)
            after = ((self.at(self.first + timedelta(seconds=n)), elapsed_text(n)) for n in steps)
            return [(place, text) for place, text in after if place <= 100]
        style = "%H:%M:%S" if self._step < 60 else "%H:%M" if self._step < 86400 else "%m-%d"
        begin = -(-self.first.timestamp() // self._step) * self._step
        times = [
            datetime.fromtimestamp(begin + self._step * n, self.first.tzinfo) for n in range(_MOST_TICKS + 1)
        ]
        return [(self.at(time), f"{time:{style}}") for time in times if self.at(time) <= 100]


def _finalized(state: DeviceState) -> datetime | None:
    times = [event.time for event in state.progress.events if event.step == LAST and event.success]
    return min((time for time in times if time), default=None)


def _path(times: Sequence[datetime], axis: _Axis, total: int) -> str:
    # Times before and after the axis still count: at its edges.
    before = count = sum(time < axis.first for time in times)
    columns: dict[int, int] = {}
    for time in sorted(time for time in times if axis.first <= time <= axis.last):
        count += 1
        columns[round(axis.at(time) * _COLUMNS / 100)] = count
    path = f"M0 {_height(before, total)}"
    for column, height in columns.items():
        path += f"H{100 * column / _COLUMNS:g}V{_height(height, total)}"
    return f"{path}H100V{_height(len(times), total)}"


def _height(count: int, total: int) -> str:
    return f"{100 - 100 * count / total:.2f}"
