"""The operator API's certs/: CSRs, uploads and their checks."""

import datetime
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fioctl_rotate.mock import authority
from fioctl_rotate.mock.store import accounts
from fioctl_rotate.pki import certificates
from fioctl_rotate.pki.keys import generate_key, private_key_pem
from tests.making import Pki, certificate
from tests.mock.mocked import FACTORY, START, Mock

CERTS = f"{FACTORY}/certs/"
ALL = {"first-time-init": True, "ca-csr": True, "est-tls-csr": True, "tls-csr": True}
LATER: dict[str, bool] = {"first-time-init": False, "ca-csr": False, "est-tls-csr": False, "tls-csr": False}


def pem(certificate: x509.Certificate) -> str:
    return certificates.pem(certificate)


def csrs(mock: Mock, **asked: bool) -> dict[str, str]:
    answer = mock.admin("POST", CERTS, LATER | {name.replace("_", "-"): yes for name, yes in asked.items()})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_without_a_pki_certs_are_206(bare: Mock) -> None:
    answer = bare.admin("GET", CERTS)
    assert answer.status_code == 206
    assert answer.json()["root-crt"] is None


def test_a_pki_is_set_up_and_shown(mock: Mock) -> None:
    answer = mock.admin("GET", CERTS)
    assert answer.status_code == 200
    certs = answer.json()
    assert certs["root-crt"] == pem(mock.pki.root)
    assert certs["est-tls-crt"] is None
    assert certs["disabled-ca-serials"] == []
    assert len(x509.load_pem_x509_certificates(certs["ca-crt"].encode())) == 2
    assert certs["change-meta"]["updated-by"] == mock.user_id


def test_csrs_are_one_block_each_with_the_factorys_subject(bare: Mock) -> None:
    found = bare.admin("POST", CERTS, ALL).json()
    assert sorted(found) == ["ca-csr", "est-tls-csr", "tls-csr"]
    for name, text in found.items():
        assert text.count("-----BEGIN CERTIFICATE REQUEST-----") == 1
        csr = x509.load_pem_x509_csr(text.encode())
        assert csr.is_signature_valid
        units = csr.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
        assert [unit.value for unit in units] == ["acme"]
        if name != "ca-csr":
            names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert names.get_values_for_type(x509.DNSName) == ["localhost"]


def test_only_the_csrs_asked_for(mock: Mock) -> None:
    assert list(csrs(mock, est_tls_csr=True)) == ["est-tls-csr"]
    assert csrs(mock) == {}


def test_keys_stay_with_the_backend_unreadable_to_others(mock: Mock) -> None:
    csr = x509.load_pem_x509_csr(csrs(mock, est_tls_csr=True)["est-tls-csr"].encode())
    files = list((mock.directory / "keys" / "acme").glob("*.key"))
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o400}
    keys = [load_pem_private_key(file.read_bytes(), None).public_key() for file in files]
    assert csr.public_key() in keys


def test_the_same_csr_until_its_certificate_is_there(mock: Mock) -> None:
    first = csrs(mock, est_tls_csr=True)
    assert csrs(mock, est_tls_csr=True) == first
    upload = {"est-tls-crt": pem(mock.pki.sign(first["est-tls-csr"]))}
    assert mock.admin("PATCH", CERTS, upload).status_code == 204
    assert csrs(mock, est_tls_csr=True) != first


def test_first_time_init_is_done_once(bare: Mock) -> None:
    first = bare.admin("POST", CERTS, ALL).json()
    assert bare.admin("POST", CERTS, ALL).json() == first  # a ceremony that was cut off is run again
    bare.set_up_pki()
    again = bare.admin("POST", CERTS, ALL)
    assert again.status_code == 409
    assert again.json()["msg"]


def test_other_csrs_need_a_root(bare: Mock) -> None:
    assert bare.admin("POST", CERTS, LATER | {"est-tls-csr": True}).status_code == 409


def test_a_device_ca_is_added_to_the_bundle(mock: Mock) -> None:
    old = mock.admin("GET", CERTS).json()["ca-crt"]
    online = mock.pki.sign(csrs(mock, ca_csr=True)["ca-csr"], ca=True)
    bundle = old + "\n" + pem(online)
    assert mock.admin("PATCH", CERTS, {"ca-crt": bundle}).status_code == 204
    assert mock.admin("GET", CERTS).json()["ca-crt"] == bundle


def test_a_root_may_be_signed_by_a_higher_ca(bare: Mock) -> None:
    key = generate_key()
    higher = certificates.make_root(key, "holding", now=START)
    root = certificates.sign_device_ca(
        certificates.name("Factory-CA", "acme"), bare.pki.root_key.public_key(), higher, key, now=START
    )
    bare.admin("POST", CERTS, ALL)
    assert bare.admin("PATCH", CERTS, {"root-crt": pem(root)}).status_code == 204


def test_another_root_is_refused_and_the_same_one_taken(mock: Mock) -> None:
    other = Pki.make(owner=mock.user_id, now=START)
    assert mock.admin("PATCH", CERTS, {"root-crt": pem(other.root)}).status_code == 409
    assert mock.admin("PATCH", CERTS, {"root-crt": pem(mock.pki.root)}).status_code == 204
    assert mock.admin("GET", CERTS).json()["root-crt"] == pem(mock.pki.root)


def resigned(mock: Mock, csr: str, **changes: Any) -> str:
    """The EST certificate with something about it that is not right."""
    request = x509.load_pem_x509_csr(csr.encode())
    key = changes.get("key") or request.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    builder = (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(mock.pki.root.subject)
        .public_key(key)
        .serial_number(5)
        .not_valid_before(changes.get("since", START))
        .not_valid_after(changes.get("until", START + datetime.timedelta(days=10)))
    )
    if changes.get("san", True):
        names = [x509.DNSName(name) for name in changes.get("names", ["localhost"])]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if changes.get("eku", True):
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if changes.get("client") else None
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([usage or ExtendedKeyUsageOID.SERVER_AUTH]), critical=True
        )
    return pem(builder.sign(changes.get("signer", mock.pki.root_key), hashes.SHA256()))


def test_what_the_manuals_openssl_makes_is_taken(mock: Mock) -> None:
    """EKU critical, no SKI, no AKI."""
    assert (
        mock.admin(
            "PATCH", CERTS, {"est-tls-crt": resigned(mock, csrs(mock, est_tls_csr=True)["est-tls-csr"])}
        ).status_code
        == 204
    )


@pytest.mark.parametrize(("ahead", "status"), [(60, 204), (61, 400)])
def test_the_clock_that_signs_may_be_a_minute_ahead(mock: Mock, ahead: int, status: int) -> None:
    since = mock.clock.now + datetime.timedelta(seconds=ahead)
    early = resigned(mock, csrs(mock, est_tls_csr=True)["est-tls-csr"], since=since)
    assert mock.admin("PATCH", CERTS, {"est-tls-crt": early}).status_code == status


def test_a_subject_that_fioctl_has_written_anew_is_taken(mock: Mock) -> None:
    """OU first, and as PrintableString."""
    csr = x509.load_pem_x509_csr(csrs(mock, ca_csr=True)["ca-csr"].encode())
    printable = [
        x509.NameAttribute(attribute.oid, str(attribute.value), _ASN1Type.PrintableString)
        for attribute in reversed(list(csr.subject))
    ]
    key = csr.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    ca = certificates.sign_device_ca(x509.Name(printable), key, mock.pki.root, mock.pki.root_key, now=START)
    assert mock.admin("PATCH", CERTS, {"ca-crt": bundle(mock) + "\n" + pem(ca)}).status_code == 204


def test_a_serial_of_21_octets_is_taken(mock: Mock, tmp_path: Path) -> None:
    """fioctl makes one every other time, against RFC 5280 §4.1.2.2."""
    (tmp_path / "ca.csr").write_text(csrs(mock, ca_csr=True)["ca-csr"])
    (tmp_path / "root.pem").write_text(pem(mock.pki.root))
    (tmp_path / "root.key").write_bytes(private_key_pem(mock.pki.root_key))
    (tmp_path / "serial").write_text("FE" * 20)
    (tmp_path / "extensions").write_text("basicConstraints=critical,CA:TRUE,pathlen:0\n")
    sign = "openssl x509 -req -in ca.csr -CA root.pem -CAkey root.key -CAserial serial -extfile extensions"
    signed = subprocess.run(sign.split(), cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    ca = x509.load_pem_x509_certificate(signed.encode())
    assert ca.serial_number.bit_length() == 160
    mock.clock.now = ca.not_valid_before_utc
    assert mock.admin("PATCH", CERTS, {"ca-crt": bundle(mock) + "\n" + signed}).status_code == 204


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["elsewhere"]}, "expected the DNS name localhost, got elsewhere"),
        ({"names": ["localhost", "other"]}, "expected the DNS name localhost, got localhost, other"),
        ({"san": False}, "expected the DNS name localhost, got none"),
        ({"eku": False}, "does not have the extended key usage serverAuth"),
        ({"client": True}, "does not have the extended key usage serverAuth"),
        ({"signer": generate_key()}, "is not signed by the Factory's root"),
        ({"key": generate_key().public_key()}, "has another key than the CSR"),
        ({"since": START + datetime.timedelta(days=1)}, "is not valid now"),
        (
            {"since": START - datetime.timedelta(days=3), "until": START - datetime.timedelta(days=1)},
            "is not valid now",
        ),
    ],
)
def test_a_server_certificate_that_is_not_right(mock: Mock, changes: dict[str, Any], message: str) -> None:
    csr = csrs(mock, est_tls_csr=True)["est-tls-csr"]
    answer = mock.admin("PATCH", CERTS, {"est-tls-crt": resigned(mock, csr, **changes)})
    assert answer.status_code == 400
    assert answer.json()["errors"] == {"est-tls-crt": message}
    assert mock.admin("GET", CERTS).json()["est-tls-crt"] is None
    # The CSR still waits for its certificate.
    assert csrs(mock, est_tls_csr=True)["est-tls-csr"] == csr


def test_a_gateway_certificate_is_not_taken_for_the_est_server(mock: Mock) -> None:
    gateway = mock.pki.sign(csrs(mock, tls_csr=True)["tls-csr"])
    assert mock.admin("PATCH", CERTS, {"est-tls-crt": pem(gateway)}).status_code == 400
    assert mock.admin("PATCH", CERTS, {"tls-crt": pem(gateway)}).status_code == 204


Change = Callable[[Mock], dict[str, str]]


def not_a_ca(mock: Mock) -> dict[str, str]:
    return {"ca-crt": bundle(mock) + mock.device().pem}


def bundle(mock: Mock) -> str:
    return str(mock.admin("GET", CERTS).json()["ca-crt"])


def foreign_ca(mock: Mock) -> dict[str, str]:
    return {"ca-crt": bundle(mock) + pem(Pki.make(now=START).ca)}


def ca_of_another_factory(mock: Mock) -> dict[str, str]:
    subject = certificates.name("fio-x", "other")
    key = generate_key().public_key()
    ca = certificates.sign_device_ca(subject, key, mock.pki.root, mock.pki.root_key, now=START)
    return {"ca-crt": bundle(mock) + pem(ca)}


def ca_on_another_curve(mock: Mock) -> dict[str, str]:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    subject = certificates.name("fio-x", "acme")
    ca = certificates.sign_device_ca(subject, key, mock.pki.root, mock.pki.root_key, now=START)
    return {"ca-crt": bundle(mock) + pem(ca)}


def dropped_ca(mock: Mock) -> dict[str, str]:
    return {"ca-crt": pem(mock.pki.ca)}


def no_certificate(mock: Mock) -> dict[str, str]:
    return {"ca-crt": "nothing"}


@pytest.mark.parametrize(
    "change", [not_a_ca, foreign_ca, ca_of_another_factory, ca_on_another_curve, dropped_ca, no_certificate]
)
def test_a_bundle_that_is_not_right(mock: Mock, change: Change) -> None:
    before = mock.admin("GET", CERTS).json()
    answer = mock.admin("PATCH", CERTS, change(mock))
    assert answer.status_code == 400
    assert list(answer.json()["errors"]) == ["ca-crt"]
    assert mock.admin("GET", CERTS).json() == before


def test_all_or_nothing(mock: Mock) -> None:
    before = mock.admin("GET", CERTS).json()
    good = pem(mock.pki.sign(csrs(mock, tls_csr=True)["tls-csr"]))
    assert mock.admin("PATCH", CERTS, {"tls-crt": good, **foreign_ca(mock)}).status_code == 400
    assert mock.admin("GET", CERTS).json() == before


@pytest.mark.parametrize("kind", ["other factory", "not a CA", "two", "forged", "none"])
def test_a_root_that_is_not_right(bare: Mock, kind: str) -> None:
    bare.admin("POST", CERTS, ALL)
    key = generate_key()
    ends = START + datetime.timedelta(days=10)
    forged = certificate(key=bare.pki.root_key, signer=key, begins=START, ends=ends)
    root = {
        "other factory": pem(certificates.make_root(key, "other", now=START)),
        "not a CA": bare.device().pem,
        "two": pem(bare.pki.root) * 2,
        "forged": pem(forged),
        "none": None,
    }[kind]
    body = {"ca-crt": pem(bare.pki.ca)} | ({"root-crt": root} if root else {})
    answer = bare.admin("PATCH", CERTS, body)
    assert answer.status_code == 400
    assert list(answer.json()["errors"]) == ["root-crt"]
    assert bare.admin("GET", CERTS).status_code == 206


def signing(mock: Mock, kind: str) -> x509.Certificate | None:
    """The certificate that the backend goes by, its key found to be the file's."""
    with mock.store.reading() as db:
        pair = authority.key_pair(db, mock.directory, accounts.choose_factory(db, "acme"), kind)
    if pair is None:
        return None
    certificate = x509.load_pem_x509_certificate(pair.certificate.encode())
    key = load_pem_private_key(pair.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == certificate.public_key()
    return certificate


def test_the_newest_online_ca_signs_and_a_revoked_one_does_not(mock: Mock) -> None:
    first = signing(mock, authority.CA)
    assert first is not None
    second = mock.pki.sign(csrs(mock, ca_csr=True)["ca-csr"], ca=True)
    mock.admin("PATCH", CERTS, {"ca-crt": bundle(mock) + "\n" + pem(second)})
    assert signing(mock, authority.CA) == second
    revoke = x509.ReasonFlags.privilege_withdrawn
    for revoked, left in ((second, first), (first, None)):
        mock.admin("PATCH", CERTS, {"ca-revoke-crl": mock.crl(revoked.serial_number, revoke)})
        assert signing(mock, authority.CA) == left


def test_the_server_certificate_is_the_one_on_file(mock: Mock) -> None:
    assert signing(mock, authority.EST_TLS) is None
    made = []
    for _ in range(2):
        made.append(mock.pki.sign(csrs(mock, est_tls_csr=True)["est-tls-csr"]))
        assert mock.admin("PATCH", CERTS, {"est-tls-crt": pem(made[-1])}).status_code == 204
        assert signing(mock, authority.EST_TLS) == made[-1]
    # The former one, put back.
    assert mock.admin("PATCH", CERTS, {"est-tls-crt": pem(made[0])}).status_code == 204
    assert signing(mock, authority.EST_TLS) == made[0]
