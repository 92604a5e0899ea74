"""A Factory's PKI made on the spot, and a client that speaks to an EST app as the holder of a certificate."""

import asyncio
import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509

from fioctl_rotate.est.client import build_csr
from fioctl_rotate.est.server import EstApp, LogRecord
from fioctl_rotate.est.service import Authority
from fioctl_rotate.pki import certificates
from fioctl_rotate.pki.keys import generate_key
from fioctl_rotate.tls import client_context
from tests.est.process import Process
from tests.making import Pki, write_pair

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


@pytest.fixture(scope="session")
def pki() -> Pki:
    return Pki.make(now=NOW)


class Est:
    """The app as its clients see it. `chain` is what the TLS layer would put into the scope."""

    def __init__(self, authority: Authority | None, **options: Any) -> None:
        self.log: list[LogRecord] = []
        self.now = NOW
        self.app = EstApp(authority=lambda: authority, clock=lambda: self.now, log=self.log.append, **options)

    def request(
        self,
        method: str,
        operation: str,
        *,
        client: x509.Certificate | None = None,
        chain: list[str] | None = None,
        **kwargs: Any,
    ) -> httpx.Response:
        if chain is None:
            chain = [certificates.pem(client)] if client else []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await self.app({**scope, "extensions": {"tls": {"client_cert_chain": chain}}}, receive, send)

        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as http:
                url = f"https://est.example/.well-known/est/{operation}"
                return await http.request(method, url, **kwargs)

        return asyncio.run(send())

    def post(
        self,
        operation: str,
        body: bytes,
        client: x509.Certificate | None,
        content_type: str = "application/pkcs10",
        **kwargs: Any,
    ) -> httpx.Response:
        headers = {"Content-Type": content_type}
        return self.request("POST", operation, client=client, content=body, headers=headers, **kwargs)


@pytest.fixture
def est(pki: Pki) -> Est:
    return Est(pki.authority())


@pytest.fixture
def est_with(pki: Pki) -> Callable[..., Est]:
    """An EST app with other options, or another authority."""

    def make(authority: Authority | str | None = "usual", **options: Any) -> Est:
        return Est(pki.authority() if isinstance(authority, str) else authority, **options)

    return make


@pytest.fixture
def live_pki() -> Pki:
    """A PKI that is valid now, by the clock that a server in its own process goes by."""
    return Pki.make()


@pytest.fixture
def files(live_pki: Pki, tmp_path: Path) -> dict[str, Path]:
    """The files that the options of `est serve` name, by option."""
    tls = write_pair(tmp_path, "tls", live_pki.server())
    ca = write_pair(tmp_path, "ca", (live_pki.ca, live_pki.ca_key))
    root = tmp_path / "root.pem"
    root.write_text(certificates.pem(live_pki.root))
    return {"root-cert": root, "tls-cert": tls[0], "tls-key": tls[1], "ca-cert": ca[0], "ca-key": ca[1]}


@pytest.fixture
def started(files: dict[str, Path]) -> Iterator[Callable[..., Process]]:
    """`started("--option", value)`: `est serve` under way."""
    running = []

    def start(*more: object) -> Process:
        running.append(Process(files, *more))
        return running[-1]

    yield start
    for process in running:
        process.kill()


@pytest.fixture
def enroll(live_pki: Pki, tmp_path: Path) -> Callable[..., httpx.Response]:
    """`enroll(url)`: the answer to a re-enrollment of a device of `issuer`, or of `device`, for `key`."""

    def post(
        url: str, issuer: Pki | None = None, uuid: str = "uuid-1", device: Any = None, key: Any = None
    ) -> httpx.Response:
        device = device or (issuer or live_pki).device(certificates.name(uuid, "acme"))
        files = write_pair(tmp_path, "device", device)
        context = client_context(certificates.pem(live_pki.root), cert=files[0], key=files[1])
        return httpx.post(
            f"{url}/simplereenroll",
            content=build_csr(key or generate_key(), device[0]),
            headers={"Content-Type": "application/pkcs10"},
            verify=context,
            trust_env=False,
        )

    return post
