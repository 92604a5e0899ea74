"""A rehearsal as one HTML page with a plot: what would be done and harmed when, beside a plain push."""

from datetime import UTC, datetime, timedelta

from fioctl_rotate.ops import pages, rehearsed
from fioctl_rotate.ops.curves import Curves, drawn
from fioctl_rotate.ops.rehearsed import End, Played, Rehearsal

_MOST_ROWS = 50
# How the lines of the plot look: done and harmed, in stages and with a plain push.
_LINES = ("done", "failing", "done dashed", "failing dashed")


def render(rehearsal: Rehearsal) -> str:
    """The page, which needs nothing from elsewhere. What servers and devices said is text."""
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
    """A line for the devices done, and one for those harmed, of each; None where nothing ever happened."""
    start = datetime.fromtimestamp(0, UTC)  # any will do: only what follows it is shown
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
