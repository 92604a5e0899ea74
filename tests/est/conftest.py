"""A Factory's PKI made on the spot, and a client that speaks to an EST app as the holder of a certificate."""

import asyncio
import datetime
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from cryptography import x509

from fioctl_rotate.est.server import EstApp, LogRecord
from fioctl_rotate.est.service import Authority
from fioctl_rotate.pki import certificates
from tests.making import Pki

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
