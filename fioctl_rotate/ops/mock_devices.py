"""Run the simulated devices of a mocked Factory against its gateway and EST server."""

import asyncio
import contextlib
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.device.device import Device, Observe, RequestFailed, StartOutcome
from fioctl_rotate.device.renew_cert import RotationFailed
from fioctl_rotate.device.runner import check_in_interval, claimed, device_directories, run_devices, stays_off
from fioctl_rotate.errors import Error
from fioctl_rotate.mock.store import accounts
from fioctl_rotate.mock.store.database import Store
from fioctl_rotate.ops.targets import find
from fioctl_rotate.rotation.made_to_fail import MadeToFail, failing_steps
from fioctl_rotate.rotation.scope import Scope

_CHECK_IN = 10.0  # seconds; short, since a person watches


def factory_in(directory: Path, name: str | None) -> str:
    """The name of the mocked Factory in `directory`, the first one unless named. Raises Error."""
    with contextlib.closing(Store(directory)) as store, store.reading() as db:
        return accounts.choose_factory(db, name).name


async def mock_devices(api: FactoryApi, directory: Path, *, group: str | None = None) -> dict[str, str]:
    """The simulated devices of the mocked Factory in `directory`, of one group or of all: name by uuid.

    Devices of a clone that were offline stay off, and are left out. Raises Error for an unknown group, and where
    there is no simulated device.
    """
    scope, _ = await find(api, Scope.group_or_fleet(group))
    names = {device.uuid: device.name for device in await api.devices(scope.device_filters)}
    there = device_directories(directory / "devices", names)
    found = [path.name for path in there if not stays_off(path)]
    where = f"group {group}" if group else f"factory {api.factory}"
    if there and not found:
        raise Error(f"every device of {where} stays off, because it was offline when the Factory was cloned")
    if not found:
        raise Error(
            f"{where} has no simulated device in {directory}",
            hint=f"`fioctl-rotate mock add-devices {shlex.quote(str(directory))} --devices 3` makes some",
        )
    return {uuid: names[uuid] for uuid in found}


def check_in_intervals(directory: Path, uuids: Iterable[str], interval: float | None) -> dict[str, float]:
    """The seconds between two check-ins, by uuid: `interval`, or if that is None those of the clone, or 10."""
    base = directory / "devices"
    return {uuid: interval or check_in_interval(base / uuid) or _CHECK_IN for uuid in uuids}


async def run_mock_devices(
    directory: Path,
    names: Mapping[str, str],
    *,
    intervals: Mapping[str, float],
    reboot: float = 0.0,
    fail: Iterable[MadeToFail] = (),
    stop: asyncio.Event,
    observe: Observe,
    problem: RequestFailed,
) -> None:
    """Let these devices of the mock (name by uuid) check in until `stop` is set; `intervals` are seconds by uuid.

    `fail` says which step fails on how many devices, the first by name; they recover in a run without it. `reboot`
    is the probability (0 to 1) that a device reboots before a check-in. `observe` is called at each step of a
    rotation; `problem` is called when a device cannot check in: once, and again when the reason changes or comes
    back. Raises Refused where another process runs one of these devices.
    """
    present: dict[str, str] = {}

    def failed(uuid: str, message: str) -> None:
        if present.get(uuid) != message:
            present[uuid] = message
            problem(uuid, message)

    def checked_in(uuid: str, outcome: StartOutcome | Error) -> None:
        if not isinstance(outcome, Error):
            present.pop(uuid, None)
        elif not isinstance(outcome, RotationFailed):  # `observe` was called with that
            failed(uuid, outcome.message)

    base = directory / "devices"
    found = device_directories(base, names)
    failing = failing_steps(fail, sorted(names, key=names.__getitem__))
    with claimed(base, found):
        devices = [
            Device(path, observe=observe, problem=failed, fail=failing.get(path.name)) for path in found
        ]
        await run_devices(devices, interval=intervals, reboot=reboot, stop=stop, checked_in=checked_in)
