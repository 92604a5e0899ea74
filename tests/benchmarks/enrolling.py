"""The CPU of a re-enrollment: as a call over its cryptography, and served over a server that only ends TLS."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from fioctl_rotate.est import service
from fioctl_rotate.est.client import build_csr
from fioctl_rotate.pki.certificates import pem
from fioctl_rotate.pki.keys import generate_key
from fioctl_rotate.tls import client_context
from tests.benchmarks.bench_est import OURS, direct, one_round
from tests.benchmarks.measuring import Row, Wanted, row_of
from tests.making import NOW, Pki, write_pair

BARE = [sys.executable, "-m", "tests.benchmarks.bare_est"]
CALLS = 300


def rows(home: Path, runs: int, estserver: str | None) -> Iterator[Row]:
    """`estserver` is the path of the real program, where there is one."""
    yield _call(runs)
    yield _served("asyncio's TLS alone", BARE, "--", home / "bare", runs, Wanted())
    if estserver:
        yield _served("estserver", [estserver], "-", home / "peer", runs, Wanted(2.6))


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


def _served(name: str, peer: list[str], dashes: str, home: Path, runs: int, wanted: Wanted) -> Row:
    """Devices make a TLS connection for each; both servers take turns."""
    home.mkdir()
    pki = est_files(home)
    device = pki.device()
    cert, key = write_pair(home, "device", device)
    context = client_context(pem(pki.root), cert=cert, key=key)
    body = build_csr(generate_key(), device[0])
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(direct(*which)) for which in ((OURS, home, "--"), (peer, home, dashes))
        ]
        pairs = []
        for _ in range(runs + 1):
            ours, theirs = (1000 * one_round(server, context, body) for server in servers)
            pairs.append((ours, theirs))
    return row_of("re-enrollment, served", name, pairs[1:], "ms CPU", wanted)


def est_files(directory: Path) -> Pki:
    """A Factory's PKI, whose files an EST server finds in the directory."""
    pki = Pki.make()
    (directory / "root.pem").write_text(pem(pki.root))
    write_pair(directory, "ca", (pki.ca, pki.ca_key))
    write_pair(directory, "tls", pki.server())
    return pki


def _milliseconds(work: Callable[[], None]) -> float:
    before = time.process_time()
    for _ in range(CALLS):
        work()
    return (time.process_time() - before) / CALLS * 1000
