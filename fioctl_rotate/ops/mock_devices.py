"""Running the simulated devices of a mocked Factory against its gateway and EST server."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.device.device import Device, Observe, Outcome
from fioctl_rotate.device.rotation import RotationFailed
from fioctl_rotate.device.runner import device_directories, run_fleet
from fioctl_rotate.errors import Error
from fioctl_rotate.mock.store import accounts
from fioctl_rotate.mock.store.database import Store
from fioctl_rotate.ops.targets import find
from fioctl_rotate.rotation.scope import Scope


def factory_in(directory: Path, name: str | None) -> str:
    """The name of the mocked Factory in `directory`, the first one unless named. Raises Error."""
    with contextlib.closing(Store(directory)) as store, store.reading() as db:
        return accounts.choose_factory(db, name).name


async def mock_devices(api: FactoryApi, directory: Path, *, group: str | None = None) -> dict[str, str]:
    """The simulated devices of the mocked Factory in `directory`, of one group or of all: name by uuid.

    Raises Error for an unknown group, and where there is none.
    """
    scope, _ = await find(api, Scope.group_or_fleet(group))
    names = {device.uuid: device.name for device in await api.devices(scope.device_filters)}
    found = [path.name for path in device_directories(directory / "devices", names)]
    if not found:
        where = f"group {group}" if group else f"factory {api.factory}"
        raise Error(
            f"{where} has no simulated device in {directory}",
            hint=f"`fioctl-rotate mock add-devices {directory} --devices 3` makes some",
        )
    return {uuid: names[uuid] for uuid in found}


async def run_mock_devices(
    directory: Path,
    uuids: Iterable[str],
    *,
    interval: float,
    stop: asyncio.Event,
    observe: Observe,
    problem: Callable[[str, Error], None],
) -> None:
    """Let these devices of the mock check in every `interval` seconds until `stop` is set.

    `observe` is told each step of a rotation, `problem` the uuid and why a check-in failed.
    """

    def checked_in(uuid: str, outcome: Outcome | Error) -> None:
        # What failed in a rotation has been told step by step.
        if isinstance(outcome, Error) and not isinstance(outcome, RotationFailed):
            problem(uuid, outcome)

    found = device_directories(directory / "devices", uuids)
    devices = [Device(path, observe=observe) for path in found]
    await run_fleet(devices, interval=interval, stop=stop, checked_in=checked_in)
