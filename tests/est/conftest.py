"""A Factory's PKI made on the spot, and a client that speaks to an EST app as the holder of a certificate."""

import asyncio
import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from fioctl_rotate.est.server import LogRecord, est_app
from fioctl_rotate.est.service import Authority
from fioctl_rotate.pki import certificates
from fioctl_rotate.pki.keys import generate_key

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


@dataclass
class Pki:
    root: x509.Certificate
    root_key: ec.EllipticCurvePrivateKey
    ca: x509.Certificate
    ca_key: ec.EllipticCurvePrivateKey
    now: datetime.datetime

    @classmethod
    def make(cls, now: datetime.datetime = NOW) -> "Pki":
        root_key, ca_key = generate_key(), generate_key()
        root = certificates.make_root(root_key, "acme", now=now)
        ca = certificates.sign_device_ca(
            certificates.name("fio-u1", "acme"), ca_key.public_key(), root, root_key, now=now
        )
        return cls(root, root_key, ca, ca_key, now)

    def device(
        self, subject: x509.Name | None = None, san: x509.SubjectAlternativeName | None = None
    ) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        key = generate_key()
        if san is None:
            certificate = certificates.sign_device(
                subject or certificates.name("uuid-1", "acme"),
                key.public_key(),
                self.ca,
                self.ca_key,
                now=self.now,
                lifetime=datetime.timedelta(days=365),
            )
        else:
            certificate = (
                x509.CertificateBuilder()
                .subject_name(subject or certificates.name("uuid-1", "acme"))
                .issuer_name(self.ca.subject)
                .public_key(key.public_key())
                .serial_number(7)
                .not_valid_before(self.now)
                .not_valid_after(self.now + datetime.timedelta(days=365))
                .add_extension(san, critical=False)
                .sign(self.ca_key, hashes.SHA256())
            )
        return certificate, key

    def authority(self, **changes: Any) -> Authority:
        return Authority(**{"roots": [self.root], "certificate": self.ca, "key": self.ca_key, **changes})


@pytest.fixture(scope="session")
def pki() -> Pki:
    return Pki.make()


class Est:
    """The app as its clients see it. `chain` is what the TLS layer would put into the scope."""

    def __init__(self, authority: Authority | None, **options: Any) -> None:
        self.log: list[LogRecord] = []
        self.now = NOW
        self.app = est_app(lambda _client: authority, clock=lambda: self.now, log=self.log.append, **options)

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
