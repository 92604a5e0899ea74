"""CSRs and certificates read from PEM, strictly, and their extensions without surprises."""

import contextlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning

from fioctl_rotate.errors import Error, printable

E = TypeVar("E", bound=x509.ExtensionType)

# What the library raises for a structure that is none. TypeError: an attribute of a string type it does not expect.
_UNPARSED = (ValueError, TypeError, x509.InvalidVersion)
_PEM_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


def load_csr(pem: str | bytes | None, what: str) -> x509.CertificateSigningRequest:
    """The CSR in `pem`: exactly one block and nothing else. `what` is what errors call it. Raises Error."""
    block = _one_block(pem, what, ("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"))
    try:
        csr = x509.load_pem_x509_csr(block)
        _ = csr.subject  # parsed when it is asked for, and damaged as like as not
        return csr
    except _UNPARSED as error:
        raise Error(f"{what} {_unreadable(error, 'CSR')}") from error


def load_certificate(pem: str | bytes | None, what: str) -> x509.Certificate:
    """The certificate in `pem`: exactly one block and nothing else, as fioctl wants it. Raises Error."""
    block = _one_block(pem, what, ("CERTIFICATE",))
    try:
        with _quiet():
            certificate = x509.load_pem_x509_certificate(block)
            _ = certificate.subject, certificate.issuer
            positive = certificate.serial_number > 0
    except _UNPARSED as error:
        raise Error(f"{what} {_unreadable(error, 'certificate')}") from error
    if not positive:
        raise Error(f"{what} has a serial number that is not positive, against RFC 5280 §4.1.2.2")
    return certificate


def load_bundle(pem: str | None, what: str) -> list[x509.Certificate]:
    """The certificates in `pem`, which may hold none, blank lines included. Raises Error."""
    if not (pem or "").strip():
        return []
    try:
        with _quiet():
            found = x509.load_pem_x509_certificates((pem or "").encode())
            _ = [(certificate.subject, certificate.issuer) for certificate in found]
            return found
    except _UNPARSED as error:
        raise Error(f"{what} {_unreadable(error, 'certificate')}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's warnings about odd certificates off stderr: what matters is told in our words."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        yield


def _one_block(pem: str | bytes | None, what: str, labels: Sequence[str]) -> bytes:
    try:
        text = pem.decode("ascii") if isinstance(pem, bytes) else (pem or "")
    except UnicodeDecodeError as error:
        raise Error(f"{what} is not PEM") from error
    blocks = list(_PEM_BLOCK.finditer(text))
    if len(blocks) != 1:
        raise Error(f"{what} is not PEM" if not blocks else f"{what} holds {len(blocks)} PEM blocks, not one")
    if blocks[0].group(1) not in labels:
        raise Error(f"{what} is a PEM block of another kind: {blocks[0].group(1)}, not {labels[0]}")
    if (text[: blocks[0].start()] + text[blocks[0].end() :]).strip():
        raise Error(f"{what} holds something else beside its PEM block")
    return blocks[0].group().encode()


def _unreadable(error: Exception, kind: str) -> str:
    if "InvalidSetOrdering" in str(error):
        return (
            "has a multi-valued RDN whose attributes are not in DER's order (X.690 §11.6): "
            "it cannot be signed as it stands"
        )
    if isinstance(error, x509.InvalidVersion):
        return f"is a {kind} of an unknown version"
    return f"is not a {kind} in DER: it is damaged, or of another kind"


def extensions(
    load: Callable[[], x509.Extensions],
) -> tuple[list[x509.Extension[x509.ExtensionType]], list[str]]:
    """The extensions, and what made them unreadable where something did."""
    try:
        return list(load()), []
    except x509.DuplicateExtension as error:
        return [], [f"extension {oid_name(error.oid)}: there twice"]
    except (*_UNPARSED, x509.UnsupportedGeneralNameType) as error:
        return [], [f"extensions: cannot be read ({printable(str(error))[:120]})"]


def find(extensions: Iterable[x509.Extension[x509.ExtensionType]], kind: type[E]) -> E | None:
    """The value of the extension of this kind, or None where it is not there."""
    return next((e.value for e in extensions if isinstance(e.value, kind)), None)


def dns_names(subject: x509.CertificateSigningRequest | x509.Certificate) -> list[str]:
    """The DNS names in the SAN, as they stand; none where there is no SAN or it cannot be read."""
    found, _ = extensions(lambda: subject.extensions)
    san = find(found, x509.SubjectAlternativeName)
    return san.get_values_for_type(x509.DNSName) if san is not None else []


def oid_name(oid: x509.ObjectIdentifier) -> str:
    """The OID's name where the library knows one, else its numbers."""
    return oid.dotted_string if oid._name == "Unknown OID" else oid._name
