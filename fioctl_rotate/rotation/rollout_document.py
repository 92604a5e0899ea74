"""A rollout in stages as JSON, and as lines for people: both from one decision."""

from collections.abc import Iterator
from typing import Any

from fioctl_rotate.rotation.document import of_summary, time_text
from fioctl_rotate.rotation.picture import Picture
from fioctl_rotate.rotation.rollout import Decision
from fioctl_rotate.rotation.stage_states import Rollout, StagedDevice, StageState, StageStatus


def of_stage(state: StageState, of: int) -> dict[str, Any]:
    """`{number, of, status, devices, done, failures, allowed, soak-until}`; counts of devices."""
    return {
        "number": state.number,
        "of": of,
        "status": str(state.status),
        "devices": len(state.devices),
        "done": state.done,
        "failures": len(state.failures),
        "allowed": state.allowed,
        "soak-until": time_text(state.until),
    }


def of_staged_device(number: int, staged: StagedDevice) -> dict[str, Any]:
    """`{stage, uuid, name, point, message}`."""
    return {
        "stage": number,
        "uuid": staged.device.uuid,
        "name": staged.device.name,
        "point": str(staged.point),
        "message": staged.message,
    }


def of_decision(rollout: Rollout, decision: Decision, picture: Picture) -> dict[str, Any]:
    """`{rotation, verdict, stage, of, message, stages, group}`; `group` counts its devices in the last stage."""
    return {
        "rotation": rollout.id,
        "verdict": str(decision.verdict),
        "stage": decision.stage,
        "of": rollout.last,
        "message": decision.message,
        "stages": [of_stage(state, rollout.last) for state in decision.stages],
        "group": of_summary(picture.summary) if picture.summary else None,
    }


def stage_line(state: StageState, of: int) -> str:
    """`stage 1 of 4: soaking until 2026-11-25 12:30:05 UTC, 1 of 1 done`."""
    text = f"stage {state.number} of {of}: {_status(state)}"
    failed = f", {len(state.failures)} failed ({state.allowed} allowed)" if state.failures else ""
    return f"{text}, {state.done} of {len(state.devices)} done{failed}"


def device_line(staged: StagedDevice) -> str:
    """`device-1  running  step 2/5, Lock device configuration on server`."""
    return "  ".join(filter(None, (staged.device.name, str(staged.point), staged.message)))


def rows(rollout: Rollout, decision: Decision, picture: Picture) -> Iterator[tuple[str, str, str, str]]:
    """A row a stage, for a table: which, how it stands, how many are done, and who is not."""
    for state in decision.stages:
        rest = [device_line(staged) for staged in state.devices if staged.point.open]
        yield (
            f"{state.number} of {rollout.last}",
            _status(state),
            f"{state.done} of {len(state.devices)}",
            "; ".join(rest[:3]) + (f"; and {len(rest) - 3} more" if len(rest) > 3 else ""),
        )
    summary = picture.summary
    yield (
        f"{rollout.last} of {rollout.last}",
        _last_outcome(rollout, decision),
        f"{summary.done} of {summary.total}" if summary else "",
        summary.message if summary else "the whole group",
    )


def _status(state: StageState) -> str:
    """`soaking until 2026-11-25 12:30:05 UTC`, or the status alone."""
    soaking = state.status is StageStatus.SOAKING and state.until
    return f"{state.status} until {state.until:%Y-%m-%d %H:%M:%S} UTC" if soaking else str(state.status)


def _last_outcome(rollout: Rollout, decision: Decision) -> str:
    if decision.stage < rollout.last:
        return str(StageStatus.WAITING)
    return str(decision.verdict)
