"""The clock of everyone who brings none of their own."""

import datetime
from collections.abc import Callable

Clock = Callable[[], datetime.datetime]
"""Tells the time, aware."""


def utc_now() -> datetime.datetime:
    """Now, in UTC."""
    return datetime.datetime.now(datetime.UTC)
