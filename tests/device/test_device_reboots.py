"""What a device misses after Finalize, and what a reboot brings back. The real fioconfig ended each of these so."""

import asyncio
import datetime

import pytest

from fioctl_rotate.device.device import StartOutcome
from fioctl_rotate.device.handler import completed_id
from fioctl_rotate.device.new_device import Kind
from fioctl_rotate.device.renew_cert import RotationFailed
from fioctl_rotate.device.runner import run_devices
from tests.device.bench import Bench, state

FILE = {"Value": "1", "OnChanged": None, "Unencrypted": True}
SECOND = datetime.timedelta(seconds=1)


def stored_time(bench: Bench) -> datetime.datetime:
    """What the device's next check-in asks with, in whole seconds."""
    stored = (bench.directory / "uuid-1" / "config.encrypted").stat()
    return datetime.datetime.fromtimestamp(int(stored.st_mtime), datetime.UTC)


@pytest.mark.parametrize(("later", "outcome"), [(0, StartOutcome.UNCHANGED), (1, StartOutcome.CHANGED)])
def test_a_change_in_the_second_of_finalize_is_missed(
    bench: Bench, later: int, outcome: StartOutcome
) -> None:
    gateway = bench.gateway

    async def scenario() -> None:
        device = bench.device()
        gateway.config = {"a": FILE}
        await device.check_in()
        gateway.push("certs-1")
        assert await device.check_in() is StartOutcome.ROTATED
        gateway.config = {**(gateway.config or {}), "late": FILE}
        gateway.changed = stored_time(bench) + later * SECOND
        for expected in (outcome, StartOutcome.UNCHANGED):
            assert await device.check_in() is expected
        assert (device.directory / "secrets" / "late").exists() == (outcome is StartOutcome.CHANGED)

    bench.run(scenario)


def test_a_clock_that_is_ahead_hides_each_change_until_it_has_passed(bench: Bench) -> None:
    gateway = bench.gateway

    async def scenario() -> None:
        device = bench.device(kind=Kind(clock_offset=3600))
        gateway.config = {"a": FILE}
        await device.check_in()
        gateway.push("certs-1")
        assert await device.check_in() is StartOutcome.ROTATED
        for _ in range(3):
            gateway.change({**(gateway.config or {}), "late": FILE})
            assert await device.check_in() is StartOutcome.UNCHANGED
        gateway.changed = stored_time(bench) + SECOND
        assert await device.check_in() is StartOutcome.CHANGED

    bench.run(scenario)


def test_a_wedged_device_forgets_its_rotation_where_a_reboot_brings_an_older_one_back(bench: Bench) -> None:
    """Its stored configuration is from before the newest rotation but one, whose handler starts afresh."""
    gateway = bench.gateway

    async def scenario() -> None:
        device = bench.device()
        for rotation_id in ("certs-0", "certs-1"):
            # Older than the device's own time at Finalize, so the entry is not stored afterwards.
            gateway.config = {"fio-rotate-certs": gateway.entry(rotation_id)}
            gateway.changed += SECOND
            assert await device.check_in() is StartOutcome.ROTATED
            await device.check_in()
        gateway.push("certs-2", "https://localhost:1/.well-known/est")
        with pytest.raises(RotationFailed, match="localhost:1"):
            await device.check_in()
        assert state(device)["RotationId"] == "certs-2"
        assert await device.reboot() is StartOutcome.ROTATED
        assert completed_id(device.directory) == "certs-0"
        assert not (device.directory / "cert-rotation.state").exists()

    bench.run(scenario)


def test_a_reboot_without_an_older_rotation_changes_nothing(bench: Bench) -> None:
    gateway = bench.gateway

    async def scenario() -> None:
        device = bench.device()
        assert await device.reboot() is StartOutcome.UNCHANGED
        gateway.push("certs-1", other=FILE)
        assert await device.check_in() is StartOutcome.ROTATED
        assert await device.check_in() is StartOutcome.CHANGED
        assert await device.reboot() is StartOutcome.UNCHANGED
        assert (device.directory / "secrets" / "other").read_text() == "1"
        assert await device.check_in() is StartOutcome.UNCHANGED

    bench.run(scenario)
    assert {event["event"]["correlationId"] for event in gateway.events} == {"certs-1"}


@pytest.mark.parametrize("reboot", [0.0, 1.0])
def test_devices_reboot_as_often_as_asked(bench: Bench, reboot: float) -> None:
    outcomes: list[object] = []

    async def scenario() -> None:
        device = bench.device()
        bench.gateway.config = {"a": FILE}
        await device.check_in()
        marker = device.directory / "secrets" / "not-configured"
        marker.write_text("")
        stop = asyncio.Event()

        def checked_in(_uuid: str, outcome: object) -> None:
            outcomes.append((outcome, marker.exists()))
            stop.set()

        await run_devices([device], interval=3600, stop=stop, reboot=reboot, checked_in=checked_in)

    bench.run(scenario)
    assert outcomes == [(StartOutcome.UNCHANGED, reboot == 0.0)]
