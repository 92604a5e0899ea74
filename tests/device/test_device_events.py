"""The events that a device posts, and what a caller in this process sees of a rotation."""

import datetime

import pytest

from fioctl_rotate.device.device import StartOutcome
from fioctl_rotate.device.new_device import Kind
from fioctl_rotate.device.renew_cert import RotationFailed
from fioctl_rotate.rotation.progress import STEPS


def test_event_times_are_the_devices_own(bench):
    moment = datetime.datetime(2020, 2, 3, 4, 5, 6, 789, tzinfo=datetime.UTC)

    async def scenario():
        device = bench.device(kind=Kind(clock_offset=-3600), clock=lambda: moment)
        (device.directory / "current-target").write_text(
            'TARGET_NAME="raspberrypi4-64-lmp-42"\nCUSTOM_VERSION="42"\n'
        )
        bench.gateway.change({"a": {"Value": "1", "OnChanged": None, "Unencrypted": True}})
        await device.check_in()
        bench.gateway.push("certs-1")
        assert await device.check_in() is StartOutcome.ROTATED
        return device

    device = bench.run(scenario)
    assert {event["deviceTime"] for event in bench.gateway.events} == {"2020-02-03T03:05:06Z"}
    assert {event["event"]["targetName"] for event in bench.gateway.events} == {"raspberrypi4-64-lmp-42"}
    assert {event["event"]["version"] for event in bench.gateway.events} == {"42"}
    assert (device.directory / "config.encrypted").stat().st_mtime == moment.timestamp() - 3600


def test_without_a_current_target_events_carry_an_empty_one(bench):
    async def scenario():
        bench.gateway.push("certs-1")
        await bench.device().check_in()

    bench.run(scenario)
    assert {(e["event"]["targetName"], e["event"]["version"]) for e in bench.gateway.events} == {("", "0")}


def test_events_that_are_lost_do_not_stop_a_rotation(bench):
    async def scenario():
        bench.gateway.push("certs-1")
        bench.gateway.statuses = [0, 400, 403]
        assert await bench.device().check_in() is StartOutcome.ROTATED

    bench.run(scenario)


def test_progress_is_reported_step_by_step(bench):
    seen = []

    async def scenario():
        device = bench.device(observe=lambda *event: seen.append(event), fail=STEPS[1])
        bench.gateway.push("certs-1")
        with pytest.raises(RotationFailed):
            await device.check_in()

    bench.run(scenario)
    assert [event[:2] for event in seen] == [
        ("uuid-1", "CertRotationStarted"),
        ("uuid-1", STEPS[0]),
        ("uuid-1", STEPS[1]),
        ("uuid-1", "CertRotationCompleted"),
    ]
    assert [event[2] is None for event in seen] == [True, True, False, True]
