"""Markdown for the summary page of a CI job. Text from servers and devices can't become markup."""

import html
import re
from collections.abc import Callable, Sequence

from fioctl_rotate.checks import Check, Status, blocking
from fioctl_rotate.errors import Error, printable
from fioctl_rotate.ops.watch import Snapshot
from fioctl_rotate.rotation import commands
from fioctl_rotate.rotation.due import Due
from fioctl_rotate.rotation.messages import advice, where, why
from fioctl_rotate.rotation.plan import Plan
from fioctl_rotate.rotation.state import State

_MOST_ROWS = 100
_COMMAND = re.compile(r"`(fioctl-rotate [^`]*)`")
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|~:@$^=/])")


def text(value: str) -> str:
    """`value` on one line, escaped so that Markdown and HTML read it as plain text."""
    return _escaped(printable(value))


def _escaped(value: str) -> str:
    return _SPECIAL.sub(r"\\\1", html.escape(value, quote=False))


def sentence(line: str) -> str:
    """Our own sentence, escaped. A command of ours between backticks becomes code."""
    pieces = _COMMAND.split(printable(line))
    return "".join(
        f"<code>{_escaped(piece)}</code>" if number % 2 else _escaped(piece)
        for number, piece in enumerate(pieces)
    )


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, cell: Callable[[str], str] = text) -> str:
    """A table of texts: the first hundred rows, and how many more there are."""
    lines = [headers, ["---"] * len(headers), *([cell(value) for value in row] for row in rows[:_MOST_ROWS])]
    more = f"\nand {len(rows) - _MOST_ROWS} more\n" if len(rows) > _MOST_ROWS else ""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n" + more


def _diff(plan: Plan) -> str:
    """The entry and what it replaces, in a code block that no line of them can end."""
    changes = plan.changes() if plan.current is not None else []
    removed = [printable(line) for line in changes if line.startswith("-")]
    entry = [
        f"+ {line}" if f"+ {line}" in changes else f"  {line}" for line in plan.entry.render().splitlines()
    ]
    shown = "\n".join([*removed, *entry])
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    return f"{fence}diff\n{shown}\n{fence}\n"


def _checks(checks: Sequence[Check]) -> str:
    """A row for each check; those that did not pass come first."""
    order = (Status.FAIL, Status.WARN, Status.PASS)
    rows = [(str(c.status), c.name, c.message) for c in sorted(checks, key=lambda c: order.index(c.status))]
    return table(("Status", "Check", "Message"), rows, cell=sentence)


def of_checks(title: str, checks: Sequence[Check], error: Error | None) -> str:
    """The checks, and the `error` where one of them stops something."""
    passed = sum(check.status is Status.PASS for check in checks)
    parts = [
        f"## {text(title)}\n",
        f"**{passed} of {len(checks)} checks passed**"
        + (f": {sentence(error.message)}" if error else "")
        + "\n",
        _checks(checks),
    ]
    return "\n".join(parts) + "\n"


def of_plan(plan: Plan) -> str:
    """A dry run, for the person who approves it: what is sent to which devices, the checks, the digest."""
    devices = "not known" if plan.devices is None else str(plan.devices)
    facts = [("Devices", devices), ("Factory", f"{plan.factory} at {plan.server}"), ("Reason", plan.reason)]
    if plan.made is not None:
        by = f"by {plan.made.by} " if plan.made.by else ""
        facts.append(("Made", f"{by}at {plan.made.at} with fioctl-rotate {plan.made.version}"))
    if plan.current is not None:
        facts.append(("Digest", plan.digest))
    parts = [
        f"## Dry run: rotation {text(plan.rotation_id)} to {text(str(plan.scope))}\n",
        "".join(f"- {name}: {text(value)}\n" for name, value in facts),
        f"{plan.compared}\n",
        _diff(plan),
    ]
    if plan.stages is not None:
        parts += [
            table(("Stage", "Device", "Why"), plan.stages.rows()),
            f"Rules: {text(plan.stages.rules)}\n",
            *(f"{text(line)}\n" for line in plan.older_rotation_warnings()),
        ]
    if plan.checks:
        parts.append(_checks(plan.checks))
    if plan.allow:
        parts.append(f"Allowed to fail: {text(', '.join(plan.allow))}\n")
    if stops := ", ".join(check.name for check in blocking(plan.checks, allow=plan.allow)):
        parts.append(f"**A push is refused because of {text(stops)}**\n")
    parts += [f"- Will not follow: {text(str(of))}\n" for of in plan.not_following]
    return "\n".join(parts) + "\n"


def of_due(title: str, message: str, devices: Sequence[Due]) -> str:
    """When certificates end: the counts, and the devices that are not fine."""
    rows = [
        (d.name, str(d.status), f"{d.ends_at:%Y-%m-%d}" if d.ends_at else "", d.rotation or d.message)
        for d in devices
        if d.status != "fine"
    ]
    parts = [f"## {text(title)}\n", f"**{text(message)}**\n"]
    parts += [table(("Device", "Status", "Ends", "Last rotation"), rows)] if rows else []
    return "\n".join(parts) + "\n"


def of_rotation(snapshot: Snapshot, *, factory: str, server: str, mark: str = "") -> str:
    """A rotation: its counts, the devices that are not done, and what can be done; `mark` comes first."""
    rotation, where_it_is = snapshot.rotation, commands.factory_options(factory, server)
    parts = [
        f"## {mark}Rotation {text(rotation.id)} of {text(str(rotation.scope))}\n",
        f"**{text(snapshot.message)}**, factory {text(factory)} at {text(server)}\n",
    ]
    counts = [(str(state), str(count)) for state, count in snapshot.summary.states.items() if count]
    if counts:
        parts.append(table(("State", "Devices"), counts))
    not_done = [state for state in snapshot.states if state.state != State.DONE]
    if not_done:
        rows = [(state.name, where(state), why(rotation, state)) for state in not_done]
        parts.append(table(("Device", "State", "Why"), rows))
    parts += [f"- {sentence(line)}\n" for line in advice(rotation, snapshot.states, where_it_is)]
    return "\n".join(parts) + "\n"


def of_rollout(head: str, state: str, rows: Sequence[Sequence[str]], message: str) -> str:
    """A rollout in stages: its state, a row for each stage (`rollout_document.rows`), and what stopped it."""
    parts = [
        f"## {text(head)}\n",
        f"**{text(state)}**\n",
        table(("Stage", "Status", "Done", "Devices"), rows),
    ]
    return "\n".join([*parts, *([f"{sentence(message)}\n"] if message else [])]) + "\n"
