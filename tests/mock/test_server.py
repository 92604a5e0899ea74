"""The mocked Factory on its ports: real TLS, certificates that change while it runs, two doors to one state."""

import asyncio
import base64
import contextlib
import datetime
import ssl
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID

from fioctl_rotate import tls
from fioctl_rotate.clock import utc_now
from fioctl_rotate.errors import Error
from fioctl_rotate.est.server import LogRecord
from fioctl_rotate.mock import new_factory
from fioctl_rotate.mock.mock_server import Ports, Serving
from fioctl_rotate.mock.new_factory import Addresses
from fioctl_rotate.mock.operator import operator_app
from fioctl_rotate.mock.store.accounts import FactoryRecord
from fioctl_rotate.mock.store.database import Store
from fioctl_rotate.ops import mock as ops
from fioctl_rotate.pki import certificates
from fioctl_rotate.pki.keys import generate_key, private_key_pem
from fioctl_rotate.pki.parsing import load_private_key
from fioctl_rotate.serving import listen
from tests.making import Pki
from tests.mock.mocked import FACTORY

FREE = Addresses(api_port=0, gateway_port=0, est_port=0)
ANY = Ports(0, 0, 0)
YEAR = datetime.timedelta(days=365)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A Factory ready to rotate, with one device."""
    asyncio.run(ops.init(tmp_path / "mock", "acme", addresses=FREE, group="field", devices=1))
    return tmp_path / "mock"


def device_path(directory: Path) -> Path:
    (path,) = (directory / "devices").iterdir()
    return path


class Holder:
    """Somebody with a client certificate, or without one."""

    def __init__(self, root: str, path: Path | None = None) -> None:
        cert, key = (path / "client.pem", path / "pkey.pem") if path else (None, None)
        self._context = tls.client_context(root, cert=cert, key=key)

    async def __call__(self, method: str, url: str, **kwargs: Any) -> httpx.Response:
        async with httpx.AsyncClient(verify=self._context, trust_env=False, timeout=120) as client:
            return await client.request(method, url, **kwargs)

    async def is_refused(self, url: str) -> bool:
        """Whether the connection comes to nothing."""
        try:
            await self("GET", url)
        except (httpx.TransportError, ssl.SSLError):
            return True
        return False


def root_of(directory: Path) -> str:
    return (directory / "pki" / "factory_ca.pem").read_text()


def holder(directory: Path) -> Holder:
    return Holder(root_of(directory), device_path(directory))


@contextlib.asynccontextmanager
async def operator(directory: Path, factory: FactoryRecord) -> AsyncIterator[httpx.AsyncClient]:
    token = new_factory.token_file(directory, factory.name).read_text()
    async with httpx.AsyncClient(
        base_url=factory.api_url, headers={"OSF-TOKEN": token}, trust_env=False, timeout=120
    ) as client:
        yield client


def made(path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Path:
    path.mkdir()
    (path / "client.pem").write_text(certificates.pem(certificate))
    (path / "pkey.pem").write_bytes(private_key_pem(key))
    return path


def test_the_gateway_takes_devices_of_its_cas_and_nobody_else(directory: Path, tmp_path: Path) -> None:
    pki = directory / "pki"
    root = x509.load_pem_x509_certificate((pki / "factory_ca.pem").read_bytes())
    root_key = load_private_key((pki / "factory_ca.key").read_bytes(), name="root")
    foreign = Pki.make()

    def client(name: str, ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey) -> Path:
        key, subject = generate_key(), certificates.name(name, "acme")
        certificate = certificates.sign_device(
            subject, key.public_key(), ca, ca_key, now=now(), lifetime=YEAR
        )
        return made(tmp_path / name, certificate, key)

    of_the_root = client("of-the-root", root, root_key)
    of_another_ca = client("of-another-ca", foreign.ca, foreign.ca_key)

    async def work() -> None:
        async with ops.serve(directory, serving=Serving(ports=ANY)) as factory:
            url = f"{factory.gateway_url}/config"
            answer = await holder(directory)("GET", url)
            assert answer.status_code == 204
            assert len(answer.headers.get_list("date")) == 1
            assert "server" not in answer.headers
            assert await Holder(root.public_bytes(Encoding.PEM).decode()).is_refused(url)
            assert await Holder(root_of(directory), of_the_root).is_refused(url)
            assert await Holder(root_of(directory), of_another_ca).is_refused(url)

    asyncio.run(work())


def test_a_pki_is_picked_up_while_the_server_runs(tmp_path: Path) -> None:
    directory = tmp_path / "mock"
    asyncio.run(ops.init(directory, "acme", addresses=FREE, bare=True))
    pki = Pki.make()
    key = generate_key()
    certificate = certificates.sign_device(
        certificates.name("uuid-1", "acme"),
        key.public_key(),
        pki.ca,
        pki.ca_key,
        now=now(),
        lifetime=YEAR,
    )
    device = Holder(certificates.pem(pki.root), made(tmp_path / "device", certificate, key))

    async def work() -> None:
        async with (
            ops.serve(directory, serving=Serving(ports=ANY)) as factory,
            operator(directory, factory) as api,
        ):
            gateway = f"{factory.gateway_url}/config"
            est = f"https://localhost:{factory.est_port}/.well-known/est/cacerts"
            assert await device.is_refused(gateway)
            assert await device.is_refused(est)
            asked = {"first-time-init": True, "ca-csr": True, "est-tls-csr": True, "tls-csr": True}
            csrs = (await api.post(f"{FACTORY}/certs/", json=asked)).json()
            certs = {
                "root-crt": certificates.pem(pki.root),
                "ca-crt": certificates.pem(pki.sign(csrs["ca-csr"], ca=True)),
                "tls-crt": certificates.pem(pki.sign(csrs["tls-csr"])),
                "est-tls-crt": certificates.pem(pki.sign(csrs["est-tls-csr"])),
            }
            assert (await api.patch(f"{FACTORY}/certs/", json=certs)).status_code == 204
            assert await device.is_refused(gateway)  # its CA is not among them
            assert (await Holder(certificates.pem(pki.root))("GET", est)).status_code == 200
            bundle = certs["ca-crt"] + "\n" + certificates.pem(pki.ca)
            assert (await api.patch(f"{FACTORY}/certs/", json={"ca-crt": bundle})).status_code == 204
            assert (await device("GET", gateway)).status_code == 204

    asyncio.run(work())


def test_the_est_server_signs_with_the_online_ca(directory: Path) -> None:
    path = device_path(directory)
    old = x509.load_pem_x509_certificate((path / "client.pem").read_bytes())
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(old.subject)
        .add_extension(certificates.DIGITAL_SIGNATURE, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(generate_key(), hashes.SHA256())
    )
    body = base64.b64encode(csr.public_bytes(Encoding.DER))
    log: list[LogRecord] = []

    async def work() -> None:
        async with ops.serve(directory, serving=Serving(ports=ANY, log=log.append)) as factory:
            est = f"https://localhost:{factory.est_port}/.well-known/est"
            nobody = Holder(root_of(directory))
            cacerts = await nobody("GET", f"{est}/cacerts")
            (root,) = pkcs7.load_der_pkcs7_certificates(base64.b64decode(cacerts.content))
            assert certificates.pem(root) == root_of(directory)
            headers = {"Content-Type": "application/pkcs10"}
            refused = await nobody("POST", f"{est}/simplereenroll", content=body, headers=headers)
            assert refused.status_code == 401
            answer = await holder(directory)("POST", f"{est}/simplereenroll", content=body, headers=headers)
            assert answer.status_code == 201
            (new,) = pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer.content))
            online = x509.load_pem_x509_certificate((directory / "pki" / "online-crt").read_bytes())
            new.verify_directly_issued_by(online)
            assert new.subject == old.subject
            assert new.not_valid_after_utc - new.not_valid_before_utc == YEAR

    asyncio.run(work())
    assert [record.status for record in log] == [200, 401, 201]


def test_operator_api_and_gateway_share_one_state(directory: Path) -> None:
    """What `--mock DIR` changes in a process of its own, the server shows, and the other way round."""

    async def work(store: Store) -> None:
        in_process = httpx.ASGITransport(operator_app(store, authenticate=False, clock=utc_now))
        async with (
            ops.serve(directory, serving=Serving(ports=ANY)) as factory,
            operator(directory, factory) as api,
            httpx.AsyncClient(transport=in_process, base_url="http://mock") as door,
        ):
            path = f"{FACTORY}/device-groups/field/config/"

            def pushed(name: str) -> dict[str, Any]:
                return {"reason": name, "files": [{"name": name, "value": "1", "unencrypted": True}]}

            requests = [client.patch(path, json=pushed(f"{n}")) for n in range(5) for client in (api, door)]
            answers = await asyncio.gather(*requests)
            assert {answer.status_code for answer in answers} == {201}
            log = (await api.get(path)).json()
            assert log == (await door.get(path)).json()
            assert log["total"] == 10
            device = await holder(directory)("GET", f"{factory.gateway_url}/config")
            assert sorted(device.json()) == ["0", "1", "2", "3", "4"]

    with contextlib.closing(Store(directory)) as store:
        asyncio.run(work(store))


def test_ports_are_kept_and_devices_follow(directory: Path) -> None:
    def server_in_sota() -> str:
        return str(tomllib.loads((device_path(directory) / "sota.toml").read_text())["tls"]["server"])

    async def ports(given: Ports) -> tuple[int, int, int]:
        async with ops.serve(directory, serving=Serving(ports=given)) as factory:
            assert server_in_sota() == factory.gateway_url
            return factory.api_port, factory.gateway_port, factory.est_port

    first = asyncio.run(ports(ANY))
    assert asyncio.run(ports(Ports())) == first
    moved = asyncio.run(ports(Ports(gateway=0)))
    assert (moved[0], moved[2]) == (first[0], first[2])
    assert moved[1] != first[1]
    assert asyncio.run(ports(Ports())) == moved


def test_a_taken_port_is_reported_and_the_others_are_free_again(directory: Path) -> None:
    async def work(ports: Ports) -> None:
        async with ops.serve(directory, serving=Serving(ports=ports)):
            pass

    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Error, match=f"127.0.0.1:{port}"):
            asyncio.run(work(Ports(0, 0, port)))
    asyncio.run(work(ANY))


def test_the_file_for_the_real_fioctl(directory: Path) -> None:
    async def work() -> FactoryRecord:
        async with ops.serve(directory, serving=Serving(ports=ANY)) as factory:
            return factory

    factory = asyncio.run(work())
    path = directory / "fioctl.yaml"
    token = new_factory.token_file(directory, "acme").read_text()
    assert path.read_text() == (
        f'factory: "acme"\ntoken: "{token}"\nserver:\n  url: "http://localhost:{factory.api_port}"\n'
    )
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_second_factory_has_places_of_its_own(directory: Path) -> None:
    made = asyncio.run(ops.init(directory, "other", addresses=FREE, devices=1))
    assert made.pki == directory / "pki-other"

    async def work() -> None:
        async with (
            ops.serve(directory, serving=Serving(ports=ANY)) as first,
            ops.serve(directory, "other", serving=Serving(ports=ANY)) as second,
        ):
            assert (first.name, second.name) == ("acme", "other")
            assert first.api_url in (directory / "fioctl.yaml").read_text()
            assert second.api_url in (directory / "fioctl-other.yaml").read_text()
            (uuid,) = made.devices
            path = directory / "devices" / uuid
            device = Holder((path / "root.crt").read_text(), path)
            assert (await device("GET", f"{second.gateway_url}/config")).status_code == 204
            assert await device.is_refused(f"{first.gateway_url}/config")

    asyncio.run(work())
    with pytest.raises(Error, match="nope"):
        asyncio.run(_serve(directory, "nope"))


async def _serve(directory: Path, factory: str) -> None:
    async with ops.serve(directory, factory):
        pass


@pytest.mark.parametrize(
    ("host", "reached"),
    [("127.0.0.1", "localhost"), ("0.0.0.0", "localhost"), ("127.0.0.2", "127.0.0.2")],  # noqa: S104  on this machine, for a moment
)
def test_how_the_operator_api_is_reached(directory: Path, host: str, reached: str) -> None:
    async def work() -> None:
        async with ops.serve(directory, serving=Serving(host=host, ports=ANY)) as factory:
            assert factory.api_url == f"http://{reached}:{factory.api_port}"
            async with operator(directory, factory) as api:
                assert (await api.get("/ota/factories/")).status_code == 200

    asyncio.run(work())


def test_devices_that_come_at_once_lose_nothing(directory: Path) -> None:
    """Each request is a connection of its own, as fioconfig makes them."""

    def posted(number: int) -> list[dict[str, Any]]:
        event = {"correlationId": "certs-1", "success": True, "targetName": "t", "version": "1"}
        kind = {"id": f"step {number}", "version": 0}
        return [{"id": f"{number}", "deviceTime": "", "eventType": kind, "event": event}]

    async def work() -> None:
        async with (
            ops.serve(directory, serving=Serving(ports=ANY)) as factory,
            operator(directory, factory) as api,
        ):
            device = holder(directory)
            url = f"{factory.gateway_url}/events"
            answers = await asyncio.gather(*(device("POST", url, json=posted(n % 60)) for n in range(120)))
            assert {answer.status_code for answer in answers} == {200}
            shown = await api.get(f"/ota/devices/device-1/updates/certs-1/?factory={factory.name}")
            kinds = [event["eventType"]["id"] for event in shown.json()]
            assert sorted(kinds) == sorted(f"step {number}" for number in range(60))

    asyncio.run(work())


@pytest.mark.parametrize("door", ["operator API", "gateway", "EST server"])
def test_a_client_that_leaves_amid_its_body_is_no_error(
    directory: Path, caplog: pytest.LogCaptureFixture, door: str
) -> None:
    log: list[Any] = []

    async def work() -> None:
        async with (
            ops.serve(directory, serving=Serving(ports=ANY, log=log.append)) as factory,
            operator(directory, factory) as api,
        ):
            path = device_path(directory)
            context = tls.client_context(root_of(directory), cert=path / "client.pem", key=path / "pkey.pem")
            port, request, context_or_none = {
                "operator API": (factory.api_port, f"PATCH {FACTORY}/config/", None),
                "gateway": (factory.gateway_port, "POST /events", context),
                "EST server": (factory.est_port, "POST /.well-known/est/simplereenroll", context),
            }[door]
            _, writer = await asyncio.open_connection("localhost", port, ssl=context_or_none)
            lines = [f"{request} HTTP/1.1", "Host: x", f"OSF-TOKEN: {api.headers['OSF-TOKEN']}"]
            lines += ["Content-Type: application/pkcs10", "Content-Length: 99"]
            writer.write("\r\n".join([*lines, "", '{"reason": "cut']).encode())
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            assert (await api.get(f"{FACTORY}/config/")).json()["total"] == 0

    asyncio.run(work())
    assert caplog.records == []
