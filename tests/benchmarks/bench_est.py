"""CPU seconds that the EST server takes for a re-enrollment: whole, as a call, and beside the real estserver.

    pytest -n 0 -s tests/benchmarks/bench_est.py
    ESTSERVER=/path/to/estserver pytest -n 0 -s tests/benchmarks/bench_est.py

Each round is a few hundred re-enrollments by four clients, a TLS connection each, as devices make them. Servers
take turns, so that what else the machine does meets all of them; the median of the rounds' ratios counts.
"""

import contextlib
import os
import socket
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from fioctl_rotate.est import service
from fioctl_rotate.est.client import build_csr
from fioctl_rotate.pki.certificates import pem
from fioctl_rotate.pki.keys import generate_key
from fioctl_rotate.serving import listen
from fioctl_rotate.tls import client_context
from tests.making import NOW, Pki, write_pair

ROUNDS, REQUESTS, CLIENTS = 7, 200, 4
HEAD = (
    b"POST /.well-known/est/simplereenroll HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    b"Content-Type: application/pkcs10\r\nContent-Length: %d\r\n\r\n"
)


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    pki = Pki.make()
    (tmp_path / "root.pem").write_text(pem(pki.root))
    write_pair(tmp_path, "ca", (pki.ca, pki.ca_key))
    write_pair(tmp_path, "tls", pki.server())
    return pki


def free_port() -> int:
    with listen("127.0.0.1", 0) as sock:
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def server(command: list[str], directory: Path, prefix: str) -> Iterator[tuple[int, int]]:
    """An EST server under way: its process id and port."""
    port = free_port()
    files = {"root-cert": "root.pem", "tls-cert": "tls.pem", "tls-key": "tls.key", "ca-cert": "ca.pem"}
    files |= {"ca-key": "ca.key", "port": str(port)}
    options = [f"{prefix}{name}={value}" for name, value in files.items()]
    with subprocess.Popen(
        [*command, *options], cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("localhost", port)):
                break
            time.sleep(0.05)
        try:
            yield process.pid, port
        finally:
            process.terminate()


def cpu(pid: int) -> float:
    """CPU seconds of the process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def enroll(port: int, context: ssl.SSLContext, body: bytes) -> None:
    answer = b""
    with (
        socket.create_connection(("localhost", port)) as sock,
        context.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=True) as tls,
    ):
        tls.sendall(HEAD % len(body) + body)
        while chunk := tls.recv(65536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 201"), answer[:100]


def one_round(pid: int, port: int, context: ssl.SSLContext, body: bytes) -> float:
    """CPU seconds of the server for one re-enrollment."""
    before = cpu(pid)
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(lambda _: enroll(port, context, body), range(REQUESTS)))
    return (cpu(pid) - before) / REQUESTS


def test_a_re_enrollment(pki: Pki, tmp_path: Path) -> None:
    device = pki.device()
    files = write_pair(tmp_path, "device", device)
    context = client_context(pem(pki.root), cert=files[0], key=files[1])
    body = build_csr(generate_key(), device[0])
    ours = [sys.executable, "-m", "fioctl_rotate", "est", "serve"]
    with contextlib.ExitStack() as stack:
        servers = {"est serve": stack.enter_context(server(ours, tmp_path, "--"))}
        if peer := os.environ.get("ESTSERVER"):
            servers["estserver"] = stack.enter_context(server([peer], tmp_path, "-"))
        for where in servers.values():
            one_round(*where, context, body)  # warm
        rounds = [
            {name: one_round(*where, context, body) for name, where in servers.items()} for _ in range(ROUNDS)
        ]
    for name in servers:
        print(
            f"\n{name}: {statistics.median(each[name] for each in rounds) * 1000:.2f} ms CPU a re-enrollment"
        )
    if peer:
        ratios = [each["est serve"] / each["estserver"] for each in rounds]
        print(
            f"est serve / estserver: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def test_the_call_beside_its_cryptography(pki: Pki) -> None:
    """`service.reenroll` over the one verification and the one signature that it cannot do without."""
    device, _ = pki.device()
    key = generate_key()
    body, authority = build_csr(key, device), pki.authority()
    signature = key.sign(body, ec.ECDSA(SHA256()))

    def floor() -> None:
        key.public_key().verify(signature, body, ec.ECDSA(SHA256()))
        pki.ca_key.sign(body, ec.ECDSA(SHA256()))

    def call() -> None:
        service.reenroll(authority, body, device, now=NOW)

    def seconds(work: object) -> float:
        began = time.process_time()
        for _ in range(300):
            work()  # type: ignore[operator]  # one of the two above
        return (time.process_time() - began) / 300

    rounds = [(seconds(call), seconds(floor)) for _ in range(ROUNDS)]
    call_median, floor_median = (statistics.median(each[i] for each in rounds) * 1000 for i in (0, 1))
    ratio = statistics.median(one / other for one, other in rounds)
    print(f"\nreenroll: {call_median:.3f} ms CPU, its ECDSA alone {floor_median:.3f} ms: {ratio:.2f}")
    assert ratio < 6, "what is not cryptography has grown"
