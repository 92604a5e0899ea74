"""CRLs: with them a Factory revokes or disables its device CAs. Source: fioctl `keys ca revoke-device-ca`."""

import datetime
from collections.abc import Iterable, Iterator

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from fioctl_rotate.errors import Refused, printable
from fioctl_rotate.pki.certificates import authority_key_identifier
from fioctl_rotate.pki.directory import Root
from fioctl_rotate.pki.parsing import extension, load_crl

REVOKE = x509.ReasonFlags.privilege_withdrawn
"""The CA's devices are cut off, and it registers no new ones."""
DISABLE = x509.ReasonFlags.certificate_hold
"""The CA registers no new devices; its devices go on."""

_VALID = datetime.timedelta(minutes=15)  # as in fioctl: the backend uses the CRL at once


def make_crl(root: Root, serials: Iterable[int], reason: x509.ReasonFlags, *, now: datetime.datetime) -> str:
    """A CRL (PEM), signed by the root, that lists these serials with one reason; `now` is aware, UTC.

    Raises Refused where the root's certificate does not allow it to sign CRLs.
    """
    usage = extension(root.certificate, x509.KeyUsage)
    if usage is not None and not usage.crl_sign:
        raise Refused("the root's key usage lacks cRLSign: it cannot sign a CRL (RFC 5280 §4.2.1.3)")
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(root.certificate.subject)
        .last_update(now)
        .next_update(now + _VALID)
        .add_extension(authority_key_identifier(root.certificate), critical=False)
        .add_extension(x509.CRLNumber(1), critical=False)
    )
    for serial in sorted(set(serials)):
        builder = builder.add_revoked_certificate(
            # As an argument a serial may have 160 bits, which fioctl uses; the builder's method allows 159.
            x509.RevokedCertificateBuilder(serial_number=serial)
            .revocation_date(now)
            .add_extension(x509.CRLReason(reason), critical=False)
            .build()
        )
    return builder.sign(root.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def as_text(crl_pem: str) -> str:
    """The CRL for people: issuer, validity, and a line for each serial (base 10)."""
    return "\n".join(printable(line) for line in _lines(load_crl(crl_pem, "the CRL")))


def _lines(crl: x509.CertificateRevocationList) -> Iterator[str]:
    yield f"issuer       {crl.issuer.rfc4514_string()}"
    until = f"{crl.next_update_utc:%Y-%m-%d %H:%M}" if crl.next_update_utc else "?"
    yield f"valid        {crl.last_update_utc:%Y-%m-%d %H:%M} to {until} UTC"
    for entry in crl:
        reason = next((e.value.reason for e in entry.extensions if isinstance(e.value, x509.CRLReason)), None)
        yield f"serial       {entry.serial_number} ({reason.value if reason else 'no reason'})"
