"""500 devices in this process rotate against one `mock serve` in another, and nothing is lost.

    pytest -n 0 -s tests/benchmarks/bench_devices.py

Each device's second check-in is over its new certificate, so it ends only when the gateway has taken them all.
"""

import asyncio
import json
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from fioctl_rotate.device.device import Device, Outcome
from fioctl_rotate.device.runner import device_directories, run_devices

DEVICES = 500
FREE = ("--port", 0, "--est-port", 0, "--gateway-port", 0)
EVENTS_EACH = 6


def test_fleet_of_500(cli, mock_dir):
    assert cli("mock", "init", mock_dir, "-f", "acme", "-g", "all", "--devices", DEVICES, *FREE).code == 0
    command = [sys.executable, "-m", "fioctl_rotate", "mock", "serve", str(mock_dir), "--format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        served = json.loads("".join(iter(server.stdout.readline, "}\n")) + "}")
        port = served["est"].split(":")[2].split("/")[0]
        target = ("-g", "all", "-p", port, "--mock", mock_dir, "-f", "acme")
        assert cli("config", "rotate-certs", *target, "-r", "benchmark", "-y").code == 0
        began = time.monotonic()
        outcomes = asyncio.run(_rotate(device_directories(mock_dir / "devices")))
        took = time.monotonic() - began
        peak = next(
            line for line in Path(f"/proc/{server.pid}/status").read_text().splitlines() if "VmHWM" in line
        )
        server.send_signal(signal.SIGINT)
    assert set(outcomes) == {Outcome.ROTATED, Outcome.CHANGED}
    assert outcomes[Outcome.ROTATED] == DEVICES
    db = sqlite3.connect(mock_dir / "mock.db")
    assert db.execute("SELECT count(*) FROM event").fetchone() == (DEVICES * EVENTS_EACH,)
    db.close()
    fleet = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    server_peak = int(peak.split()[1]) // 1024
    print(f"\n{DEVICES} devices in {took:.0f} s; peak memory {fleet} MB here, {server_peak} MB in the server")


async def _rotate(directories: list[Path]) -> Counter[object]:
    """Every device checks in until it has done so with its new certificate; how often each outcome came."""
    outcomes: Counter[object] = Counter()
    rotated: set[str] = set()
    back: set[str] = set()
    stop = asyncio.Event()

    def checked_in(uuid: str, outcome: object) -> None:
        if uuid in back:
            return
        outcomes[outcome] += 1
        (back if uuid in rotated else rotated).add(uuid)
        if len(back) == len(directories):
            stop.set()

    await run_devices([Device(path) for path in directories], interval=600, stop=stop, checked_in=checked_in)
    return outcomes
