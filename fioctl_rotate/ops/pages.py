"""Self-contained HTML pages, from the templates beside this file. Values from servers and devices are escaped."""

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined

from fioctl_rotate.duration import duration_text
from fioctl_rotate.errors import visible

_MOST_ROWS = 500


def render(template: str, **values: object) -> str:
    """The page that a template makes of the values."""
    script = _read("page.js")
    environment = Environment(
        loader=FunctionLoader(_read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {"duration": duration_text, "sentence": _sentence}
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(script=script, script_hash=script_hash, **values)


def rows_of(counts: Sequence[int]) -> list[int]:
    """How many rows each group of devices gets: all of a small group; the large groups share the rest equally."""
    rows, left = [0] * len(counts), _MOST_ROWS
    by_size = sorted(range(len(counts)), key=counts.__getitem__)
    for before, number in enumerate(by_size):
        rows[number] = min(counts[number], left // (len(counts) - before))
        left -= rows[number]
    return rows


def _read(name: str) -> str:
    return files("fioctl_rotate.ops").joinpath(name).read_text("utf-8")


def _sentence(line: str) -> list[tuple[bool, str]]:
    """Our own sentence in pieces; True marks a piece that stood between backticks, a command."""
    text = f"{line[0].upper()}{line[1:]}."
    return [(number % 2 == 1, piece) for number, piece in enumerate(re.split(r"`([^`]*)`", text))]


def _shown(value: object) -> object:
    """What a template prints, with control characters made visible."""
    return visible(value) if type(value) is str else value
