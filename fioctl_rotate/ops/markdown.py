"""Markdown for the page that a CI job shows of itself. What servers and devices say can't become markup."""

import html
import re
from collections.abc import Iterable, Sequence

from fioctl_rotate.errors import printable
from fioctl_rotate.ops.watch import Snapshot
from fioctl_rotate.rotation.messages import advice, where, why
from fioctl_rotate.rotation.state import State

_MOST_ROWS = 100
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|~:@$^=/])")


def text(value: str) -> str:
    """`value` as text on one line, with nothing that Markdown or HTML would read as more."""
    return _SPECIAL.sub(r"\\\1", html.escape(printable(value), quote=False))


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts."""
    lines = [headers, ["---"] * len(headers), *([text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def of_rotation(snapshot: Snapshot, *, factory: str, server: str) -> str:
    """A rotation: its counts, the devices that are not done, and what can be done."""
    rotation = snapshot.rotation
    parts = [
        f"## Rotation {text(rotation.id)} of {text(str(rotation.scope))}\n",
        f"**{text(snapshot.message)}**, factory {text(factory)} at {text(server)}\n",
    ]
    counts = [(str(state), str(count)) for state, count in snapshot.summary.states.items() if count]
    if counts:
        parts.append(table(("State", "Devices"), counts))
    open_ = [state for state in snapshot.states if state.state != State.DONE]
    if open_:
        rows = ((state.name, where(state), why(rotation, state)) for state in open_[:_MOST_ROWS])
        parts.append(table(("Device", "State", "Why"), rows))
    if len(open_) > _MOST_ROWS:
        parts.append(f"and {len(open_) - _MOST_ROWS} more\n")
    parts += [f"- {_sentence(line)}\n" for line in advice(rotation, snapshot.states)]
    return "\n".join(parts) + "\n"


def of_rollout(head: str, rows: Iterable[Sequence[str]], message: str) -> str:
    """A rollout in stages: a row a stage (`rotation.rollout_document.rows`), and what stopped it."""
    parts = [f"## {text(head)}\n", table(("Stage", "Status", "Done", "Devices"), rows)]
    return "\n".join([*parts, *([f"{text(message)}\n"] if message else [])]) + "\n"


def _sentence(line: str) -> str:
    """Our own sentence: what stands between backticks is a command."""
    pieces = re.split(r"`([^`]*)`", line)
    return "".join(
        f"<code>{html.escape(printable(piece))}</code>" if number % 2 else text(piece)
        for number, piece in enumerate(pieces)
    )
