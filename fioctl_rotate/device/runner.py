"""Many devices in one process. Each checks in again and again; a limited number does so at once."""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from fioctl_rotate.device.device import Device, StartOutcome
from fioctl_rotate.device.identity import Sota
from fioctl_rotate.errors import Error, Refused, message_of

# A device that checks in needs a connection and, with TLS, about 100 kB; the server has as many at once.
AT_ONCE = 50
GRACE = 3.0  # seconds

CheckedIn = Callable[[str, StartOutcome | Error], None]
"""Called with a device's UUID, and how its check-in ended or why it failed."""


def device_directories(base: Path, uuids: Iterable[str] | None = None) -> list[Path]:
    """The devices' directories in `base`, sorted by name; with `uuids` only these.

    A directory that is named by its UUID counts even if it is damaged.
    """
    wanted = None if uuids is None else set(uuids)
    return [
        path
        for path in sorted(base.iterdir() if base.is_dir() else [])
        if (path.name in wanted if wanted is not None else (path / "sota.toml").exists())
    ]


def stays_off(directory: Path) -> bool:
    """Whether this device never runs: it was offline on the Factory that was cloned."""
    try:
        return Sota(directory / "sota.toml").number("simulation.offline", 0) != 0
    except Error:
        return False  # a damaged one is reported when it runs


def check_in_interval(directory: Path) -> float | None:
    """The seconds between two check-ins of this device, None where it was made without an interval."""
    try:
        return Sota(directory / "sota.toml").number("simulation.interval", 0) or None
    except Error:
        return None  # a damaged one is reported when it runs


@contextlib.contextmanager
def claimed(base: Path, directories: Iterable[Path]) -> Iterator[None]:
    """Lock these devices in `base` for this process: a device that runs twice would rotate twice.

    Raises Refused where another process has one of them, Error where `base` cannot be written.
    """
    # Each device locks one byte of one file. So thousands of devices need one open file, and two processes may run
    # different groups of one mock. The system releases the locks when the process ends.
    try:
        lock = (base / ".lock").open("ab")
    except OSError as error:
        raise Error(message_of(error)) from error
    with lock:
        for path in directories:
            offset = int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:7], "big")
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset, os.SEEK_SET)
            except (BlockingIOError, PermissionError):
                raise Refused(
                    f"another `mock devices` runs device {path.name} of {base}",
                    hint="stop it first, or run another group",
                ) from None
        yield


async def run_devices(
    devices: Sequence[Device],
    *,
    interval: float | Mapping[str, float],
    stop: asyncio.Event,
    at_once: int = AT_ONCE,
    reboot: float = 0.0,
    checked_in: CheckedIn = lambda _uuid, _outcome: None,
) -> None:
    """Let every device check in every `interval` seconds, which may differ by uuid, until `stop` is set.

    After a rotation fioconfig restarts itself, so the device checks in again at once, before others have their
    turn. A device that fails is started again after `interval`, as systemd does. `reboot` is the probability (0 to
    1) that a device reboots before a check-in. At most `at_once` devices check in at the same time. When `stop` is
    set, check-ins under way have `GRACE` seconds to end.
    """
    gate = asyncio.Semaphore(at_once)

    async def live(device: Device) -> None:
        while not stop.is_set():
            async with gate:
                rebooting = random.random() < reboot  # noqa: S311  nothing secret depends on it
                await start(device, rebooting=rebooting, stop=stop, checked_in=checked_in)
            with contextlib.suppress(TimeoutError):
                pause = interval[device.uuid] if isinstance(interval, Mapping) else interval
                await asyncio.wait_for(stop.wait(), pause)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(live(device)) for device in devices]
        await stop.wait()
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE)
        for task in tasks:
            task.cancel()


async def start(
    device: Device,
    *,
    rebooting: bool,
    stop: asyncio.Event,
    checked_in: CheckedIn = lambda _uuid, _outcome: None,
) -> StartOutcome | Error:
    """Start the device and let it check in, again after each rotation until `stop` is set; the last outcome.

    With `rebooting` it reboots first.
    """
    outcome: StartOutcome | Error = StartOutcome.ROTATED
    while outcome is StartOutcome.ROTATED and not stop.is_set():
        try:
            outcome = await device.reboot() if rebooting else await device.check_in()
            if rebooting and outcome is not StartOutcome.ROTATED:
                outcome = await device.check_in()
        except Error as error:
            outcome = error
        rebooting = False
        checked_in(device.uuid, outcome)
    return outcome
