"""The CPU of a re-enrollment: as a call over its cryptography, and served over a server that only ends TLS.

Each round is some hundred re-enrollments by four clients, a TLS connection each, as devices make them.
"""

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from tests.benchmarks.measuring import Row, Wanted, cpu_of, row_of
from tests.est.proxy import started_proxy
from tests.making import NOW, Pki, write_pair

REQUESTS, CLIENTS, CALLS = 200, 4, 300
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
BARE = [sys.executable, "-m", "tests.benchmarks.bare_est"]


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
    before = sum(map(cpu_of, server.pids))
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(lambda _: enroll(server.port, context, body), range(REQUESTS)))
    return (sum(map(cpu_of, server.pids)) - before) / REQUESTS


def rows(home: Path, runs: int, estserver: str | None) -> Iterator[Row]:
    """`estserver` is the path of the real program, where there is one."""
    yield _call(runs)
    pki = est_files(home)
    device = pki.device()
    cert, key = write_pair(home, "device", device)
    context = client_context(pem(pki.root), cert=cert, key=key)
    body = build_csr(generate_key(), device[0])
    with contextlib.ExitStack() as stack:
        ours = {"re-enrollment, served": stack.enter_context(direct(OURS, home, "--"))}
        if shutil.which("nginx"):
            ours["re-enrollment, behind nginx"] = stack.enter_context(behind_nginx(home))
        floors = {"asyncio's TLS alone": stack.enter_context(direct(BARE, home, "--"))}
        if estserver:
            floors["estserver"] = stack.enter_context(direct([estserver], home, "-"))
        rounds = [
            {name: 1000 * one_round(server, context, body) for name, server in (ours | floors).items()}
            for _ in range(runs + 1)
        ][1:]
    for name in ours:
        for floor in floors:
            wanted = Wanted(2.6) if floor == "estserver" else None
            yield row_of(name, floor, [(each[name], each[floor]) for each in rounds], "ms CPU", wanted)


def _call(runs: int) -> Row:
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

    pairs = [(_milliseconds(call), _milliseconds(floor)) for _ in range(runs)]
    return row_of("re-enrollment, the call", "its two ECDSA operations", pairs, "ms CPU")


def _milliseconds(work: Callable[[], None]) -> float:
    before = time.process_time()
    for _ in range(CALLS):
        work()
    return (time.process_time() - before) / CALLS * 1000
