"""The type of a clock, and the real one."""

import datetime
from collections.abc import Callable

Clock = Callable[[], datetime.datetime]
"""Returns the time now, as an aware datetime."""


def utc_now() -> datetime.datetime:
    """Now, in UTC."""
    return datetime.datetime.now(datetime.UTC)
