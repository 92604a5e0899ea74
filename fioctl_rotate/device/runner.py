"""Many devices in one process, each checking in again and again, a bounded number at once."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from fioctl_rotate.device.device import Device, Outcome
from fioctl_rotate.errors import Error

# Each device under way holds a connection and, with TLS, about 100 kB; the server sees as many at once.
AT_ONCE = 50
GRACE = 3.0  # seconds

# uuid of the device, and what its check-in came to or why it failed
CheckedIn = Callable[[str, Outcome | Error], None]


def device_directories(base: Path, uuids: Iterable[str] | None = None) -> list[Path]:
    """The devices' directories in `base`, of these UUIDs alone where they are given. Sorted by name."""
    wanted = None if uuids is None else set(uuids)
    return [
        path
        for path in sorted(base.iterdir() if base.is_dir() else [])
        if (path / "sota.toml").is_file() and (wanted is None or path.name in wanted)
    ]


async def run_fleet(
    devices: Sequence[Device],
    *,
    interval: float,
    stop: asyncio.Event,
    at_once: int = AT_ONCE,
    checked_in: CheckedIn = lambda _uuid, _outcome: None,
) -> None:
    """Let every device check in every `interval` seconds, until `stop` is set.

    After a rotation fioconfig has restarted itself, so the device checks in again at once. One that fails is
    started anew after `interval`, as systemd does. At most `at_once` are under way at any time. Check-ins that are
    under way at the stop are given `GRACE` seconds.
    """
    gate = asyncio.Semaphore(at_once)

    async def live(device: Device) -> None:
        uuid = device.uuid
        while True:
            async with gate:
                if stop.is_set():
                    return
                outcome = await _check_in(device)
            checked_in(uuid, outcome)
            if outcome is not Outcome.ROTATED:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), interval)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(live(device)) for device in devices]
        await stop.wait()
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE)
        for task in tasks:
            task.cancel()


async def _check_in(device: Device) -> Outcome | Error:
    try:
        return await device.check_in()
    except Error as error:
        return error
