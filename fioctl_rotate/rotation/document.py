"""A rotation's state as JSON: stable shapes, keys in kebab-case as the API has them, times RFC 3339 in UTC."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from fioctl_rotate.rotation.messages import why
from fioctl_rotate.rotation.progress import STEPS
from fioctl_rotate.rotation.state import DeviceState, Rotation
from fioctl_rotate.rotation.summary import Summary


def of_rotation(rotation: Rotation) -> dict[str, Any]:
    """`{id, target, est-server, pushed-at, pushed-by, reason, current, settled}`.

    `target` is `{group}` or `{device, uuid}`, and empty where it is not known yet.
    """
    return {
        "id": rotation.id,
        "target": rotation.scope.document(),
        "est-server": rotation.est_server,
        "pushed-at": time_text(rotation.pushed_at),
        "pushed-by": rotation.pushed_by,
        "reason": rotation.reason,
        "current": rotation.current,
        "settled": rotation.settled,
    }


def of_device(rotation: Rotation, state: DeviceState) -> dict[str, Any]:
    """One device. `since` is by the device's clock, `last-seen` by the server's; `message` is of a failed step.

    `reason` is why it does not follow (`shadowed`, `unsupported`, `superseded`, `offline`, `silent`), `proof` what
    proves that the gateway accepted the new key (`public-key`, `seen-again`); each null where there is none. `step`
    is 0 before the first.
    """
    return {
        "uuid": state.uuid,
        "name": state.name,
        "state": str(state.state),
        "step": state.step,
        "step-name": STEPS[state.step - 1] if state.step else None,
        "since": time_text(state.since),
        "attempts": state.attempts,
        "message": state.message,
        "reason": None if state.reason is None else str(state.reason),
        "why": why(rotation, state),
        "proof": None if state.proof is None else str(state.proof),
        "last-seen": time_text(state.last_seen),
        "lmp-ver": state.lmp_ver,
    }


def of_summary(summary: Summary) -> dict[str, Any]:
    """`{total, done, finalized, failing, running, pending, left, not-following: {shadowed, …}, complete}`."""
    return {
        "total": summary.total,
        **{str(state): count for state, count in summary.states.items()},
        "not-following": {str(reason): count for reason, count in summary.not_following.items()},
        "complete": summary.complete,
    }


def of_all(
    *,
    factory: str,
    server: str,
    rotation: Rotation,
    at: datetime,
    states: Sequence[DeviceState],
    summary: Summary,
) -> dict[str, Any]:
    """`{factory, server, rotation, at, summary, devices}`.

    `devices` may be only some of those that `summary` counts. It is an iterator, so that a large fleet is never
    held in memory.
    """
    return {
        "factory": factory,
        "server": server,
        "rotation": of_rotation(rotation),
        "at": time_text(at),
        "summary": of_summary(summary),
        "devices": (of_device(rotation, state) for state in states),
    }


def time_text(time: datetime | None) -> str | None:
    """RFC 3339 in UTC, whole seconds."""
    return None if time is None else time.strftime("%Y-%m-%dT%H:%M:%SZ")
