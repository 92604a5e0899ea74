"""Views of a certificate: as PEM, as text and as JSON, with a warning before it expires."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509

from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.clock import utc_now
from fioctl_rotate.errors import Error
from fioctl_rotate.pki import certificates, describe, revocation
from fioctl_rotate.pki.parsing import dns_names, is_ca, load_bundle


@dataclass(frozen=True)
class CertificateView:
    """One certificate. `what` is what messages call it; `expiry`: when it has expired or soon will, else None."""

    what: str
    pem: str
    text: str
    expiry: str | None
    is_ca: bool
    dns_names: Sequence[str]
    document: dict[str, object]


def view(what: str, certificate: x509.Certificate, now: datetime.datetime | None = None) -> CertificateView:
    """The certificate as it is shown at `now` (default: the present)."""
    expiry = describe.expiry(certificate, now=now or utc_now())
    data = describe.as_data(certificate)
    return CertificateView(
        what=what,
        pem=certificates.pem(certificate).strip(),
        text=describe.as_text(certificate),
        expiry=expiry,
        is_ca=is_ca(certificate),
        dns_names=dns_names(certificate),
        document=data | {"expires-soon": expiry},
    )


def crl_text(crl_pem: str) -> str:
    """A CRL as text for people."""
    return revocation.as_text(crl_pem)


async def factory_certificates(api: FactoryApi) -> tuple[dict[str, list[CertificateView]], list[str]]:
    """The Factory's certificates under `root`, `tls` (at most one each) and `device-cas`; and disabled CA serials.

    Raises Error where the Factory has no PKI of its own.
    """
    certs = await api.certs()
    if not certs.root_crt:
        raise Error(
            f"{api.factory} on {api.server} has no PKI of its own",
            hint="`fioctl-rotate keys ca create DIR` sets it up",
        )
    found = {
        "root": _views("Factory root", certs.root_crt, "the Factory's root")[:1],
        "tls": _views("Gateway TLS", certs.tls_crt, "the gateway TLS certificate")[:1],
        "device-cas": _views("Device CAs", certs.ca_crt, "the Factory's device CAs"),
    }
    return found, certs.disabled_ca_serials or []


def _views(title: str, pem: str | None, name: str) -> list[CertificateView]:
    return [view(f"{title}, serial {c.serial_number:x}", c) for c in load_bundle(pem, name)]
