"""The rules for the certificates of a root, a device CA and a TLS server: each violation is listed, field by field.

A root that openssl made as the FoundriesFactory manual describes (EKU critical, BC and KU not) passes.
"""

import datetime
from collections.abc import Iterator

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID

from fioctl_rotate.pki.parsing import UNPARSED, extension, extensions, find
from fioctl_rotate.pki.policy import (
    STRONG_HASHES,
    Purpose,
    key_violations,
    name_violations,
    subject_violations,
)
from fioctl_rotate.pki.subject import raw_subject


def root_violations(
    certificate: x509.Certificate, factory: str | None, *, now: datetime.datetime
) -> list[str]:
    """Every rule that a root breaks. `factory` None: any single OU."""
    return list(_ca_certificate(certificate, factory, now, "a root")) + list(_only_root(certificate))


def device_ca_violations(
    certificate: x509.Certificate, factory: str, root: x509.Certificate, *, now: datetime.datetime
) -> list[str]:
    """Every rule that a device CA breaks, its signature by `root` included."""
    return list(_ca_certificate(certificate, factory, now, "a device CA")) + list(
        _signed_by(certificate, root)
    )


def server_certificate_violations(
    certificate: x509.Certificate,
    root: x509.Certificate,
    *,
    now: datetime.datetime,
    one_name: bool = False,
) -> list[str]:
    """Every rule that a TLS server's certificate breaks: signature by `root`, key, dates, names, key usages.

    With `one_name` there must be exactly one DNS name: the rule for the Factory's EST server.
    """
    found, unreadable = extensions(certificate)
    constraints = find(found, x509.BasicConstraints)
    usage = find(found, x509.KeyUsage)
    extended = find(found, x509.ExtendedKeyUsage)
    violations = [
        *_signed_by(certificate, root),
        *key_violations(certificate.public_key()),
        *_dates(certificate, now),
    ]
    violations += unreadable
    if constraints is not None and constraints.ca:
        violations.append("basic constraints: CA:TRUE not allowed for a TLS server")
    if usage is not None and not usage.digital_signature:
        violations.append("key usage: digitalSignature is missing")
    if extended is not None and ExtendedKeyUsageOID.SERVER_AUTH not in extended:
        violations.append("extended key usage: serverAuth is missing")
    purpose = Purpose.EST_TLS if one_name else Purpose.GATEWAY_TLS
    return violations + list(name_violations(found, purpose))


def is_signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `certificate` names `issuer` as its issuer and was signed with its key."""
    return not list(_signed_by(certificate, issuer))


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> Iterator[str]:
    try:
        certificate.verify_directly_issued_by(issuer)
    except InvalidSignature:
        yield "signature: not made by the Factory's root"
    except UNPARSED:
        yield "issuer: not the Factory's root"


def _ca_certificate(
    certificate: x509.Certificate, factory: str | None, now: datetime.datetime, what: str
) -> Iterator[str]:
    if certificate.version is not x509.Version.v3:
        yield f"version: expected v3, got {certificate.version.name}"
    yield from key_violations(certificate.public_key())
    yield from _subject_of_ca(certificate, factory)
    yield from _dates(certificate, now)
    found, unreadable = extensions(certificate)
    yield from unreadable
    constraints = find(found, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        yield f"basic constraints: expected CA:TRUE for {what}"
    usage = find(found, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        yield "key usage: keyCertSign is missing"


def _subject_of_ca(certificate: x509.Certificate, factory: str | None) -> Iterator[str]:
    if certificate.subject.public_bytes() != raw_subject(certificate):
        yield "subject: cannot be copied byte for byte as an issuer"
    yield from subject_violations(certificate.subject, factory, ou_required=True)


def _only_root(certificate: x509.Certificate) -> Iterator[str]:
    """The rules for a root that a device CA has not."""
    constraints = extension(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.ca and constraints.path_length == 0:
        yield "basic constraints: path length 0, which allows no device CA below"
    try:
        algorithm = certificate.signature_hash_algorithm
    except UNPARSED:
        algorithm = None
    if not isinstance(algorithm, STRONG_HASHES):
        yield f"signature: expected SHA-256 or better, got {algorithm.name if algorithm else 'an unknown hash'}"
    # The manual allows a root that a higher CA has signed. One that names itself as issuer must be self-signed.
    elif certificate.subject == certificate.issuer and not is_signed_by(certificate, certificate):
        yield "signature: not made with the root's own key"


def _dates(certificate: x509.Certificate, now: datetime.datetime) -> Iterator[str]:
    if certificate.not_valid_before_utc > now:
        yield f"validity: begins at {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    if certificate.not_valid_after_utc < now:
        yield f"validity: expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
