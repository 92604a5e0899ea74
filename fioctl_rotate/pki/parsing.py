"""Parses foreign bytes into certificates, CSRs, keys and CRLs. Each function raises Error and nothing else.

Subject, issuer, dates, serial number and public key of what they return can be read without another error. Read
extensions by `extensions`, which says what is wrong with them.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidKey, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7

from fioctl_rotate import armor
from fioctl_rotate.errors import Error, printable
from fioctl_rotate.pki.keys import P256, key_kind

E = TypeVar("E", bound=x509.ExtensionType)

UNPARSED = (
    ValueError,
    TypeError,  # an attribute of a string type that the library does not expect; a key that is encrypted
    OverflowError,
    UnsupportedAlgorithm,
    InvalidKey,
    InternalError,  # OpenSSL refuses a key that the library accepted
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""All that the library raises for bytes that are not what was expected. ValueError alone is not enough."""


def load_csr(pem: str | bytes | None, what: str) -> x509.CertificateSigningRequest:
    """The CSR in `pem`, its only PEM block. `what` is what errors call it. Raises Error."""
    block = armor.only_block(pem, what, "CERTIFICATE REQUEST")
    with _readable(what, "a CSR"):
        return _checked_csr(x509.load_pem_x509_csr(block))


def load_csr_der(der: bytes, what: str) -> x509.CertificateSigningRequest:
    """The CSR in `der`. Raises Error."""
    with _readable(what, "a CSR"):
        return _checked_csr(x509.load_der_x509_csr(der))


def load_certificate(pem: str | bytes | None, what: str) -> x509.Certificate:
    """The certificate in `pem`, its only PEM block. Raises Error."""
    block = armor.only_block(pem, what, "CERTIFICATE")
    with _readable(what, "a certificate"):
        return _checked_certificate(x509.load_pem_x509_certificate(block), what)


def load_certificate_der(der: bytes, what: str) -> x509.Certificate:
    """The certificate in `der`. Raises Error."""
    with _readable(what, "a certificate"):
        return _checked_certificate(x509.load_der_x509_certificate(der), what)


def load_bundle(pem: str | bytes | None, what: str) -> list[x509.Certificate]:
    """The certificates in `pem`, in order; none where it is blank. Other blocks are skipped. Raises Error."""
    found = [block.pem for block in armor.blocks(pem, what) if block.label == "CERTIFICATE"]
    if pem and pem.strip() and not found:
        raise Error(f"{what} is not PEM: expected CERTIFICATE blocks")
    return [
        load_certificate(block, what if len(found) == 1 else f"certificate {number} of {what}")
        for number, block in enumerate(found, 1)
    ]


def load_pkcs7(der: bytes, what: str) -> list[x509.Certificate]:
    """The certificates in a certs-only PKCS#7 (RFC 5652), at least one. Raises Error."""
    with _readable(what, "a PKCS#7 with certificates"):
        found = pkcs7.load_der_pkcs7_certificates(der)
        if not found:
            raise Error(f"{what} has no certificate")
        return [_checked_certificate(certificate, what) for certificate in found]


def load_crl(pem: str | bytes | None, what: str) -> x509.CertificateRevocationList:
    """The CRL in `pem`, its only PEM block; its entries can be read. Raises Error."""
    block = armor.only_block(pem, what, "X509 CRL")
    with _readable(what, "a CRL"):
        crl = x509.load_pem_x509_crl(block)
        _ = crl.issuer, crl.last_update_utc, crl.next_update_utc, crl.signature_hash_algorithm
        _ = [(entry.serial_number, entry.revocation_date_utc, list(entry.extensions)) for entry in crl]
        return crl


def load_public_key(pem: str | bytes | None, what: str) -> ec.EllipticCurvePublicKey:
    """The P-256 public key in `pem`, a PUBLIC KEY block. Raises Error."""
    block = armor.only_block(pem, what, "PUBLIC KEY")
    with _readable(what, "a public key"):
        key = serialization.load_pem_public_key(block)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Error(f"{what}: expected an {P256} key, got {key_kind(key)}")
    return key


def load_private_key(
    pem: bytes, *, name: str, passphrase: Callable[[], bytes | None] | None = None
) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in `pem`, SEC1 or PKCS#8; `name` is what errors call it.

    `passphrase` is called only where the key is encrypted. Raises Error where it is not a key, is encrypted and the
    passphrase is missing or wrong, or is another kind of key.
    """
    block = _key_block(pem, name)
    try:
        key = serialization.load_pem_private_key(block, None)
    except TypeError as error:  # what cryptography raises for an encrypted key
        secret = passphrase() if passphrase is not None else None
        if secret is None:
            raise Error(
                f"{name} is encrypted and no passphrase was given",
                hint="set FIOCTL_ROTATE_KEY_PASSPHRASE, give --key-passphrase-file, or run it on a terminal",
            ) from error
        try:
            key = serialization.load_pem_private_key(block, secret)
        except UNPARSED as wrong:
            raise Error(
                f"{name} cannot be decrypted: the passphrase is wrong, or the file is damaged"
            ) from wrong
    except UNPARSED as error:
        raise Error(_unreadable(name, "a private key", error)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Error(f"{name}: expected an {P256} key, got {key_kind(key.public_key())}")
    return key


def extensions(
    signed: x509.Certificate | x509.CertificateSigningRequest,
) -> tuple[list[x509.Extension[x509.ExtensionType]], list[str]]:
    """The extensions and an empty list; or, where they cannot be read, no extensions and what is wrong."""
    try:
        with _quiet():
            return list(signed.extensions), []
    except x509.DuplicateExtension as error:
        return [], [f"extension {oid_name(error.oid)}: there twice"]
    except UNPARSED as error:
        return [], [f"extensions: cannot be read ({printable(str(error))[:120]})"]


def find(found: Iterable[x509.Extension[x509.ExtensionType]], kind: type[E]) -> E | None:
    """The value of the extension of this kind, or None where it is missing."""
    return next((e.value for e in found if isinstance(e.value, kind)), None)


def extension(signed: x509.Certificate | x509.CertificateSigningRequest, kind: type[E]) -> E | None:
    """The value of this kind of extension; None where it is missing, or the extensions cannot be read."""
    return find(extensions(signed)[0], kind)


def dns_names(signed: x509.CertificateSigningRequest | x509.Certificate) -> list[str]:
    """The DNS names in the SAN, unchanged; none where there is no SAN or it cannot be read."""
    san = extension(signed, x509.SubjectAlternativeName)
    return san.get_values_for_type(x509.DNSName) if san is not None else []


def is_ca(signed: x509.Certificate | x509.CertificateSigningRequest) -> bool:
    """Whether basic constraints say CA:TRUE."""
    constraints = extension(signed, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def oid_name(oid: x509.ObjectIdentifier) -> str:
    """The OID's name where the library knows one, else its numbers."""
    return oid.dotted_string if oid._name == "Unknown OID" else oid._name


# The library parses many fields only when they are read, and raises only then. So these read them all.


def _checked_csr(csr: x509.CertificateSigningRequest) -> x509.CertificateSigningRequest:
    _ = csr.subject, csr.public_key()
    return csr


def _checked_certificate(certificate: x509.Certificate, what: str) -> x509.Certificate:
    _ = certificate.subject, certificate.issuer, certificate.public_key(), certificate.version
    _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if certificate.serial_number <= 0:
        raise Error(f"{what} has a serial number that is not positive, against RFC 5280 §4.1.2.2")
    return certificate


def _key_block(pem: bytes, name: str) -> bytes:
    """The only block with a private key; `openssl ecparam -genkey` writes EC PARAMETERS before it."""
    found = [block.pem for block in armor.blocks(pem, name) if block.label.endswith("PRIVATE KEY")]
    if len(found) != 1:
        raise Error(f"{name}: expected one private key in PEM, got {len(found) or 'none'}")
    return found[0]


@contextlib.contextmanager
def _readable(what: str, kind: str) -> Iterator[None]:
    """Turn what the library raises in the block into Error, and keep its warnings off stderr."""
    try:
        with _quiet():
            yield
    except UNPARSED as error:
        raise Error(_unreadable(what, kind, error)) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's warnings about odd bytes off stderr: what matters is said in our messages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _unreadable(what: str, kind: str, error: Exception) -> str:
    if "InvalidSetOrdering" in str(error):
        return (
            f"{what} has a multi-valued RDN whose attributes are not in DER's order (X.690 §11.6): "
            "it cannot be signed as it is"
        )
    if isinstance(error, x509.InvalidVersion):
        return f"{what} is {kind} of an unknown version"
    if isinstance(error, UnsupportedAlgorithm):
        return f"{what} has a key or an algorithm that is not known here"
    return f"{what} cannot be read as {kind}: it is damaged, or something else"
