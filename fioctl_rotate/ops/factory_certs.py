"""The Factory's certificates as its API gives and accepts them: its root, its EST server's name, CSRs, uploads."""

import datetime
from collections.abc import Sequence

from cryptography import x509

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.errors import Error, Refused
from fioctl_rotate.pki import certificates, policy
from fioctl_rotate.pki.directory import PkiDirectory, Root
from fioctl_rotate.pki.parsing import dns_names, load_bundle, load_certificate, load_csr
from fioctl_rotate.pki.policy import Purpose, require

_MANAGED_GATEWAY = ".ota-lite.foundries.io"
_MANAGED_EST = ".est.foundries.io"


async def own_root(
    api: FactoryApi, directory: PkiDirectory, now: datetime.datetime
) -> tuple[Root, wire.Certs]:
    """The root in the PKI directory, and the Factory's certificates. Raises Refused where the roots differ."""
    root = directory.root(api.factory, now=now)
    certs = await api.certs()
    require_own_root(api, certs, root.certificate)
    return root, certs


def require_own_root(api: FactoryApi, certs: wire.Certs, root: x509.Certificate) -> None:
    """Raise Refused where the Factory has no root, or one that is not `root`."""
    require_same_root(api, factory_root(api, certs), root)


def require_same_root(api: FactoryApi, theirs: x509.Certificate, root: x509.Certificate) -> None:
    """Raise Refused where the Factory's root is not `root`."""
    if theirs != root:
        raise Refused(
            f"the root in this directory is not the root of {api.factory} on {api.server}",
            hint=f"the Factory's has serial {theirs.serial_number:x}, this one {root.serial_number:x}",
        )


def factory_root(api: FactoryApi, certs: wire.Certs) -> x509.Certificate:
    """The Factory's root. Raises Refused where it has none."""
    if not certs.root_crt:
        raise Refused(
            f"{api.factory} on {api.server} has no PKI of its own",
            hint="`fioctl-rotate keys ca create DIR` sets it up",
        )
    return load_certificate(certs.root_crt, f"the root of {api.factory} on {api.server}")


def device_cas(certs: wire.Certs) -> list[x509.Certificate]:
    """The device CAs that the Factory trusts. Raises Error where they cannot be read."""
    return load_bundle(certs.ca_crt, "the Factory's device CAs")


def present_est(certs: wire.Certs) -> x509.Certificate | None:
    """The Factory's EST TLS certificate, None if it has none. Raises Error where it is not one certificate."""
    if not (certs.est_tls_crt or "").strip():
        return None
    return load_certificate(certs.est_tls_crt, "the Factory's EST TLS certificate")


def expected_est_name(certs: wire.Certs) -> str | None:
    """The one DNS name that the EST server must have; None where that cannot be known.

    It is the name in the certificate that is there already: devices were sent to it. Without one, the name follows
    from the managed gateway's: `<repoid>.ota-lite.foundries.io` goes with `<repoid>.est.foundries.io`.
    """
    present = present_est(certs)
    if present is not None:
        names = dns_names(present)
        return names[0] if len(names) == 1 else None
    return managed_est_name(certs.tls_crt)


def managed_est_name(tls_crt: str | None) -> str | None:
    """The EST server's name that goes with a managed gateway's certificate; None for any other gateway."""
    for certificate in load_bundle(tls_crt, "the gateway TLS certificate"):
        for name in dns_names(certificate):
            if name.endswith(_MANAGED_GATEWAY):
                return name.removesuffix(_MANAGED_GATEWAY) + _MANAGED_EST
    return None


def checked_csr(
    pem: bytes | str | None,
    what: str,
    purpose: Purpose,
    api: FactoryApi,
    expected_names: Sequence[str] | None = None,
) -> x509.CertificateSigningRequest:
    """The backend's CSR, after checking that it is fit for `purpose`. Raises Error or PolicyRefused."""
    if not pem:
        raise Error(f"{api.server} gave no CSR: expected {what}")
    csr = load_csr(pem, what)
    require(
        what,
        policy.csr_violations(csr, purpose, api.factory, expected_names=expected_names),
        hint=f"nothing was signed; {api.server} made this CSR, so ask those who run it",
    )
    return csr


async def upload_est(api: FactoryApi, certificate: x509.Certificate) -> None:
    """Upload an EST TLS certificate that was checked. Raises Error where it cannot be read back."""
    await api.patch_certs(wire.CertsPatch(est_tls_crt=certificates.pem(certificate)))
    landed = (await api.certs()).est_tls_crt
    require_landed("EST TLS certificate", landed, [certificate], api)


def require_landed(what: str, pem: str | None, sent: Sequence[x509.Certificate], api: FactoryApi) -> None:
    """Raise Error unless all certificates that were sent are in what the Factory has now."""
    landed = load_bundle(pem, f"the Factory's {what}")
    if not all(certificate in landed for certificate in sent):
        raise Error(
            f"the {what} that {api.server} gives back is not what was uploaded",
            hint="`fioctl-rotate keys ca show --pretty` shows what it has",
        )


def joined(*pems: str) -> str:
    """PEM bundles one after the other, a blank line between them, as fioctl joins them."""
    return "\n".join(pem if pem.endswith("\n") else pem + "\n" for pem in pems)
