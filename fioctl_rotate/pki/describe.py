"""A certificate as text for people and as data for JSON."""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from fioctl_rotate.errors import printable
from fioctl_rotate.pki import certificates
from fioctl_rotate.pki.keys import key_kind
from fioctl_rotate.pki.parsing import dns_names, extensions, is_ca, oid_name

SOON = datetime.timedelta(days=90)


def as_data(certificate: x509.Certificate) -> dict[str, object]:
    """The certificate for JSON: text, lists and booleans; times RFC 3339 UTC, `serial` and fingerprint hex."""
    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "serial": f"{certificate.serial_number:x}",
        "serial-decimal": str(certificate.serial_number),
        "not-before": f"{certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}",
        "not-after": f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        "ca": is_ca(certificate),
        "dns-names": dns_names(certificate),
        "sha256": fingerprint(certificate),
        "pem": certificates.pem(certificate),
    }


def as_text(certificate: x509.Certificate) -> str:
    """The certificate for a person: one line a field, then one an extension."""
    lines = [
        f"subject      {certificate.subject.rfc4514_string()}",
        f"issuer       {certificate.issuer.rfc4514_string()}",
        f"serial       {certificate.serial_number:x} (base 10: {certificate.serial_number})",
        f"valid        {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} to "
        f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
        f"key          {key_kind(certificate.public_key())}",
        f"sha256       {fingerprint(certificate)}",
    ]
    found, unreadable = extensions(certificate)
    for extension in found:
        critical = " (critical)" if extension.critical else ""
        lines.append(f"{_extension(extension)}{critical}")
    lines += unreadable
    return "\n".join(printable(line) for line in lines)


def expiry(certificate: x509.Certificate, *, now: datetime.datetime) -> str | None:
    """A message where the certificate has expired or expires within 90 days, else None."""
    left = certificate.not_valid_after_utc - now
    when = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
    if left < datetime.timedelta(0):
        return f"expired on {when}"
    if left < SOON:
        return f"expires soon, on {when} (in {left.days} days)"
    return None


def fingerprint(certificate: x509.Certificate) -> str:
    """The certificate's SHA-256, hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def _extension(extension: x509.Extension[x509.ExtensionType]) -> str:
    value = extension.value
    match value:
        case x509.BasicConstraints():
            path = "" if value.path_length is None else f", path length {value.path_length}"
            return f"constraints  {'CA' if value.ca else 'not a CA'}{path}"
        case x509.KeyUsage():
            return f"key usage    {', '.join(sorted(certificates.usages(value)))}"
        case x509.ExtendedKeyUsage():
            return f"purpose      {', '.join(oid_name(oid) for oid in value)}"
        case x509.SubjectAlternativeName():
            names = (f"{type(name).__name__.removesuffix('Name')} {name.value}" for name in value)
            return f"names        {', '.join(names)}"
        case x509.SubjectKeyIdentifier():
            return f"key id       {value.digest.hex()}"
        case x509.AuthorityKeyIdentifier():
            return f"issuer's id  {(value.key_identifier or b'').hex()}"
        case _:
            return f"extension    {oid_name(extension.oid)}"
