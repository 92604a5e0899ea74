"""Add device CAs to those that the Factory's gateway trusts."""

from collections.abc import Iterator, Sequence

from cryptography import x509

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.clock import Clock, utc_now
from fioctl_rotate.errors import Error, UsageError
from fioctl_rotate.ops.factory_certs import checked_csr, device_cas, joined, own_root, require_landed
from fioctl_rotate.ops.issuing import key_name, own_device_ca, require_pem_file_name, signed
from fioctl_rotate.ops.prompter import NOBODY, Prompter
from fioctl_rotate.pki import certificates
from fioctl_rotate.pki.directory import LOCAL_CA, ONLINE_CA, PkiDirectory, Root
from fioctl_rotate.pki.policy import Purpose
from fioctl_rotate.pki.stores import KeyStore


async def add_device_ca(
    api: FactoryApi,
    directory: PkiDirectory,
    *,
    online_ca: bool,
    local_ca: bool,
    local_ca_filename: str = LOCAL_CA,
    local_ca_key: KeyStore | None = None,
    prompter: Prompter = NOBODY,
    now: Clock = utc_now,
) -> list[x509.Certificate]:
    """Add device CAs to those that the Factory trusts; returns the new ones.

    The local CA's key is made in `local_ca_key`; if that is None, in a file beside the certificate. A certificate
    file that the Factory already trusts is refused; one that an interrupted run left is uploaded. Source: fioctl
    `keys ca add-device-ca`.
    """
    if not (online_ca or local_ca):
        raise UsageError("at least one of --online-ca and --local-ca is needed")
    require_pem_file_name("--local-ca-filename", local_ca_filename)
    directory.check_exists()
    with directory.locked():
        root, certs = await own_root(api, directory, now())
        trusted = device_cas(certs)
        added = []
        if local_ca:
            if directory.certificate(local_ca_filename) in trusted:
                raise Error(
                    f"{directory.path / local_ca_filename} is already a device CA of {api.factory}",
                    hint="another one needs another name: --local-ca-filename NAME.pem",
                )
            key = local_ca_key or directory.key_file(key_name(local_ca_filename))
            added.append(await _local_ca(api, directory, local_ca_filename, root, key, now))
            prompter.note(f"local CA: {directory.path / local_ca_filename}, its key: {key.name}")
        if online_ca:
            added.append(await _online_ca(api, directory, root, prompter, now))
        for warning in same_subject([*trusted, *added]):
            prompter.warn(warning)
        bundle = joined(*([certs.ca_crt] if certs.ca_crt else []), *map(certificates.pem, added))
        await api.patch_certs(wire.CertsPatch(ca_crt=bundle))
        require_landed("device CAs", (await api.certs()).ca_crt, [*trusted, *added], api)
        return added


async def _local_ca(
    api: FactoryApi, directory: PkiDirectory, filename: str, root: Root, key: KeyStore, now: Clock
) -> x509.Certificate:
    owner = (await api.user("self")).polis_id
    return own_device_ca(directory, filename, root, owner, key, now=now())


async def _online_ca(
    api: FactoryApi, directory: PkiDirectory, root: Root, prompter: Prompter, now: Clock
) -> x509.Certificate:
    csrs = await api.create_csrs(wire.CsrRequest(ca_csr=True))
    csr = checked_csr(csrs.ca_csr, "the online-ca CSR", Purpose.DEVICE_CA, api)
    if directory.certificate(ONLINE_CA) is not None:
        prompter.note(f"the present {ONLINE_CA} is kept as {directory.set_aside(ONLINE_CA).name}")
    certificate = signed(csr, root, Purpose.DEVICE_CA, now())
    directory.write(ONLINE_CA, certificate)
    return certificate


def same_subject(cas: Sequence[x509.Certificate]) -> Iterator[str]:
    """A warning for each subject that several CAs have.

    Without an authority key identifier, OpenSSL finds a certificate's issuer by name: it uses the first one and
    never tries the second. Go tries all of them.
    """
    subjects: dict[x509.Name, list[x509.Certificate]] = {}
    for ca in cas:
        subjects.setdefault(ca.subject, []).append(ca)
    for subject, found in subjects.items():
        if len(found) > 1:
            serials = ", ".join(f"{ca.serial_number:x}" for ca in found)
            yield (
                f"{len(found)} device CAs have the subject {subject.rfc4514_string()} (serials {serials}): "
                "`est serve` refuses a device certificate of one of them that has no authority key identifier; "
                "issue such certificates again with that extension, or run it behind a proxy (--behind-proxy)"
            )
