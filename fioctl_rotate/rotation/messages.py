"""Messages about devices in a rotation, and advice on what a person can do."""

import shlex
from collections.abc import Iterable, Sequence

from fioctl_rotate.rotation import commands
from fioctl_rotate.rotation.entry import FILE_NAME
from fioctl_rotate.rotation.progress import LAST, STEPS
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.state import OLDEST_LMP, DeviceState, Reason, Rotation, State


def some(items: Iterable[str], *, separator: str = ", ") -> str:
    """`a, b, c, d, e and 3 more`: the first five."""
    texts = list(items)
    more = f" and {len(texts) - 5} more" if len(texts) > 5 else ""
    return separator.join(texts[:5]) + more


def where(state: DeviceState) -> str:
    """The state in a few words: `running 3/5`, `failing at 1/5`, `pending (offline)`."""
    text = {
        State.RUNNING: f"running {state.step}/{LAST}",
        State.FAILING: f"failing at {state.step}/{LAST}",
    }.get(state.state, str(state.state))
    return f"{text} ({state.reason})" if state.reason else text


def why(rotation: Rotation, state: DeviceState) -> str:
    """Why the device is in this state: its own message of a failure, or why it does not follow; "" for nothing."""
    if state.state == State.FAILING:
        return f"{STEPS[state.step - 1]}: {state.message}"
    if state.state == State.RUNNING:
        silent = ", no report since, although it checks in" if state.reason == Reason.SILENT else ""
        return f"{STEPS[state.step - 1]}{_again(state)}{silent}"
    if state.state == State.FINALIZED:
        return "has the new certificate; it is not known yet whether the gateway accepts it"
    if state.state == State.LEFT:
        return f"no longer one of {rotation.scope}" + (f": {state.left}" if state.left else "")
    if state.state == State.DONE:
        return _again(state).strip(" ()")
    if state.unread and state.reason is None:
        return "not read yet"
    return _why_not(rotation, state)


def _why_not(rotation: Rotation, state: DeviceState) -> str:
    """Why a pending device does not follow, "" where there is no reason."""
    if state.reason == Reason.SHADOWED:
        own = f"rotation {state.own_entry}" if state.own_entry else "without a readable rotation id"
        return f"has an entry of its own, {own}, which comes before its group's"
    if state.reason == Reason.UNSUPPORTED:
        return f"LmP {state.lmp_ver} is older than {OLDEST_LMP}, the first that can rotate"
    if state.reason == Reason.SUPERSEDED:
        return f"{rotation.scope} has another rotation now, or none"
    if state.reason == Reason.SILENT:
        return "checks in, and reports nothing about this rotation"
    if state.reason == Reason.OFFLINE:
        return "never seen" if state.last_seen is None else f"last seen {state.last_seen:%Y-%m-%d %H:%M} UTC"
    return ""


_URGENCY = (State.FAILING, State.LEFT, State.FINALIZED, State.RUNNING, State.PENDING, State.DONE)


def by_urgency(states: Iterable[DeviceState]) -> list[DeviceState]:
    """The states, the most urgent first; in each state those without a reason come last."""
    return sorted(
        states, key=lambda s: (_URGENCY.index(s.state), s.reason is None, s.reason or "", s.name, s.uuid)
    )


def _again(state: DeviceState) -> str:
    return f" (attempt {state.attempts})" if state.attempts > 1 else ""


def advice(
    rotation: Rotation, states: Sequence[DeviceState], factory_options: Sequence[str] = ()
) -> list[str]:
    """What can be done next, one text each: about the devices that need attention, or once every device is done.

    It never advises another push to a device with a failed step: the device resumes that step at every start, and
    fetches nothing before it succeeds. `factory_options` name the Factory (see `commands`).
    """
    if states and all(state.state == State.DONE for state in states):
        return _advice_when_done(rotation, factory_options)
    lines = _advice_on_failures(rotation, states)
    first: dict[Reason, DeviceState] = {}
    for state in states:
        if state.reason is not None:
            first.setdefault(state.reason, state)
    for reason, state in first.items():
        lines.append(_advice_on(reason, rotation, state, factory_options))
    return lines


def _advice_when_done(rotation: Rotation, factory_options: Sequence[str]) -> list[str]:
    if not rotation.current or not rotation.own or rotation.settled:
        return []
    command = commands.rotations("settle", rotation.id, rotation.scope, factory_options)
    return [
        "every device is done; settle the rotation now, or a reboot can bring an earlier rotation back: "
        f"`{command}`"
    ]


def _advice_on_failures(rotation: Rotation, states: Sequence[DeviceState]) -> list[str]:
    lines = []
    failed = {state.step for state in states if state.state == State.FAILING}
    if 1 in failed:
        lines.append(
            f"the EST server {rotation.est_server or 'of the push'} must start working: a device that failed at "
            "step 1 tries this URL again until it works. It does not check in before, so another push cannot "
            "reach it"
        )
    if failed - {1}:
        lines.append(
            "a device that failed after step 1 resumes the failed step at every start of fioconfig: repair what "
            "its message says. Another push cannot reach it"
        )
    if any(state.state == State.FINALIZED for state in states):
        lines.append(
            "a finalized device that does not come back may have a certificate from a CA that the gateway does "
            "not trust: compare the EST server's CA with `fioctl-rotate keys ca show --just-device-cas`"
        )
    if any(state.state == State.LEFT for state in states):
        lines.append(
            f"a device that left follows its new group's entry; one that had begun {rotation.id} goes on with it"
        )
    return lines


def _advice_on(reason: Reason, rotation: Rotation, state: DeviceState, factory_options: Sequence[str]) -> str:
    """What helps where devices do not follow for `reason`; `state` is the first of them, for an example."""
    device = Scope.of_device(state.name, state.uuid)
    if reason == Reason.SHADOWED:
        command = shlex.join([*device.config_command("delete"), FILE_NAME, *factory_options])
        return f"a shadowed device follows its group again once its own entry is deleted: `{command}`"
    if reason == Reason.UNSUPPORTED:
        return f"an unsupported device follows after an update to LmP {OLDEST_LMP} or later"
    if reason == Reason.SUPERSEDED:
        return f"a superseded device follows the entry that {rotation.scope} has now"
    if reason == Reason.SILENT:
        reason_option = ["-r", f"silent in {rotation.id}"]
        command = shlex.join([*device.config_command("rotate-certs"), *reason_option, *factory_options])
        settle = commands.rotations(
            "settle", rotation.id, rotation.scope, ["--allow", "not-done", *factory_options]
        )
        return (
            "a silent device checks in and does not rotate: it missed the entry, or lost power as it began. Send "
            f"the entry again: `{settle}`; if that does not help, push to the device alone, with a new id: "
            f"`{command}`"
        )
    return "an offline device follows when it is back, if the entry is still there"
