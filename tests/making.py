"""The keys and certificates of all tests: a Factory's whole PKI, and single CSRs and certificates, good and bad.

In `csr` and `certificate`, every part can be replaced, whatever the rules say.
"""

import base64
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fioctl_rotate.est.service import Authority
from fioctl_rotate.pki import certificates
from fioctl_rotate.pki.keys import generate_key, private_key_pem
from fioctl_rotate.pki.parsing import load_certificate, load_private_key

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
    return f"-----BEGIN {label}-----\n{base64.encodebytes(data).decode()}-----END {label}-----\n".encode()


@dataclass(frozen=True)
class Pki:
    """A Factory's keys: its root, and a device CA as `keys ca add-device-ca --local-ca` makes it."""

    root: x509.Certificate
    root_key: ec.EllipticCurvePrivateKey
    ca: x509.Certificate
    ca_key: ec.EllipticCurvePrivateKey
    now: datetime.datetime

    @classmethod
    def make(cls, *, owner: str = "u1", now: datetime.datetime = NOW - DAY) -> "Pki":
        root_key = generate_key()
        root = certificates.make_root(root_key, FACTORY, now=now)
        return cls(root, root_key, root, root_key, now).with_another_ca(owner)

    @classmethod
    def read(cls, directory: Path) -> "Pki":
        """The root and the local CA in a PKI directory, from now on."""

        def pair(name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
            cert, key = directory / f"{name}.pem", directory / f"{name}.key"
            return load_certificate(cert.read_bytes(), name), load_private_key(key.read_bytes(), name=name)

        return cls(*pair("factory_ca"), *pair("local-ca"), datetime.datetime.now(datetime.UTC))

    def with_another_ca(self, owner: str | None = None) -> "Pki":
        """The same root with a new device CA, of the same subject unless it has another owner."""
        key = generate_key()
        subject = self.ca.subject if owner is None else certificates.name(f"fio-{owner}", FACTORY)
        ca = certificates.sign_device_ca(subject, key.public_key(), self.root, self.root_key, now=self.now)
        return Pki(self.root, self.root_key, ca, key, self.now)

    def device(
        self, subject: x509.Name | None = None, san: x509.SubjectAlternativeName | None = None
    ) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """A device's certificate of the device CA, and its key; with a `san`, nothing but that is in it."""
        key, subject = generate_key(), subject or certificates.name("uuid-1", FACTORY)
        lifetime = 365 * DAY
        if san is not None:
            return certificate(
                name=subject,
                issuer=self.ca.subject,
                key=key,
                signer=self.ca_key,
                extensions=[san],
                begins=self.now,
                ends=self.now + lifetime,
            ), key
        return certificates.sign_device(
            subject, key.public_key(), self.ca, self.ca_key, now=self.now, lifetime=lifetime
        ), key

    def server(
        self, *names: str, common_name: str = "server"
    ) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """A TLS server's certificate for DNS `names` (localhost unless given), signed by the root, and its key."""
        key = generate_key()
        return certificates.sign_tls_server(
            certificates.name(common_name, FACTORY),
            [x509.DNSName(name) for name in names or ("localhost",)],
            key.public_key(),
            self.root,
            self.root_key,
            now=self.now,
        ), key

    def authority(self, **changes: Any) -> Authority:
        """What an EST server with this device CA signs with."""
        return Authority(**{"roots": [self.root], "certificate": self.ca, "key": self.ca_key, **changes})

    def sign(self, csr_pem: str, *, ca: bool = False, names: list[str] | None = None) -> x509.Certificate:
        """The root's certificate for a CSR; for other DNS `names` than the CSR's where given."""
        asked = x509.load_pem_x509_csr(csr_pem.encode())
        key = asked.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        if ca:
            return certificates.sign_device_ca(asked.subject, key, self.root, self.root_key, now=self.now)
        san = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        general = [x509.DNSName(name) for name in names] if names is not None else list(san)
        return certificates.sign_tls_server(
            asked.subject, general, key, self.root, self.root_key, now=self.now
        )


def write_pair(
    directory: Path, name: str, pair: tuple[x509.Certificate, ec.EllipticCurvePrivateKey]
) -> tuple[Path, Path]:
    """Write a certificate and its key to NAME.pem and NAME.key in the directory; returns both paths."""
    files = directory / f"{name}.pem", directory / f"{name}.key"
    files[0].write_bytes(pem(pair[0]))
    files[1].write_bytes(private_key_pem(pair[1]))
    return files
