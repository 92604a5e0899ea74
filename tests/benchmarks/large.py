"""What reading a large Factory costs, whose devices are all done.

The floor is one bare HTTP connection that sends a request a device, one after the other, and decodes nothing. CPU
is that of the command's process alone (user and system), memory its peak.
"""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.ops.connect import open_api
from fioctl_rotate.ops.watch import Watch, open_watch
from fioctl_rotate.settings import Flags, resolve
from tests.benchmarks.measuring import Factory, Row, Wanted, bare_at_once, row_of, running

TARGET = ("certs-1", "-g", "field")
BARE = "a bare request a device"
QUIET = 20
MEMORY = 250  # MB, at 100,000 devices
LATENCY, SLOW_DEVICES, AT_ONCE = 0.05, 1000, 32


def rows(devices: int, home: Path) -> Iterator[Row]:
    """First and later views of a Factory of so many devices."""
    page, csv = home / "report.html", home / "all.csv"
    with running(devices, home) as factory:
        yield _show("first show", devices, factory, Wanted(value=150, memory=MEMORY))
        yield _show("show again", devices, factory)
        factory.see(devices // 100)
        yield _show("show, 1 % seen since", devices, factory)
        yield _show("show as JSON", devices, factory, Wanted(memory=MEMORY), "--format", "json")
        files = ("--html", page, "--csv", csv, "--force")
        yield _row("report", devices, factory, ("rotations", "report", *TARGET, *files), Wanted())
        sizes = page.stat().st_size / 1e6, csv.stat().st_size / 1e6
        yield row_of(f"its page, {devices:,} devices", "a CSV row a device", [sizes], "MB")
        floor = factory.bare(1)
        quiet = asyncio.run(_quiet_polls(factory.url))
        name = f"quiet poll, {devices:,} devices"
        yield row_of(name, "a bare request", [(poll, floor) for poll in quiet], "s CPU", Wanted(value=0.1))


def slow(home: Path) -> Row:
    """A Factory that is far away: wall time, over bare requests, as many at once as the program may make."""
    with running(SLOW_DEVICES, home, latency=LATENCY) as factory:
        began = time.monotonic()
        asyncio.run(bare_at_once(factory.url, SLOW_DEVICES, AT_ONCE))
        floor = time.monotonic() - began
        factory.counts()
        cost = factory.run("rotations", "show", *TARGET)
    return row_of(
        f"first show, {SLOW_DEVICES:,} devices at {1000 * LATENCY:.0f} ms",
        f"bare requests, {AT_ONCE} at once",
        [(cost.wall, floor)],
        "s wall",
        Wanted(value=4),
        memory=cost.memory,
        requests=cost.requests,
    )


def _show(name: str, devices: int, factory: Factory, wanted: Wanted | None = None, *more: str) -> Row:
    return _row(name, devices, factory, ("rotations", "show", *TARGET, *more), wanted)


def _row(
    name: str, devices: int, factory: Factory, command: tuple[object, ...], wanted: Wanted | None
) -> Row:
    floor = factory.bare(devices)
    cost = factory.run(*command)
    return row_of(
        f"{name}, {devices:,} devices",
        BARE,
        [(cost.cpu, floor)],
        "s CPU",
        wanted,
        memory=cost.memory,
        requests=cost.requests,
    )


async def _quiet_polls(url: str) -> list[float]:
    """The CPU seconds of polls in which nothing changes."""

    async def poll(api: FactoryApi, watch: Watch) -> float:
        before = time.process_time()
        await watch.poll()
        watch.keep()
        return time.process_time() - before

    async with open_api(resolve(Flags(factory="acme", token="token", server=url), {})) as api:
        watch = await open_watch(api, TARGET[0])
        await poll(api, watch)
        await poll(api, watch)
        return [await poll(api, watch) for _ in range(QUIET)]
