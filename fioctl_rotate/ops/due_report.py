"""Who must rotate by when, as JUnit XML and as an HTML page with a plot of the months."""

from collections.abc import Collection, Sequence
from datetime import datetime
from importlib.resources import files
from xml.etree import ElementTree

from jinja2 import Environment, StrictUndefined

from fioctl_rotate.errors import printable
from fioctl_rotate.rotation.due import Due, by_month


def junit(devices: Sequence[Due], allowed: Collection[str]) -> str:
    """A case a device; one whose status is not in `allowed` has failed."""
    suite = ElementTree.Element("testsuite", name="certificates")
    failures = 0
    for device in devices:
        case = ElementTree.SubElement(
            suite, "testcase", classname="certificates", name=printable(device.name)
        )
        if device.status not in allowed:
            failures += 1
            ends = f"{device.status}: ends {device.ends_at:%Y-%m-%d}" if device.ends_at else device.message
            ElementTree.SubElement(case, "failure", type=str(device.status), message=printable(ends))
    suite.attrib |= {"tests": str(len(devices)), "failures": str(failures)}
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, "unicode") + "\n"


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
