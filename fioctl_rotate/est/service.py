"""What an EST server answers: bytes in, bytes out (RFC 7030, RFC 8951).

The rules are those of the EST server of FoundriesFactory (estserver: Service), so a device sees no difference.
"""

import base64
import binascii
import datetime
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID

from fioctl_rotate.errors import Error
from fioctl_rotate.est.enroll_policy import Enroll
from fioctl_rotate.pki.certificates import DIGITAL_SIGNATURE, sign_device
from fioctl_rotate.pki.parsing import UNPARSED
from fioctl_rotate.pki.subject import copied_subject, raw_subject

_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_EMPTY_SUBJECT = b"0\x00"
THREE_YEARS = datetime.timedelta(days=3 * 365)

# What a CSR should look like: a key on P-256, signed with ecdsa-with-SHA256. CsrAttrs, RFC 7030 §4.5.2.
_CSR_ATTRIBUTES = bytes.fromhex(
    "3021"  # SEQUENCE of
    "301506072a8648ce3d0201310a06082a8648ce3d030107"  # attribute ecPublicKey = prime256v1
    "06082a8648ce3d040302"  # OID ecdsa-with-SHA256
)


class EstError(Error):
    """A request that an EST server refuses, with the HTTP status that says so and one plain line."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Authority:
    """Who signs: the Factory's roots, and the device CA with its key. Certificates are valid for `lifetime`.

    `others` are further certificates: the server's own, other CAs. No client gets a certificate for a key of the
    roots, the CA or these.
    """

    roots: Sequence[x509.Certificate]
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    lifetime: datetime.timedelta = THREE_YEARS
    others: Sequence[x509.Certificate] = ()

    @functools.cached_property
    def reserved_keys(self) -> Sequence[PublicKeyTypes]:
        """The public keys that no client gets a certificate for."""
        return [c.public_key() for c in (self.certificate, *self.roots, *self.others)]


def key_digest(key: PublicKeyTypes) -> str:
    """SHA-256 of the public key as SubjectPublicKeyInfo in DER, hexadecimal."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def cacerts(authority: Authority) -> bytes:
    """The roots as base64 of a certs-only PKCS#7. RFC 7030 §4.1.3."""
    return base64.b64encode(pkcs7.serialize_certificates(list(authority.roots), Encoding.DER))


def csrattrs() -> bytes:
    """What the CSR should hold, as base64 of CsrAttrs. RFC 7030 §4.5.2."""
    return base64.b64encode(_CSR_ATTRIBUTES)


def enroll(
    authority: Authority, body: bytes, client: x509.Certificate, *, policy: Enroll, now: datetime.datetime
) -> x509.Certificate:
    """Sign the CSR in `body` (base64 DER) for the holder of `client`, if `policy` allows it. RFC 7030 §4.2.1.

    `now` is aware, UTC. Raises EstError where the policy does not allow it, or where the CSR is not valid, is not
    signed by its key, or asks for more than a device gets.
    """
    if policy is Enroll.OWN:
        return reenroll(authority, body, client, now=now)
    if policy is Enroll.OFF:
        raise EstError("this server does not offer simpleenroll, only simplereenroll", 403)
    csr, key = _load_csr(authority, body)
    return _sign(authority, csr, key, raw_subject(csr), now)


def reenroll(
    authority: Authority, body: bytes, client: x509.Certificate, *, now: datetime.datetime
) -> x509.Certificate:
    """Sign the CSR in `body` for the holder of `client`, whose subject and SAN it must repeat. RFC 7030 §4.2.2.

    Raises EstError as `enroll` does, and where the subject or the SAN differs in a single byte.
    """
    csr, key = _load_csr(authority, body)
    subject = raw_subject(csr)
    if subject != raw_subject(client):
        raise EstError("the subject of the CSR differs from the one of the client certificate")
    if _alternative_names(csr) != _alternative_names(client):
        raise EstError("the SubjectAltName of the CSR differs from the one of the client certificate")
    return _sign(authority, csr, key, subject, now)


def certificate_answer(certificate: x509.Certificate) -> bytes:
    """The answer to an enrollment: base64 of a certs-only PKCS#7 with the new certificate alone.

    fioconfig takes the first certificate, and the set in PKCS#7 is sorted: a CA beside it might come first.
    """
    return base64.b64encode(pkcs7.serialize_certificates([certificate], Encoding.DER))


def _load_csr(
    authority: Authority, body: bytes
) -> tuple[x509.CertificateSigningRequest, ec.EllipticCurvePublicKey]:
    """The CSR and its key. Every part that is used can be read, and the signature is checked. Raises EstError."""
    try:
        # White space of any kind is skipped: RFC 8951 §3.1.
        der = base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error as error:
        raise EstError("the body is not base64") from error
    try:
        csr = x509.load_der_x509_csr(der)
        # The library parses these on access: a broken part is found here.
        _ = csr.subject, csr.extensions
        algorithm, hash_algorithm = csr.signature_algorithm_oid, csr.signature_hash_algorithm
    except x509.DuplicateExtension as error:
        raise EstError("the CSR asks for an extension twice") from error
    except UNPARSED as error:
        raise EstError("the body is not a CSR in DER") from error
    if algorithm != authority.certificate.signature_algorithm_oid or hash_algorithm is None:
        raise EstError("the CSR is signed with another algorithm than the CA's certificate")
    try:
        key = csr.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise EstError("the key of the CSR is not an EC key")
        # Not `is_signature_valid`, which would parse the key again.
        key.verify(csr.signature, csr.tbs_certrequest_bytes, ec.ECDSA(hash_algorithm))
    except InvalidSignature as error:
        raise EstError("the signature of the CSR is not valid") from error
    except UNPARSED as error:
        raise EstError("the key of the CSR is not valid") from error
    if not isinstance(key.curve, _CURVES):
        raise EstError(f"expected a key on P-256, P-384 or P-521 in the CSR, got {key.curve.name}")
    if key in authority.reserved_keys:
        raise EstError("the key of the CSR belongs to a CA or to this server", 403)
    return csr, key


def _sign(
    authority: Authority,
    csr: x509.CertificateSigningRequest,
    key: ec.EllipticCurvePublicKey,
    raw: bytes,
    now: datetime.datetime,
) -> x509.Certificate:
    key_usage, extended_key_usage = _usages(csr.extensions)
    if authority.certificate.not_valid_after_utc <= now:
        raise EstError("the CA of this server has expired", 500)
    if raw == _EMPTY_SUBJECT:
        raise EstError("the subject of the CSR is empty")
    try:
        subject = copied_subject(csr, raw)
    except Error as error:
        raise EstError(f"the CSR is refused: {error.message}") from error
    return sign_device(
        subject,
        key,
        authority.certificate,
        authority.key,
        now=now,
        lifetime=authority.lifetime,
        key_usage=key_usage,
        extended_key_usage=extended_key_usage,
    )


def _usages(extensions: x509.Extensions) -> tuple[bool, bool]:
    """Whether the CSR asks for KU and for EKU. Other extensions are ignored, but CA:TRUE is refused: EstError."""
    key_usage = extended_key_usage = False
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.KeyUsage):
            if value != DIGITAL_SIGNATURE:
                raise EstError("the CSR must ask for KeyUsage digitalSignature and no other")
            key_usage = True
        elif isinstance(value, x509.ExtendedKeyUsage):
            if list(value) != [ExtendedKeyUsageOID.CLIENT_AUTH]:
                raise EstError("the CSR must ask for ExtendedKeyUsage clientAuth and no other")
            extended_key_usage = True
        elif isinstance(value, x509.BasicConstraints) and value.ca:
            raise EstError("the CSR asks for a CA certificate")
    return key_usage, extended_key_usage


def _alternative_names(signed: x509.Certificate | x509.CertificateSigningRequest) -> bytes | None:
    try:
        return signed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.public_bytes()
    except x509.ExtensionNotFound:
        return None
    except UNPARSED as error:
        raise EstError("the extensions of the client certificate cannot be read") from error
