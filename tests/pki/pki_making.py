"""CSRs and certificates for tests, good and bad: every part can be replaced, whatever the rules say."""

import datetime
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.commandline import Cli as Cli

FACTORY = "acme"
NAME = "est.example.com"
NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY = datetime.timedelta(days=1)

P256 = ec.generate_private_key(ec.SECP256R1())
ROOT_KEY = ec.generate_private_key(ec.SECP256R1())

CN, OU, O = NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.ORGANIZATION_NAME  # noqa: E741  their names in X.500


def subject(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in attributes])


SERVER = subject((CN, NAME), (OU, FACTORY))
ROOT = subject((CN, "Factory-CA"), (OU, FACTORY))


def dns(*names: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.DNSName._init_without_validation(name) for name in names])


def usage(*bits: str) -> x509.KeyUsage:
    every = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{bit: bit in bits for bit in every})


SAN = dns(NAME)


def csr(
    *extensions: x509.ExtensionType,
    name: x509.Name = SERVER,
    san: x509.SubjectAlternativeName | None = SAN,
    key: Any = P256,
    algorithm: hashes.SHA256 | hashes.SHA512 | None = hashes.SHA256(),  # noqa: B008  a constant
) -> x509.CertificateSigningRequest:
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    for extension in ([san] if san is not None else []) + list(extensions):
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, algorithm)


def pem(made: x509.CertificateSigningRequest | x509.Certificate) -> bytes:
    return made.public_bytes(Encoding.PEM)


def der(made: x509.CertificateSigningRequest | x509.Certificate) -> bytes:
    return made.public_bytes(Encoding.DER)


CA = (x509.BasicConstraints(ca=True, path_length=None), usage("key_cert_sign", "crl_sign"))
LEAF = (usage("digital_signature"), x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), SAN)


def certificate(
    *,
    name: x509.Name = ROOT,
    issuer: x509.Name = ROOT,
    key: Any = ROOT_KEY,
    signer: Any = ROOT_KEY,
    extensions: Sequence[x509.ExtensionType] = CA,
    begins: datetime.datetime = NOW - DAY,
    ends: datetime.datetime = NOW + 365 * DAY,
    algorithm: hashes.SHA256 | hashes.SHA512 | None = hashes.SHA256(),  # noqa: B008  a constant
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer, algorithm)


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    """`data` with the first `old`, which must be there, replaced."""
    assert old in data
    return data.replace(old, new, 1)


def armored(data: bytes, label: str = "CERTIFICATE REQUEST") -> bytes:
    import base64

    return f"-----BEGIN {label}-----\n{base64.encodebytes(data).decode()}-----END {label}-----\n".encode()
