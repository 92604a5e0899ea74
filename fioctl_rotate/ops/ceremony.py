"""The ceremony that sets up a Factory's PKI.

It is safe to run again after an interruption at any point. Files on disk that fit are used. The backend gives its
CSRs again until it has the certificates. The Factory always gets the root that was made first.
"""

import datetime
from dataclasses import dataclass

from cryptography import x509
from msgspec import UNSET

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.clock import Clock, utc_now
from fioctl_rotate.errors import Refused, printable
from fioctl_rotate.ops.factory_certs import (
    checked_csr,
    device_cas,
    joined,
    require_landed,
    require_own_root,
)
from fioctl_rotate.ops.issuing import kept_or_signed, key_name, own_device_ca
from fioctl_rotate.ops.prompter import NOBODY, Prompter
from fioctl_rotate.pki import certificates
from fioctl_rotate.pki.directory import GATEWAY_TLS, LOCAL_CA, ONLINE_CA, PkiDirectory
from fioctl_rotate.pki.parsing import load_certificate
from fioctl_rotate.pki.policy import Purpose


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
    prompter: Prompter = NOBODY,
    now: Clock = utc_now,
) -> CreatedPki:
    """Give the Factory its root and what the root signs: gateway TLS, and the device CAs that are wanted.

    A root that is in the directory already is adopted. Order: read directory and Factory; get the CSRs and check
    them; only then make what is missing on disk, the root's key first; upload all at once; read back. Raises
    Refused where the Factory has another root, or a CSR or a file breaks a rule. Source: fioctl `keys ca create`.
    """
    directory.make()
    with directory.locked():
        adopted = directory.existing_root(api.factory, now=now())
        certs = await api.certs()
        if certs.root_crt:
            return _already_there(api, directory, adopted, certs)
        _announce(directory, adopted, prompter)
        prompter.confirm(
            f"Set the root of {api.factory} on {api.server}? It can be set once; "
            f"its key ({directory.root_key.name}) must never be lost."
        )
        csrs = await _checked_csrs(api, online_ca=online_ca)
        owner = (await api.user("self")).polis_id if local_ca else None
        made = _made(api, directory, csrs, owner, prompter, now())
        await _upload(api, made)
        prompter.note("certificates uploaded")
        return made


@dataclass(frozen=True)
class _Csrs:
    """The backend's CSRs, already checked."""

    tls: x509.CertificateSigningRequest
    online_ca: x509.CertificateSigningRequest | None


async def _checked_csrs(api: FactoryApi, *, online_ca: bool) -> _Csrs:
    csrs = await api.create_csrs(wire.CsrRequest(first_time_init=True, ca_csr=online_ca, tls_csr=True))
    tls = checked_csr(csrs.tls_csr, "the gateway TLS CSR", Purpose.GATEWAY_TLS, api)
    if not online_ca:
        return _Csrs(tls, None)
    return _Csrs(tls, checked_csr(csrs.ca_csr, "the online-ca CSR", Purpose.DEVICE_CA, api))


def _made(
    api: FactoryApi,
    directory: PkiDirectory,
    csrs: _Csrs,
    owner: str | None,
    prompter: Prompter,
    now: datetime.datetime,
) -> CreatedPki:
    """Make what is missing on disk; `owner` is the polis id of the local CA's user, None for no local CA."""
    root = directory.make_root(api.factory, now=now)
    prompter.note(f"root: {root.certificate.subject.rfc4514_string()}, its key: {directory.root_key.name}")
    tls = kept_or_signed(directory, GATEWAY_TLS, csrs.tls, root, Purpose.GATEWAY_TLS, prompter, now)
    bundle = []
    if csrs.online_ca is not None:
        bundle.append(
            kept_or_signed(directory, ONLINE_CA, csrs.online_ca, root, Purpose.DEVICE_CA, prompter, now)
        )
    if owner is not None:
        store = directory.key_file(key_name(LOCAL_CA))
        bundle.append(own_device_ca(directory, LOCAL_CA, root, owner, store, now=now))
    return CreatedPki(True, root.certificate, tls, bundle)


async def _upload(api: FactoryApi, made: CreatedPki) -> None:
    await api.patch_certs(
        wire.CertsPatch(
            root_crt=certificates.pem(made.root),
            tls_crt=certificates.pem(made.gateway_tls),
            # To the API an empty bundle does not mean "no device CAs".
            ca_crt=joined(*map(certificates.pem, made.device_cas)) if made.device_cas else UNSET,
        )
    )
    landed = await api.certs()
    require_landed("root certificate", landed.root_crt, [made.root], api)
    require_landed("gateway TLS certificate", landed.tls_crt, [made.gateway_tls], api)
    require_landed("device CAs", landed.ca_crt, made.device_cas, api)


def _announce(directory: PkiDirectory, adopted: x509.Certificate | None, prompter: Prompter) -> None:
    """Say which existing key or root is used."""
    if adopted is None:
        if directory.root_key.load() is not None:
            prompter.note(f"using the key that is there: {directory.root_key.name}")
        return
    prompter.note(f"adopting the root in {directory.path}")
    if adopted.subject != adopted.issuer:
        prompter.note(printable(f"it is signed by a higher CA: {adopted.issuer.rfc4514_string()}"))


def _already_there(
    api: FactoryApi, directory: PkiDirectory, adopted: x509.Certificate | None, certs: wire.Certs
) -> CreatedPki:
    if adopted is None:
        raise Refused(
            f"{api.factory} on {api.server} already has a root, but {directory.path} has none",
            hint="a root is set once; use the PKI directory that it was made in",
        )
    require_own_root(api, certs, adopted)
    tls = load_certificate(certs.tls_crt, "the Factory's gateway TLS certificate")
    return CreatedPki(False, adopted, tls, device_cas(certs))
