"""The world of a rehearsal: a copy of the clone with servers and devices of its own, on a simulated clock."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.clock import utc_now
from fioctl_rotate.device.copying import copy_device
from fioctl_rotate.device.runner import check_in_interval, device_directories, stays_off
from fioctl_rotate.errors import Error
from fioctl_rotate.loopback import loopback_only
from fioctl_rotate.mock.copying import copy_factory, est_origin
from fioctl_rotate.mock.est_faults import EstFault
from fioctl_rotate.mock.mock_server import Serving, serve_est, serve_factory
from fioctl_rotate.mock.store import accounts, device_records
from fioctl_rotate.mock.store.accounts import FactoryRecord
from fioctl_rotate.mock.store.database import Store
from fioctl_rotate.ops.at_once import first_of
from fioctl_rotate.ops.connect import open_api
from fioctl_rotate.ops.mock_making import free_ports, in_directory
from fioctl_rotate.ops.simulated_fleet import Life, SimulatedFleet
from fioctl_rotate.rotation.faults import Faults
from fioctl_rotate.simulated_clock import SimulatedClock

CHECK_IN = 300.0  # seconds: fioconfig's own
_TEN_YEARS = 3650 * 86400

Sleep = Callable[[float], Awaitable[None]]
T = TypeVar("T")


class TimeIsOver(Exception):
    """The rehearsal has reached its limit of simulated time."""


@dataclass(frozen=True)
class World:
    """A copy of a clone in `directory`, with running servers. `api` is its operator API.

    `intervals` are the seconds between two check-ins, of each device that is on, by uuid.
    """

    directory: Path
    factory: FactoryRecord
    api: FactoryApi
    clock: SimulatedClock
    faults: Faults
    intervals: Mapping[str, float]

    @property
    def longest_interval(self) -> float:
        """Seconds after which each device that is on has checked in."""
        return max(self.intervals.values(), default=CHECK_IN)


@contextlib.asynccontextmanager
async def open_world(
    source: Path,
    directory: Path,
    factory_name: str,
    faults: Faults,
    refused: Callable[[str], None],
    *,
    check_in: float | None = None,
) -> AsyncIterator[World]:
    """Copy the mocked Factory in `source` to `directory`, and serve the copy while the block runs.

    During that time this process can connect only to the copy's gateway and EST server; `refused` is called with
    each other connection. Devices that are offline are not copied. `check_in` is the time between two check-ins in
    seconds (None: each device's own). Raises Error.
    """
    api_port, gateway_port, est_port = free_ports(3)
    with contextlib.closing(Store(source)) as store, store.reading() as db:
        old = accounts.choose_factory(db, factory_name)
        seen = device_records.newest_seen(db, factory_name)
    factory = copy_factory(source, directory, factory_name, (api_port, gateway_port, est_port))
    _copy_devices(source, directory, old, factory, faults)
    intervals = {
        path.name: check_in or check_in_interval(path) or CHECK_IN
        for path in device_directories(directory / "devices")
    }
    # The Factory's clock may be ahead of ours.
    clock = SimulatedClock(max(filter(None, (utc_now(), seen))))
    serving = Serving(
        clock=clock,
        certificate_clock=utc_now,
        est_fault="stop",  # `_est_server` runs it, so that it can stop and come back
        gateway_fails=lambda: faults.gateway_at(clock.elapsed),
        threads=False,
    )
    with loopback_only({gateway_port, est_port}, refused):
        async with (
            serve_factory(directory, factory_name, serving),
            open_api(in_directory(directory, factory_name), clock=clock, rehearsing=True) as api,
        ):
            yield World(directory, factory, api, clock, faults, intervals)


def _copy_devices(source: Path, target: Path, old: FactoryRecord, new: FactoryRecord, faults: Faults) -> None:
    with contextlib.closing(Store(source)) as store, store.reading() as db:
        uuids = device_records.uuids(db, old.name)
    found = [path for path in device_directories(source / "devices", uuids) if not stays_off(path)]
    offsets = faults.clocks.of([path.name for path in found]) if faults.clocks else {}
    try:
        for path in found:
            copy_device(
                path,
                target / "devices" / path.name,
                gateway=new.gateway_url,
                est=(est_origin(old), est_origin(new)),
                clock_offset=offsets.get(path.name),
            )
    except shutil.Error as error:
        raise Error(str(error)) from error


async def live(
    world: World,
    devices: Sequence[wire.Device],
    rotation_id: str,
    work: Callable[[Sleep], Coroutine[object, object, T]],
    *,
    limit: float,
) -> tuple[T, Mapping[str, Life]]:
    """Run the EST server and these devices during `work`. Returns its result, and how each device ended.

    `work` is what the operator does, with a sleep on the simulated clock; the sleep raises TimeIsOver after `limit`
    seconds. The world runs on until each fault that ends is over, and devices have checked in after that.
    """
    clock, faults = world.clock, world.faults
    own = {device.uuid for device in devices}
    paths = device_directories(world.directory / "devices", own)
    with contextlib.closing(Store(world.directory)) as store:
        fleet = SimulatedFleet(
            store,
            world.factory.name,
            paths,
            rotation_id,
            clock,
            intervals=world.intervals,
            reboot=faults.reboot,
            failing=faults.failing([path.name for path in paths]),
            faults_now=lambda: (faults.est_at(clock.elapsed), faults.gateway_at(clock.elapsed)),
            gateway_fails=lambda: faults.gateway_at(clock.elapsed),
        )

        async def sleep(seconds: float) -> None:
            fleet.keep_seen()
            if clock.elapsed >= limit:
                raise TimeIsOver
            await clock.sleep(seconds)
            fleet.keep_seen()

        async def operate() -> T:
            result = await work(sleep)
            rest = 2 * world.longest_interval
            if faults.over and clock.elapsed < faults.over + rest:
                await clock.sleep(faults.over + rest - clock.elapsed)
            return result

        try:
            async with asyncio.TaskGroup() as group:
                operator = clock.taking_part(operate())
                others = [
                    group.create_task(clock.taking_part(_est_server(world))),
                    *fleet.start(group),
                ]
                result = await operator
                await clock.stop()
                for task in others:
                    task.cancel()
        except BaseExceptionGroup as errors:
            raise first_of(errors) from None
    return result, fleet.lives


async def _est_server(world: World) -> None:
    """Run the EST server, with its fault while that is on."""
    window, fault = world.faults.est_window, cast("EstFault | None", world.faults.est)
    phases: list[tuple[EstFault | None, float]] = [(None, _TEN_YEARS)]
    if fault is not None:
        end = min(window.end, _TEN_YEARS)
        phases = [(None, window.begin), (fault, end - window.begin), (None, _TEN_YEARS)]
    for present, seconds in phases:
        if seconds > 0:
            async with serve_est(world.directory, world.factory.name, Serving(est_fault=present)):
                await world.clock.sleep(seconds)
