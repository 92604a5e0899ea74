"""What the mocked Factory costs: a device of `mock init`, and a simulated device that rotates over real TLS."""

import asyncio
import json
import signal
import sqlite3
import ssl
import subprocess
import time
from contextlib import closing
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from fioctl_rotate.device.device import Device, StartOutcome
from fioctl_rotate.device.runner import device_directories, run_devices
from fioctl_rotate.errors import Error
from fioctl_rotate.tls import client_context, server_context
from tests.benchmarks.measuring import Row, Wanted, cost_of, cpu_of, peak_of, program, row_of, running
from tests.making import Pki, certificate, pem, write_pair
from tests.processes import FREE, est_port

INIT = ("mock", "init", "-f", "acme", "-g", "field", *map(str, FREE), "--devices")
HANDSHAKES = 12  # of a device that rotates, each a connection of its own as fioconfig opens them
EVENTS = 6
# n, 10 n and 100 n devices; what is wanted is wanted of the most.
MADE, ROTATED = (20, 200, 2000), (5, 50, 500)
SAMPLES = 100  # so many are made to measure a floor


def making(devices: int, home: Path) -> Row:
    """`mock init`, its start-up too, over the key and the certificate of each device."""
    cpu, memory = cost_of(program(*INIT, str(devices), str(home / "made")))
    return row_of(
        f"mock init, a device of {devices:,}",
        "a key and a certificate",
        [(cpu / devices * 1000, _certificate())],
        "ms CPU",
        Wanted(value=2 if devices == MADE[-1] else None),
        memory=memory,
    )


def cloning(devices: int, home: Path) -> Row:
    """`mock clone`, over the same."""
    with running(devices, home) as factory:
        cost = factory.run("mock", "clone", home / "copy", "-g", "field", *FREE)
    return row_of(
        f"mock clone, a device of {devices:,}",
        "a key and a certificate",
        [(cost.cpu / devices * 1000, _certificate())],
        "ms CPU",
        memory=cost.memory,
        requests=cost.requests,
    )


def rotating(devices: int, home: Path) -> Row:
    """Devices in this process rotate against a server in another, over the TLS handshakes that both must make.

    Each device's second check-in is over its new certificate, so it ends only when the gateway has taken them all.
    """
    floor = _handshake(home) * HANDSHAKES
    (mock := home / "mock").mkdir()
    cost_of(program(*INIT, str(devices), str(mock)))
    with subprocess.Popen(
        program("mock", "serve", str(mock), "--format", "json"), stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        served = json.loads("".join(iter(server.stdout.readline, "}\n")) + "}")
        port = est_port(served)
        push = ("config", "rotate-certs", "-g", "field", "-p", port, "-r", "benchmark", "-y")
        cost_of(program(*push, "--mock", str(mock), "-f", "acme"))
        before = time.process_time() + cpu_of(server.pid)
        asyncio.run(_rotate(device_directories(mock / "devices")))
        cpu = time.process_time() + cpu_of(server.pid) - before
        memory = peak_of(server.pid)
        server.send_signal(signal.SIGINT)
    with closing(sqlite3.connect(mock / "mock.db")) as db:
        assert db.execute("SELECT count(*) FROM event").fetchone() == (devices * EVENTS,), "nothing is lost"
    return row_of(
        f"a rotation, of {devices:,} devices",
        f"{HANDSHAKES} TLS handshakes",
        [(cpu / devices, floor)],
        "s CPU",
        Wanted(value=0.08 if devices == ROTATED[-1] else None),
        memory=memory,
    )


async def _rotate(directories: list[Path]) -> None:
    """Run the devices until each has checked in with its new certificate."""
    rotated: set[str] = set()
    back: set[str] = set()
    stop = asyncio.Event()

    def checked_in(uuid: str, outcome: StartOutcome | Error) -> None:
        assert not isinstance(outcome, Error), outcome
        if outcome is StartOutcome.ROTATED:
            rotated.add(uuid)
        elif uuid in rotated:
            back.add(uuid)
        if len(back) == len(directories):
            stop.set()

    await run_devices([Device(path) for path in directories], interval=600, stop=stop, checked_in=checked_in)


def _certificate() -> float:
    """CPU milliseconds of a key and a certificate."""
    before = time.process_time()
    for _ in range(SAMPLES):
        certificate(key=ec.generate_private_key(ec.SECP256R1()))
    return (time.process_time() - before) / SAMPLES * 1000


def _handshake(home: Path) -> float:
    """CPU seconds of a handshake with certificates on both sides, both in this process, without a network."""
    pki = Pki.make()
    device, server = write_pair(home, "device", pki.device()), write_pair(home, "server", pki.server())
    of_server = server_context(*server, pem(pki.ca).decode(), required=True)
    of_client = client_context(pem(pki.root).decode(), cert=device[0], key=device[1])
    before = time.process_time()
    for _ in range(SAMPLES):
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        sides = [
            of_client.wrap_bio(to_client, to_server, server_hostname="localhost"),
            of_server.wrap_bio(to_server, to_client, server_side=True),
        ]
        while sides:
            sides = [side for side in sides if not _is_done(side)]
    return (time.process_time() - before) / SAMPLES


def _is_done(side: ssl.SSLObject) -> bool:
    """Take a step of the handshake; returns whether that was the last."""
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
