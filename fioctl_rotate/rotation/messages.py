"""What to say of a device in a rotation, and what a person can do about it."""

import shlex
from collections.abc import Sequence

from fioctl_rotate.rotation.progress import LAST, STEPS
from fioctl_rotate.rotation.state import OLDEST_LMP, DeviceState, Reason, Rotation, State


def where(state: DeviceState) -> str:
    """The state in a few words: `running 3/5`, `failing at 1/5`, `pending (offline)`."""
    text = {
        State.RUNNING: f"running {state.step}/{LAST}",
        State.FAILING: f"failing at {state.step}/{LAST}",
    }.get(state.state, str(state.state))
    return f"{text} ({state.reason})" if state.reason else text


def why(rotation: Rotation, state: DeviceState) -> str:
    """What is behind the state: the device's own words of a failure, the reason that it does not follow."""
    if state.state == State.FAILING:
        return f"{STEPS[state.step - 1]}: {state.message}"
    if state.state == State.RUNNING:
        return f"{STEPS[state.step - 1]}{_again(state)}"
    if state.state == State.FINALIZED:
        return "has the new certificate, and the gateway has not been seen to take it"
    if state.reason == Reason.SHADOWED:
        told = f"rotation {state.own_entry}" if state.own_entry else "no rotation that can be read"
        return f"has an entry of its own, {told}, which goes before its group's"
    if state.reason == Reason.UNSUPPORTED:
        return f"LmP {state.lmp_ver} is older than {OLDEST_LMP}, which is the first that can rotate"
    if state.reason == Reason.SUPERSEDED:
        return f"{rotation.target} is told another rotation, or none, by now"
    if state.reason == Reason.OFFLINE:
        return "never seen" if state.last_seen is None else f"last seen {state.last_seen:%Y-%m-%d %H:%M} UTC"
    return _again(state).strip(" ()") if state.state == State.DONE else ""


def _again(state: DeviceState) -> str:
    return f" (attempt {state.attempts})" if state.attempts > 1 else ""


def advice(rotation: Rotation, states: Sequence[DeviceState], where: str = "") -> list[str]:
    """What can be done next, each a sentence: about the devices that need attention, or once every device is done.

    Never to push again: a device that has a failed step resumes that step at every start, and fetches nothing
    before it succeeds. `where` is what a command takes to name the Factory (`plan.place`).
    """
    lines = []
    if rotation.current and rotation.own and states and all(state.state == State.DONE for state in states):
        lines.append(
            "every device is done; now settle it, lest a reboot brings an earlier rotation back: "
            f"`{f'fioctl-rotate rotations settle {shlex.quote(rotation.id)} {rotation.option} {where}'.strip()}`"
        )
    failing = [state for state in states if state.state == State.FAILING]
    if any(state.step == 1 for state in failing):
        lines.append(
            f"the EST server {rotation.est_server or 'of the push'} must start working: a device that failed at "
            "step 1 tries just this URL until it does, and does not check in before, so another push cannot "
            "reach it"
        )
    if any(state.step > 1 for state in failing):
        lines.append(
            "a device that failed after step 1 resumes the failed step at every start of fioconfig; mend what its "
            "words say, another push would not reach it"
        )
    if any(state.state == State.FINALIZED for state in states):
        lines.append(
            "a finalized device that does not come back may have a certificate from a CA that the gateway does "
            "not trust: compare the EST server's CA with `fioctl-rotate keys ca show --just-device-cas`"
        )
    reasons = {state.reason for state in states}
    if Reason.SHADOWED in reasons:
        lines.append(
            "a shadowed device follows its group again once its own entry is deleted: "
            "`fioctl-rotate device config delete DEVICE fio-rotate-certs`"
        )
    if Reason.UNSUPPORTED in reasons:
        lines.append("an unsupported device follows after an update to LmP 90 or later")
    if Reason.OFFLINE in reasons and any(state.state == State.PENDING for state in states):
        lines.append("an offline device follows when it is back, if the entry is still there")
    return lines
