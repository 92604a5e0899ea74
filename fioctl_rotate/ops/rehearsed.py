"""The result of a rehearsal: how each device and each stage ended, and when. Plain values, to be shown."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fioctl_rotate.duration import elapsed_text


class End(StrEnum):
    """How a device ended."""

    DONE = "done"
    RUNNING = "running"
    FAILED = "failed"
    WEDGED = "wedged"
    UNTOUCHED = "untouched"


MEANING = {
    End.DONE: "has a new certificate, and the gateway has accepted it",
    End.RUNNING: "has begun, and not ended",
    End.FAILED: "a step after the first one fails, at each start",
    End.WEDGED: "no push reaches it any more: stuck at its EST server, or refused by the gateway",
    End.UNTOUCHED: "has not begun",
}


@dataclass(frozen=True)
class DeviceEnd:
    """A device at the end. Times are in seconds after the start, None where that never happened.

    `why` explains an end that is not done. `again` counts the other rotations that it made.
    """

    uuid: str
    name: str
    stage: int
    end: End
    why: str = ""
    begun: int | None = None
    finalized: int | None = None
    back: int | None = None
    again: int = 0

    def document(self) -> dict[str, Any]:
        """The device as JSON."""
        return {
            "uuid": self.uuid,
            "name": self.name,
            "stage": self.stage,
            "end": str(self.end),
            "why": self.why,
            "begun": self.begun,
            "finalized": self.finalized,
            "back": self.back,
            "other-rotations": self.again,
        }


@dataclass(frozen=True)
class StageEnd:
    """A stage at the end: its number and status, and when it began and passed, in seconds after the start."""

    number: int
    status: str
    began: int | None
    passed: int | None


@dataclass(frozen=True)
class Played:
    """One rollout that was rehearsed, in stages or as a plain push.

    `began` is the simulated start (RFC 3339), `took` how many simulated seconds it took. `verdict` is `done`,
    `failed`, `refused` or `time over`; `message` explains it.
    """

    began: str
    verdict: str
    message: str
    took: int
    stages: Sequence[StageEnd]
    devices: Sequence[DeviceEnd]

    def counts(self, stage: int | None = None) -> dict[End, int]:
        """How many devices had each end, in all stages or in one."""
        found = Counter(device.end for device in self.devices if stage in (None, device.stage))
        return {end: found[end] for end in End}

    @property
    def last_back(self) -> int | None:
        """When the last device that is done was back."""
        return max((d.back for d in self.devices if d.end is End.DONE and d.back is not None), default=None)

    @property
    def again(self) -> int:
        """How many devices made another rotation: one that was open, or an older one after a reboot."""
        return sum(device.again > 0 for device in self.devices)

    def document(self) -> dict[str, Any]:
        """`{verdict, message, took, last-back, other-rotations, …, stages, devices}`."""
        return {
            "began": self.began,
            "verdict": self.verdict,
            "message": self.message,
            "took": self.took,
            "last-back": self.last_back,
            "other-rotations": self.again,
            "counts": _texts(self.counts()),
            "stages": [
                {
                    "number": stage.number,
                    "of": len(self.stages),
                    "status": stage.status,
                    "began": stage.began,
                    "passed": stage.passed,
                    "counts": _texts(self.counts(stage.number)),
                }
                for stage in self.stages
            ],
            "devices": [device.document() for device in self.devices],
        }


@dataclass(frozen=True)
class Rehearsal:
    """A plan that was rehearsed on a clone: in stages, where it has them, and beside that as a plain push.

    `simulated` says what was not real, `faults` what went wrong on purpose. `refused` are connections that would
    have left this machine.
    """

    rotation_id: str
    planned_id: str
    target: str
    factory: str
    directory: str
    staged: Played | None
    plain: Played
    faults: Sequence[str] = ()
    simulated: Sequence[str] = ()
    refused: Sequence[str] = ()

    @property
    def main(self) -> Played:
        """The rollout that the plan asks for."""
        return self.staged or self.plain

    def document(self) -> dict[str, Any]:
        """The rehearsal as JSON."""
        return {
            "rehearsal": True,
            "rotation": self.rotation_id,
            "planned": self.planned_id,
            "target": self.target,
            "factory": self.factory,
            "directory": self.directory,
            "faults": list(self.faults),
            "simulated": list(self.simulated),
            "refused": list(self.refused),
            "in-stages": self.staged.document() if self.staged else None,
            "plain-push": self.plain.document(),
        }


def _texts(counts: Mapping[End, int]) -> dict[str, int]:
    return {str(end): count for end, count in counts.items()}


STAGE_HEADERS = ("STAGE", "DEVICES", *(str(end).upper() for end in End), "BEGAN", "PASSED", "STATUS")
BESIDE_HEADERS = ("PUSH", *(str(end).upper() for end in End), "LAST BACK", "ENDED", "RESULT")


def stage_rows(played: Played) -> Iterator[tuple[str, ...]]:
    """A row for each stage, with the columns of STAGE_HEADERS."""
    for stage in played.stages:
        counts = played.counts(stage.number)
        yield (
            f"{stage.number} of {len(played.stages)}",
            str(sum(counts.values())),
            *map(str, counts.values()),
            _after(stage.began),
            _after(stage.passed),
            stage.status,
        )


def beside_rows(rehearsal: Rehearsal) -> Iterator[tuple[str, ...]]:
    """A row for the rollout in stages and one for the plain push, with the columns of BESIDE_HEADERS."""
    for name, played in (("in stages", rehearsal.staged), ("plain push", rehearsal.plain)):
        if played is not None:
            counts = played.counts()
            again = f"; {played.again} made another rotation, too" if played.again else ""
            yield (
                name,
                *map(str, counts.values()),
                _after(played.last_back),
                _after(played.took),
                f"{played.verdict}{again}",
            )


def why_rows(played: Played) -> list[tuple[str, str, str]]:
    """Why devices are not done: how many, how they ended, and the reason; the most frequent first."""
    reasons = Counter((device.end, device.why) for device in played.devices if device.end is not End.DONE)
    return [(str(count), str(end), why) for (end, why), count in reasons.most_common()]


def _after(seconds: int | None) -> str:
    return "" if seconds is None else elapsed_text(seconds)
