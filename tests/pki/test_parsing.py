"""Whatever bytes come as a certificate, CSR, key, CRL or PKCS#7: they are read, or refused by an Error.

Policy never lets a CSR or a certificate pass that was changed.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import example, given
from hypothesis import strategies as st

from fioctl_rotate.errors import Error
from fioctl_rotate.hostname import host_name_fault
from fioctl_rotate.pki import certificate_rules, describe, parsing, policy
from fioctl_rotate.pki.parsing import is_ca, load_certificate, load_csr
from fioctl_rotate.pki.policy import Purpose
from fioctl_rotate.pki.subject import raw_subject
from tests.making import (
    CA,
    DAY,
    FACTORY,
    LEAF,
    NOW,
    P256,
    ROOT,
    ROOT_KEY,
    SERVER,
    armored,
    certificate,
    csr,
    der,
    usage,
)

T = TypeVar("T")

CSRS = [
    der(csr()),
    der(csr(x509.BasicConstraints(ca=True, path_length=None), usage("key_cert_sign"), san=None)),
    der(csr(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), usage("digital_signature"))),
]
ROOT_CERTIFICATE = certificate()
CERTIFICATES = [der(ROOT_CERTIFICATE), der(certificate(name=SERVER, issuer=ROOT, extensions=[*LEAF, CA[0]]))]


class Damaged(NamedTuple):
    """Sound bytes, and the same with a few changes."""

    sound: bytes
    changed: bytes


@st.composite
def damaged(draw: st.DrawFn, whole: list[bytes]) -> Damaged:
    """One of `whole`, and the same with a few bytes set, cut or added."""
    sound = draw(st.sampled_from(whole))
    data = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        how = draw(st.sampled_from(["set", "set", "set", "cut", "insert"]))
        if how == "set":
            data[at] = draw(st.integers(0, 255))
        elif how == "cut":
            del data[at : at + draw(st.integers(1, 20))]
            if not data:
                break
        else:
            data[at:at] = draw(st.binary(min_size=1, max_size=20))
    return Damaged(sound, bytes(data))


def loaded(load: Callable[[bytes, str], T], data: bytes) -> T | None:
    """What was loaded, or None where it was refused."""
    try:
        return load(data, "it")
    except Error as error:
        message = error.message
    assert message.startswith("it")
    return None


@given(damaged(CSRS), st.sampled_from(Purpose))
@example(Damaged(CSRS[0], b"\x30\x00"), Purpose.EST_TLS)
def test_a_damaged_csr_is_refused(data: Damaged, purpose: Purpose) -> None:
    sound, changed = data
    read = loaded(load_csr, armored(changed))
    if read is None:
        return
    violations = policy.csr_violations(read, purpose, FACTORY)
    assert all(line.strip() for line in violations)
    is_ca(read)
    if violations == []:
        # What was read is the CSR that its key signed: what differs is what no signature covers.
        assert read.tbs_certrequest_bytes == x509.load_der_x509_csr(sound).tbs_certrequest_bytes


@given(damaged(CERTIFICATES))
def test_a_damaged_certificate_is_refused(data: Damaged) -> None:
    sound, changed = data
    read = loaded(load_certificate, armored(changed, "CERTIFICATE"))
    if read is None:
        return
    assert describe.as_text(read)
    assert describe.as_data(read)["sha256"]
    assert describe.expiry(read, now=NOW) != ""
    verdicts = [
        certificate_rules.root_violations(read, FACTORY, now=NOW),
        certificate_rules.device_ca_violations(read, FACTORY, ROOT_CERTIFICATE, now=NOW),
        certificate_rules.server_certificate_violations(read, ROOT_CERTIFICATE, now=NOW),
    ]
    assert all(line.strip() for verdict in verdicts for line in verdict)
    if [] in verdicts[1:]:
        assert read.tbs_certificate_bytes == x509.load_der_x509_certificate(sound).tbs_certificate_bytes


# --- Every loader, for every kind of thing ------------------------------------------------------------------------


def _der(key: Any, passphrase: bytes | None = None) -> bytes:
    encryption = (
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    )
    encoded: bytes = key.private_bytes(Encoding.DER, serialization.PrivateFormat.PKCS8, encryption)
    return encoded


def _crl() -> bytes:
    held = x509.RevokedCertificateBuilder().serial_number(5).revocation_date(NOW)
    builder = (
        x509.CertificateRevocationListBuilder().issuer_name(ROOT).last_update(NOW).next_update(NOW + DAY)
    )
    builder = builder.add_revoked_certificate(
        held.add_extension(x509.CRLReason(x509.ReasonFlags.certificate_hold), critical=False).build()
    )
    return builder.sign(ROOT_KEY, hashes.SHA256()).public_bytes(Encoding.DER)


RSA = rsa.generate_private_key(65537, 2048)
KEYS = [_der(P256), _der(RSA), _der(ed25519.Ed25519PrivateKey.generate()), _der(P256, b"word")]
PUBLIC_KEYS = [
    key.public_key().public_bytes(Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    for key in (P256, RSA)
]
# What loads it, the label of its PEM block (None: it reads DER), and sound ones.
LOADERS: dict[str, tuple[Callable[[bytes], Any], str | None, list[bytes]]] = {
    "certificate": (lambda data: parsing.load_certificate(data, "it"), "CERTIFICATE", CERTIFICATES),
    "certificate, DER": (lambda data: parsing.load_certificate_der(data, "it"), None, CERTIFICATES),
    "bundle": (lambda data: parsing.load_bundle(data, "it"), "CERTIFICATE", CERTIFICATES),
    "CSR": (lambda data: parsing.load_csr(data, "it"), "CERTIFICATE REQUEST", CSRS),
    "CSR, DER": (lambda data: parsing.load_csr_der(data, "it"), None, CSRS),
    "private key": (lambda data: parsing.load_private_key(data, name="it"), "PRIVATE KEY", KEYS),
    "encrypted key": (
        lambda data: parsing.load_private_key(data, name="it", passphrase=lambda: b"word"),
        "ENCRYPTED PRIVATE KEY",
        KEYS[::-1],
    ),
    "public key": (lambda data: parsing.load_public_key(data, "it"), "PUBLIC KEY", PUBLIC_KEYS),
    "CRL": (lambda data: parsing.load_crl(data, "it"), "X509 CRL", [_crl()]),
    "PKCS#7": (
        lambda data: parsing.load_pkcs7(data, "it"),
        None,
        [pkcs7.serialize_certificates([ROOT_CERTIFICATE], Encoding.DER)],
    ),
}


@pytest.mark.parametrize("kind", LOADERS)
@given(data=st.data())
def test_a_loader_raises_nothing_but_error(kind: str, data: st.DataObject) -> None:
    """Mutated content, mutated PEM around sound content, several blocks, and bytes of no kind at all."""
    load, label, sound = LOADERS[kind]
    content = (
        data.draw(damaged(sound)).changed if data.draw(st.booleans()) else data.draw(st.sampled_from(sound))
    )
    if label is not None:
        content = armored(content, label) * data.draw(st.sampled_from([1, 1, 2]))
        if data.draw(st.booleans()):
            content = data.draw(damaged([content])).changed
    if data.draw(st.integers(0, 9)) == 0:
        content = data.draw(st.binary(max_size=300))
    with contextlib.suppress(Error):
        load(content)


@pytest.mark.parametrize("kind", LOADERS)
def test_a_loader_takes_what_is_sound(kind: str) -> None:
    load, label, (first, *_) = LOADERS[kind]
    assert load(first if label is None else armored(first, label))


def test_a_certificate_of_an_unknown_version_is_an_error() -> None:
    """cryptography's InvalidVersion, which is not a ValueError."""
    with pytest.raises(Error, match="it is a certificate of an unknown version"):
        parsing.load_certificate_der(
            CERTIFICATES[0].replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020109")), "it"
        )


def test_what_only_openssl_refuses_is_an_error_too() -> None:
    """An Ed25519 key that is too short: cryptography's InternalError, which is not a ValueError."""
    short = bytes.fromhex("302d020100300506032b65700421041f") + bytes(31)
    with pytest.raises(Error, match="it cannot be read as a private key"):
        parsing.load_private_key(armored(short, "PRIVATE KEY"), name="it")


TEXT = "Gerät-CAs, 2026\n-----\nsubject=CN = Factory-CA\n"


@pytest.mark.parametrize(
    "around",
    [
        lambda pem: TEXT.encode() + pem,
        lambda pem: pem + TEXT.encode(),
        lambda pem: b"\xef\xbb\xbf" + pem,
        lambda pem: pem.replace(b"\n", b"\r\n"),
        lambda pem: pem.replace(b"\n", b" \t\n"),
        lambda pem: b"\xff\x00 not UTF-8\n" + pem,
        lambda pem: b"# -----BEGIN CERTIFICATE-----\n" + pem,
        lambda pem: pem.rstrip(b"\n"),
    ],
    ids=[
        "before",
        "after",
        "BOM",
        "CRLF",
        "white space",
        "bytes",
        "commented out",
        "no line break at the end",
    ],
)
def test_text_around_a_block_is_skipped(around: Callable[[bytes], bytes]) -> None:
    """RFC 7468 §2: parsers ignore what is before and after the block."""
    pem = around(armored(CERTIFICATES[0], "CERTIFICATE"))
    assert parsing.load_certificate(pem, "it") == ROOT_CERTIFICATE
    assert parsing.load_bundle(pem + b"\n" + pem, "it") == [ROOT_CERTIFICATE] * 2


def test_a_bundle_names_the_block_that_is_wrong() -> None:
    good, bad = (armored(der, "CERTIFICATE") for der in (CERTIFICATES[0], CERTIFICATES[0][:-9]))
    with pytest.raises(Error, match="certificate 2 of it cannot be read as a certificate"):
        parsing.load_bundle(good + bad + good, "it")
    last = len(good.splitlines())
    with pytest.raises(Error, match=f"it, line {last}: expected -----END CERTIFICATE----- alone on a line"):
        parsing.load_bundle(good.rstrip() + good, "it")
    with pytest.raises(Error, match="expected CERTIFICATE blocks"):
        parsing.load_bundle(b"<html>503</html>", "it")


def test_endless_begin_lines_do_not_take_minutes() -> None:
    """A pattern that looks for each END from each BEGIN would take minutes."""
    with pytest.raises(Error, match="expected -----END A-----"):
        parsing.load_bundle(b"-----BEGIN A-----\n" * 50_000, "it")


def sequence(content: bytes) -> bytes:
    size = len(content)
    return (
        b"\x30\x82" + size.to_bytes(2, "big") + content if size > 255 else bytes([0x30, 0x81, size]) + content
    )


def test_a_root_in_version_1_keeps_its_subject() -> None:
    """A certificate without the version field: its subject stands one place earlier (RFC 5280 §4.1)."""
    made = certificate(extensions=[])
    subject = raw_subject(made)
    assert subject == made.subject.public_bytes()
    tbs = made.tbs_certificate_bytes
    version = bytes.fromhex("a003020102")
    rest = der(made)[der(made).index(tbs) + len(tbs) :]
    read = parsing.load_certificate_der(
        sequence(sequence(tbs[tbs.index(version) + len(version) :]) + rest), "it"
    )
    assert read.version is x509.Version.v1
    assert raw_subject(read) == subject


@given(st.text(max_size=80))
def test_a_host_name_is_letters_digits_hyphens_and_dots(name: str) -> None:
    if host_name_fault(name) is None:
        assert name.isascii()
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.")
        assert not name.startswith(("-", "."))
        assert not name.endswith(("-", "."))
        assert ".." not in name
