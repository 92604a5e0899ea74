"""The state of a rotation on one device, and the reason why the device will not follow.

Only `done` is success, and it needs two things: the Finalize step succeeded, and the gateway has since accepted
the new key. A device whose new certificate comes from a CA that the gateway doesn't trust is finalized and never
done. What proves that the gateway accepted the new key, the strongest proof first:

- **The public key changed.** The device's record has another key than the known old one. A key is known to be old
  if it was read before the push, before the device was seen at all since the push, or before a reading of events
  without Finalize. This decides alone: while the device still has a known old key, nothing else counts.
- **Another key than the first one read**, where it is not known that the first one was old: the key changed between
  two readings.
- **Seen again, by the server's clock**: last-seen is two minutes later than the last-seen that was read after the
  events first showed Finalize. By then the old certificate is no longer used: its last message,
  CertRotationCompleted with its retries, has been sent.
- **Seen again, by the device's clock**, for a first reading without any earlier one: last-seen is 15 minutes
  later than the time of Finalize, and the device's clock looks right (no event before the push, none after
  last-seen).

The limits: the last two proofs assume that a device which is seen uses its new certificate. A device whose services
could not be restarted may be seen with its old certificate for longer. The last proof is wrong for a clock that is
behind by more than 15 minutes on a device that began at least that long after the push. A key that changes because
an earlier rotation ends late is counted for this one: a reason to refuse a push while the earlier one runs.

A device that is done stays done, also when it leaves the group later; any other that leaves is `left`.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from msgspec import Struct

from fioctl_rotate.rotation.progress import Phase, Progress, Time
from fioctl_rotate.rotation.scope import Scope

OLDEST_LMP = 90
OFFLINE_AFTER = timedelta(hours=4)  # fioctl's own threshold for an online device
SEEN_AGAIN_AFTER = timedelta(minutes=2)
SEEN_AGAIN_AFTER_BY_DEVICE_CLOCK = timedelta(minutes=15)
_CLOCK_SLACK = timedelta(minutes=1)


class State(StrEnum):
    """How far a device came; only `done` is success. Summaries have these in the reverse order."""

    LEFT = "left"
    PENDING = "pending"
    RUNNING = "running"
    FAILING = "failing"
    FINALIZED = "finalized"
    DONE = "done"


class Reason(StrEnum):
    """Why a device does not follow."""

    SHADOWED = "shadowed"
    UNSUPPORTED = "unsupported"
    SUPERSEDED = "superseded"
    OFFLINE = "offline"
    SILENT = "silent"


class Proof(StrEnum):
    """What proves that the gateway accepted the new key."""

    PUBLIC_KEY = "public-key"
    SEEN_AGAIN = "seen-again"


@dataclass(frozen=True)
class Rotation:
    """A rotation as the config log of its scope, a group or a device, has it.

    `pushed_at` is by the server's clock, None where the log no longer holds the push. `current` says whether the
    scope's devices still get this entry, `own` whether the entry is the scope's own (False: that of a device's
    group), `settled` whether it was sent again after the push, as `rotations settle` does.
    """

    id: str
    scope: Scope
    est_server: str = ""
    pushed_at: datetime | None = None
    pushed_by: str | None = None
    reason: str = ""
    current: bool = True
    own: bool = True
    settled: bool = False


class Facts(Struct, array_like=True, gc=False):
    """Everything known of one device. Keys are any text that differs where the keys do; times are the server's.

    Fields:
        first_key: the first key that was read; `first_key_is_old` says whether it is certain that the gateway could
            not have accepted the new key before that reading.
        finalized_by: the last-seen that was read after the events first showed Finalize.
        done_by: the last-seen when the device was first known to be done.
        own_entry: the ROTATIONID of an entry that the device has for itself; None where it has none, or that is not
            known.
        unread: whether the device may have reported something that could not be read yet.
        first_sighting, sightings: the first last-seen, and how many different ones were read, since the push and
            since the last news of the device; `silent` says that these are enough to call it silent.
        left: why the device is no longer one of the rotation's (`deleted`), "" while that is not known, None while
            it is one.
    """

    uuid: str
    name: str = ""
    last_seen: Time | None = None
    lmp_ver: str | None = None
    progress: Progress = Progress()
    own_entry: str | None = None
    key: str | None = None
    first_key: str | None = None
    first_key_is_old: bool = False
    finalized_by: Time | None = None
    done_by: Time | None = None
    unread: bool = False
    first_sighting: Time | None = None
    sightings: int = 0
    silent: bool = False
    left: str | None = None


class DeviceState(Struct, frozen=True, gc=False):
    """The state of a rotation on one device. `since` is by the device's clock, the other times by the server's."""

    uuid: str
    name: str
    state: State
    step: int
    since: Time | None
    attempts: int
    message: str | None
    reason: Reason | None
    proof: Proof | None
    last_seen: Time | None
    lmp_ver: str | None
    own_entry: str | None
    progress: Progress
    done_by: Time | None = None
    unread: bool = False
    left: str | None = None


def device_state(rotation: Rotation, facts: Facts, now: datetime) -> DeviceState:
    """The state of one device. `now` (aware) decides who is offline, and is used for nothing else."""
    progress = facts.progress
    proof = proof_of_new_key(rotation, facts)
    if proof:
        state = State.DONE
    elif facts.left is not None:
        state = State.LEFT
    else:
        state = State.PENDING if progress.phase == Phase.NONE else State(progress.phase)
    return DeviceState(
        uuid=facts.uuid,
        name=facts.name or facts.uuid,
        state=state,
        step=progress.step,
        since=progress.since,
        attempts=progress.attempts,
        message=progress.message,
        reason=None if state in (State.DONE, State.LEFT) else _reason(rotation, facts, state, now),
        proof=proof,
        last_seen=facts.last_seen,
        lmp_ver=facts.lmp_ver,
        own_entry=facts.own_entry,
        progress=progress,
        done_by=facts.done_by,
        unread=facts.unread,
        left=facts.left,
    )


def proof_of_new_key(rotation: Rotation, facts: Facts) -> Proof | None:
    """What proves that the gateway accepted the new key of a finalized device, None where nothing does."""
    if facts.progress.phase != Phase.FINALIZED:
        return None
    if facts.key and facts.first_key and facts.key != facts.first_key:
        return Proof.PUBLIC_KEY
    if facts.first_key_is_old:
        return None
    return Proof.SEEN_AGAIN if seen_again(rotation, facts) else None


def seen_again(rotation: Rotation, facts: Facts) -> bool:
    """Whether the device was seen long enough after it finalized that it must use its new certificate."""
    seen, progress = facts.last_seen, facts.progress
    if seen is None:
        return False
    if facts.finalized_by is not None and seen - facts.finalized_by >= SEEN_AGAIN_AFTER:
        return True
    times = [event.time for event in progress.events]
    if rotation.pushed_at is None or progress.since is None or None in times:
        return False
    # Differences of times cannot overflow; sums can, and the times come from outside.
    right = all(
        rotation.pushed_at - time <= _CLOCK_SLACK and time - seen <= _CLOCK_SLACK for time in times if time
    )
    return right and seen - progress.since >= SEEN_AGAIN_AFTER_BY_DEVICE_CLOCK


def lmp_release(version: str | None) -> int | None:
    """The LmP release in a device's `lmp-ver`, None where it has none.

    Devices say `4.0.20-2-94.1` (Yocto release, build, LmP release); a bare `94`, `v94.1` or `lmp-94` is understood.
    """
    text = (version or "").strip().lower()
    found = re.match(r"\d+(?:\.\d+)+-\d+-(\d+)", text) or re.match(
        r"(?:lmp[-_ ]?)?v?(\d+)(?:[.\-+_].*)?\Z", text
    )
    release = int(found[1]) if found else None
    # A Yocto release alone (`4.0.20`, `3.1`) says nothing about LmP. LmP's own releases began in the tens.
    return release if release is not None and 10 <= release < 1000 else None


def is_offline(last_seen: datetime | None, now: datetime) -> bool:
    """Whether a device was never seen, or not for four hours."""
    return last_seen is None or now - last_seen > OFFLINE_AFTER


def _reason(rotation: Rotation, facts: Facts, state: State, now: datetime) -> Reason | None:
    if state == State.PENDING:
        release = lmp_release(facts.lmp_ver)
        if facts.own_entry is not None and facts.own_entry != rotation.id:
            return Reason.SHADOWED
        if release is not None and release < OLDEST_LMP:
            return Reason.UNSUPPORTED
        if not rotation.current:
            return Reason.SUPERSEDED
    if facts.silent and state in (State.PENDING, State.RUNNING):
        return Reason.SILENT
    return Reason.OFFLINE if is_offline(facts.last_seen, now) else None
