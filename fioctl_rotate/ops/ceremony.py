"""The ceremonies that need the root's key and the Factory: its PKI is created, an EST server is authorized.

Each is safe to run again after it was cut off anywhere: what is on disk and fits is taken, the backend gives its
CSRs again until it has the certificates, and the root that was made first is the root that ends up there.
"""

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from msgspec import UNSET

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.clock import Clock, utc_now
from fioctl_rotate.errors import Error, Refused, printable
from fioctl_rotate.files import read
from fioctl_rotate.pki import certificate_rules, certificates, policy
from fioctl_rotate.pki.describe import as_text
from fioctl_rotate.pki.directory import GATEWAY_TLS, LOCAL_CA, ONLINE_CA, PkiDirectory, Root
from fioctl_rotate.pki.parsing import dns_names, load_bundle, load_certificate, load_csr
from fioctl_rotate.pki.policy import Purpose, require
from fioctl_rotate.pki.stores import KeyStore

_MANAGED_GATEWAY = ".ota-lite.foundries.io"
_MANAGED_EST = ".est.foundries.io"


def _quiet(_text: str) -> None:
    """Say and ask nothing."""


@dataclass(frozen=True)
class Prompter:
    """Whoever runs a ceremony: is told what happens, and asked; `confirm` raises where the answer is no."""

    note: Callable[[str], None] = _quiet
    confirm: Callable[[str], None] = _quiet


NOBODY = Prompter()


@dataclass(frozen=True)
class CreatedPki:
    """A Factory's PKI as it was read back. `created` is False where all of it was there already."""

    created: bool
    root: x509.Certificate
    gateway_tls: x509.Certificate
    device_cas: list[x509.Certificate]


async def create_pki(
    api: FactoryApi,
    directory: PkiDirectory,
    *,
    online_ca: bool = True,
    local_ca: bool = True,
    person: Prompter = NOBODY,
    now: Clock = utc_now,
) -> CreatedPki:
    """Give the Factory its root and what the root signs: gateway TLS, and the device CAs that are wanted.

    A root that is in the directory already is adopted. Order: look at directory and Factory; get the CSRs and judge
    them; only then make what is missing on disk, the root's key first; upload all at once; read back. Raises
    Refused where the Factory has another root, or a CSR or a file breaks a rule. Source: fioctl `keys ca create`.
    """
    directory.make()
    with directory.locked():
        adopted = directory.root_as_far_as_made(api.factory, now=now())
        certs = await api.certs()
        if certs.root_crt:
            return _already_there(api, directory, adopted, certs)
        if adopted is None and directory.root_key.load() is not None:
            person.note(f"taking the key that is there: {directory.root_key.name}")
        if adopted is not None:
            person.note(f"adopting the root in {directory.path}")
            if adopted.subject != adopted.issuer:
                person.note(printable(f"it is signed by a higher CA: {adopted.issuer.rfc4514_string()}"))
        person.confirm(
            f"Set the root of {api.factory} on {api.server}? It can be set once; "
            f"its key ({directory.root_key.name}) must never be lost."
        )
        csrs = await api.create_csrs(wire.CsrRequest(first_time_init=True, ca_csr=online_ca, tls_csr=True))
        tls_csr = judged_csr(csrs.tls_csr, "the gateway TLS CSR", Purpose.GATEWAY_TLS, api)
        online_csr = (
            judged_csr(csrs.ca_csr, "the online-ca CSR", Purpose.DEVICE_CA, api) if online_ca else None
        )
        owner = (await api.user("self")).polis_id if local_ca else None

        root = directory.make_root(api.factory, now=now())
        person.note(f"root: {root.certificate.subject.rfc4514_string()}, its key: {directory.root_key.name}")
        tls = _kept_or_signed(directory, GATEWAY_TLS, tls_csr, root, Purpose.GATEWAY_TLS, person, now())
        bundle = []
        if online_csr is not None:
            bundle.append(
                _kept_or_signed(directory, ONLINE_CA, online_csr, root, Purpose.DEVICE_CA, person, now())
            )
        if owner is not None:
            store = directory.key_file(key_name(LOCAL_CA))
            bundle.append(own_device_ca(directory, LOCAL_CA, root, owner, store, now=now()))
        await api.patch_certs(
            wire.CertsPatch(
                root_crt=certificates.pem(root.certificate),
                tls_crt=certificates.pem(tls),
                # The API does not take an empty bundle for none.
                ca_crt=joined(*map(certificates.pem, bundle)) if bundle else UNSET,
            )
        )
        person.note("certificates uploaded")
        landed = await api.certs()
        _require_landed("root certificate", landed.root_crt, [root.certificate], api)
        _require_landed("gateway TLS certificate", landed.tls_crt, [tls], api)
        _require_landed("device CAs", landed.ca_crt, bundle, api)
        return CreatedPki(True, root.certificate, tls, bundle)


@dataclass(frozen=True)
class AuthorizedEst:
    """What became of an authorization. `certificate` is None on a dry run; `replaced` is what was there before."""

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
    person: Prompter = NOBODY,
    now: Clock = utc_now,
) -> AuthorizedEst:
    """Sign the TLS certificate of the Factory's managed EST server, upload it and read it back.

    Before anything is asked of the backend: key and certificate are a pair, the root is this Factory's (else
    Refused), and replacing a certificate that is in use is confirmed. The CSR is the backend's newest, or
    the one in `csr_file`; `dns_name` is the one name it may ask for (default: what `expected_est_name` finds).
    A dry run stops before the CSR is asked for. Source: fioctl `keys est authorize`.
    """
    directory.check_there()
    csr_pem = None if csr_file is None else read(csr_file)
    with directory.locked():
        root = directory.root(api.factory, now=now())
        certs = await api.certs()
        require_own_root(api, certs, root.certificate)
        present = present_est(certs)
        expected = dns_name or expected_est_name(certs)
        if dry_run:
            return AuthorizedEst(None, present, expected)
        if present is not None:
            person.note(as_text(present))
            person.confirm(
                f"{api.factory} has this EST TLS certificate, and a live EST server may use it. Replace it?"
            )
        if csr_pem is None:
            csr_pem = ((await api.create_csrs(wire.CsrRequest(est_tls_csr=True))).est_tls_csr or "").encode()
        csr = judged_csr(csr_pem, "the EST TLS CSR", Purpose.EST_TLS, api, expected)
        certificate = signed(csr, root, Purpose.EST_TLS, now())
        await upload_est(api, certificate)
        return AuthorizedEst(certificate, present, expected)


async def upload_est(api: FactoryApi, certificate: x509.Certificate) -> None:
    """Upload an EST TLS certificate that was judged, and read it back. Raises Error where another one landed."""
    await api.patch_certs(wire.CertsPatch(est_tls_crt=certificates.pem(certificate)))
    landed = (await api.certs()).est_tls_crt
    _require_landed("EST TLS certificate", landed, [certificate], api)


# --- What the ceremonies share ------------------------------------------------------------------------------------


def require_own_root(api: FactoryApi, certs: wire.Certs, root: x509.Certificate) -> None:
    """Raise Refused where the Factory has no root, or another one than `root`."""
    if not certs.root_crt:
        raise Refused(
            f"{api.factory} has no PKI of its own yet", hint="`fioctl-rotate keys ca create DIR` sets it up"
        )
    theirs = load_certificate(certs.root_crt, f"the root of {api.factory} on {api.server}")
    if theirs != root:
        raise Refused(
            f"the root in this directory is not the root of {api.factory} on {api.server}",
            hint=f"the Factory's has serial {theirs.serial_number:x}, this one {root.serial_number:x}",
        )


def expected_est_name(certs: wire.Certs) -> str | None:
    """The one DNS name that the EST server must have, where that can be known.

    A certificate that is there already tells it: devices were sent there. Else the managed service calls its
    gateway `<repoid>.ota-lite.foundries.io` and its EST server `<repoid>.est.foundries.io`.
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


def present_est(certs: wire.Certs) -> x509.Certificate | None:
    """The EST TLS certificate that the Factory has. Raises Error where it is not one certificate."""
    if not (certs.est_tls_crt or "").strip():
        return None
    return load_certificate(certs.est_tls_crt, "the Factory's EST TLS certificate")


def judged_csr(
    pem: bytes | str | None, what: str, purpose: Purpose, api: FactoryApi, expected: str | None = None
) -> x509.CertificateSigningRequest:
    """The backend's CSR, found fit for `purpose`. Raises Error or PolicyRefused."""
    if not pem:
        raise Error(f"{api.server} gave no CSR where {what} was asked for")
    csr = load_csr(pem, what)
    require(
        what,
        policy.csr_violations(csr, purpose, api.factory, expected_name=expected),
        hint=f"nothing was signed; {api.server} asked for it, so whoever runs that has to say why",
    )
    return csr


def signed(
    csr: x509.CertificateSigningRequest, root: Root, purpose: Purpose, now: datetime.datetime
) -> x509.Certificate:
    """The certificate for a CSR that policy let pass."""
    key = policy.public_key(csr)
    if purpose is Purpose.DEVICE_CA:
        return certificates.sign_device_ca(csr.subject, key, root.certificate, root.key, now=now)
    return certificates.sign_tls_server(
        csr.subject, policy.names(csr), key, root.certificate, root.key, now=now
    )


def own_device_ca(
    directory: PkiDirectory,
    name: str,
    root: Root,
    owner: str,
    store: KeyStore,
    *,
    now: datetime.datetime,
) -> x509.Certificate:
    """The operator's device CA in the file `name`, its key in `store`, made as far as they are not there.

    `owner` is the polis id of the user who will own the devices it registers.
    """
    present = directory.certificate(name)
    key = store.load()
    if present is not None:
        where = str(directory.path / name)
        require(
            where, certificate_rules.device_ca_violations(present, root.factory, root.certificate, now=now)
        )
        if key is not None and present.public_key() != key.public_key():
            raise Refused(f"{where} is not the certificate of {store.name}")
        return present
    key = key or store.create()
    certificate = certificates.sign_device_ca(
        certificates.name(f"fio-{owner}", root.factory),
        key.public_key(),
        root.certificate,
        root.key,
        now=now,
    )
    directory.write(name, certificate)
    return certificate


def key_name(certificate_name: str) -> str:
    """The file of the key that goes with a certificate's file, as fioctl names it."""
    return certificate_name.removesuffix(".pem") + ".key"


def joined(*pems: str) -> str:
    """PEM bundles one after the other, a blank line between them, as fioctl joins them."""
    return "\n".join(pem if pem.endswith("\n") else pem + "\n" for pem in pems)


def _kept_or_signed(
    directory: PkiDirectory,
    name: str,
    csr: x509.CertificateSigningRequest,
    root: Root,
    purpose: Purpose,
    person: Prompter,
    now: datetime.datetime,
) -> x509.Certificate:
    """The certificate for the CSR, in the file `name`: what a ceremony that was cut off left there, or a new one.

    A file for another CSR stays, as `NAME.bak`.
    """
    present = directory.certificate(name)
    if present is not None:
        same = present.public_key() == csr.public_key() and dns_names(present) == dns_names(csr)
        if same and certificate_rules.is_signed_by(present, root.certificate):
            return present
        person.note(f"{directory.path / name} is for another CSR; kept as {directory.set_aside(name).name}")
    certificate = signed(csr, root, purpose, now)
    directory.write(name, certificate)
    return certificate


def _already_there(
    api: FactoryApi, directory: PkiDirectory, adopted: x509.Certificate | None, certs: wire.Certs
) -> CreatedPki:
    if adopted is None:
        raise Refused(
            f"{api.factory} on {api.server} has a root already, and {directory.path} has none",
            hint="a root is set once; use the PKI directory that it was made in",
        )
    require_own_root(api, certs, adopted)
    tls = load_certificate(certs.tls_crt, "the Factory's gateway TLS certificate")
    return CreatedPki(False, adopted, tls, load_bundle(certs.ca_crt, "the Factory's device CAs"))


def _require_landed(what: str, pem: str | None, sent: list[x509.Certificate], api: FactoryApi) -> None:
    if set(load_bundle(pem, f"the Factory's {what}")) != set(sent):
        raise Error(
            f"the {what} that {api.server} gives back is not what was uploaded",
            hint="`fioctl-rotate keys ca show --pretty` shows what it has",
        )
