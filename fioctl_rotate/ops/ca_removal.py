"""Revoke, disable or replace device CAs, after counting the devices that this would cut off."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.clock import Clock, utc_now
from fioctl_rotate.errors import Error, Refused, UsageError
from fioctl_rotate.est.service import key_digest
from fioctl_rotate.files import read, read_if_there
from fioctl_rotate.ops.at_once import Pace, for_each
from fioctl_rotate.ops.est_log import Issued, read_est_log
from fioctl_rotate.ops.factory_certs import (
    device_cas,
    factory_root,
    joined,
    own_root,
    require_landed,
)
from fioctl_rotate.pki import certificate_rules, certificates, revocation
from fioctl_rotate.pki.directory import PkiDirectory
from fioctl_rotate.pki.parsing import load_bundle, load_certificate, load_public_key
from fioctl_rotate.pki.policy import require
from fioctl_rotate.rotation.messages import some

_SERIAL = re.compile(r"[0-9]{1,60}")


@dataclass(frozen=True)
class CutOff:
    """A device that could no longer connect. `issuer` is `removed`, or `unknown` (it may be a CA that stays)."""

    uuid: str
    name: str
    issuer: str


@dataclass(frozen=True)
class Removal:
    """What was done, or on a dry run what would be done. `removed` are the CAs; `crl` is PEM."""

    removed: Sequence[x509.Certificate]
    cut_off: Sequence[CutOff]
    crl: str


@dataclass(frozen=True)
class CaUpdate:
    """How the Factory's device CAs were changed."""

    added: Sequence[x509.Certificate]
    removed: Sequence[x509.Certificate]
    cut_off: Sequence[CutOff]


@dataclass(frozen=True)
class Consent:
    """How many devices the operator agrees to cut off (None: none), and the EST log that shows each issuer."""

    cut_off: int | None = None
    est_log: Path | None = None


def serial_numbers(values: Iterable[str]) -> list[int]:
    """The serials, typed in base 10, as numbers. Raises UsageError."""
    numbers = []
    for value in values:
        if not _SERIAL.fullmatch(value):
            raise UsageError(f"--ca-serial: expected a serial in base 10, got {value[:80]!r}")
        numbers.append(int(value))
    return numbers


async def revoke_device_cas(
    api: FactoryApi,
    directory: PkiDirectory,
    files: Sequence[Path],
    serials: Sequence[int],
    *,
    consent: Consent,
    dry_run: bool = False,
    now: Clock = utc_now,
) -> Removal:
    """Revoke device CAs: their devices cannot connect any more, and new ones cannot be registered.

    `files` are relative to the directory. Refused unless `consent` has the number of devices that would be cut off.
    A dry run makes the CRL and uploads nothing. Source: fioctl `keys ca revoke-device-ca`.
    """
    directory.check_exists()
    root, certs = await own_root(api, directory, now())
    trusted = device_cas(certs)
    removed = _chosen(directory, files, serials, trusted)
    crl = revocation.make_crl(root, (ca.serial_number for ca in removed), revocation.REVOKE, now=now())
    cut_off = await devices_cut_off(api, removed, trusted, consent.est_log)
    if not dry_run:
        _require_consent(cut_off, consent)
        await api.patch_certs(wire.CertsPatch(ca_revoke_crl=crl))
        _require_gone(removed, await api.certs(), api)
    return Removal(removed, cut_off, crl)


async def disable_device_cas(
    api: FactoryApi,
    directory: PkiDirectory,
    files: Sequence[Path],
    serials: Sequence[int],
    *,
    dry_run: bool = False,
    now: Clock = utc_now,
) -> Removal:
    """Disable device CAs: new devices cannot be registered with them; devices that are registered go on.

    Source: fioctl `keys ca disable-device-ca`.
    """
    directory.check_exists()
    root, certs = await own_root(api, directory, now())
    disabled = _chosen(directory, files, serials, device_cas(certs))
    crl = revocation.make_crl(root, (ca.serial_number for ca in disabled), revocation.DISABLE, now=now())
    if not dry_run:
        await api.patch_certs(wire.CertsPatch(ca_revoke_crl=crl))
        landed = (await api.certs()).disabled_ca_serials or []
        if not {str(ca.serial_number) for ca in disabled} <= set(landed):
            raise Error(
                f"{api.server} took the CRL, but does not say that the device CAs are disabled",
                hint="`fioctl-rotate keys ca show --just-device-cas` shows them",
            )
    return Removal(disabled, [], crl)


async def update_device_cas(
    api: FactoryApi, file: Path, *, consent: Consent, now: Clock = utc_now
) -> CaUpdate:
    """Replace the Factory's device CAs by those in a PEM file, which the Factory's root must have signed.

    A CA that is not in the file is removed, so its devices are counted as for a revocation. Source: fioctl
    `keys ca update`.
    """
    new = load_bundle(read(file), str(file))
    if not new:
        raise Error(f"{file} has no certificate")
    certs = await api.certs()
    root = factory_root(api, certs)
    for number, ca in enumerate(new, 1):
        what = f"certificate {number} of {file}"
        require(what, certificate_rules.device_ca_violations(ca, api.factory, root, now=now()))
    trusted = device_cas(certs)
    removed = [ca for ca in trusted if ca not in new]
    cut_off = await devices_cut_off(api, removed, trusted, consent.est_log) if removed else []
    _require_consent(cut_off, consent)
    await api.patch_certs(wire.CertsPatch(ca_crt=joined(*map(certificates.pem, new))))
    landed = await api.certs()
    require_landed("device CAs", landed.ca_crt, new, api)
    _require_gone(removed, landed, api)
    return CaUpdate([ca for ca in new if ca not in trusted], removed, cut_off)


async def devices_cut_off(
    api: FactoryApi,
    removed: Sequence[x509.Certificate],
    trusted: Sequence[x509.Certificate],
    est_log: Path | None,
) -> list[CutOff]:
    """Every device whose present certificate is not known to come from a CA of `trusted` that stays.

    A device with an unknown issuer counts: an old CA can sign certificates even after a newer CA was added. Only
    the EST server's log shows the issuer. Its record is found by the digest of the public key that the Factory has.
    """
    issued: dict[str, list[Issued]] = {}
    for record in read_est_log(est_log) if est_log is not None else []:
        issued.setdefault(record.device, []).append(record)
    gone = {_key_id(ca) for ca in removed}
    kept = {_key_id(ca) for ca in trusted} - gone
    found: list[CutOff] = []

    async def judge(device: wire.Device) -> None:
        issuer = await _issuer(api, device, issued.get(device.uuid, []))
        if issuer not in kept:
            found.append(
                CutOff(device.uuid, device.name or device.uuid, "removed" if issuer in gone else "unknown")
            )

    await for_each(await api.devices(), judge, Pace(), api.counted)
    return sorted(found, key=lambda device: device.name)


async def _issuer(api: FactoryApi, device: wire.Device, issued: Sequence[Issued]) -> str | None:
    """The key id of the CA that issued the device's present certificate, as far as the log says."""
    if not issued:
        return None
    # A device in a list comes without its key.
    key = (await api.device(device.uuid, by_uuid=True)).public_key
    try:
        present = key_digest(load_public_key(key, f"the public key of {device.name}"))
    except Error:
        return None
    return next((record.issuer_key_id for record in issued if record.key_sha256 == present), None)


def _key_id(ca: x509.Certificate) -> str:
    return (certificates.authority_key_identifier(ca).key_identifier or b"").hex()


def _chosen(
    directory: PkiDirectory,
    files: Sequence[Path],
    serials: Sequence[int],
    trusted: Sequence[x509.Certificate],
) -> list[x509.Certificate]:
    """The device CAs of the Factory that files and serials name, each once. Raises Refused for any other."""
    if not files and not serials:
        raise UsageError("at least one of --ca-file and --ca-serial is needed")
    wanted = [*serials, *(_from_file(directory, file).serial_number for file in files)]
    by_serial = {ca.serial_number: ca for ca in trusted}
    for serial in wanted:
        if serial not in by_serial:
            known = ", ".join(map(str, by_serial)) or "none"
            raise Refused(
                f"there is no active device CA with the serial {serial}", hint=f"active serials: {known}"
            )
    return [by_serial[serial] for serial in dict.fromkeys(wanted)]


def _from_file(directory: PkiDirectory, file: Path) -> x509.Certificate:
    path = directory.path / file
    pem = read_if_there(path)
    if pem is None and not path.suffix:
        path = path.with_suffix(".pem")  # fioctl's help writes `--ca-file local-ca`
    return load_certificate(read(path) if pem is None else pem, str(path))


def _require_consent(cut_off: Sequence[CutOff], consent: Consent) -> None:
    expected = consent.cut_off or 0
    if len(cut_off) == expected:
        return
    names = some(device.name for device in cut_off)
    count = f"{len(cut_off)} device" + ("" if len(cut_off) == 1 else "s")
    raise Refused(
        f"{count} may be cut off, expected {expected}: {names or 'none'}",
        hint=f"--cut-off {len(cut_off)} accepts this; with --est-log FILE, devices of other CAs do not count",
    )


def _require_gone(removed: Sequence[x509.Certificate], certs: wire.Certs, api: FactoryApi) -> None:
    left = [ca for ca in device_cas(certs) if ca in removed]
    if left:
        serials = ", ".join(str(ca.serial_number) for ca in left)
        raise Error(f"{api.factory} on {api.server} still trusts the device CA with the serial {serials}")
