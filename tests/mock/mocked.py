"""A mocked Factory with a clock that tests set, as operators and devices see it: over HTTP, in this process."""

import asyncio
import datetime
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fioctl_rotate.mock.store import event_queue
from fioctl_rotate.mock.store.accounts import FactoryRecord
from fioctl_rotate.mock.store.database import Store
from fioctl_rotate.pki import certificates
from fioctl_rotate.pki.keys import public_key_pem
from tests.making import Pki

START = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
FACTORY = "/ota/factories/acme"
FLEET = f"{FACTORY}/config/"
GROUP = f"{FACTORY}/device-groups/field/config/"
OWN = "/ota/devices/uuid-1/config/?factory=acme"
RECORD = "/ota/devices/uuid-1/?factory=acme"


class Clock:
    """Tells the time that a test has set."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime.datetime:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += datetime.timedelta(seconds=seconds)


class Http:
    """An app's answers to requests that carry `headers` and come over TLS from the holder of `chain`."""

    def __init__(
        self, app: Any, headers: dict[str, str] | None = None, chain: list[str] | None = None
    ) -> None:
        self._app = app
        self._headers = headers or {}
        self._extensions = {} if chain is None else {"tls": {"client_cert_chain": chain}}

    def __call__(self, method: str, url: str, json: Any = None, **kwargs: Any) -> httpx.Response:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await self._app({**scope, "extensions": self._extensions}, receive, send)

        async def request() -> httpx.Response:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(
                transport=transport, base_url="https://api.test", headers=self._headers
            ) as http:
                return await http.request(method, url, json=json, **kwargs)

        return asyncio.run(request())


@dataclass
class DeviceKey:
    """A device's certificate and key."""

    uuid: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        return certificates.pem(self.certificate)

    @property
    def public_key(self) -> str:
        return public_key_pem(self.key.public_key())


@dataclass
class Mock:
    """One mocked Factory and everything around it."""

    directory: Path
    store: Store
    factory: FactoryRecord
    clock: Clock
    pki: Pki
    admin: Http
    reader: Http
    user_id: str
    _gateway: Any = field(repr=False)

    def gateway(self, device: DeviceKey | None) -> Http:
        """The gateway as the device's holder sees it."""
        return Http(self._gateway, chain=[device.pem] if device else [])

    def set_up_pki(self) -> None:
        """As `keys ca create` does it, with an online CA and a local one."""
        asked = {"first-time-init": True, "ca-csr": True, "est-tls-csr": False, "tls-csr": True}
        csrs = self.admin("POST", f"{FACTORY}/certs/", asked).json()
        online = self.pki.sign(csrs["ca-csr"], ca=True)
        uploaded = self.admin(
            "PATCH",
            f"{FACTORY}/certs/",
            {
                "root-crt": certificates.pem(self.pki.root),
                "ca-crt": certificates.pem(online) + "\n" + certificates.pem(self.pki.ca),
                "tls-crt": certificates.pem(self.pki.sign(csrs["tls-csr"])),
                "change-meta": {"created-by": "", "created-at": "", "updated-by": "", "updated-at": ""},
            },
        )
        assert uploaded.status_code == 204, uploaded.text

    def device(
        self, uuid: str = "uuid-1", *, subject: x509.Name | None = None, ca: Pki | None = None
    ) -> DeviceKey:
        """A device's key and certificate, of the local CA; nobody knows of it yet."""
        pki = ca or self.pki
        return DeviceKey(uuid, *pki.device(subject or certificates.name(uuid, self.factory.name)))

    def register(
        self, uuid: str = "uuid-1", *, name: str | None = None, group: str | None = None
    ) -> DeviceKey:
        """A device that is registered."""
        device = self.device(uuid)
        body = {"client.pem": device.pem, "name": name or uuid} | ({"group": group} if group else {})
        answer = self.admin("PUT", "/ota/devices/", body)
        assert answer.status_code == 201, answer.text
        return device

    def crl(
        self, serial: int, reason: x509.ReasonFlags, key: ec.EllipticCurvePrivateKey | None = None
    ) -> str:
        """As fioctl makes one (`keys ca revoke-device-ca`, `disable-device-ca`)."""
        entry = (
            x509.RevokedCertificateBuilder()
            .serial_number(serial)
            .revocation_date(START)
            .add_extension(x509.CRLReason(reason), critical=False)
            .build()
        )
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.pki.root.subject)
            .last_update(START)
            .next_update(START + datetime.timedelta(minutes=15))
            .add_revoked_certificate(entry)
        )
        made = builder.sign(key or self.pki.root_key, hashes.SHA256())
        return made.public_bytes(Encoding.PEM).decode()

    def revoke(self, reason: x509.ReasonFlags) -> None:
        """Put the local CA on a CRL, with that reason."""
        crl = self.crl(self.pki.ca.serial_number, reason)
        answer = self.admin("PATCH", f"{FACTORY}/certs/", {"ca-revoke-crl": crl})
        assert answer.status_code == 204, answer.text


def file(value: str, name: str = "a", **more: Any) -> dict[str, Any]:
    return {"name": name, "value": value, "unencrypted": True, **more}


def push(mock: Mock, path: str, *files: dict[str, Any], method: str = "PATCH") -> None:
    answer = mock.admin(method, path, {"reason": "r", "files": list(files)})
    assert answer.status_code == 201, answer.text


def go_time(moment: datetime.datetime) -> str:
    """As fioconfig writes If-Modified-Since: Go's time.RFC1123 of a UTC time."""
    return moment.astimezone(datetime.UTC).strftime("%a, %d %b %Y %H:%M:%S UTC")


def served(answer: Any) -> dict[str, str]:
    assert answer.status_code == 200, answer.text
    return {name: entry["Value"] for name, entry in answer.json().items()}


def queue(mock: Mock, kind: str) -> list[dict[str, Any]]:
    with mock.store.reading() as db:
        return [body for found, body in event_queue.queue(db, "acme") if found == kind]
