"""CPU seconds that the EST server takes for a re-enrollment: whole, as a call, and beside the real estserver.

    pytest -n 0 -s tests/benchmarks/bench_est.py
    ESTSERVER=/path/to/estserver pytest -n 0 -s tests/benchmarks/bench_est.py

Each round is a few hundred re-enrollments by four clients, a TLS connection each, as devices make them. Servers
take turns, so that what else the machine does meets all of them; the median of the rounds' ratios counts.
"""

import contextlib
import os
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from fioctl_rotate.est import service
from fioctl_rotate.est.client import build_csr
from fioctl_rotate.pki.certificates import pem
from fioctl_rotate.pki.keys import generate_key
from fioctl_rotate.serving import listen
from fioctl_rotate.tls import client_context
from tests.est.proxy import started_proxy
from tests.making import NOW, Pki, write_pair

ROUNDS, REQUESTS, CLIENTS = 7, 200, 4
HEAD = (
    b"POST /.well-known/est/simplereenroll HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    b"Content-Type: application/pkcs10\r\nContent-Length: %d\r\n\r\n"
)


def est_files(directory: Path) -> Pki:
    """A Factory's PKI, whose files an EST server finds in the directory."""
    pki = Pki.make()
    (directory / "root.pem").write_text(pem(pki.root))
    write_pair(directory, "ca", (pki.ca, pki.ca_key))
    write_pair(directory, "tls", pki.server())
    return pki


def free_port() -> int:
    with listen("127.0.0.1", 0) as sock:
        return int(sock.getsockname()[1])


FILES = {"root-cert": "root.pem", "ca-cert": "ca.pem", "ca-key": "ca.key"}
TLS = {"tls-cert": "tls.pem", "tls-key": "tls.key"}
OURS = [sys.executable, "-m", "fioctl_rotate", "est", "serve"]


@contextlib.contextmanager
def process(
    command: list[str], directory: Path, options: Mapping[str, str], log: Path = Path(os.devnull)
) -> Iterator[int]:
    """A server under way in the directory; gives its process id."""
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            [*command, *(f"{name}={value}" for name, value in options.items())],
            cwd=directory,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        ) as running,
    ):
        try:
            yield running.pid
        finally:
            running.terminate()


def until_connected(family: int, address: Any) -> None:
    while True:
        with contextlib.suppress(OSError), socket.socket(family) as sock:
            sock.connect(address)
            return
        time.sleep(0.05)


@dataclass(frozen=True)
class Server:
    """An EST server: the processes whose CPU counts, and where it listens."""

    pids: Sequence[int]
    port: int


@contextlib.contextmanager
def direct(
    command: list[str], directory: Path, prefix: str, log: Path = Path(os.devnull)
) -> Iterator[Server]:
    """An EST server that ends TLS itself."""
    port = free_port()
    options = {f"{prefix}{name}": value for name, value in {**FILES, **TLS, "port": str(port)}.items()}
    with process(command, directory, options, log) as pid:
        until_connected(socket.AF_INET, ("127.0.0.1", port))
        yield Server([pid], port)


@contextlib.contextmanager
def behind_nginx(directory: Path) -> Iterator[Server]:
    """`est serve` behind the nginx of the example, without its limits of requests."""
    options = {f"--{name}": value for name, value in FILES.items()}
    command = [*OURS, "--behind-proxy", "--client-cert-header=X-Client-Cert", "--unix-socket=est.sock"]
    with process(command, directory, options) as pid:
        until_connected(socket.AF_UNIX, str(directory / "est.sock"))
        unlimited = {
            "rate=5r/s": "rate=100000r/s",
            "burst=20": "burst=10000",
            "est_connections 20": "est_connections 999",
        }
        nginx, port = started_proxy(
            "nginx", directory, (directory / "tls.pem", directory / "tls.key"), unlimited
        )
        try:
            yield Server([pid, nginx.pid], port)
        finally:
            nginx.terminate()
            nginx.wait()


def cpu(server: Server) -> float:
    """CPU seconds of the server so far."""
    ticks = 0
    for pid in server.pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def enroll(port: int, context: ssl.SSLContext, body: bytes) -> None:
    answer = b""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as sock,
        context.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=True) as tls,
    ):
        # As Go and libcurl do; otherwise the request waits 40 ms for an ACK.
        tls.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls.sendall(HEAD % len(body) + body)
        while chunk := tls.recv(65536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 201"), answer[:100]


def one_round(server: Server, context: ssl.SSLContext, body: bytes) -> float:
    """CPU seconds of the server for one re-enrollment."""
    before = cpu(server)
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(lambda _: enroll(server.port, context, body), range(REQUESTS)))
    return (cpu(server) - before) / REQUESTS


def test_a_re_enrollment(tmp_path: Path) -> None:
    pki = est_files(tmp_path)
    device = pki.device()
    files = write_pair(tmp_path, "device", device)
    context = client_context(pem(pki.root), cert=files[0], key=files[1])
    body = build_csr(generate_key(), device[0])
    peer = os.environ.get("ESTSERVER")
    with contextlib.ExitStack() as stack:
        servers = {"est serve": stack.enter_context(direct(OURS, tmp_path, "--"))}
        if shutil.which("nginx"):
            servers["est serve behind nginx, both"] = stack.enter_context(behind_nginx(tmp_path))
        if peer:
            servers["estserver"] = stack.enter_context(direct([peer], tmp_path, "-"))
        for server in servers.values():
            one_round(server, context, body)  # warm
        rounds = [
            {name: one_round(server, context, body) for name, server in servers.items()}
            for _ in range(ROUNDS)
        ]
    for name in servers:
        line = (
            f"\n{name}: {statistics.median(each[name] for each in rounds) * 1000:.2f} ms CPU a re-enrollment"
        )
        if peer:
            ratios = [each[name] / each["estserver"] for each in rounds]
            line += f", {statistics.median(ratios):.2f} of estserver ({min(ratios):.2f} to {max(ratios):.2f})"
        print(line)


def test_the_call_beside_its_cryptography() -> None:
    """`service.reenroll` over the one verification and the one signature that it cannot do without."""
    pki = Pki.make()
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
