"""A rehearsal as one HTML page: how it ended, and a plot of the devices done and harmed over time."""

from datetime import UTC, datetime, timedelta

from fioctl_rotate.ops import pages, rehearsed
from fioctl_rotate.ops.curves import Curves, drawn
from fioctl_rotate.ops.rehearsed import End, Played, Rehearsal

_MOST_ROWS = 50
# CSS classes of the plot's lines: done and harmed in stages, then done and harmed with a plain push.
_LINES = ("done", "failing", "done dashed", "failing dashed")


def render(rehearsal: Rehearsal) -> str:
    """The self-contained page. Values from servers and devices are escaped."""
    played = [
        (name, one)
        for name, one in (("in stages", rehearsal.staged), ("with a plain push", rehearsal.plain))
        if one is not None
    ]
    return pages.render(
        "rehearsal.html",
        rehearsal=rehearsal,
        beside_headers=rehearsed.BESIDE_HEADERS,
        beside=list(rehearsed.beside_rows(rehearsal)),
        messages=[(name, one.message) for name, one in played if one.message],
        curves=_curves(played),
        classes=_LINES[-2 * len(played) :],
        stage_headers=rehearsed.STAGE_HEADERS,
        stages=list(rehearsed.stage_rows(rehearsal.staged)) if rehearsal.staged else [],
        reasons=[(name, rows[:_MOST_ROWS]) for name, one in played if (rows := rehearsed.why_rows(one))],
        meaning=rehearsed.MEANING,
    )


def _curves(played: list[tuple[str, Played]]) -> Curves | None:
    """For each rollout a line of the devices done, and one of those harmed; None where there are none."""
    start = datetime.fromtimestamp(0, UTC)  # any time will do: the axis shows the time since the start
    times: dict[str, list[datetime]] = {}
    for name, one in played:
        done = [device.back for device in one.devices if device.end is End.DONE]
        harmed = [device.begun for device in one.devices if device.end in (End.FAILED, End.WEDGED)]
        for what, seconds in (("done", done), ("harmed", harmed)):
            times[f"{what} {name}"] = [start + timedelta(seconds=s) for s in seconds if s is not None]
    if not any(times.values()):
        return None
    last = start + timedelta(seconds=max(one.took for _, one in played))
    return drawn(times, len(played[0][1].devices), start, last, elapsed=True)
