"""What is read for a rollout in stages: two logs, the devices of the early stages, the group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from msgspec import Struct

from fioctl_rotate import wire
from fioctl_rotate.rotation.entry import FILE_NAME, rotation_id_of, settle_reason
from fioctl_rotate.rotation.progress import Progress, Step, Time, parse_time
from fioctl_rotate.rotation.state import DeviceState
from fioctl_rotate.rotation.summary import Summary


def stop_reason(rotation_id: str) -> str:
    """The reason of a push that stops a rotation on a device whose entry has to stay."""
    return f"stop {rotation_id}"


@dataclass(frozen=True, slots=True)
class EntryLog:
    """What a configuration log says about one rotation. Times are the server's.

    Fields:
        value, value_since: the present value of `fio-rotate-certs` (None where there is none), and since when.
        ever, given_at: whether the rotation is in the log, and when it came, as far as the log goes back.
        stopped: whether the rotation was stopped here.
        first_settled_at, settled_at: when the rotation was settled for the first and for the last time.
        fetched: whether the device has fetched its configuration since the last settling.
        changed_at, applied: when the newest change was made, and whether the device has fetched that.

    A group's log never says what was fetched.
    """

    value: str | None = None
    value_since: datetime | None = None
    ever: bool = False
    stopped: bool = False
    given_at: datetime | None = None
    first_settled_at: datetime | None = None
    settled_at: datetime | None = None
    fetched: bool = False
    changed_at: datetime | None = None
    applied: bool = False

    @property
    def taken_back(self) -> bool:
        """Whether the rotation was stopped here, or its entry was deleted."""
        return self.stopped or (self.ever and self.value is None)


def entry_log(log: Sequence[wire.Config], rotation_id: str) -> EntryLog:
    """What `log` (newest first) says about the rotation."""
    values = [
        next((file.value for file in config.files or [] if file.name == FILE_NAME), None) for config in log
    ]
    mine = [value is not None and rotation_id_of(value) == rotation_id for value in values]
    settled = [n for n, config in enumerate(log) if mine[n] and config.reason == settle_reason(rotation_id)]
    same = next((n for n, value in enumerate(values) if value != values[0]), len(log))
    return EntryLog(
        value=values[0] if values else None,
        value_since=parse_time(log[same - 1].created_at) if log else None,
        ever=any(mine),
        stopped=any(config.reason == stop_reason(rotation_id) for config in log),
        given_at=parse_time(log[len(log) - 1 - mine[::-1].index(True)].created_at) if any(mine) else None,
        first_settled_at=parse_time(log[settled[-1]].created_at) if settled else None,
        settled_at=parse_time(log[settled[0]].created_at) if settled else None,
        fetched=bool(settled) and any(config.applied_at for config in log[: settled[0] + 1]),
        changed_at=parse_time(log[0].created_at) if log else None,
        applied=bool(log) and bool(log[0].applied_at),
    )


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read about a device of an early stage.

    `member` says whether it is in the group, `key` is the digest of its public key, `other` the id of another
    rotation that it began since the plan was made.
    """

    own: EntryLog
    progress: Progress
    key: str | None = None
    last_seen: datetime | None = None
    member: bool = True
    other: str | None = None


@dataclass(frozen=True, slots=True)
class BeganAgain:
    """A device that has begun an older rotation once more after this one: by a reboot before it was settled.

    `rotation` is that older id. `since` is the device's last-seen when its newest Finalize was first read: a
    settling before that did not help it.
    """

    rotation: str
    since: datetime

    @property
    def message(self) -> str:
        """What happened, for people."""
        return f"it began another rotation, {self.rotation}"


@dataclass(frozen=True, slots=True)
class Picture:
    """What was read in one poll. `devices` are those of the early stages, by uuid; None for a deleted one.

    `group` and `fleet` are the two logs. `states` are all devices of the group, read once the group has the entry,
    `summary` their counts; `resting` says that none of them is expected to get any further. `again` are those that
    have begun an older rotation once more, by uuid.
    """

    group: EntryLog
    fleet: EntryLog
    devices: Mapping[str, Reading | None]
    states: Sequence[DeviceState] = ()
    summary: Summary | None = None
    resting: bool = False
    again: Mapping[str, BeganAgain] = field(default_factory=dict)


class Memory(Struct):
    """What earlier polls saw, kept between polls and in a file between runs. Without it a rollout waits longer.

    Fields, by uuid unless said otherwise:
        failing: the failed step, and when that was first seen.
        stored: the device's last-seen when it was first known to have fetched its settling.
        soak: by the stage's number, the newest last-seen when its devices were done.
        given_at: when the group got the entry; its log forgets this after ten changes.
        again: how many times the device has finalized, and its last-seen when that was first read, as in
            `BeganAgain`.
    """

    failing: dict[str, tuple[Step, Time]] = {}
    stored: dict[str, Time] = {}
    soak: dict[int, Time] = {}
    given_at: Time | None = None
    again: dict[str, tuple[int, Time]] = {}
