"""Check an EST server as the devices of a Factory use it."""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from fioctl_rotate import wire
from fioctl_rotate.checks import Check, Status
from fioctl_rotate.errors import Error
from fioctl_rotate.est.probe import probe
from fioctl_rotate.est.trial import DevicePair, try_reenrollment
from fioctl_rotate.files import read
from fioctl_rotate.ops.connect import open_api
from fioctl_rotate.ops.est_host import est_host
from fioctl_rotate.pki.directory import ROOT_CERTIFICATE
from fioctl_rotate.pki.parsing import load_bundle, load_certificate
from fioctl_rotate.settings import Settings


@dataclass(frozen=True)
class EstCheck:
    """The checks of an EST server, and the certificate that it issued if a re-enrollment was tried."""

    url: str
    checks: Sequence[Check]
    issued: x509.Certificate | None = None

    @property
    def failed(self) -> bool:
        """Whether devices would not rotate against it."""
        return any(check.status is Status.FAIL for check in self.checks)


async def check_est(
    settings: Settings | None,
    url: str | None,
    pki: Path | None,
    *,
    url_of: Callable[[str], str],
    identity: tuple[Path, Path] | None = None,
    now: datetime.datetime,
) -> EstCheck:
    """Probe the EST server at `url`, with the root in the PKI directory `pki`.

    If one of them is None, it comes from the Factory that `settings` name: `url_of` makes a URL from the name of
    its EST server. With the certificate and the key of `identity` a re-enrollment is tried as well. Raises Error
    where the Factory has no root or EST server, or a file is not usable.
    """
    device = _identity(*identity) if identity is not None else None
    certs = wire.Certs()
    if settings is not None:
        async with open_api(settings) as api:
            certs = await api.certs()
            url = url or url_of(est_host(certs, api.factory))
    if url is None:
        raise Error("no EST server to check")
    roots = _roots(certs, pki)
    checks = await probe(url, roots, now=now)
    if device is None or checks[0].status is Status.FAIL:
        return EstCheck(url, checks)
    trial = await try_reenrollment(url, roots, device, load_bundle(certs.ca_crt, "the Factory's device CAs"))
    return EstCheck(url, [*checks, *trial.checks], trial.issued)


def _identity(certificate: Path, key: Path) -> DevicePair:
    return DevicePair(load_certificate(read(certificate), str(certificate)), certificate, key)


def _roots(certs: wire.Certs, pki: Path | None) -> list[x509.Certificate]:
    if pki is None:
        roots, where = load_bundle(certs.root_crt, "the Factory's root"), "the Factory has"
    else:
        path = pki / ROOT_CERTIFICATE
        roots, where = load_bundle(read(path), str(path)), f"{path} has"
    if not roots:
        raise Error(f"{where} no root certificate", hint="`fioctl-rotate keys ca create DIR` makes one")
    return roots
