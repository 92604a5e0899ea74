"""What became of a rotation on a device: its state, and why it will not follow.

`done` is the one success, and it needs two things: the Finalize step succeeded, and the gateway has since taken
the new key. A device whose new certificate comes from a CA that the gateway doesn't trust is finalized and never
done. What proves that the gateway took the new key, the hardest proof first:

- **The public key changed.** The device's record has another key than one known to be the old: read before the
  push, or before the device was seen at all since the push, or before a reading of events without Finalize. It
  decides alone: while a known old key is there still, nothing else counts.
- **Another key than the first one read**, though that one may have been new already: it changed under our eyes.
- **Seen again, by the server's clock**: last-seen is two minutes past the last-seen that was read after the
  events first showed Finalize. The old certificate's last word, CertRotationCompleted with its retries, is over
  by then.
- **Seen again, by the device's clock**, for a first look without any earlier reading: last-seen is 15 minutes
  past the time of Finalize, and the device's clock looks right: no event before the push, none after last-seen.

The limits: the last two believe that a device which is seen uses its new certificate. One whose services could
not be restarted may be seen with its old one for longer, and the last one can be fooled by a clock that is
behind by more than 15 minutes on a device that began at least that long after the push. A key that changes
because an earlier rotation ends late is taken for this one's, which is a reason to refuse a push meanwhile.
"""

import re
import shlex
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from fioctl_rotate.rotation.progress import Phase, Progress

OLDEST_LMP = 90
OFFLINE_AFTER = timedelta(hours=4)  # fioctl's own threshold for an online device
SETTLED = timedelta(minutes=2)
SETTLED_BY_DEVICE_CLOCK = timedelta(minutes=15)
_CLOCK_SLACK = timedelta(minutes=1)


class State(StrEnum):
    """How far a device came; only `done` is success."""

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


class Proof(StrEnum):
    """What showed that the gateway took the new key."""

    PUBLIC_KEY = "public-key"
    SEEN_AGAIN = "seen-again"


@dataclass(frozen=True)
class Rotation:
    """A rotation as its target's config log has it; exactly one of `group` and `device` (a name) is the target.

    `pushed_at` is the server's clock, None where the log no longer holds the push. `current` says whether this is
    still what the target's devices are told, `own` whether the entry is the target's, not that of a device's group.
    """

    id: str
    group: str | None = None
    device: str | None = None
    est_server: str = ""
    pushed_at: datetime | None = None
    pushed_by: str | None = None
    reason: str = ""
    current: bool = True
    own: bool = True

    @property
    def target(self) -> str:
        """The target as people name it."""
        return f"group {self.group}" if self.group else f"device {self.device}"

    @property
    def option(self) -> str:
        """The target as a command takes it."""
        return shlex.join(["-g", self.group] if self.group else ["--device", str(self.device)])


@dataclass
class Facts:
    """Everything known of one device. Keys are any text that differs where the keys do; times are the server's.

    `first_key` is the first one read, `first_key_is_old` whether it was surely read before the gateway could
    have taken the new one. `finalized_by` is the last-seen read after the events first showed Finalize.
    `own_entry` is the ROTATIONID of an entry that the device has for itself, None where it has none or it is not
    known.
    """

    uuid: str
    name: str = ""
    last_seen: datetime | None = None
    lmp_ver: str | None = None
    progress: Progress = field(default_factory=Progress)
    own_entry: str | None = None
    key: str | None = None
    first_key: str | None = None
    first_key_is_old: bool = False
    finalized_by: datetime | None = None


@dataclass(frozen=True)
class DeviceState:
    """What became of a rotation on one device. `since` is by the device's clock, `last_seen` by the server's."""

    uuid: str
    name: str
    state: State
    step: int
    since: datetime | None
    attempts: int
    message: str | None
    reason: Reason | None
    proof: Proof | None
    last_seen: datetime | None
    lmp_ver: str | None
    own_entry: str | None
    progress: Progress


def device_state(rotation: Rotation, facts: Facts, now: datetime) -> DeviceState:
    """The state of one device. `now` (aware) tells who is offline, and is used for nothing else."""
    progress = facts.progress
    proof = proof_of_new_key(rotation, facts)
    state = State.DONE if proof else State(progress.phase) if progress.phase != Phase.NONE else State.PENDING
    return DeviceState(
        uuid=facts.uuid,
        name=facts.name or facts.uuid,
        state=state,
        step=progress.step,
        since=progress.since,
        attempts=progress.attempts,
        message=progress.message,
        reason=None if state == State.DONE else _reason(rotation, facts, state, now),
        proof=proof,
        last_seen=facts.last_seen,
        lmp_ver=facts.lmp_ver,
        own_entry=facts.own_entry,
        progress=progress,
    )


def proof_of_new_key(rotation: Rotation, facts: Facts) -> Proof | None:
    """What proves that the gateway took the key that a finalized device came to, None where nothing does."""
    if facts.progress.phase != Phase.FINALIZED:
        return None
    if facts.key and facts.first_key and facts.key != facts.first_key:
        return Proof.PUBLIC_KEY
    if facts.first_key_is_old:
        return None
    return Proof.SEEN_AGAIN if seen_again(rotation, facts) else None


def seen_again(rotation: Rotation, facts: Facts) -> bool:
    """Whether the device was seen long enough after it finalized for that to be its new certificate's doing."""
    seen, progress = facts.last_seen, facts.progress
    if seen is None:
        return False
    if facts.finalized_by is not None and seen - facts.finalized_by >= SETTLED:
        return True
    times = [event.time for event in progress.events]
    if rotation.pushed_at is None or progress.since is None or None in times:
        return False
    right = all(rotation.pushed_at - _CLOCK_SLACK <= time <= seen + _CLOCK_SLACK for time in times if time)
    return right and seen - progress.since >= SETTLED_BY_DEVICE_CLOCK


def lmp_release(version: str | None) -> int | None:
    """The LmP release in a device's `lmp-ver`, None where it tells none.

    Devices say `4.0.20-2-94.1` (Yocto release, build, LmP release); a bare `94`, `v94.1` or `lmp-94` is understood.
    """
    text = (version or "").strip().lower()
    found = re.match(r"\d+(?:\.\d+)+-\d+-(\d+)", text) or re.match(
        r"(?:lmp[-_ ]?)?v?(\d+)(?:[.\-+_].*)?\Z", text
    )
    release = int(found[1]) if found else None
    # A Yocto release alone (`4.0.20`, `3.1`) says nothing; LmP's own numbers began in the tens.
    return release if release is not None and 10 <= release < 1000 else None


def is_offline(last_seen: datetime | None, now: datetime) -> bool:
    """Whether a device was not seen for so long that nothing is to be expected of it."""
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
    return Reason.OFFLINE if is_offline(facts.last_seen, now) else None
