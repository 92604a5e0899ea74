"""What the root signs beside the two great ceremonies: device CAs, a CSR from a file, an EST server's own key.

Only `add_device_ca`, `fetch_est_csr` and `upload_est_certificate` talk to a Factory; the rest needs no network, so
it can run on a machine that has none.
"""

from pathlib import Path

from cryptography import x509

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.clock import Clock, utc_now
from fioctl_rotate.errors import Error, UsageError
from fioctl_rotate.files import create_new, read
from fioctl_rotate.hostname import host_name_fault
from fioctl_rotate.ops.ceremony import (
    NOBODY,
    Prompter,
    expected_est_name,
    joined,
    judged_csr,
    key_name,
    managed_est_name,
    own_device_ca,
    present_est,
    require_own_root,
    signed,
    upload_est,
)
from fioctl_rotate.pki import certificate_rules, certificates, policy
from fioctl_rotate.pki.directory import GATEWAY_TLS, LOCAL_CA, ONLINE_CA, PkiDirectory
from fioctl_rotate.pki.parsing import is_ca, load_bundle, load_certificate, load_csr
from fioctl_rotate.pki.policy import Purpose, require
from fioctl_rotate.pki.stores import KeyStore


async def add_device_ca(
    api: FactoryApi,
    directory: PkiDirectory,
    *,
    online_ca: bool,
    local_ca: bool,
    local_ca_filename: str = LOCAL_CA,
    local_ca_key: KeyStore | None = None,
    person: Prompter = NOBODY,
    now: Clock = utc_now,
) -> list[x509.Certificate]:
    """Add device CAs to those the Factory trusts; returns the new ones.

    The local CA's key is made in `local_ca_key`, or where that is None in a file beside the certificate. A file
    that is in the Factory's bundle already is refused; one that a cut-off run left is uploaded. Source: fioctl
    `keys ca add-device-ca`.
    """
    if not (online_ca or local_ca):
        raise UsageError("at least one of --online-ca and --local-ca is needed")
    if Path(local_ca_filename).name != local_ca_filename or not local_ca_filename.endswith(".pem"):
        raise UsageError(f"--local-ca-filename is a file name that ends in .pem, not {local_ca_filename!r}")
    directory.check_there()
    with directory.locked():
        root = directory.root(api.factory, now=now())
        certs = await api.certs()
        require_own_root(api, certs, root.certificate)
        trusted = load_bundle(certs.ca_crt, "the Factory's device CAs")
        added = []
        if local_ca:
            if directory.certificate(local_ca_filename) in trusted:
                raise Error(
                    f"{directory.path / local_ca_filename} is a device CA of {api.factory} already",
                    hint="another one needs another name: --local-ca-filename NAME.pem",
                )
            owner = (await api.user("self")).polis_id
            key = local_ca_key or directory.key_file(key_name(local_ca_filename))
            added.append(own_device_ca(directory, local_ca_filename, root, owner, key, now=now()))
            person.note(f"local CA: {directory.path / local_ca_filename}, its key: {key.name}")
        if online_ca:
            csrs = await api.create_csrs(wire.CsrRequest(ca_csr=True))
            csr = judged_csr(csrs.ca_csr, "the online-ca CSR", Purpose.DEVICE_CA, api)
            if directory.certificate(ONLINE_CA) is not None:
                person.note(f"the present {ONLINE_CA} is kept as {directory.set_aside(ONLINE_CA).name}")
            certificate = signed(csr, root, Purpose.DEVICE_CA, now())
            directory.write(ONLINE_CA, certificate)
            added.append(certificate)
        bundle = joined(*([certs.ca_crt] if certs.ca_crt else []), *map(certificates.pem, added))
        await api.patch_certs(wire.CertsPatch(ca_crt=bundle))
        landed = load_bundle((await api.certs()).ca_crt, "the Factory's device CAs")
        if not all(ca in landed for ca in [*trusted, *added]):
            raise Error(
                f"the device CAs that {api.server} gives back are not those that were uploaded",
                hint="`fioctl-rotate keys ca show --just-device-cas --pretty` shows what it has",
            )
        return added


def sign_csr(directory: PkiDirectory, csr_file: Path, *, now: Clock = utc_now) -> x509.Certificate:
    """The root's certificate for a CSR in a file: a device CA where it asks for CA:TRUE, else a TLS server's.

    Raises Error or PolicyRefused. Source: fioctl `keys ca sign`.
    """
    root = directory.root(now=now())
    csr = load_csr(read(csr_file), str(csr_file))
    purpose = Purpose.DEVICE_CA if is_ca(csr) else Purpose.TLS
    require(str(csr_file), policy.csr_violations(csr, purpose, root.factory))
    return signed(csr, root, purpose, now())


def make_est_keypair(
    directory: PkiDirectory, dns_name: str, certificate_name: str, *, now: Clock = utc_now
) -> tuple[Path, Path]:
    """A TLS key and certificate, signed by the root, for an EST server that the operator runs as `dns_name`.

    Returns the paths of key and certificate; made as far as they are not there. Raises UsageError for a name that
    devices would not accept, Error where the files are for another name.
    """
    fault = host_name_fault(dns_name)
    if fault:
        raise UsageError(f"{dns_name!r} is no name for an EST server: {fault}")
    if Path(certificate_name).name != certificate_name or not certificate_name.endswith(".pem"):
        raise UsageError(f"--filename is a file name that ends in .pem, not {certificate_name!r}")
    directory.check_there()
    with directory.locked():
        root = directory.root(now=now())
        store = directory.key_file(key_name(certificate_name))
        paths = store.path, directory.path / certificate_name
        if directory.certificate(certificate_name) is not None:
            raise Error(
                f"{paths[1]} exists already, and is never overwritten",
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


# --- EST authorization in three: fetch the CSR, sign it with no network, upload ----------------------------------


async def fetch_est_csr(
    api: FactoryApi, directory: PkiDirectory, out: Path, *, dns_name: str | None = None, now: Clock = utc_now
) -> x509.CertificateSigningRequest:
    """Have the backend make its EST TLS key, and write its CSR to `out`. Needs `factory_ca.pem`, not its key."""
    root = directory.root_certificate(api.factory, now=now())
    certs = await api.certs()
    require_own_root(api, certs, root)
    expected = dns_name or expected_est_name(certs)
    csrs = await api.create_csrs(wire.CsrRequest(est_tls_csr=True))
    csr = judged_csr(csrs.est_tls_csr, "the EST TLS CSR", Purpose.EST_TLS, api, expected)
    create_new(out, (csrs.est_tls_csr or "").encode(), 0o644)
    return csr


def sign_est_csr(
    directory: PkiDirectory, csr_file: Path, out: Path, *, dns_name: str | None = None, now: Clock = utc_now
) -> x509.Certificate:
    """Judge the EST TLS CSR in a file, sign it, and write the certificate to `out`. No network is used."""
    root = directory.root(now=now())
    csr = load_csr(read(csr_file), str(csr_file))
    gateway = directory.certificate(GATEWAY_TLS)
    expected = dns_name or (managed_est_name(certificates.pem(gateway)) if gateway is not None else None)
    require(str(csr_file), policy.csr_violations(csr, Purpose.EST_TLS, root.factory, expected_name=expected))
    certificate = signed(csr, root, Purpose.EST_TLS, now())
    create_new(out, certificates.pem(certificate).encode(), 0o644)
    return certificate


async def upload_est_certificate(
    api: FactoryApi,
    directory: PkiDirectory,
    certificate_file: Path,
    *,
    person: Prompter = NOBODY,
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
        person.note("it is there already")
        return certificate
    if present is not None:
        person.confirm(f"{api.factory} has an EST TLS certificate, and a live server may use it. Replace it?")
    await upload_est(api, certificate)
    return certificate
