"""Rotations as JUnit XML for systems that show tests: a suite for each rotation or stage, a case a device."""

from collections.abc import Sequence
from xml.etree import ElementTree

from fioctl_rotate.errors import printable
from fioctl_rotate.ops.watch import Snapshot
from fioctl_rotate.rotation.document import time_text
from fioctl_rotate.rotation.messages import where, why
from fioctl_rotate.rotation.picture import BeganAgain, Picture
from fioctl_rotate.rotation.rollout import Decision
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.stage_states import Point, Rollout, StagedDevice
from fioctl_rotate.rotation.state import DeviceState, Rotation, State


def render(snapshot: Snapshot, *, mark: str = "") -> str:
    """The document of one rotation; `mark` stands before the suite's name.

    A device that is done passes; one that will not follow is skipped; any other has failed. A rotation without
    devices, or none that could be read, has failed too.
    """
    rotation = snapshot.rotation
    cases = [_case(rotation, state) for state in snapshot.states]
    if not cases:
        cases = [no_devices(rotation.id, snapshot.message)]
    suite = suite_of(f"{mark}rotation {rotation.id} of {rotation.scope}", cases)
    suite.set("timestamp", str(time_text(rotation.pushed_at or snapshot.at)).rstrip("Z"))
    return document_of([suite])


def render_rollout(rollout: Rollout, decision: Decision, picture: Picture, *, mark: str = "") -> str:
    """The document of a rollout, as `render` makes it, with a suite for each stage.

    A device that has not got the entry yet is skipped.
    """
    suites = [
        suite_of(
            f"{mark}stage {stage.number} of {rollout.last}",
            [_staged_case(rollout, stage.number, staged) for staged in stage.devices],
        )
        for stage in decision.stages
    ]
    rotation = Rotation(rollout.id, Scope.of_group(rollout.group))
    last = [_case(rotation, state, picture.again.get(state.uuid)) for state in picture.states]
    return document_of([*suites, suite_of(f"{mark}stage {rollout.last} of {rollout.last}", last)])


def no_devices(what: str, message: str) -> ElementTree.Element:
    """A failed case for a suite without devices: CI systems let an empty suite pass."""
    case = ElementTree.Element("testcase", classname=printable(what), name="devices", time="0")
    ElementTree.SubElement(case, "failure", type="no-devices", message=printable(message))
    return case


def document_of(suites: Sequence[ElementTree.Element]) -> str:
    """The suites as one document, with their totals."""
    root = ElementTree.Element("testsuites")
    root.extend(suites)
    for total in ("tests", "failures", "skipped"):
        root.set(total, str(sum(int(suite.get(total, 0)) for suite in suites)))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"


def suite_of(name: str, cases: Sequence[ElementTree.Element]) -> ElementTree.Element:
    """A suite, with the totals of its cases."""
    suite = ElementTree.Element("testsuite", name=printable(name))
    suite.extend(cases)
    suite.attrib |= {
        "time": f"{sum(float(case.get('time', 0)) for case in cases):.0f}",
        "tests": str(len(cases)),
        "failures": str(sum(case.find("failure") is not None for case in cases)),
        "errors": "0",
        "skipped": str(sum(case.find("skipped") is not None for case in cases)),
    }
    return suite


def _case(rotation: Rotation, state: DeviceState, again: BeganAgain | None = None) -> ElementTree.Element:
    """The case of a device. `time` is how long its steps took. The `type` of a failure is its reason, or its state.

    A device that is done, but then began an older rotation (`again`), has failed.
    """
    case = ElementTree.Element(
        "testcase",
        classname=printable(f"{rotation.id}.{rotation.scope}"),
        name=printable(state.name),
        time=f"{sum(event.seconds or 0 for event in state.progress.events):.0f}",
    )
    if again is not None:
        ElementTree.SubElement(case, "failure", type="another-rotation", message=printable(again.message))
        return case
    if state.state == State.DONE:
        return case
    text = printable(why(rotation, state))
    outcome = ElementTree.SubElement(
        case,
        # A device that began and stopped has failed, whether it may come back or not.
        "skipped" if state.state == State.PENDING and state.reason else "failure",
        type=str(state.reason or state.state),
        message=f"{where(state)}: {text}" if text else where(state),
    )
    outcome.text = printable(state.message) if state.message else None
    return case


def _staged_case(rollout: Rollout, stage: int, staged: StagedDevice) -> ElementTree.Element:
    case = ElementTree.Element(
        "testcase", classname=f"{rollout.id}.stage-{stage}", name=printable(staged.device.name)
    )
    if staged.point is not Point.DONE:
        text = printable(staged.message)
        outcome = ElementTree.SubElement(
            case,
            "skipped" if staged.point is Point.NOT_GIVEN else "failure",
            type=str(staged.point),
            message=": ".join(filter(None, (str(staged.point), text))),
        )
        outcome.text = text or None
    return case
