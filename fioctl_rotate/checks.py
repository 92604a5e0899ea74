"""A check and how it ended, for everything that is checked before something is sent or signed."""

import enum
from collections.abc import Collection, Iterable

from msgspec import Struct


class Status(enum.StrEnum):
    """How a check ended. A warning does not keep a device from rotating."""

    PASS = "pass"  # noqa: S105  not a password
    WARN = "warn"
    FAIL = "fail"


class Check(Struct, frozen=True):
    """One thing that was checked, and its status; `message` says what was seen."""

    name: str
    status: Status
    message: str


def blocking(checks: Iterable[Check], *, allow: Collection[str] = (), strict: bool = False) -> list[Check]:
    """The checks that stop a push: the failed ones, with `strict` warnings too, except those named in `allow`."""
    stops = (Status.FAIL, Status.WARN) if strict else (Status.FAIL,)
    return [check for check in checks if check.status in stops and check.name not in allow]


def allow_options(checks: Iterable[Check]) -> str:
    """The options that waive these checks, as they are typed, in backticks."""
    return f"`{' '.join(f'--allow {check.name}' for check in checks)}`"
