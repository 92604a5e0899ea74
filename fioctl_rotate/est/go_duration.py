"""Durations as Go writes them, which estserver's `--cert-duration` takes: `26280h`, `1h30m`, `1.5h`."""

import datetime
import re
from fractions import Fraction

from fioctl_rotate.errors import UsageError

_MICROSECONDS = {
    "ns": Fraction(1, 1000),
    "us": Fraction(1),
    "µs": Fraction(1),
    "μs": Fraction(1),
    "ms": Fraction(1000),
    "s": Fraction(1_000_000),
    "m": Fraction(60_000_000),
    "h": Fraction(3_600_000_000),
}
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")


def parse_go_duration(text: str) -> datetime.timedelta:
    """The duration (Go: time.ParseDuration), at least a second and less than a thousand years.

    Raises UsageError for anything else.
    """
    if len(text) > 100 or not re.fullmatch(f"\\+?(?:{_PART.pattern})+", text):
        raise UsageError(
            f"`{text[:100]}` is not a valid duration",
            hint="give hours, minutes, seconds, as in 26280h, 1h30m or 1.5h",
        )
    total = sum(Fraction(number) * _MICROSECONDS[unit] for number, unit in _PART.findall(text))
    if not 1_000_000 <= total < _MICROSECONDS["h"] * 24 * 365 * 1000:
        raise UsageError(f"the duration `{text}` is not between a second and a thousand years")
    return datetime.timedelta(microseconds=int(total))
