"""A rotation as JUnit XML, one case a device, for the systems that show tests."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from fioctl_rotate.errors import printable
from fioctl_rotate.files import write_atomic
from fioctl_rotate.rotation.messages import where, why
from fioctl_rotate.rotation.state import DeviceState, Rotation, State


def write(path: Path, rotation: Rotation, states: Sequence[DeviceState]) -> None:
    """Write the file. A device that is done passes; one that will not follow is skipped; any other has failed."""
    suite = ElementTree.Element("testsuite", name=printable(f"rotation {rotation.id}"))
    failures = skipped = 0
    for state in states:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=printable(f"{rotation.id}.{rotation.scope}"),
            name=printable(state.name),
            time=f"{sum(event.seconds or 0 for event in state.progress.events):.0f}",
        )
        if state.state == State.DONE:
            continue
        # A device that began and stopped has failed, whether it can be expected back or not.
        kind = "skipped" if state.state == State.PENDING and state.reason else "failure"
        failures += kind == "failure"
        skipped += kind == "skipped"
        words = printable(why(rotation, state))
        ElementTree.SubElement(case, kind, message=f"{where(state)}: {words}" if words else where(state))
    suite.attrib |= {"tests": str(len(states)), "failures": str(failures), "skipped": str(skipped)}
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    write_atomic(path, ElementTree.tostring(root, "utf-8", xml_declaration=True) + b"\n", 0o644)
