"""A check and how it ended, for everything that is looked at before something is sent or signed."""

import enum

from msgspec import Struct


class Status(enum.StrEnum):
    """How a check ended. A warning does not keep a device from rotating."""

    PASS = "pass"  # noqa: S105  no password
    WARN = "warn"
    FAIL = "fail"


class Check(Struct, frozen=True):
    """One thing that was checked, its status, and in a message what was seen."""

    name: str
    status: Status
    message: str
