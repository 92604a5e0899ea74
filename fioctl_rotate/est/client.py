"""The EST client's half that is no network: the CSR, the answer's certificates, the device's look at them."""

import base64
import binascii

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID

from fioctl_rotate.errors import Error
from fioctl_rotate.pki.certificates import DIGITAL_SIGNATURE
from fioctl_rotate.pki.subject import copied_subject, raw_subject

CLIENT_AUTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])


def build_csr(key: ec.EllipticCurvePrivateKey, current: x509.Certificate) -> bytes:
    """The body of a re-enrollment: base64 DER of a CSR for `key` with the subject of `current`, byte for byte.

    It asks for KU digitalSignature and EKU clientAuth, both critical, as fioconfig does. Raises ValueError where
    the subject is not valid DER and cannot be repeated.
    """
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(copied_subject(current))
        .add_extension(DIGITAL_SIGNATURE, critical=True)
        .add_extension(CLIENT_AUTH, critical=True)
        .sign(key, hashes.SHA256())
    )
    return base64.b64encode(csr.public_bytes(Encoding.DER))


def decode_certificates(body: bytes) -> list[x509.Certificate]:
    """The certificates in an EST answer: base64 of a certs-only PKCS#7, line breaks allowed. RFC 7030 §4.2.3.

    Raises Error where it is something else, or holds none.
    """
    try:
        der = base64.b64decode(body.translate(None, b"\r\n"), validate=True)
    except binascii.Error as error:
        raise Error("the EST server's answer is not base64") from error
    try:
        certificates = pkcs7.load_der_pkcs7_certificates(der)
    except ValueError as error:
        raise Error("the EST server's answer is not PKCS#7 with certificates") from error
    if not certificates:
        raise Error("the EST server's answer holds no certificate")
    return certificates


def check_new_certificate(current: x509.Certificate, new: x509.Certificate) -> None:
    """What a device checks before it uses a new certificate: the subject, KU and EKU (fioconfig: verifyNewCert).

    Raises Error that says which. The CA is not looked at: only the gateway tells whether it is trusted.
    """
    if raw_subject(new) != raw_subject(current):
        raise Error("the new certificate has another subject than the current one")
    usages: tuple[tuple[type[x509.KeyUsage | x509.ExtendedKeyUsage], x509.ExtensionType, str], ...] = (
        (x509.KeyUsage, DIGITAL_SIGNATURE, "KeyUsage digitalSignature"),
        (x509.ExtendedKeyUsage, CLIENT_AUTH, "ExtendedKeyUsage clientAuth"),
    )
    for kind, wanted, words in usages:
        try:
            value = new.extensions.get_extension_for_class(kind).value
        except x509.ExtensionNotFound:
            value = None
        if value != wanted:
            raise Error(f"the new certificate lacks {words}")
