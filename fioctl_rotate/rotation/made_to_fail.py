"""Steps that are made to fail, for a rehearsal: `STEP[:PERCENT]` as people type it."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fioctl_rotate.errors import UsageError
from fioctl_rotate.rotation.progress import STEPS


class MadeToFail(NamedTuple):
    """A step (1 to 5) that fails on `percent` of the devices, rounded up; None: on one device."""

    step: int
    percent: int | None = None

    def __str__(self) -> str:
        """As it is typed."""
        return f"{self.step}" if self.percent is None else f"{self.step}:{self.percent}"


def parse_made_to_fail(text: str) -> MadeToFail:
    """`STEP` or `STEP:PERCENT`. Raises UsageError."""
    found = re.fullmatch(r"([0-9]{1,3})(?::([0-9]{1,3}))?", text)
    step, percent = (int(found[1]), int(found[2]) if found[2] else None) if found else (0, None)
    if not 1 <= step <= len(STEPS) or (percent is not None and not 1 <= percent <= 100):
        steps = "; ".join(f"{number} {name}" for number, name in enumerate(STEPS, 1))
        raise UsageError(
            f"expected STEP or STEP:PERCENT, got `{text[:40]}`", hint=f"PERCENT is 1 to 100; STEP is: {steps}"
        )
    return MadeToFail(step, percent)


def failing_steps(faults: Iterable[MadeToFail], devices: Sequence[str]) -> dict[str, str]:
    """The name of the step that fails, by device: the first devices by the first fault, the next by the next."""
    chosen: dict[str, str] = {}
    for fault in faults:
        count = 1 if fault.percent is None else -(-len(devices) * fault.percent // 100)
        for device in devices[len(chosen) : len(chosen) + count]:
            chosen[device] = STEPS[fault.step - 1]
    return chosen
