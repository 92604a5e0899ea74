"""When a device's certificate ends, by its last rotation that succeeded, and who must rotate by when. Pure.

The date of a rotation is the server's where there is one: from the EST server's log (then the end is exact), or
from the log of the device's own configuration. Else it is by the device's clock. If that contradicts the server's
times (before the push, or after the device was last seen), the push counts: the certificate is not older.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from msgspec import Struct

from fioctl_rotate.rotation.progress import Time

_SLACK = timedelta(minutes=5)


class Source(StrEnum):
    """Where a rotation's date comes from, the most certain first."""

    EST_LOG = "EST log"
    SERVER = "server"
    DEVICE = "device's clock"
    PUSH = "push"


class Urgency(StrEnum):
    """Whether a device must rotate; in the order of urgency."""

    EXPIRED = "expired"
    DUE = "due"
    UNKNOWN = "unknown"
    FINE = "fine"


class LastRotation(Struct, frozen=True):
    """The last rotation of a device that succeeded, and when. Only the EST log gives `not_after`."""

    rotation_id: str
    at: Time
    source: Source
    not_after: Time | None = None


class Due(Struct, frozen=True, rename="kebab"):
    """When one device must rotate. `days_left` are whole days, below 0 after the end; None where unknown.

    `message` says what is not known.
    """

    uuid: str
    name: str
    status: Urgency
    rotation: str | None = None
    rotated_at: Time | None = None
    source: Source | None = None
    ends_at: Time | None = None
    days_left: int | None = None
    message: str = ""


def rotation_date(
    rotation_id: str,
    *,
    finalized: datetime | None,
    applied: datetime | None,
    pushed: datetime | None,
    last_seen: datetime | None,
) -> LastRotation | None:
    """When the rotation ended, None where that is not known.

    `finalized` is by the device's clock; `applied` (when it fetched the entry of its own), `pushed` and `last_seen`
    are the server's.
    """
    if applied is not None:
        return LastRotation(rotation_id, applied, Source.SERVER)
    wrong = finalized is not None and (
        (pushed is not None and pushed - finalized > _SLACK)
        or (last_seen is not None and finalized - last_seen > _SLACK)
    )
    if finalized is not None and not wrong:
        return LastRotation(rotation_id, finalized, Source.DEVICE)
    return None if pushed is None else LastRotation(rotation_id, pushed, Source.PUSH)


def due(
    uuid: str,
    name: str,
    ended: LastRotation | None,
    *,
    registered: datetime | None,
    lifetime: timedelta,
    within: timedelta,
    now: datetime,
) -> Due:
    """When the device must rotate; `lifetime` is that of its certificate, where its end is not known exactly."""
    if ended is None:
        since = f"; registered {registered:%Y-%m-%d}" if registered else ""
        return Due(uuid, name, Urgency.UNKNOWN, message=f"no rotation among its last ten updates{since}")
    ends = ended.not_after or ended.at + lifetime
    left = ends - now
    status = Urgency.EXPIRED if left < timedelta() else Urgency.DUE if left <= within else Urgency.FINE
    return Due(uuid, name, status, ended.rotation_id, ended.at, ended.source, ends, left // timedelta(days=1))


def by_date(devices: Sequence[Due]) -> list[Due]:
    """The devices in the order of Urgency, and among equals those that end first, first."""
    order = list(Urgency)

    def key(device: Due) -> tuple[int, float, str]:
        return order.index(device.status), device.ends_at.timestamp() if device.ends_at else 0.0, device.name

    return sorted(devices, key=key)


def by_month(devices: Sequence[Due]) -> list[tuple[str, int]]:
    """How many certificates end in each month, `2027-01`, in order; months without any are included.

    Where they span more than four years it counts years instead, `2027`, without those that have none.
    """
    ends = Counter((device.ends_at.year, device.ends_at.month) for device in devices if device.ends_at)
    if not ends:
        return []
    first, last = (12 * year + month - 1 for year, month in (min(ends), max(ends)))
    if last - first >= 48:
        years = Counter(year for year, _ in ends.elements())
        return [(f"{year:04}", years[year]) for year in sorted(years)]
    months = [(number // 12, number % 12 + 1) for number in range(first, last + 1)]
    return [(f"{year:04}-{month:02}", ends[year, month]) for year, month in months]


def message_of(devices: Sequence[Due]) -> str:
    """The counts in one line: `5 devices: 1 expired, 0 due, 2 unknown, 2 fine`."""
    counts = Counter(str(device.status) for device in devices)
    return f"{len(devices)} devices: " + ", ".join(f"{counts[status]} {status}" for status in Urgency)
