"""The faults of a rehearsal, as people type them. Pure."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from fioctl_rotate.duration import parse_duration
from fioctl_rotate.errors import UsageError
from fioctl_rotate.rotation.made_to_fail import MadeToFail, failing_steps

EST_FAULTS = ("stop", "404", "foreign-ca")


@dataclass(frozen=True)
class Window:
    """From `begin` to `end` (may be infinity), in seconds after the start of the rehearsal."""

    begin: float = 0.0
    end: float = math.inf

    def has(self, seconds: float) -> bool:
        """Whether that time, in seconds after the start, is in it."""
        return self.begin <= seconds < self.end


@dataclass(frozen=True)
class ClockOffset:
    """Clocks that are `seconds` ahead (below zero: behind), on `percent` of the devices, rounded up."""

    seconds: int
    percent: int = 100

    def of(self, devices: Sequence[str]) -> dict[str, int]:
        """The offset in seconds by device, for the chosen devices: the same ones each time."""
        count = -(-len(devices) * self.percent // 100)
        return dict.fromkeys(_mixed(devices, "clocks")[:count], self.seconds)


@dataclass(frozen=True)
class Faults:
    """All faults of a rehearsal. `reboot` is the chance (0 to 1) of a reboot before a check-in.

    `est` is one of EST_FAULTS, in `est_window`; in the window `gateway` the gateway answers 500. `typed` has the
    options as they were typed.
    """

    fail: tuple[MadeToFail, ...] = ()
    reboot: float = 0.0
    clocks: ClockOffset | None = None
    est: str | None = None
    est_window: Window = Window()
    gateway: Window | None = None
    typed: tuple[str, ...] = ()

    @property
    def over(self) -> float:
        """When the last fault with an end is over, in seconds after the start; 0 where none has an end."""
        ends = [window.end for window in (self.est_window, self.gateway) if window is not None]
        return max((end for end in ends if end < math.inf), default=0.0)

    def est_at(self, seconds: float) -> str | None:
        """The fault of the EST server at that time."""
        return self.est if self.est_window.has(seconds) else None

    def gateway_at(self, seconds: float) -> bool:
        """Whether the gateway fails at that time."""
        return self.gateway is not None and self.gateway.has(seconds)

    def failing(self, devices: Sequence[str]) -> dict[str, str]:
        """The step that fails, by device: spread over the devices, the same ones each time."""
        return failing_steps(self.fail, _mixed(devices, "steps"))


def parse_window(text: str, option: str) -> Window:
    """`2h` (from then on) or `2h-6h`. Raises UsageError."""
    first, dash, last = text.partition("-")
    window = Window(
        parse_duration(first, name=f"time of {option}"),
        parse_duration(last, name=f"time of {option}") if dash else math.inf,
    )
    if window.end <= window.begin:
        raise UsageError(f"{option}: expected an end after the beginning, got `{text[:40]}`")
    return window


def parse_est_fault(text: str) -> tuple[str, Window]:
    """`stop`, `404` or `foreign-ca`, from the start or at a time: `404@2h`, `404@2h-6h`. Raises UsageError."""
    kind, at, when = text.partition("@")
    if kind not in EST_FAULTS:
        raise UsageError(f"--est-fault: expected {', '.join(EST_FAULTS)}, got `{kind[:40]}`")
    return kind, parse_window(when, "--est-fault") if at else Window()


def parse_clock_offset(text: str) -> ClockOffset:
    """`2h` or `2h:5` (on 5 % of the devices), with a minus for clocks that are behind. Raises UsageError."""
    duration, colon, share = text.partition(":")
    sign = -1 if duration.startswith("-") else 1
    seconds = int(parse_duration(duration.removeprefix("-"), name="clock offset"))
    if colon and not (share.isascii() and share.isdigit() and len(share) <= 3 and 1 <= int(share) <= 100):
        raise UsageError(f"--clock-offset: expected DURATION or DURATION:PERCENT, got `{text[:40]}`")
    return ClockOffset(sign * seconds, int(share) if colon else 100)


def _mixed(devices: Sequence[str], salt: str) -> list[str]:
    """The devices in an order that has nothing to do with their names, and is always the same."""
    mixed = sorted(devices)
    random.Random(salt).shuffle(mixed)  # noqa: S311  nothing secret depends on it
    return mixed
