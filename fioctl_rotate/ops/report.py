"""A rotation as one HTML page that a person keeps: no script, nothing loaded from elsewhere, everything escaped."""

import html
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from importlib.resources import files
from string import Template

from fioctl_rotate.errors import printable
from fioctl_rotate.ops.watch import Snapshot
from fioctl_rotate.rotation.messages import advice, where, why
from fioctl_rotate.rotation.progress import LAST, STEPS
from fioctl_rotate.rotation.state import DeviceState, State

# Times that devices give are drawn from this long before the push to this long after the look.
_AROUND = timedelta(minutes=10)
_TICKS = [
    1, 2, 5, 10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800, 2592000,
]  # fmt: skip
_MOST_TICKS = 5


def render(snapshot: Snapshot, *, factory: str, server: str) -> str:
    """The page. What servers and devices said is shown as text, whatever is in it."""
    rotation, states, summary = snapshot.rotation, snapshot.states, snapshot.summary
    pushed = f"{rotation.pushed_at:%Y-%m-%d %H:%M:%S} UTC" if rotation.pushed_at else "before the log begins"
    facts = (
        ("Target", f"{rotation.scope}, factory {factory}"),
        ("Server", server),
        ("Pushed", pushed + (f" by {rotation.pushed_by}" if rotation.pushed_by else "")),
        ("Reason", rotation.reason),
        ("EST server", rotation.est_server),
        ("Seen at", f"{snapshot.at:%Y-%m-%d %H:%M:%S} UTC"),
    )
    sections = (
        _attention(snapshot),
        _plot(snapshot),
        _durations(states),
        _failures(states),
        _not_following(snapshot),
        _devices(snapshot),
    )
    template = Template(files("fioctl_rotate.ops").joinpath("report.html").read_text("utf-8"))
    return template.substitute(
        title=_text(f"Rotation {rotation.id} of {rotation.scope}"),
        id=_text(rotation.id),
        headline=_text(summary.message),
        bar="".join(
            f'<span class="{state}" style="flex:{count}"></span>'
            for state, count in summary.states.items()
            if count
        ),
        counts="".join(
            f'<li><b>{count}</b><span class="mark {state}"></span>{state}</li>'
            for state, count in summary.states.items()
        ),
        facts="".join(f"<dt>{name}</dt><dd>{_text(value)}</dd>" for name, value in facts if value),
        sections="\n".join(filter(None, sections)),
    )


def _attention(snapshot: Snapshot) -> str:
    lines = advice(snapshot.rotation, snapshot.states)
    if not lines:
        return ""
    items = "".join(f"<li>{_prose(line[0].upper() + line[1:])}.</li>" for line in lines)
    return f"<h2>What can be done</h2>\n<ul>{items}</ul>"


def _plot(snapshot: Snapshot) -> str:
    """How many devices had begun, and how many had finalized, by the times that they gave themselves."""
    began = [state.progress.started for state in snapshot.states if state.progress.started]
    final = [
        min(times)
        for state in snapshot.states
        if (times := [e.time for e in state.progress.events if e.step == LAST and e.success and e.time])
    ]
    pushed = snapshot.rotation.pushed_at
    low = pushed - _AROUND if pushed else min(began, default=snapshot.at)
    inside = [time for time in (*began, *final) if low <= time <= snapshot.at + _AROUND]
    if not inside:
        return ""
    first = min(*inside, pushed) if pushed else min(inside)
    last = max(inside)
    step = next((step for step in _TICKS if (last - first).total_seconds() / step < _MOST_TICKS), _TICKS[-1])
    span = max((last - first).total_seconds() * 1.02, step)
    total = len(snapshot.states)

    def at(time: datetime) -> float:
        return round(100 * (time - first).total_seconds() / span, 2)

    def line(times: Sequence[datetime]) -> str:
        points = sorted(time for time in times if first <= time <= last)
        # Earlier and later times than the drawn ones are still counted, at the edges.
        before = sum(1 for time in times if time < first)
        path = f"M0 {100 - 100 * before / total:.2f}"
        for count, time in enumerate(points, before + 1):
            path += f"H{at(time)}V{100 - 100 * count / total:.2f}"
        return path + f"H100V{100 - 100 * len(times) / total:.2f}"

    levels = sorted({0, total // 2, total} if total > 1 else {0, total})
    grid = "".join(
        f'<line x1="0" x2="100" y1="{100 - 100 * n / total:.2f}" y2="{100 - 100 * n / total:.2f}"/>'
        for n in levels
    )
    labels = "".join(f'<i class="y" style="bottom:{100 * n / total:.2f}%">{n}</i>' for n in levels)
    style = "%H:%M:%S" if step < 60 else "%H:%M" if step < 86400 else "%m-%d"
    # Ticks stand at round times; the drawing begins with the push, or with the first that began.
    tick = datetime.fromtimestamp(-(-first.timestamp() // step) * step, first.tzinfo)
    ticks = [tick + timedelta(seconds=step * n) for n in range(_MOST_TICKS + 1)]
    ticks = [tick for tick in ticks if at(tick) <= 100]
    labels += "".join(f'<i class="x" style="left:{at(tick)}%">{tick:{style}}</i>' for tick in ticks)
    outside = len([*began, *final]) - len(inside)
    odd = f" {outside} of the times cannot be right; they are counted at the edges." if outside else ""
    return f"""<h2>Progress over time</h2>
<figure>
<div class="legend">
<span>{_swatch("began")}begun ({len(began)})</span><span>{_swatch("final")}finalized ({len(final)})</span>
</div>
<div class="plot" role="img" aria-label="Devices begun and finalized over time">
<svg viewBox="0 0 100 100" preserveAspectRatio="none">{grid}
<path class="began" d="{line(began)}"/><path class="final" d="{line(final)}"/></svg>
{labels}
</div>
<figcaption>Devices out of {total}, from {first:%Y-%m-%d %H:%M} UTC on. The times are the devices' own, by their own
clocks.{odd} When the gateway took a new key is not known to the minute, so “done” is not drawn.</figcaption>
</figure>"""


def _durations(states: Sequence[DeviceState]) -> str:
    seconds = defaultdict(list)
    for state in states:
        for event in state.progress.events:
            if event.success and event.step and event.seconds is not None:
                seconds[event.step].append(event.seconds)
    if not seconds:
        return ""
    rows = [
        (
            f"{number}. {name}",
            str(len(seconds[number])),
            _duration(statistics.median(seconds[number])) if seconds[number] else "",
            _duration(max(seconds[number])) if seconds[number] else "",
        )
        for number, name in enumerate(STEPS, 1)
    ]
    body = "".join(
        f"<tr><td>{_text(name)}</td>"
        + "".join(f'<td class="number">{value}</td>' for value in values)
        + "</tr>"
        for name, *values in rows
    )
    return f"""<h2>How long the steps took</h2>
<table><thead><tr><th>Step</th><th class="number">Times</th><th class="number">Median</th>
<th class="number">Longest</th></tr></thead><tbody>{body}</tbody></table>
<p class="soft">By the devices' clocks, which count whole seconds. Failed steps are left out.</p>"""


def _failures(states: Sequence[DeviceState]) -> str:
    """Failed steps by what the devices said, the most frequent first, those that devices got over among them."""
    said: dict[tuple[int, str], list[DeviceState]] = defaultdict(list)
    for state in states:
        for failure in dict.fromkeys(
            (e.step, e.message or "") for e in state.progress.events if not e.success
        ):
            said[failure].append(state)
    if not said:
        return ""
    rows = []
    for (step, words), devices in sorted(said.items(), key=lambda item: (-len(item[1]), item[0])):
        # A device that tries the step again has not got over it.
        still = [d for d in devices if d.state in (State.FAILING, State.RUNNING) and d.step <= step]
        over = [d for d in devices if d not in still]
        names = ", ".join(device.name for device in still)
        if over:
            names += f"{'; ' if still else ''}got over it: {', '.join(device.name for device in over)}"
        rows.append((f"{step}. {STEPS[step - 1]}", words, names))
    return "<h2>Failures, in the devices' words</h2>\n" + _table(("Step", "Words", "Devices"), rows)


def _not_following(snapshot: Snapshot) -> str:
    left = [
        state for state in snapshot.states if state.state == State.PENDING or state.state == State.FINALIZED
    ]
    rows = [
        (state.name, where(state), why(snapshot.rotation, state) or "shows no sign of it yet")
        for state in left
    ]
    if not rows:
        return ""
    return "<h2>Devices that did not follow, or are not there yet</h2>\n" + _table(
        ("Device", "State", "Why"), rows
    )


def _devices(snapshot: Snapshot) -> str:
    rows = [
        (
            state.name,
            where(state),
            f"{state.since:%Y-%m-%d %H:%M:%S}" if state.since else "",
            f"{state.attempts} attempts" if state.attempts > 1 else "",
            f"{state.last_seen:%Y-%m-%d %H:%M:%S}" if state.last_seen else "never",
        )
        for state in snapshot.states
    ]
    return "<h2>Every device</h2>\n" + _table(
        ("Device", "State", "Since, by its clock", "", "Last seen, by the server's"), rows
    )


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(header)}</th>" for header in headers)
    # On a phone a row becomes lines, and what its heading said stands before the cell.
    labels = [
        "" if place < 2 or not header else f' data-label="{_text(header)}: "'
        for place, header in enumerate(headers)
    ]
    body = "".join(
        "<tr>"
        + "".join(f"<td{label}>{_text(cell)}</td>" for label, cell in zip(labels, row, strict=True))
        + "</tr>\n"
        for row in rows
    )
    return f'<table class="rows"><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>'


def _swatch(name: str) -> str:
    return f'<svg viewBox="0 0 20 6" aria-hidden="true"><path class="{name}" d="M0 3H20"/></svg>'


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 7200 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _prose(value: str) -> str:
    """Our own sentence: what stands between backticks is a command."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", _text(value))


def _text(value: str) -> str:
    return html.escape(printable(value))
