"""A rotation as JUnit XML, one case a device, for the systems that show tests."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from fioctl_rotate.errors import printable
from fioctl_rotate.files import write_atomic
from fioctl_rotate.rotation.messages import where, why
from fioctl_rotate.rotation.picture import Picture
from fioctl_rotate.rotation.rollout import Decision, Point, Rollout
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.state import DeviceState, Rotation, State


def write(path: Path, rotation: Rotation, states: Sequence[DeviceState]) -> None:
    """Write the file. A device that is done passes; one that will not follow is skipped; any other has failed."""
    _write(path, [_suite(rotation, states)])


def _suite(rotation: Rotation, states: Sequence[DeviceState]) -> ElementTree.Element:
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
    return suite


def write_rollout(path: Path, rollout: Rollout, decision: Decision, picture: Picture) -> None:
    """Write the file of a rollout, a suite a stage, as `write` does; a device that has not begun is skipped."""
    suites = []
    for stage in decision.stages:
        suite = ElementTree.Element("testsuite", name=f"stage {stage.number} of {rollout.last}")
        skipped = 0
        for staged in stage.devices:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=f"{rollout.id}.stage-{stage.number}",
                name=printable(staged.device.name),
            )
            if staged.point is Point.DONE:
                continue
            kind = "skipped" if staged.point is Point.NOT_GIVEN else "failure"
            skipped += kind == "skipped"
            message = ": ".join(filter(None, (str(staged.point), printable(staged.message))))
            ElementTree.SubElement(case, kind, message=message)
        counts = {
            "tests": len(stage.devices),
            "failures": len(stage.devices) - stage.done - skipped,
            "skipped": skipped,
        }
        suite.attrib |= {key: str(count) for key, count in counts.items()}
        suites.append(suite)
    rotation = Rotation(rollout.id, Scope.of_group(rollout.group))
    last = _suite(rotation, picture.states)
    last.attrib["name"] = f"stage {rollout.last} of {rollout.last}"
    _write(path, [*suites, last])


def _write(path: Path, suites: Sequence[ElementTree.Element]) -> None:
    root = ElementTree.Element("testsuites")
    root.extend(suites)
    ElementTree.indent(root)
    write_atomic(path, ElementTree.tostring(root, "utf-8", xml_declaration=True) + b"\n", 0o644)
