"""Many devices at once."""

import asyncio

import pytest

from fioctl_rotate.device.device import Device, StartOutcome
from fioctl_rotate.device.runner import device_directories, run_devices
from fioctl_rotate.errors import Error
from fioctl_rotate.rotation.progress import STEPS


def test_a_fleet_rotates_and_goes_on_checking_in(bench):
    gateway = bench.gateway
    seen: dict[str, list[StartOutcome | Error]] = {}

    async def scenario():
        devices = [bench.device(f"uuid-{number}") for number in range(6)]
        devices[3].fail = STEPS[1]
        gateway.push("certs-1")
        stop = asyncio.Event()

        def checked_in(uuid, outcome):
            seen.setdefault(uuid, []).append(outcome)
            if len(seen) == 6 and all(len(outcomes) >= 3 for outcomes in seen.values()):
                stop.set()

        await run_devices(devices, interval=0.01, stop=stop, at_once=4, checked_in=checked_in)

    bench.run(scenario)
    for uuid, outcomes in seen.items():
        if uuid == "uuid-3":
            assert all(isinstance(outcome, Error) and STEPS[1] in str(outcome) for outcome in outcomes)
        else:
            assert outcomes[:3] == [StartOutcome.ROTATED, StartOutcome.CHANGED, StartOutcome.UNCHANGED]
    assert len({event["id"] for event in gateway.events}) == len(gateway.events)
    finalized = [e for e in gateway.events if e["eventType"]["id"] == STEPS[4]]
    assert len(finalized) == 5


def test_no_more_are_under_way_than_allowed(bench):
    under_way, most, rounds = 0, 0, 0

    async def scenario():
        stop = asyncio.Event()

        class Counting(Device):
            async def check_in(self):
                nonlocal under_way, most
                under_way += 1
                most = max(most, under_way)
                try:
                    return await super().check_in()
                finally:
                    under_way -= 1

        def checked_in(_uuid, _outcome):
            nonlocal rounds
            rounds += 1
            if rounds >= 20:
                stop.set()

        devices = [Counting(bench.device(f"uuid-{number}").directory) for number in range(10)]
        await run_devices(devices, interval=0, stop=stop, at_once=3, checked_in=checked_in)

    bench.run(scenario)
    assert most == 3


def test_a_device_that_has_rotated_comes_back_before_others_begin(bench):
    """Else the first of 2,000 devices would be done only when the last one has begun."""
    order = []

    async def scenario():
        devices = [bench.device(f"uuid-{number}") for number in range(3)]
        bench.gateway.push("certs-1")
        stop = asyncio.Event()

        def checked_in(uuid, outcome):
            order.append((uuid, outcome))
            if len(order) == 3:
                stop.set()

        await run_devices(devices, interval=3600, stop=stop, at_once=1, checked_in=checked_in)

    bench.run(scenario)
    assert order[:3] == [
        ("uuid-0", StartOutcome.ROTATED),
        ("uuid-0", StartOutcome.CHANGED),
        ("uuid-1", StartOutcome.ROTATED),
    ]


def test_a_stop_does_not_wait_for_the_next_round(bench):
    async def scenario():
        stop = asyncio.Event()
        await run_devices([bench.device()], interval=3600, stop=stop, checked_in=lambda *_: stop.set())
        await run_devices([], interval=3600, stop=stop)

    bench.run(scenario)
    assert bench.gateway.paths() == ["GET /config"]


@pytest.mark.parametrize(("uuids", "found"), [(None, ["a", "b"]), (["b"], ["b"]), (["x"], []), ([], [])])
def test_directories_of_devices(tmp_path, uuids, found):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sota.toml").touch()
    (tmp_path / "no device").mkdir()
    assert [path.name for path in device_directories(tmp_path, uuids)] == found
    assert device_directories(tmp_path / "missing") == []
