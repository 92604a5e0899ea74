"""The devices of a mocked Factory on a simulated clock, and how far each one comes.

Devices work over real TLS. Only a start that must end as the one before is counted without a connection: one
without news, or one with the same failure for the third time.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fioctl_rotate.device import state_file
from fioctl_rotate.device.device import Device, StartOutcome
from fioctl_rotate.device.renew_cert import RotationFailed
from fioctl_rotate.device.runner import start
from fioctl_rotate.errors import Error
from fioctl_rotate.mock.store import config_levels, device_records
from fioctl_rotate.mock.store.database import Store
from fioctl_rotate.rotation.progress import LAST, STEPS
from fioctl_rotate.simulated_clock import SimulatedClock

AT_ONCE = 16  # more at once would only use memory: the clock stands still while they work
STEP_TAKES = 1.0  # seconds


@dataclass
class Life:
    """How far a device came in one rotation, with times in seconds after the start.

    `begun` is when it first reported a step, `finalized` when its last step succeeded, `back` when the gateway
    accepted its new certificate. `step` is the number of the step that its newest attempt failed at. `error` is why
    its newest start failed, `cut_off` whether by that error no push reaches it. `again` counts the other rotations
    that it finalized.
    """

    begun: int | None = None
    finalized: int | None = None
    back: int | None = None
    step: int = 0
    error: str | None = None
    cut_off: bool = False
    again: int = 0


@dataclass(frozen=True)
class _Last:
    """How a device's last start ended, and with which newest change of its configuration and which faults.

    `sure` says that the next start ends the same while change and faults are the same. `seen` says that the gateway
    sees such a start.
    """

    newest: int = -1
    faults: object = None
    error: str | None = None
    sure: bool = False
    seen: bool = False

    def repeats(self, newest: int, faults: object) -> bool:
        """Whether a start now would end the same. A device without news only misses a gateway that fails."""
        return self.sure and newest == self.newest and (self.error is None or faults == self.faults)

    def then(self, outcome: StartOutcome | Error, newest: int, faults: object) -> "_Last":
        """What is known after one more start. A failure must come twice."""
        if not isinstance(outcome, Error):
            return _Last(newest, faults, None, sure=outcome is not StartOutcome.ROTATED, seen=True)
        again = (newest, faults, outcome.message) == (self.newest, self.faults, self.error)
        # A start that fails in a rotation has reported the failure to the gateway.
        return _Last(newest, faults, outcome.message, again, isinstance(outcome, RotationFailed))


class SimulatedFleet:
    """The devices in `directories`, each named by its uuid, as they follow the rotation `rotation_id`.

    `intervals` are the seconds between two check-ins, by uuid. `reboot` is the chance (0 to 1) of a reboot before
    one, `failing` the step that is made to fail, by uuid. `faults_now` gives a value that changes when the faults
    change; while `gateway_fails`, no device is seen.
    """

    def __init__(
        self,
        store: Store,
        factory: str,
        directories: Iterable[Path],
        rotation_id: str,
        clock: SimulatedClock,
        *,
        intervals: Mapping[str, float],
        reboot: float = 0.0,
        failing: Mapping[str, str] | None = None,
        faults_now: Callable[[], object] = lambda: None,
        gateway_fails: Callable[[], bool] = lambda: False,
    ) -> None:
        self._faults_now = faults_now
        self._store, self._rotation_id, self._clock = store, rotation_id, clock
        self._intervals, self._reboot, self._gateway_fails = intervals, reboot, gateway_fails
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._never = asyncio.Event()
        self._seen: dict[str, datetime] = {}
        self._changes, self._newest = -1, dict[str, int]()
        self._devices = {
            path.name: Device(
                path,
                clock=clock,
                sleep=self._sleep,
                observe=self._observe,
                fail=(failing or {}).get(path.name),
                pause=STEP_TAKES,
            )
            for path in directories
        }
        self.lives = {uuid: Life() for uuid in self._devices}
        with store.reading() as db:
            self._levels = {
                uuid: config_levels.levels_of(device_records.find_device(db, factory, uuid, by_uuid=True))
                for uuid in self._devices
            }

    def start(self, group: asyncio.TaskGroup) -> list["asyncio.Task[None]"]:
        """Start the devices, each at a time of its own. Returns the tasks, which run until they are cancelled."""
        return [
            group.create_task(self._clock.taking_part(self._live(device)))
            for device in self._devices.values()
        ]

    def keep_seen(self) -> None:
        """Store in the Factory the check-ins that were only counted."""
        seen, self._seen = self._seen, {}
        if seen:
            with self._store.transaction() as db:
                device_records.see_devices(db, seen)

    async def _live(self, device: Device) -> None:
        uuid = device.uuid
        interval = self._intervals[uuid]
        # With the uuid as its seed, a device has the same reboots in each rehearsal.
        chance = random.Random(uuid)  # noqa: S311  nothing secret depends on it
        await self._clock.sleep(chance.uniform(0, interval))
        last = _Last()
        while True:
            newest, faults = self._newest_change(uuid), self._faults_now()
            if chance.random() < self._reboot:
                last = _Last()
                await self._start(device, rebooting=True)
            elif last.repeats(newest, faults):
                if last.seen and not self._gateway_fails():
                    self._seen[uuid] = self._clock()
            else:
                last = last.then(await self._start(device), newest, faults)
            await self._clock.sleep(interval)

    async def _start(self, device: Device, *, rebooting: bool = False) -> StartOutcome | Error:
        async with self._gate:
            return await start(device, rebooting=rebooting, stop=self._never, checked_in=self._checked_in)

    async def _sleep(self, seconds: float) -> None:
        """A device that sleeps in the middle of its work leaves its place to others."""
        self._gate.release()
        try:
            await self._clock.sleep(seconds)
        finally:
            await self._gate.acquire()

    def _newest_change(self, uuid: str) -> int:
        if (changes := self._store.others_changes()) != self._changes:
            self._changes, self._newest = changes, {}
        if uuid not in self._newest:
            with self._store.reading() as db:
                self._newest[uuid] = config_levels.newest_change(db, self._levels[uuid])
        return self._newest[uuid]

    def _observe(self, uuid: str, kind: str, error: str | None) -> None:
        if kind not in STEPS:
            return
        life, now = self.lives[uuid], self._clock.elapsed
        rotation = None
        with contextlib.suppress(Error):
            rotation = state_file.load(self._devices[uuid].directory)
        mine = rotation is not None and rotation.rotation_id == self._rotation_id
        step = STEPS.index(kind) + 1
        if mine:
            life.begun = now if life.begun is None else life.begun
            life.step = step if error is not None else 0
        if step == LAST and error is None:
            if mine and life.finalized is None:
                life.finalized = now
            else:
                life.again += 1

    def _checked_in(self, uuid: str, outcome: StartOutcome | Error) -> None:
        life = self.lives[uuid]
        life.error = outcome.message if isinstance(outcome, Error) else None
        life.cut_off = isinstance(outcome, RotationFailed) or _is_refused(life.error or "")
        accepted = life.error is None and outcome is not StartOutcome.ROTATED
        if accepted and life.finalized is not None and life.back is None:
            life.back = self._clock.elapsed


def _is_refused(message: str) -> bool:
    """Whether the message of a failed check-in says that the gateway refuses the certificate."""
    return "the connection was closed" in message or "the gateway answers 403" in message
