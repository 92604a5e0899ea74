"""What a command costs: CPU, wall time, peak memory, requests; alone, and against a floor."""

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

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

    @property
    def environment(self) -> dict[str, str]:
        """What names this Factory to the program, and keeps what it writes."""
        return {
            "FIOCTL_FACTORY": "acme",
            "FIOCTL_TOKEN": "token",
            "FIOCTL_ROTATE_SERVER": self.url,
            "XDG_STATE_HOME": str(self.home),
        }

    def run(self, *arguments: object) -> Cost:
        """Run the program; it must exit with 0."""
        out = self.home / "out"
        began = time.monotonic()
        with out.open("wb") as stdout:
            measured = subprocess.run(
                [sys.executable, "-S", "-c", MEASURE, *program(*map(str, arguments))],
                env=without_settings() | self.environment,
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


@dataclass(frozen=True)
class Row:
    """A line of the table: what was measured, over which floor, and what is wanted (None: only shown).

    `value` and `floor` are in `unit`; `ratio` is the median of pairs where both were run in turn. `memory` is the
    peak in MB, `requests` how many the Factory got.
    """

    name: str
    floor_name: str
    value: float
    floor: float
    ratio: float
    unit: str
    wanted: float | None = None
    memory: float | None = None
    requests: int | None = None


def in_turn(
    name: str,
    command: Callable[[int], Sequence[str]],
    floor_name: str,
    floor: Sequence[str],
    *,
    runs: int,
    wanted: float | None,
    environment: dict[str, str] | None = None,
) -> Row:
    """The CPU of two commands, run in turn, so that a machine whose speed drifts has the same effect on both.

    `command` gets the number of the run.
    """
    pairs, memory = [], 0.0
    for number in range(runs + 1):
        ours, memory = cost_of(command(number), environment)
        pairs.append((ours, cost_of(floor, environment)[0]))
    del pairs[0]  # it warms up
    return Row(
        name,
        floor_name,
        statistics.median(ours for ours, _ in pairs),
        statistics.median(theirs for _, theirs in pairs),
        statistics.median(ours / theirs for ours, theirs in pairs),
        "s CPU",
        wanted,
        memory,
    )


def cost_of(command: Sequence[str], environment: dict[str, str] | None = None) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of a command, which must exit with 0."""
    measured = subprocess.run(
        [sys.executable, "-S", "-c", MEASURE, *command],
        env=without_settings() | (environment or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    assert measured.returncode == 0, measured.stderr.decode()
    cpu, memory = map(float, measured.stderr.decode().splitlines()[-1].split())
    return cpu, memory / 1024


def without_settings() -> dict[str, str]:
    """This process's environment without the program's settings; compiled modules are kept, as once installed."""
    dropped = ("FIOCTL_", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


def program(*arguments: str) -> list[str]:
    """The command that runs the program."""
    return [sys.executable, "-m", "fioctl_rotate", *arguments]
