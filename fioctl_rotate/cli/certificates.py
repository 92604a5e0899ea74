"""How certificates are shown: as PEM, for people, as JSON; and said plainly when one expires soon."""

from typing import TYPE_CHECKING

from fioctl_rotate.cli.common import emit, warn

if TYPE_CHECKING:
    from cryptography import x509


def show_certificate(what: str, certificate: "x509.Certificate", *, pretty: bool) -> None:
    """Print one certificate; warn on stderr where it has expired or soon will."""
    from fioctl_rotate.clock import utc_now
    from fioctl_rotate.pki import certificates, describe

    emit(describe.as_text(certificate) if pretty else certificates.pem(certificate).strip())
    expiry = describe.expiry(certificate, now=utc_now())
    if expiry:
        warn(f"{what}: {expiry}")


def data(certificate: "x509.Certificate | None") -> dict[str, object] | None:
    """A certificate for JSON, with `expires-soon`: words, or null; None for none."""
    from fioctl_rotate.clock import utc_now
    from fioctl_rotate.pki import describe

    if certificate is None:
        return None
    return describe.as_data(certificate) | {"expires-soon": describe.expiry(certificate, now=utc_now())}
