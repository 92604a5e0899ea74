"""Durations as people type them: `90` and `90s`, `15m`, `2h`, `1d`."""

import re

from fioctl_rotate.errors import UsageError

# Seconds in each unit; a number without one is in seconds.
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_HINT = "give seconds, or a number with s, m, h or d: 90, 90s, 15m, 2h, 1d"
LONGEST = 3650 * 86400.0  # ten years, in seconds


def parse_duration(text: str, *, name: str = "duration", shortest: float = 0.0) -> float:
    """The duration in `text`, in seconds, from `shortest` to ten years.

    Raises UsageError for anything else, which calls the value `name`.
    """
    found = re.fullmatch(r"([0-9]{0,9}(?:\.[0-9]{0,9})?)([smhd]?)", text)
    if not found or not re.search("[0-9]", text):
        raise UsageError(f"the {name} `{text[:40]}` is not valid", hint=_HINT)
    seconds = float(found[1]) * _UNITS[found[2]]
    if seconds < shortest:
        raise UsageError(f"the {name} `{text}` is too short: expected at least {shortest:g} s")
    if seconds > LONGEST:
        raise UsageError(f"the {name} `{text}` is too long: expected at most ten years")
    return seconds


def duration_text(seconds: float) -> str:
    """Whole seconds as people say them: `12 s`, `10 min`, `2 h 3 min`, `1 d`; `0 s` for less than half a second."""
    rest, parts = round(seconds), []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        amount, rest = divmod(rest, size)
        if amount:
            parts.append(f"{amount} {unit}")
    return " ".join(parts) or "0 s"


def elapsed_text(seconds: float) -> str:
    """A time after a start, as `3:05:10` or `2 d 3:05:10`."""
    days, rest = divmod(int(seconds), 86400)
    clock = f"{rest // 3600}:{rest % 3600 // 60:02}:{rest % 60:02}"
    return f"{days} d {clock}" if days else clock
