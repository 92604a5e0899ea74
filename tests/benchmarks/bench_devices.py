"""500 devices in this process rotate against one `mock serve` in another, and nothing is lost.

    pytest -n 0 -s tests/benchmarks/bench_devices.py

Each device's second check-in is over its new certificate, so it ends only when the gateway has taken them all. What
bounds the CPU: twelve TLS handshakes a device, on both sides.
"""

import asyncio
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from fioctl_rotate.device.device import Device, Outcome
from fioctl_rotate.device.runner import device_directories, run_devices
from fioctl_rotate.errors import Error
from tests.commandline import Cli

DEVICES = 500
FREE = ("--port", 0, "--est-port", 0, "--gateway-port", 0)
EVENTS_EACH = 6


def test_fleet_of_500(cli: Cli, mock_dir: Path) -> None:
    assert cli("mock", "init", mock_dir, "-f", "acme", "-g", "all", "--devices", DEVICES, *FREE).code == 0
    command = [sys.executable, "-m", "fioctl_rotate", "mock", "serve", str(mock_dir), "--format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        served = json.loads("".join(iter(server.stdout.readline, "}\n")) + "}")
        port = served["est"].split(":")[2].split("/")[0]
        target = ("-g", "all", "-p", port, "--mock", mock_dir, "-f", "acme")
        assert cli("config", "rotate-certs", *target, "-r", "benchmark", "-y").code == 0
        before = time.process_time(), cpu_of(server.pid)
        back = asyncio.run(rotate(device_directories(mock_dir / "devices")))
        here, there = time.process_time() - before[0], cpu_of(server.pid) - before[1]
        server_peak = peak_of(server.pid)
        server.send_signal(signal.SIGINT)
    with closing(sqlite3.connect(mock_dir / "mock.db")) as db:
        assert db.execute("SELECT count(*) FROM event").fetchone() == (DEVICES * EVENTS_EACH,)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    each = (here + there) / DEVICES
    print(
        f"\n{DEVICES} devices: {each:.3f} s CPU each, {here / DEVICES:.3f} here and {there / DEVICES:.3f} in the"
        f" server; back after {back[0]:.0f} s (the first), {back[DEVICES // 2]:.0f} s (half), {back[-1]:.0f} s"
        f" (all); peak memory {peak} MB here, {server_peak} MB in the server"
    )


async def rotate(directories: list[Path]) -> list[float]:
    """Seconds until each device had checked in with its new certificate, sorted."""
    began = time.monotonic()
    rotated: set[str] = set()
    back: dict[str, float] = {}
    stop = asyncio.Event()

    def checked_in(uuid: str, outcome: Outcome | Error) -> None:
        assert not isinstance(outcome, Error), outcome
        if outcome is Outcome.ROTATED:
            rotated.add(uuid)
        elif uuid in rotated:
            back[uuid] = time.monotonic() - began
        if len(back) == len(directories):
            stop.set()

    await run_devices([Device(path) for path in directories], interval=600, stop=stop, checked_in=checked_in)
    return list(back.values())


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_of(pid: int) -> int:
    """Its peak memory in MB."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) // 1024
