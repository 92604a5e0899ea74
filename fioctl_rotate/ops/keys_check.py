"""Checks of a PKI directory and of what the Factory has: what fits together, what expires, what is missing."""

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path

from cryptography import x509

from fioctl_rotate import files, wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.checks import Check, Status
from fioctl_rotate.errors import Error
from fioctl_rotate.ops.device_cas import same_subject
from fioctl_rotate.ops.factory_certs import device_cas, factory_root, require_same_root
from fioctl_rotate.ops.issuing import key_name
from fioctl_rotate.pki import certificate_rules, describe
from fioctl_rotate.pki.directory import GATEWAY_TLS, LOCAL_CA, ONLINE_CA, ROOT_CERTIFICATE, PkiDirectory
from fioctl_rotate.pki.parsing import is_ca, load_bundle
from fioctl_rotate.pki.policy import organizational_units


async def check_keys(
    directory: PkiDirectory, api: FactoryApi | None, *, now: datetime.datetime
) -> list[Check]:
    """All checks; `api` None leaves the Factory out. Nothing is changed, and no error ends the checks early."""
    root, checks = _root(directory, api.factory if api else None, now)
    if root is not None:
        checks += _files(directory, root, now)
    checks += _modes(directory)
    if api is not None:
        certs = await api.certs()
        checks += _factory(directory, certs, root, api, now)
    return checks


def _root(
    directory: PkiDirectory, factory: str | None, now: datetime.datetime
) -> tuple[x509.Certificate | None, list[Check]]:
    try:
        certificate = directory.root_certificate(factory, now=now)
    except Error as error:
        return None, [Check(ROOT_CERTIFICATE, Status.FAIL, error.message)]
    checks = [_judged(ROOT_CERTIFICATE, certificate, [], now)]
    try:
        directory.root(factory, now=now)
        pair = Check("root key", Status.PASS, f"{directory.root_key.name} is the certificate's key")
    except Error as error:
        pair = Check("root key", Status.FAIL, error.message)
    return certificate, [*checks, pair]


def _files(directory: PkiDirectory, root: x509.Certificate, now: datetime.datetime) -> Iterator[Check]:
    """Every certificate beside the root's: chain, form, dates, and its key where that should be here."""
    # A bundle, such as the client CAs of an EST server, is not part of the PKI itself.
    names = {path.name for path in directory.path.glob("*.pem") if not _is_bundle(path)} - {ROOT_CERTIFICATE}
    for name in (GATEWAY_TLS, ONLINE_CA):
        if (directory.path / name).exists():
            names.add(name)
        else:
            yield Check(name, Status.WARN, "missing here")
    (factory,) = organizational_units(root.subject)
    for name in sorted(names):
        try:
            certificate = directory.certificate(name)
            if certificate is None:
                continue
            violations = (
                certificate_rules.device_ca_violations(certificate, factory, root, now=now)
                if is_ca(certificate)
                else certificate_rules.server_certificate_violations(certificate, root, now=now)
            )
            yield _judged(name, certificate, violations, now)
            if name.endswith(".pem"):
                yield from _own_key(directory, name, certificate)
        except Error as error:
            yield Check(name, Status.FAIL, error.message)


def _is_bundle(path: Path) -> bool:
    if path.name == LOCAL_CA:
        return False
    try:
        return len(load_bundle(files.read(path), path.name)) > 1
    except Error:
        return False  # the check of the file itself says what is wrong


def _own_key(directory: PkiDirectory, name: str, certificate: x509.Certificate) -> Iterator[Check]:
    key = directory.key_file(key_name(name)).load()
    if key is None:
        yield Check(key_name(name), Status.WARN, "not here: it should be kept somewhere else")
    elif key.public_key() == certificate.public_key():
        yield Check(key_name(name), Status.PASS, f"is the key of {name}")
    else:
        yield Check(key_name(name), Status.FAIL, f"is not the key of {name}")


def _modes(directory: PkiDirectory) -> list[Check]:
    loose = directory.loose_modes()
    if not loose:
        return [Check("modes", Status.PASS, "nobody else can read the directory or its keys")]
    return [Check("modes", Status.WARN, line) for line in loose]


def _factory(
    directory: PkiDirectory,
    certs: wire.Certs,
    root: x509.Certificate | None,
    api: FactoryApi,
    now: datetime.datetime,
) -> Iterator[Check]:
    try:
        theirs = factory_root(api, certs)
        if root is None:
            return  # nothing to compare with: the check of the directory's root says why
        require_same_root(api, theirs, root)
    except Error as error:
        hint = f"; {error.hint}" if error.hint else ""
        yield Check("Factory root", Status.FAIL, f"{error.message}{hint}")
        return
    yield Check("Factory root", Status.PASS, f"{api.factory} on {api.server} has this root")
    tls = (certs.tls_crt, "the Factory's gateway TLS certificate", "devices cannot connect")
    yield from _servers("gateway TLS", *tls, root, now)
    est = (
        certs.est_tls_crt,
        "the Factory's EST TLS certificate",
        "`fioctl-rotate est authorize DIR` makes it",
    )
    yield from _servers("EST TLS", *est, root, now)
    try:
        cas = device_cas(certs)
    except Error as error:
        yield Check("device CAs", Status.FAIL, error.message)
        return
    yield from _device_cas(cas, certs.disabled_ca_serials or [], api.factory, root, now)
    yield from _untrusted_cas(directory, cas, root)


def _servers(
    what: str, pem: str | None, name: str, missing: str, root: x509.Certificate, now: datetime.datetime
) -> Iterator[Check]:
    try:
        found = load_bundle(pem, name)
    except Error as error:
        yield Check(what, Status.FAIL, error.message)
        return
    if not found:
        yield Check(what, Status.WARN, f"the Factory has none; {missing}")
    for certificate in found:
        violations = certificate_rules.server_certificate_violations(certificate, root, now=now)
        yield _judged(what, certificate, violations, now)


def _device_cas(
    cas: Sequence[x509.Certificate],
    disabled: Sequence[str],
    factory: str,
    root: x509.Certificate,
    now: datetime.datetime,
) -> Iterator[Check]:
    if not cas:
        hint = "`fioctl-rotate keys ca add-device-ca DIR --local-ca` adds one"
        yield Check("device CAs", Status.WARN, f"the Factory trusts none; {hint}")
    for number, certificate in enumerate(cas, 1):
        name = f"device CA {number}"
        violations = certificate_rules.device_ca_violations(certificate, factory, root, now=now)
        yield _judged(name, certificate, violations, now)
        if str(certificate.serial_number) in disabled:
            yield Check(name, Status.WARN, "is disabled: it registers no new devices")
    for warning in same_subject(cas):
        yield Check("device CA subjects", Status.WARN, warning)


def _untrusted_cas(
    directory: PkiDirectory, cas: Sequence[x509.Certificate], root: x509.Certificate
) -> Iterator[Check]:
    """CAs in the directory that the Factory does not trust."""
    for path in sorted(directory.path.glob("*.pem")):
        try:
            local = directory.certificate(path.name)
        except Error:
            continue  # the check of the file itself says what is wrong
        if local is not None and is_ca(local) and local != root and local not in cas:
            yield Check(path.name, Status.WARN, "is not one of the device CAs that the Factory trusts")


def _judged(
    subject: str, certificate: x509.Certificate, violations: Sequence[str], now: datetime.datetime
) -> Check:
    if violations:
        return Check(subject, Status.FAIL, "; ".join(violations))
    expiry = describe.expiry(certificate, now=now)
    if expiry:
        return Check(subject, Status.WARN, expiry)
    until = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
    return Check(subject, Status.PASS, f"{certificate.subject.rfc4514_string()}, until {until}")
