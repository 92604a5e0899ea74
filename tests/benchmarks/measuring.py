"""What a command costs: CPU, wall time, peak memory, requests; alone, and against a floor."""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
        cpu, memory = measured(program(*map(str, arguments)), self.environment, out)
        wall = time.monotonic() - began
        return Cost(cpu, wall, memory, sum(self.counts().values()), out.stat().st_size)

    def counts(self) -> dict[str, int]:
        """The requests since the last call, by kind."""
        with urlopen(f"{self.url}/count") as answer:  # noqa: S310  our own server
            counts: dict[str, int] = json.load(answer)
        return counts

    def see(self, count: int) -> None:
        """Have that many more devices be seen."""
        with urlopen(Request(f"{self.url}/see/{count}", method="POST")):  # noqa: S310  our own server
            pass

    def bare(self, count: int) -> float:
        """The CPU seconds of so many bare requests: a few thousand of them are made."""
        made = min(count, 5000)
        seconds = bare_requests(self.url, made) * count / made
        self.counts()
        return seconds


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
    before = time.process_time()
    asyncio.run(_ask(url, count))
    return time.process_time() - before


async def bare_at_once(url: str, count: int, connections: int) -> None:
    """About `count` small requests, shared out to so many bare connections."""
    await asyncio.gather(*(_ask(url, count // connections) for _ in range(connections)))


async def _ask(url: str, count: int) -> None:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for _ in range(count):
        writer.write(b"GET /ota/devices/uuid-1/updates/certs-1/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.rpartition(b"Content-Length: ")[2].split(b"\r\n")[0]))
    writer.close()


@dataclass(frozen=True)
class Wanted:
    """What a row is to reach: a ratio, a value in the row's unit, a peak in MB; None: it is only shown."""

    ratio: float | None = None
    value: float | None = None
    memory: float | None = None

    def text(self, unit: str) -> str:
        """`1.25 x`, `150 s, 250 MB`."""
        parts = ((self.ratio, "x"), (self.value, unit.split()[0]), (self.memory, "MB"))
        return ", ".join(f"{most:g} {unit}" for most, unit in parts if most is not None)


@dataclass(frozen=True)
class Row:
    """A line of the table: what was measured, over which floor, and what is wanted.

    `value` and `floor` are in `unit`; `ratio` is the median of pairs where both were run in turn. `memory` is the
    peak in MB, `requests` how many the Factory got.
    """

    name: str
    floor_name: str
    value: float
    floor: float
    unit: str
    ratio: float
    wanted: Wanted = field(default_factory=Wanted)
    memory: float | None = None
    requests: int | None = None

    @property
    def reached(self) -> bool | None:
        """Whether all that is wanted was reached; None where nothing is."""
        pairs = (
            (self.ratio, self.wanted.ratio),
            (self.value, self.wanted.value),
            (self.memory, self.wanted.memory),
        )
        known = [figure <= most for figure, most in pairs if figure is not None and most is not None]
        return all(known) if known else None


def row_of(
    name: str,
    floor_name: str,
    pairs: Sequence[tuple[float, float]],
    unit: str,
    wanted: Wanted | None = None,
    *,
    memory: float | None = None,
    requests: int | None = None,
) -> Row:
    """A row of pairs, each of a value and of its floor that were measured one after the other."""
    return Row(
        name,
        floor_name,
        statistics.median(value for value, _ in pairs),
        statistics.median(floor for _, floor in pairs),
        unit,
        statistics.median(value / floor for value, floor in pairs),
        wanted or Wanted(),
        memory,
        requests,
    )


def commands_in_turn(
    command: Callable[[int], Sequence[str]],
    floor: Sequence[str],
    runs: int,
    environment: dict[str, str] | None = None,
) -> tuple[list[tuple[float, float]], float]:
    """The CPU seconds of two commands run in turn, and the first one's peak memory in MB.

    A machine whose speed drifts so has the same effect on both. `command` gets the number of the run.
    """
    pairs, memory = [], 0.0
    for number in range(runs + 1):
        ours, memory = cost_of(command(number), environment)
        pairs.append((ours, cost_of(floor, environment)[0]))
    return pairs[1:], memory  # the first one warms up


def cost_of(command: Sequence[str], environment: dict[str, str] | None = None) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of a command, which must exit with 0."""
    return measured(command, environment or {}, Path(os.devnull))


def measured(command: Sequence[str], environment: dict[str, str], out: Path) -> tuple[float, float]:
    """The same, with the command's stdout in a file."""
    with out.open("wb") as stdout:
        ended = subprocess.run(
            [sys.executable, "-S", "-c", MEASURE, *command],
            env=without_settings() | environment,
            stdout=stdout,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr.decode()
    cpu, memory = map(float, ended.stderr.decode().splitlines()[-1].split())
    return cpu, memory / 1024


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_of(pid: int) -> float:
    """The peak memory of a process in MB."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024


def without_settings() -> dict[str, str]:
    """This process's environment without the program's settings; compiled modules are kept, as once installed."""
    dropped = ("FIOCTL_", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


def program(*arguments: str) -> list[str]:
    """The command that runs the program."""
    return [sys.executable, "-m", "fioctl_rotate", *arguments]
