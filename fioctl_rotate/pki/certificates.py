"""Makes the certificates of a Factory: who signs them, for how long, with which extensions.

Subjects are copied as they are, string types and order included. Source: fioctl's Go templates, RFC 5280.
"""

import datetime
import functools

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fioctl_rotate.pki.parsing import extension

ROOT_YEARS = 20
SIGNED_YEARS = 10

_USAGE_BITS = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def _key_usage(*granted: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{bit: bit in granted for bit in _USAGE_BITS})


DIGITAL_SIGNATURE = _key_usage("digital_signature")


def name(common_name: str, factory: str) -> x509.Name:
    """The subject `CN=…, OU=<factory>` in that order, UTF8String, as fioctl makes it."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, factory),
        ]
    )


def years_later(moment: datetime.datetime, years: int) -> datetime.datetime:
    """The same day `years` later; instead of 29 February the 28th in a year without one."""
    try:
        return moment.replace(year=moment.year + years)
    except ValueError:
        return moment.replace(year=moment.year + years, day=28)


def make_root(key: ec.EllipticCurvePrivateKey, factory: str, *, now: datetime.datetime) -> x509.Certificate:
    """The self-signed root `CN=Factory-CA, OU=<factory>`, valid for 20 years from `now` (aware, UTC)."""
    subject = name("Factory-CA", factory)
    return (
        _builder(subject, subject, key.public_key(), now, years_later(now, ROOT_YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def sign_device_ca(
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    now: datetime.datetime,
) -> x509.Certificate:
    """A device CA (online-ca, local-ca): CA:TRUE with path length 0, for 10 years but never past its root."""
    return (
        _issued(subject, public_key, issuer, now, _signed_until(issuer, now))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage("key_cert_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def sign_tls_server(
    subject: x509.Name,
    names: list[x509.GeneralName],
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    now: datetime.datetime,
) -> x509.Certificate:
    """A TLS server's certificate (EST server, gateway) for `names`, for 10 years but never past its root."""
    return (
        _issued(subject, public_key, issuer, now, _signed_until(issuer, now))
        .add_extension(DIGITAL_SIGNATURE, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def sign_device(
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    now: datetime.datetime,
    lifetime: datetime.timedelta,
    key_usage: bool = True,
    extended_key_usage: bool = True,
) -> x509.Certificate:
    """A device's client certificate, for `lifetime` but never past its CA.

    A device needs KU digitalSignature and EKU clientAuth; an EST client gets those of them that it asked for.
    """
    not_after = min(now + lifetime, issuer.not_valid_after_utc)
    builder = _issued(subject, public_key, issuer, now, not_after).add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    if key_usage:
        builder = builder.add_extension(DIGITAL_SIGNATURE, critical=True)
    if extended_key_usage:
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False).sign(
        issuer_key, hashes.SHA256()
    )


def pem(*certificates: x509.Certificate) -> str:
    """The certificates as PEM blocks, one after the other."""
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in certificates)


def usages(usage: x509.KeyUsage) -> set[str]:
    """The bits of a KeyUsage, by their names in RFC 5280."""
    bits = {
        "digitalSignature": usage.digital_signature,
        "nonRepudiation": usage.content_commitment,
        "keyEncipherment": usage.key_encipherment,
        "dataEncipherment": usage.data_encipherment,
        "keyAgreement": usage.key_agreement,
        "keyCertSign": usage.key_cert_sign,
        "cRLSign": usage.crl_sign,
    }
    return {name for name, there in bits.items() if there}


def _signed_until(issuer: x509.Certificate, now: datetime.datetime) -> datetime.datetime:
    return min(years_later(now, SIGNED_YEARS), issuer.not_valid_after_utc)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    not_before: datetime.datetime,
    not_after: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        # 159 random bits: positive, and never longer than the 20 octets of RFC 5280 §4.1.2.2.
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )


def _issued(
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    not_before: datetime.datetime,
    not_after: datetime.datetime,
) -> x509.CertificateBuilder:
    return _builder(subject, issuer.subject, public_key, not_before, not_after).add_extension(
        authority_key_identifier(issuer), critical=False
    )


def issuer_key_id(certificate: x509.Certificate) -> str:
    """The authority key identifier in a certificate, hexadecimal; empty where there is none."""
    identifier = extension(certificate, x509.AuthorityKeyIdentifier)
    return ((identifier.key_identifier if identifier else None) or b"").hex()


@functools.lru_cache(maxsize=16)  # an EST server asks for its CA's at each request
def authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """What names `issuer` in each certificate that it signs: its SKI, else its key's SHA-1. RFC 5280 §4.2.1.1."""
    identifier = extension(issuer, x509.SubjectKeyIdentifier)
    if identifier is not None:
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    key = issuer.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101  every caller signs with an EC key
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
