"""The name of a Factory's EST server: the one in its certificate."""

from fioctl_rotate import wire
from fioctl_rotate.errors import Error
from fioctl_rotate.pki.parsing import dns_names, load_certificate


def est_host(certs: wire.Certs, factory: str) -> str:
    """The one DNS name in the SAN of the Factory's EST TLS certificate. Raises Error."""
    if not certs.root_crt:
        raise Error(
            f"factory {factory} has no PKI yet", hint="set it up with `fioctl-rotate keys ca create DIR`"
        )
    if not (certs.est_tls_crt or "").strip():
        raise Error(
            f"factory {factory} has authorized no EST server",
            hint="authorize the managed one with `fioctl-rotate est authorize DIR`, or name yours: --server-name",
        )
    what = f"the EST TLS certificate of factory {factory}"
    names = dns_names(load_certificate(certs.est_tls_crt, what))
    if len(names) != 1:
        raise Error(
            f"{what}: expected one DNS name, got {', '.join(names) or 'none'}",
            hint="name the EST server with --server-name",
        )
    return names[0]
