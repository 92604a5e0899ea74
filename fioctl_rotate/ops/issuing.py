"""Certificates that the root signs, kept in a PKI directory. What is there already is not made again."""

import datetime
from pathlib import Path

from cryptography import x509

from fioctl_rotate.errors import Refused, UsageError
from fioctl_rotate.ops.prompter import Prompter
from fioctl_rotate.pki import certificate_rules, certificates, policy
from fioctl_rotate.pki.directory import PkiDirectory, Root
from fioctl_rotate.pki.parsing import dns_names
from fioctl_rotate.pki.policy import Purpose, require
from fioctl_rotate.pki.stores import KeyStore


def key_name(certificate_name: str) -> str:
    """The file of the key that goes with a certificate's file, as fioctl names it."""
    return certificate_name.removesuffix(".pem") + ".key"


def require_pem_file_name(option: str, name: str) -> None:
    """Raise UsageError for a name that is not that of a `.pem` file inside the PKI directory."""
    if Path(name).name != name or not name.endswith(".pem"):
        raise UsageError(f"{option}: expected a file name that ends in .pem, got {name!r}")


def signed(
    csr: x509.CertificateSigningRequest, root: Root, purpose: Purpose, now: datetime.datetime
) -> x509.Certificate:
    """The certificate for a CSR that broke no rule."""
    key = policy.public_key(csr)
    if purpose is Purpose.DEVICE_CA:
        return certificates.sign_device_ca(csr.subject, key, root.certificate, root.key, now=now)
    return certificates.sign_tls_server(
        csr.subject, policy.names(csr), key, root.certificate, root.key, now=now
    )


def kept_or_signed(
    directory: PkiDirectory,
    name: str,
    csr: x509.CertificateSigningRequest,
    root: Root,
    purpose: Purpose,
    prompter: Prompter,
    now: datetime.datetime,
    *,
    replaces: x509.Certificate | None = None,
) -> x509.Certificate:
    """The certificate for the CSR, in the file `name`: the one that an interrupted run left there, or a new one.

    A file for another CSR, or with the certificate that it `replaces`, is kept as `NAME.bak`.
    """
    present = directory.certificate(name)
    if present is not None:
        same = present.public_key() == csr.public_key() and dns_names(present) == dns_names(csr)
        if same and present != replaces and certificate_rules.is_signed_by(present, root.certificate):
            return present
        prompter.note(f"the present {directory.path / name} is kept as {directory.set_aside(name).name}")
    certificate = signed(csr, root, purpose, now)
    directory.write(name, certificate)
    return certificate


def own_device_ca(
    directory: PkiDirectory,
    name: str,
    root: Root,
    owner: str,
    store: KeyStore,
    *,
    now: datetime.datetime,
) -> x509.Certificate:
    """The operator's device CA in the file `name`, with its key in `store`. Makes those that are missing.

    `owner` is the polis id of the user who will own the devices that this CA registers. Raises Refused where file
    and key are not a pair, or the certificate breaks a rule.
    """
    present = directory.certificate(name)
    key = store.load(present)
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
