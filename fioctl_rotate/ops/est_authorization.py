"""The TLS certificate of an EST server: authorize the managed server's, or make one for a server of your own.

Only the functions that take an `api` talk to a Factory; the rest runs on a machine without network.
"""

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.clock import Clock, utc_now
from fioctl_rotate.errors import Error, UsageError
from fioctl_rotate.files import create_new, read
from fioctl_rotate.hostname import host_name_fault
from fioctl_rotate.ops.factory_certs import (
    checked_csr,
    expected_est_name,
    managed_est_name,
    own_root,
    present_est,
    require_own_root,
    upload_est,
)
from fioctl_rotate.ops.issuing import key_name, require_pem_file_name, signed
from fioctl_rotate.ops.prompter import NOBODY, Prompter
from fioctl_rotate.pki import certificate_rules, certificates, policy
from fioctl_rotate.pki.describe import as_text
from fioctl_rotate.pki.directory import GATEWAY_TLS, PkiDirectory
from fioctl_rotate.pki.parsing import load_certificate, load_csr
from fioctl_rotate.pki.policy import Purpose, require

_CSR = "the EST TLS CSR"


@dataclass(frozen=True)
class AuthorizedEst:
    """The outcome. `certificate` is None on a dry run; `replaced` is what was there before."""

    certificate: x509.Certificate | None
    replaced: x509.Certificate | None
    expected_name: str | None


async def authorize_est(
    api: FactoryApi,
    directory: PkiDirectory,
    *,
    csr_file: Path | None = None,
    dns_name: str | None = None,
    dry_run: bool = False,
    prompter: Prompter = NOBODY,
    now: Clock = utc_now,
) -> AuthorizedEst:
    """Sign the TLS certificate of the Factory's managed EST server, upload it and read it back.

    Before it asks the backend for a CSR, it checks root key and certificate: they must be a pair, and the Factory's
    root (else Refused). It asks the operator before it replaces a certificate that is in use. The CSR is
    the backend's newest, or the one in `csr_file`; `dns_name` is the one name it may ask for (default: what
    `expected_est_name` finds). A dry run asks for no CSR. Source: fioctl `keys est authorize`.
    """
    directory.check_exists()
    csr_pem = None if csr_file is None else read(csr_file)
    with directory.locked():
        root, certs = await own_root(api, directory, now())
        present = present_est(certs)
        expected = dns_name or expected_est_name(certs)
        if dry_run:
            return AuthorizedEst(None, present, expected)
        if present is not None:
            prompter.note(as_text(present))
            prompter.confirm(
                f"{api.factory} has this EST TLS certificate, and a live EST server may use it. Replace it?"
            )
        if csr_pem is None:
            csr_pem = ((await api.create_csrs(wire.CsrRequest(est_tls_csr=True))).est_tls_csr or "").encode()
        csr = checked_csr(csr_pem, _CSR, Purpose.EST_TLS, api, _one_or_any(expected))
        certificate = signed(csr, root, Purpose.EST_TLS, now())
        await upload_est(api, certificate)
        return AuthorizedEst(certificate, present, expected)


# --- In three steps: fetch the CSR, sign it without a network, upload ---------------------------------------------


async def fetch_est_csr(
    api: FactoryApi, directory: PkiDirectory, out: Path, *, dns_name: str | None = None, now: Clock = utc_now
) -> x509.CertificateSigningRequest:
    """Have the backend make its EST TLS key, and write its CSR to `out`. Needs `factory_ca.pem`, not its key."""
    root = directory.root_certificate(api.factory, now=now())
    certs = await api.certs()
    require_own_root(api, certs, root)
    expected = dns_name or expected_est_name(certs)
    csrs = await api.create_csrs(wire.CsrRequest(est_tls_csr=True))
    csr = checked_csr(csrs.est_tls_csr, _CSR, Purpose.EST_TLS, api, _one_or_any(expected))
    create_new(out, (csrs.est_tls_csr or "").encode(), 0o644)
    return csr


def sign_est_csr(
    directory: PkiDirectory, csr_file: Path, out: Path, *, dns_name: str | None = None, now: Clock = utc_now
) -> x509.Certificate:
    """Check the EST TLS CSR in a file, sign it, and write the certificate to `out`. No network is used."""
    root = directory.root(now=now())
    csr = load_csr(read(csr_file), str(csr_file))
    gateway = directory.certificate(GATEWAY_TLS)
    expected = dns_name or (managed_est_name(certificates.pem(gateway)) if gateway is not None else None)
    names = _one_or_any(expected)
    require(str(csr_file), policy.csr_violations(csr, Purpose.EST_TLS, root.factory, expected_names=names))
    certificate = signed(csr, root, Purpose.EST_TLS, now())
    create_new(out, certificates.pem(certificate).encode(), 0o644)
    return certificate


async def upload_est_certificate(
    api: FactoryApi,
    directory: PkiDirectory,
    certificate_file: Path,
    *,
    prompter: Prompter = NOBODY,
    now: Clock = utc_now,
) -> x509.Certificate:
    """Upload an EST TLS certificate that was signed elsewhere. Needs `factory_ca.pem`, not its key."""
    root = directory.root_certificate(api.factory, now=now())
    certificate = load_certificate(read(certificate_file), str(certificate_file))
    require(
        str(certificate_file),
        certificate_rules.server_certificate_violations(certificate, root, now=now(), one_name=True),
    )
    certs = await api.certs()
    require_own_root(api, certs, root)
    present = present_est(certs)
    if present == certificate:
        prompter.note("the Factory already has this certificate")
        return certificate
    if present is not None:
        prompter.confirm(
            f"{api.factory} has an EST TLS certificate, and a live server may use it. Replace it?"
        )
    await upload_est(api, certificate)
    return certificate


# --- An EST server of your own ------------------------------------------------------------------------------------


def make_est_keypair(
    directory: PkiDirectory, dns_name: str, certificate_name: str, *, now: Clock = utc_now
) -> tuple[Path, Path]:
    """A TLS key and certificate, signed by the root, for an EST server that the operator runs as `dns_name`.

    Returns the paths of key and certificate. A key that is there is used. Raises UsageError for a name that devices
    would not accept, Error where the certificate already exists.
    """
    fault = host_name_fault(dns_name)
    if fault:
        raise UsageError(f"`{dns_name}` is not a valid EST server name: {fault}")
    require_pem_file_name("--filename", certificate_name)
    directory.check_exists()
    with directory.locked():
        root = directory.root(now=now())
        store = directory.key_file(key_name(certificate_name))
        paths = store.path, directory.path / certificate_name
        if directory.certificate(certificate_name) is not None:
            raise Error(
                f"{paths[1]} already exists, and is never overwritten",
                hint="--filename gives it another name",
            )
        key = store.load() or store.create()
        certificate = certificates.sign_tls_server(
            certificates.name(dns_name, root.factory),
            [x509.DNSName(dns_name)],
            key.public_key(),
            root.certificate,
            root.key,
            now=now(),
        )
        directory.write(certificate_name, certificate)
        return paths


def _one_or_any(name: str | None) -> list[str] | None:
    return None if name is None else [name]
