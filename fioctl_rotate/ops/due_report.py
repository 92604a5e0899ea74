"""Who must rotate by when, as JUnit XML and as an HTML page with a plot of the months."""

from collections.abc import Collection, Sequence
from datetime import datetime
from importlib.resources import files
from xml.etree import ElementTree

from jinja2 import Environment, StrictUndefined

from fioctl_rotate.errors import printable
from fioctl_rotate.ops.junit import document_of, no_devices, suite_of
from fioctl_rotate.rotation.due import Due, by_month


def junit(devices: Sequence[Due], allowed: Collection[str]) -> str:
    """A case a device: fine passes, another status in `allowed` is skipped, any other has failed."""
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


def page(devices: Sequence[Due], scope: str, now: datetime) -> str:
    """A self-contained page. What the Factory says is shown as text."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(files("fioctl_rotate.ops").joinpath("due.html").read_text("utf-8"))
    months = by_month(devices)
    most = max((count for _, count in months), default=1)
    return template.render(
        scope=printable(scope),
        now=now,
        months=[(month, count, 100 * count / most) for month, count in months],
        devices=[(printable(device.name), device) for device in devices],
    )
