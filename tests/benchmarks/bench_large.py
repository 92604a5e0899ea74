"""What reading a large Factory costs, against a floor measured in the same run.

    pytest -n 0 -s tests/benchmarks/bench_large.py
    DEVICES=100000 pytest -n 0 -s tests/benchmarks/bench_large.py

The Factory is `synthetic.py`, in a process of its own. The floor is one bare HTTP connection that sends the same
number of the smallest requests, one after the other, and decodes nothing. CPU is that of the command's process
alone (user and system), memory its peak.
"""

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from fioctl_rotate.rotation.tracker import SMALL_FLEET

DEVICES = int(os.environ.get("DEVICES", "10000"))
QUIET = 20
# Runs a command and adds its CPU seconds and peak memory in KB to stderr. A process begins with the peak of the one
# that started it, so this is a small one.
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


@dataclass(frozen=True)
class Cost:
    """What a command took: CPU and wall seconds, peak memory in MB, requests of the Factory, bytes on stdout."""

    cpu: float
    wall: float
    memory: float
    requests: int
    size: int


class Factory:
    """A synthetic Factory that runs, and commands on it."""

    def __init__(self, url: str, home: Path) -> None:
        self.url, self.home = url, home

    def run(self, *arguments: object) -> Cost:
        """Run the program; it must exit with 0."""
        environment = os.environ | {
            "FIOCTL_FACTORY": "acme",
            "FIOCTL_TOKEN": "token",
            "FIOCTL_ROTATE_SERVER": self.url,
            "XDG_STATE_HOME": str(self.home),
        }
        out = self.home / "out"
        began = time.monotonic()
        with out.open("wb") as stdout:
            command = [sys.executable, "-m", "fioctl_rotate", *map(str, arguments)]
            measured = subprocess.run(
                [sys.executable, "-S", "-c", MEASURE, *command],
                env=environment,
                stdout=stdout,
                stderr=subprocess.PIPE,
                check=False,
            )
        assert measured.returncode == 0, measured.stderr.decode()
        cpu, memory = map(float, measured.stderr.decode().splitlines()[-1].split())
        requests = sum(self.counts().values())
        return Cost(cpu, time.monotonic() - began, memory / 1024, requests, out.stat().st_size)

    def counts(self) -> dict[str, int]:
        """The requests since the last call, by kind."""
        with urlopen(f"{self.url}/count") as answer:  # noqa: S310  our own server
            counts: dict[str, int] = json.load(answer)
        return counts

    def see(self, count: int) -> None:
        """Have that many more devices be seen."""
        with urlopen(Request(f"{self.url}/see/{count}", method="POST")):  # noqa: S310  our own server
            pass


@contextmanager
def running(devices: int, home: Path, *, latency: float = 0.0) -> Iterator[Factory]:
    command = [sys.executable, "-m", "tests.benchmarks.synthetic", str(devices), "done", str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield Factory(server.stdout.readline().strip(), home)
        finally:
            server.terminate()


def bare_requests(url: str, count: int) -> float:
    """The CPU seconds of `count` small requests on one bare connection."""

    async def ask() -> None:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        for _ in range(count):
            writer.write(b"GET /ota/devices/uuid-1/updates/certs-1/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.rpartition(b"Content-Length: ")[2].split(b"\r\n")[0]))
        writer.close()

    before = resource.getrusage(resource.RUSAGE_SELF)
    asyncio.run(ask())
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


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
