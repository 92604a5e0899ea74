"""What a device notices while others attack the EST server: its latency, beside that of just before.

    pytest -n 0 -s tests/benchmarks/bench_attacks.py

This process is the one good client; the server and the attackers have processes of their own. Quiet turns and
attacked ones alternate, so that what else the machine does meets both. The load of the machine is shown.
"""

import contextlib
import os
import resource
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from fioctl_rotate.est.client import build_csr
from fioctl_rotate.pki.certificates import pem
from fioctl_rotate.pki.keys import generate_key
from fioctl_rotate.tls import client_context
from tests.benchmarks.enrolling import OURS, Server, direct, enroll, est_files
from tests.making import write_pair

TURNS, REQUESTS = 5, 200
WANTED = 2.0  # times the quiet p99
LIMIT = 512  # connections, the default
FEW_FILES = 256

ATTACKS: dict[str, tuple[str, int, Sequence[str]]] = {
    "400 connections that send nothing": ("nothing", 400, ()),
    "400 half-sent handshakes": ("half-handshake", 400, ()),
    "400 half-sent heads": ("half-head", 400, ()),
    "20 endless headers": ("endless-head", 20, ()),
    "400 that send nothing, limit 200": ("nothing", 400, ("--max-connections=200",)),
    "400 half-sent handshakes, limit 200": ("half-handshake", 400, ("--max-connections=200",)),
}


def percentile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


@contextlib.contextmanager
def attackers(attack: str, count: int, port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.benchmarks.attackers", attack, str(count), str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
        process.stdin.close()


class Good:
    """The good client; `failed` are its requests that were not answered with a certificate."""

    def __init__(self, port: int, context: ssl.SSLContext, body: bytes) -> None:
        self.failed = 0
        self._work: Callable[[], None] = lambda: enroll(port, context, body)

    def turn(self, count: int) -> list[float]:
        """The milliseconds that each of `count` re-enrollments took, one after another."""
        taken = []
        for _ in range(count):
            began = time.perf_counter()
            try:
                self._work()
            except (OSError, AssertionError):
                self.failed += 1
            taken.append((time.perf_counter() - began) * 1000)
            time.sleep(0.005)
        return taken


def peak_memory(server: Server) -> float:
    """MB."""
    lines = Path(f"/proc/{server.pids[0]}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def compare(name: str, server: Server, good: Good, attack: str, count: int, log: Path) -> None:
    """Measure both in turn, show what comes out, and hold all of it but the latency against what is wanted."""
    good.turn(30)  # warm
    began, quiet, attacked = time.monotonic(), list[float](), list[float]()
    for _ in range(TURNS):
        quiet += good.turn(REQUESTS)
        with attackers(attack, count, server.port):
            attacked += good.turn(REQUESTS)
        time.sleep(0.3)  # the server forgets them
    seconds = time.monotonic() - began
    lines = [line for line in log.read_text().splitlines() if " connection from " in line]
    at_limit = sum("at a limit" in line for line in lines)
    p99 = [percentile(times, 0.99) for times in (quiet, attacked)]
    print(
        f"\n{name}: p99 {p99[0]:.1f} -> {p99[1]:.1f} ms, {p99[1] / p99[0]:.2f} x (wanted {WANTED:.0f});"
        f" median {statistics.median(quiet):.1f} -> {statistics.median(attacked):.1f} ms; {good.failed} failed;"
        f" {peak_memory(server):.0f} MB; {at_limit} lines about a limit and {len(lines) - at_limit} others"
        f" in {seconds:.0f} s; load {os.getloadavg()[0]:.1f}"
    )
    assert good.failed == 0
    assert at_limit <= seconds / 10 + 1


@pytest.fixture
def good(tmp_path: Path) -> Callable[[int], Good]:
    pki = est_files(tmp_path)
    device = pki.device()
    files = write_pair(tmp_path, "device", device)
    context = client_context(pem(pki.root), cert=files[0], key=files[1])
    return lambda port: Good(port, context, build_csr(generate_key(), device[0]))


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack(name: str, good: Callable[[int], Good], tmp_path: Path) -> None:
    attack, count, options = ATTACKS[name]
    with direct([*OURS, *options], tmp_path, "--", log=tmp_path / "log") as server:
        compare(name, server, good(server.port), attack, count, tmp_path / "log")
        assert peak_memory(server) <= 50 + 0.35 * LIMIT


@pytest.mark.parametrize("attack", ["nothing", "half-handshake"])
@pytest.mark.parametrize("sudden", [False, True])
def test_files_run_out(attack: str, sudden: bool, good: Callable[[int], Good], tmp_path: Path) -> None:
    """`sudden`: the limit falls while the server runs, as where something else takes the files."""
    few = ["sh", "-c", f'ulimit -n {FEW_FILES} && exec "$@"', "sh"]
    with direct([*([] if sudden else few), *OURS], tmp_path, "--", log=tmp_path / "log") as server:
        if sudden:
            resource.prlimit(server.pids[0], resource.RLIMIT_NOFILE, (FEW_FILES, FEW_FILES))
        name = f"{FEW_FILES} files{' all of a sudden' if sudden else ''}, 400 {attack}"
        compare(name, server, good(server.port), attack, 400, tmp_path / "log")
