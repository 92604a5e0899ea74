"""When devices must rotate, as JUnit XML and as an HTML page with a plot of the months."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from xml.etree import ElementTree

from fioctl_rotate.errors import printable
from fioctl_rotate.ops import pages
from fioctl_rotate.ops.junit import document_of, no_devices, suite_of
from fioctl_rotate.rotation.due import Due, Urgency, by_month, message_of


def junit(devices: Sequence[Due], allowed: Collection[str]) -> str:
    """A test case for each device: `fine` passes, another status in `allowed` is skipped, any other fails."""
    cases = []
    for device in devices:
        case = ElementTree.Element(
            "testcase", classname="certificates", name=printable(device.name), time="0"
        )
        if device.status != "fine":
            ends = f"{device.status}: ends {device.ends_at:%Y-%m-%d}" if device.ends_at else device.message
            outcome = "skipped" if device.status in allowed else "failure"
            ElementTree.SubElement(case, outcome, type=str(device.status), message=printable(ends))
        cases.append(case)
    return document_of([suite_of("certificates", cases or [no_devices("certificates", "no devices")])])


@dataclass(frozen=True)
class Group:
    """Devices of one status. `shown` are those that get a row."""

    status: Urgency
    count: int
    shown: Sequence[Due]


def page(devices: Sequence[Due], scope: str, now: datetime) -> str:
    """A self-contained page: devices that must rotate, then the others. Values of the Factory are escaped."""
    months = by_month(devices)
    most = max((count for _, count in months), default=1)
    by_status = {status: [d for d in devices if d.status is status] for status in Urgency}
    rows = pages.rows_of([len(of) for of in by_status.values()])
    groups = {
        status: Group(status, len(of), of[:n])
        for (status, of), n in zip(by_status.items(), rows, strict=True)
        if of
    }
    fine = groups.pop(Urgency.FINE, None)
    return pages.render(
        "due.html",
        scope=scope,
        now=now,
        message=message_of(devices),
        counts={status: len(of) for status, of in by_status.items()},
        months=[(month, count, 100 * count / most) for month, count in months],
        open=list(groups.values()),
        fine=fine,
    )
