"""The stages of a rotation: how large each is, which devices are in the early ones, and what makes one fail.

An early stage is a list of devices that get entries of their own. The whole group is always the last stage and is
not listed: devices that join later belong to it.
"""

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any

from fioctl_rotate.duration import duration_text
from fioctl_rotate.errors import Refused, UsageError
from fioctl_rotate.rotation.state import lmp_release

DEFAULT_SOAK = 600
DEFAULT_STAGE_TIMEOUT = 24 * 3600
DEFAULT_MAX_FAILURES = "0"

_SHARE = re.compile(r"([0-9]{1,9})(\.[0-9]{1,3})?(%?)\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Share:
    """A number of devices, or a percentage of a total; `text` is how it was typed: `3`, `5%`, `0.5%`."""

    text: str
    amount: Fraction
    percent: bool

    def rounded_up(self, total: int) -> int:
        """The number of devices of `total`; a percentage above 0 is at least one device."""
        return math.ceil(self.amount * total / 100) if self.percent else int(self.amount)

    def rounded_down(self, total: int) -> int:
        """The number of devices of `total`; a percentage is rounded down."""
        return math.floor(self.amount * total / 100) if self.percent else int(self.amount)


def parse_share(text: str, option: str) -> Share:
    """`3` or `5%`. Raises UsageError for anything else, and for more than 100 %."""
    found = _SHARE.match(text.strip())
    if not found or (found[2] and not found[3]):
        raise UsageError(f"{option}: expected a number of devices or a percentage such as 5%, got `{text}`")
    share = Share(text.strip(), Fraction(found[1] + (found[2] or "")), bool(found[3]))
    if share.percent and share.amount > 100:
        raise UsageError(f"{option}: expected at most 100%, got `{text}`")
    return share


def parse_sizes(text: str) -> tuple[Share, ...]:
    """The sizes of the early stages, such as `1,5%,25%`: cumulative, and each of at least one device.

    Raises UsageError.
    """
    sizes = tuple(parse_share(part, "--stages") for part in text.split(","))
    if any(size.amount == 0 for size in sizes):
        raise UsageError(f"--stages: expected at least one device in each stage, got `{text}`")
    for before, after in itertools.pairwise(sizes):
        if before.percent == after.percent and after.amount <= before.amount:
            raise UsageError(
                f"--stages: `{after.text}` is not more than `{before.text}` before it",
                hint="sizes are cumulative: 1,5%,25% is one device, then 5 % of the group in all, then 25 %",
            )
    return sizes


@dataclass(frozen=True, slots=True)
class StageDevice:
    """A device of an early stage, as it was when the plan was made.

    `key` is the digest of its public key then (`rotation.tracker.key_digest`), so that another key proves the
    rotation. `why` says why it was chosen. `updates` are the ids of its updates then. `attempts` is how often it
    had begun each older rotation then: more attempts later mean that it rotated again, by an older entry.
    """

    uuid: str
    name: str
    key: str
    why: str = ""
    updates: tuple[str, ...] = ()
    attempts: Mapping[str, int] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The device as a plan keeps it."""
        document: dict[str, Any] = {"uuid": self.uuid, "name": self.name, "key": self.key, "why": self.why}
        if self.updates:
            document["updates"] = list(self.updates)
        return document | ({"attempts": dict(self.attempts)} if self.attempts else {})


@dataclass(frozen=True, slots=True)
class Stages:
    """How a group is rotated in stages. `early` are the devices of each early stage; the group follows last.

    `soak` and `stage_timeout` are in seconds. `max_failures` is allowed in each stage. `clear_group` and
    `clear_fleet` say whether the older entry of the group, and the fleet-wide one, are deleted first.
    """

    early: tuple[tuple[StageDevice, ...], ...]
    soak: int = DEFAULT_SOAK
    max_failures: Share = Share(DEFAULT_MAX_FAILURES, Fraction(0), False)
    stage_timeout: int = DEFAULT_STAGE_TIMEOUT
    clear_group: bool = False
    clear_fleet: bool = False

    @property
    def devices(self) -> tuple[StageDevice, ...]:
        """The devices of all early stages, in their order."""
        return tuple(device for stage in self.early for device in stage)

    def allowed(self, devices: int) -> int:
        """How many failures a stage of so many devices may have."""
        return self.max_failures.rounded_down(devices)

    def rows(self) -> list[tuple[str, str, str]]:
        """A row (stage, who, why) for each deletion, each device of an early stage, and the group."""
        last = len(self.early) + 1
        cleared = [("fleet-wide", self.clear_fleet), ("group's", self.clear_group)]
        rows = [
            (f"0 of {last}", "", f"the {whose} older entry is deleted") for whose, clear in cleared if clear
        ]
        rows += [
            (f"{number} of {last}", device.name, device.why)
            for number, stage in enumerate(self.early, 1)
            for device in stage
        ]
        return [*rows, (f"{last} of {last}", "the whole group", "")]

    @property
    def rules(self) -> str:
        """`soak 10 min, 0 failures allowed in a stage, at most 1 d a stage`."""
        return (
            f"soak {duration_text(self.soak)}, {self.max_failures.text} failures allowed in a stage, "
            f"at most {duration_text(self.stage_timeout)} a stage"
        )

    def document(self) -> dict[str, Any]:
        """`{soak, max-failures, stage-timeout, clear-group, clear-fleet, early}`, as a plan keeps it."""
        return {
            "soak": self.soak,
            "max-failures": self.max_failures.text,
            "stage-timeout": self.stage_timeout,
            "clear-group": self.clear_group,
            "clear-fleet": self.clear_fleet,
            "early": [{"devices": [device.document() for device in stage]} for stage in self.early],
        }


# What may be changed in a plan that has been started.
EDITABLE = ("soak", "max-failures", "stage-timeout")


def stages_from(document: Mapping[str, Any]) -> Stages:
    """The stages in a plan's document. Raises KeyError, TypeError or UsageError if they are not valid."""
    early = tuple(
        tuple(
            StageDevice(
                uuid=_text(device["uuid"]),
                name=_text(device["name"]),
                key=_text(device["key"]),
                why=_text(device.get("why", "")),
                updates=tuple(_text(update) for update in device.get("updates", ())),
                attempts={_text(key): _number(n) for key, n in dict(device.get("attempts", {})).items()},
            )
            for device in stage["devices"]
        )
        for stage in document["early"]
    )
    uuids = [device.uuid for stage in early for device in stage]
    if not all(early):
        raise UsageError("the plan has a stage without devices")
    if len(set(uuids)) < len(uuids):
        raise UsageError("the plan names a device in two stages")
    return Stages(
        early,
        soak=_number(document["soak"]),
        max_failures=parse_share(_text(document["max-failures"]), "max-failures"),
        stage_timeout=_number(document["stage-timeout"]),
        clear_group=document["clear-group"] is True,
        clear_fleet=document["clear-fleet"] is True,
    )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device of the group that may be in an early stage. `excluded` says why it may not, None where it may."""

    uuid: str
    name: str
    last_seen: datetime | None = None
    lmp_ver: str | None = None
    target: str | None = None
    excluded: str | None = None

    @property
    def why(self) -> str:
        """Why it was chosen, for the dry run."""
        seen = f"seen {self.last_seen:%Y-%m-%d %H:%M} UTC" if self.last_seen else "never seen"
        return ", ".join((seen, self.kind))

    @property
    def kind(self) -> str:
        """What it runs: each stage gets devices of as many kinds as possible."""
        release = lmp_release(self.lmp_ver)
        return f"LmP {release or self.lmp_ver or 'unknown'}, target {self.target or 'unknown'}"


def choose(
    candidates: Sequence[Candidate], sizes: Sequence[Share], canaries: Sequence[str] = ()
) -> list[list[Candidate]]:
    """The devices of each early stage; the canaries (names or uuids) are an extra first stage.

    The other stages take devices of each kind in turn, those seen last first. The same input gives the same stages.
    Sizes are cumulative, percentages are of all candidates, canaries are not counted. A stage that would add no
    device is left out. Raises Refused for a canary that is missing or cannot follow.
    """
    first = [_canary(candidates, name) for name in dict.fromkeys(canaries)]
    order = _spread(c for c in candidates if c.excluded is None and c not in first)
    stages, begin = [first] if first else [], 0
    for size in sizes:
        end = min(size.rounded_up(len(candidates)), len(order))
        if end > begin:
            stages.append(order[begin:end])
            begin = end
    return stages


def _canary(candidates: Sequence[Candidate], name: str) -> Candidate:
    for candidate in candidates:
        if name in (candidate.name, candidate.uuid):
            if candidate.excluded is not None:
                raise Refused(f"canary {name} would not follow: {candidate.excluded}")
            return candidate
    raise Refused(
        f"canary {name} is not a device of the group",
        hint="`fioctl-rotate devices list --by-group GROUP` shows them",
    )


def _spread(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The candidates in an order that takes one of each kind in turn, the largest kind first."""
    kinds: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        kinds.setdefault(candidate.kind, []).append(candidate)
    queues = sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0]))
    for _, queue in queues:
        queue.sort(key=lambda c: (-(c.last_seen.timestamp() if c.last_seen else 0.0), c.name, c.uuid))
    rounds = max((len(queue) for _, queue in queues), default=0)
    return [queue[turn] for turn in range(rounds) for _, queue in queues if turn < len(queue)]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {type(value).__name__}")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 10**9:
        raise TypeError(f"expected a whole number, got {value!r:.20}")
    return value
