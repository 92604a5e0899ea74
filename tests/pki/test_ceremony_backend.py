"""Ceremonies against a backend that fails, or that asks for what it should not."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.api.peer import Peer
from fioctl_rotate.clock import utc_now
from fioctl_rotate.errors import Error, Refused
from fioctl_rotate.ops.ca_removal import Consent, disable_device_cas, revoke_device_cas, update_device_cas
from fioctl_rotate.ops.ceremony import create_pki
from fioctl_rotate.ops.device_cas import add_device_ca
from fioctl_rotate.ops.est_authorization import authorize_est
from fioctl_rotate.ops.prompter import Prompter
from fioctl_rotate.ops.signing import rotate_tls
from fioctl_rotate.pki.directory import PkiDirectory
from fioctl_rotate.pki.parsing import load_private_key
from tests.commandline import Cli
from tests.making import CN, FACTORY, NAME, OU, P256, certificate, csr, dns, pem, subject, usage
from tests.scripted import Asked, Reply, Server, running_mock

Fault = Callable[[str, bytes | None], Reply | None]


class Backend:
    """The mock's operator API with a fault, which may take the place of a request, or of its answer."""

    def __init__(self, directory: Path, fault: Fault) -> None:
        self._directory = directory
        self._fault = fault
        self.seen: list[str] = []

    def run(self, work: Callable[[FactoryApi], Any]) -> Any:
        with running_mock(self._directory) as honest:

            def answer(asked: Asked) -> Reply:
                self.seen.append(asked.method)
                if (instead := self._fault(asked.method, None)) is not None:
                    return instead
                reply = honest(asked)
                return self._fault(asked.method, reply.content) or reply

            async def connected(url: str) -> Any:
                async with Peer(url, httpx.AsyncHTTPTransport) as peer:
                    return await work(FactoryApi(peer, FACTORY))

            with Server(answer) as server:
                return asyncio.run(connected(server.url))


def honest(_method: str, _body: bytes | None) -> None:
    return None


@pytest.mark.parametrize("lost", ["request", "answer"])
@pytest.mark.parametrize("number", range(5))
def test_create_after_the_api_failed_at_any_request_ends_with_the_same_root(
    number: int, lost: str, factory: Path, tmp_path: Path
) -> None:
    count = -1

    def fail(_method: str, body: bytes | None) -> Reply | None:
        nonlocal count
        count += body is None
        failing = count == number and (body is None) == (lost == "request")
        return Reply(403, {"message": "not now"}) if failing else None

    directory = PkiDirectory(tmp_path / "pki")
    with pytest.raises(Error, match="not now"):
        Backend(factory, fail).run(lambda api: create_pki(api, directory))
    made = sorted(path.name for path in directory.path.iterdir())
    key = (directory.path / "factory_ca.key").read_bytes() if "factory_ca.key" in made else None
    assert (key is not None) == (number >= 3), (
        "the key is made when the backend has given its CSRs, not before"
    )

    done = Backend(factory, honest).run(lambda api: create_pki(api, directory))

    assert key in (None, (directory.path / "factory_ca.key").read_bytes())
    assert done.root == x509.load_pem_x509_certificate((directory.path / "factory_ca.pem").read_bytes())
    assert not list(directory.path.glob("*.bak"))


def with_csr(field: str, made: x509.CertificateSigningRequest | bytes | None) -> Callable[..., Any]:
    """A backend whose POST answers this CSR in `field`."""
    text = made.decode() if isinstance(made, bytes) else pem(made).decode() if made is not None else None

    def answer(method: str, body: bytes | None) -> Reply | None:
        if method != "POST" or body is None:
            return None
        return Reply(201, json.loads(body) | {field: text})

    return answer


CA_NAME = subject((CN, "fio-1"), (OU, FACTORY))
HOSTILE = {
    "gateway wants CA": ("tls-csr", csr(x509.BasicConstraints(ca=True, path_length=None)), "CA:TRUE"),
    "gateway without names": ("tls-csr", csr(san=None), "DNS names: missing in the SAN"),
    "gateway of another factory": (
        "tls-csr",
        csr(name=subject((CN, NAME), (OU, "b"))),
        "'acme', got 'b'",
    ),
    "gateway wildcard": ("tls-csr", csr(san=dns("*.example.com")), "a wildcard"),
    "gateway on P-384": ("tls-csr", csr(key=ec.generate_private_key(ec.SECP384R1())), "got EC secp384r1"),
    "gateway missing": ("tls-csr", None, "gave no CSR: expected the gateway TLS CSR"),
    "gateway twice": ("tls-csr", pem(csr()) * 2, "expected one PEM block, got 2"),
    "gateway a certificate": (
        "tls-csr",
        pem(certificate()),
        "REQUEST block, got CERTIFICATE",
    ),
    "online CA with names": ("ca-csr", csr(name=CA_NAME), "names: a SAN is not allowed for a device CA"),
    "online CA without OU": (
        "ca-csr",
        csr(name=subject((CN, "fio-1")), san=None),
        "OU: expected 'acme', got none",
    ),
    "online CA not a CA": (
        "ca-csr",
        csr(x509.BasicConstraints(ca=False, path_length=None), name=CA_NAME, san=None),
        "basic constraints: expected CA:TRUE, got CA:FALSE",
    ),
    "online CA with more": (
        "ca-csr",
        csr(usage("key_cert_sign", "data_encipherment"), name=CA_NAME, san=None),
        "key usage: dataEncipherment",
    ),
    "online CA missing": ("ca-csr", None, "gave no CSR: expected the online-ca CSR"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_create_signs_nothing_for_a_backend_that_asks_for_too_much(
    case: str, factory: Path, tmp_path: Path
) -> None:
    field, made, line = HOSTILE[case]
    backend = Backend(factory, with_csr(field, made))
    with pytest.raises(Error) as refused:
        backend.run(lambda api: create_pki(api, PkiDirectory(tmp_path / "pki")))
    assert line in refused.value.diagnostics()
    assert list((tmp_path / "pki").iterdir()) == [], "not even a key was made"
    assert "PATCH" not in backend.seen


@pytest.fixture
def created(factory: Path, tmp_path: Path) -> PkiDirectory:
    directory = PkiDirectory(tmp_path / "created")
    Backend(factory, honest).run(lambda api: create_pki(api, directory))
    return directory


def test_authorize_and_add_device_ca_judge_the_backends_csr(factory: Path, created: PkiDirectory) -> None:
    hostile = Backend(factory, with_csr("est-tls-csr", csr(name=subject((CN, NAME), (OU, "b")))))
    with pytest.raises(Refused, match="'acme', got 'b'"):
        hostile.run(lambda api: authorize_est(api, created))
    assert "PATCH" not in hostile.seen
    hostile = Backend(factory, with_csr("ca-csr", csr(name=CA_NAME)))
    with pytest.raises(Refused, match="a SAN is not allowed"):
        hostile.run(lambda api: add_device_ca(api, created, online_ca=True, local_ca=False))
    assert "PATCH" not in hostile.seen


def test_authorize_refuses_before_it_asks_the_backend_for_anything(
    factory: Path, created: PkiDirectory, pki: Path
) -> None:
    """`pki` has a fine root of the same factory's name, which is not the one on file."""
    backend = Backend(factory, honest)
    with pytest.raises(Refused, match="is not the root of acme"):
        backend.run(lambda api: authorize_est(api, PkiDirectory(pki)))
    assert backend.seen == ["GET"]


def test_a_certificate_that_comes_back_other_than_sent_is_an_error(
    factory: Path, created: PkiDirectory, cli: Cli
) -> None:
    other = (created.path / "tls-crt").read_text()
    patched = False

    def answer(method: str, body: bytes | None) -> Reply | None:
        nonlocal patched
        patched = patched or method == "PATCH"
        if method == "GET" and patched and body is not None:
            return Reply(200, json.loads(body) | {"est-tls-crt": other})
        return None

    with pytest.raises(Error, match="gives back is not what was uploaded"):
        Backend(factory, answer).run(lambda api: authorize_est(api, created))


def test_a_replacement_is_asked_about_and_no_means_no(factory: Path, created: PkiDirectory) -> None:
    class SaidNo(Exception):
        pass

    def no(question: str) -> None:
        assert "Replace it?" in question
        raise SaidNo

    backend = Backend(factory, honest)
    backend.run(lambda api: authorize_est(api, created, prompter=Prompter(confirm=no)))
    assert backend.seen.count("PATCH") == 1, "nothing to replace yet: nothing asked"
    backend = Backend(factory, honest)
    with pytest.raises(SaidNo):
        backend.run(lambda api: authorize_est(api, created, prompter=Prompter(confirm=no)))
    assert backend.seen == ["GET"]


def managed(method: str, body: bytes | None) -> Reply | None:
    """A Factory whose gateway has a name of the managed service's."""
    if method != "GET" or body is None or b"tls-crt" not in body:
        return None
    tls = certificate(name=subject((CN, "r1"), (OU, FACTORY)), extensions=[dns("r1.ota-lite.foundries.io")])
    return Reply(200, json.loads(body) | {"tls-crt": pem(tls).decode()})


def test_the_managed_est_servers_name_follows_from_the_gateways(factory: Path, created: PkiDirectory) -> None:
    with pytest.raises(Refused, match=r"DNS names: expected r1\.est\.foundries\.io, got localhost"):
        Backend(factory, managed).run(lambda api: authorize_est(api, created))


def ignored(method: str, body: bytes | None) -> Reply | None:
    """A Factory that takes whatever is uploaded, and forgets it."""
    return Reply(204) if method == "PATCH" and body is None else None


def test_rotate_tls_signs_only_for_the_names_that_devices_know(factory: Path, created: PkiDirectory) -> None:
    before = (created.path / "tls-crt").read_bytes()
    for made, message in (
        (csr(name=subject((CN, NAME), (OU, FACTORY))), f"DNS names: expected localhost, got {NAME}"),
        (csr(san=dns("localhost", NAME)), f"DNS names: expected localhost, got localhost, {NAME}"),
        (csr(x509.BasicConstraints(ca=True, path_length=None), san=dns("localhost")), "CA:TRUE not allowed"),
    ):
        hostile = Backend(factory, with_csr("tls-csr", made))
        with pytest.raises(Refused, match=message):
            hostile.run(lambda api: rotate_tls(api, created))
        assert "PATCH" not in hostile.seen
    assert (created.path / "tls-crt").read_bytes() == before


def test_rotate_tls_that_was_cut_off_uploads_what_it_signed(factory: Path, created: PkiDirectory) -> None:
    def refuse(method: str, body: bytes | None) -> Reply | None:
        return Reply(403, {"message": "not now"}) if method == "PATCH" and body is None else None

    with pytest.raises(Error, match="not now"):
        Backend(factory, refuse).run(lambda api: rotate_tls(api, created))
    signed = (created.path / "tls-crt").read_bytes()
    done = Backend(factory, honest).run(lambda api: rotate_tls(api, created))
    assert pem(done) == signed == (created.path / "tls-crt").read_bytes()
    assert [path.name for path in created.path.glob("*.bak*")] == ["tls-crt.bak"]


def test_rotate_tls_signs_anew_where_the_backend_keeps_its_key(factory: Path, created: PkiDirectory) -> None:
    (key_file,) = (factory / "keys" / FACTORY).glob("tls-*.key")
    key = load_private_key(key_file.read_bytes(), name="the gateway's key")
    same = csr(name=subject((CN, "localhost"), (OU, FACTORY)), san=dns("localhost"), key=key)
    before = (created.path / "tls-crt").read_bytes()
    done = Backend(factory, with_csr("tls-csr", same)).run(lambda api: rotate_tls(api, created))
    assert pem(done) != before
    assert (created.path / "tls-crt.bak").read_bytes() == before


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (
            lambda api, pki: revoke_device_cas(api, pki, [Path("local-ca.pem")], [], consent=Consent()),
            "still trusts the device CA with the serial",
        ),
        (
            lambda api, pki: disable_device_cas(api, pki, [Path("local-ca.pem")], []),
            "does not say that the device CAs are disabled",
        ),
        (
            lambda api, pki: update_device_cas(api, pki.path / "second.pem", consent=Consent()),
            "the device CAs that .* gives back is not what was uploaded",
        ),
        (rotate_tls, "the gateway TLS certificate that .* gives back is not what was uploaded"),
    ],
    ids=["revoke", "disable", "update", "rotate-tls"],
)
def test_what_the_factory_does_not_keep_is_an_error(
    work: Callable[[FactoryApi, PkiDirectory], Any], message: str, factory: Path, created: PkiDirectory
) -> None:
    root = created.root(now=utc_now())
    second = certificate(
        name=CA_NAME, issuer=root.certificate.subject, signer=root.key, begins=utc_now(), key=P256
    )
    present = b"".join((created.path / name).read_bytes() for name in ("online-crt", "local-ca.pem"))
    (created.path / "second.pem").write_bytes(present + pem(second))
    with pytest.raises(Error, match=message):
        Backend(factory, ignored).run(lambda api: work(api, created))
