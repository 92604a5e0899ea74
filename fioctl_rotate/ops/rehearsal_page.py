"""A rehearsal as one HTML page with a plot: what would be done and harmed when, beside a plain push."""

from datetime import UTC, datetime, timedelta
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from fioctl_rotate.errors import printable
from fioctl_rotate.ops import rehearsed
from fioctl_rotate.ops.curves import Curves, drawn
from fioctl_rotate.ops.rehearsed import End, Played, Rehearsal

_MOST_ROWS = 50


def render(rehearsal: Rehearsal) -> str:
    """The page, which needs nothing from elsewhere. What servers and devices said is text."""
    played = [
        (name, one)
        for name, one in (("in stages", rehearsal.staged), ("with a plain push", rehearsal.plain))
        if one is not None
    ]
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    template = environment.from_string(
        files("fioctl_rotate.ops").joinpath("rehearsal.html").read_text("utf-8")
    )
    return template.render(
        rehearsal=rehearsal,
        beside_headers=rehearsed.BESIDE_HEADERS,
        beside=list(rehearsed.beside_rows(rehearsal)),
        messages=[(name, one.message) for name, one in played if one.message],
        curves=_curves(played),
        classes=(0, 1, 2, 3) if rehearsal.staged else (2, 3),
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


def _shown(value: object) -> object:
    """What a template prints, with control characters made visible."""
    return printable(value) if type(value) is str else value
