"""What reading a large Factory costs, against a floor measured in the same run.

    pytest -n 0 -s tests/benchmarks/bench_large.py
    DEVICES=100000 pytest -n 0 -s tests/benchmarks/bench_large.py

The Factory is `synthetic.py`, in a process of its own. The floor is one bare HTTP connection that sends the same
number of the smallest requests, one after the other, and decodes nothing. CPU is that of the command's process
alone (user and system), memory its peak.
"""

import asyncio
import os
import time

import pytest

from fioctl_rotate.rotation.tracker import SMALL_FLEET
from tests.benchmarks.measuring import Cost, bare_requests, running

DEVICES = int(os.environ.get("DEVICES", "10000"))
QUIET = 20


def show(what: str, cost: Cost, floor: float) -> None:
    print(
        f"{what:<26}{cost.cpu:>8.2f} s CPU {cost.cpu / floor:>6.2f} x floor{cost.wall:>8.2f} s wall"
        f"{cost.memory:>6.0f} MB{cost.requests:>9,} requests{cost.size / 1e6:>8.2f} MB out"
    )


@pytest.mark.parametrize("devices", [DEVICES // 10, DEVICES])
def test_reading_a_large_factory(tmp_path, devices):
    target = ("certs-1", "-g", "field")
    with running(devices, tmp_path) as factory:
        floor = bare_requests(factory.url, min(devices, 5000)) * devices / min(devices, 5000)
        factory.counts()
        print(f"\n{devices:,} devices, all done; floor, one bare request a device: {floor:.2f} s CPU")
        first = factory.run("rotations", "show", *target)
        show("first show", first, floor)
        again = factory.run("rotations", "show", *target)
        show("show again", again, floor)
        factory.see(devices // 100)
        changed = factory.run("rotations", "show", *target)
        show("show after 1 % were seen", changed, floor)
        as_json = factory.run("rotations", "show", *target, "--format", "json")
        show("show --format json", as_json, floor)
        files = ("--html", tmp_path / "report.html", "--csv", tmp_path / "all.csv", "--force")
        report = factory.run("rotations", "report", *target, *files)
        show("report", report, floor)
        size = (tmp_path / "report.html").stat().st_size
        print(
            f"{'the page':<26}{size / 1e6:>8.2f} MB; CSV {(tmp_path / 'all.csv').stat().st_size / 1e6:.2f} MB"
        )
    # What does not depend on the machine: an event request a device at first (of a small fleet the record and the
    # own configuration too), and next to none later.
    each = 3 if devices <= SMALL_FLEET else 1
    assert first.requests <= devices * each * 1.02 + 20
    assert again.requests <= 20
    assert changed.requests <= 20 + devices // 100 // 100 + 1
    assert size < 1_500_000


def test_quiet_polls(tmp_path):
    """The CPU of a poll in which nothing changes, from the difference of two watches."""
    from fioctl_rotate.api.client import FactoryApi
    from fioctl_rotate.clock import utc_now
    from fioctl_rotate.ops.connect import open_api
    from fioctl_rotate.ops.watch import Watch, open_watch
    from fioctl_rotate.settings import Flags, resolve

    async def poll(api: FactoryApi, watch: Watch) -> float:
        before = time.process_time()
        snapshot = await watch.poll()
        assert not snapshot.changed or snapshot.at < utc_now()
        watch.keep()
        return time.process_time() - before

    async def run(url: str) -> list[float]:
        settings = resolve(Flags(factory="acme", token="token", server=url), {})
        async with open_api(settings) as api:
            watch = await open_watch(api, "certs-1")
            await poll(api, watch)
            await poll(api, watch)
            return [await poll(api, watch) for _ in range(QUIET)]

    with running(DEVICES, tmp_path) as factory:
        floor = bare_requests(factory.url, 100) / 100
        times = sorted(asyncio.run(run(factory.url)))
    median = times[len(times) // 2]
    print(
        f"\nquiet poll of {DEVICES:,} devices: {1000 * median:.1f} ms CPU, {median / floor:.0f} bare requests"
    )


def test_latency(tmp_path):
    """1,000 devices at 50 ms: what adapting the number of requests at the same time is worth."""
    with running(1000, tmp_path, latency=0.05) as factory:
        for most in (1, 8, 32):
            for file in tmp_path.rglob("*.jsonl"):
                file.unlink()
            cost = factory.run("rotations", "show", "certs-1", "--concurrency", most)
            print(
                f"\n1,000 devices at 50 ms, at most {most:>2} at once: {cost.wall:.1f} s, {cost.cpu:.1f} s CPU"
            )
