"""The Factory's PKI as its backend sees it: keys it makes, CSRs it hands out, certificates it takes."""

import datetime
import hashlib
import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import UNSET

from fioctl_rotate import files, wire
from fioctl_rotate.errors import Error
from fioctl_rotate.mock.problem import Problem
from fioctl_rotate.mock.store import accounts, backend_keys
from fioctl_rotate.mock.store.accounts import FactoryRecord
from fioctl_rotate.mock.store.backend_keys import BackendKey
from fioctl_rotate.mock.store.database import change_meta
from fioctl_rotate.pki import certificates, keys
from fioctl_rotate.pki.parsing import dns_names, extension, is_ca, load_bundle, load_certificate, load_crl

CA, EST_TLS, TLS = "ca", "est-tls", "tls"
"""What the backend makes keys for: the online CA, the EST server, the device gateway."""


def create_csrs(
    db: sqlite3.Connection, directory: Path, factory: FactoryRecord, request: wire.CsrRequest
) -> wire.Csrs:
    """The CSRs asked for, the same ones until their certificates are there; their keys are 0400 in `directory`.

    Raises Problem (409): a first-time initialization of a Factory that has its root, or anything else before it.
    """
    if request.first_time_init and factory.root_crt:
        raise Problem(409, "the Factory's PKI is set up already, which can be done once")
    if not request.first_time_init and not factory.root_crt:
        raise Problem(409, "the Factory's PKI is not set up: first-time-init comes first")

    def csr(kind: str, *, wanted: bool) -> str | None:
        return _csr(db, directory, factory, kind) if wanted else None

    return wire.Csrs(
        ca_csr=csr(CA, wanted=request.ca_csr),
        est_tls_csr=csr(EST_TLS, wanted=request.est_tls_csr),
        tls_csr=csr(TLS, wanted=request.tls_csr),
    )


def upload(
    db: sqlite3.Connection,
    factory: FactoryRecord,
    patch: wire.CertsPatch,
    *,
    author: str,
    now: datetime.datetime,
) -> None:
    """Take new certificates, all of them or, where one is not valid, none.

    Raises Problem: what is wrong, by field (400); another root than the one on file (409).
    """
    check = _Upload(db, factory, now)
    root = check.root(patch.root_crt)
    ca_crt, disabled = factory.ca_crt, disabled_serials(factory)
    if patch.ca_crt is not UNSET:
        ca_crt = check.device_cas(patch.ca_crt, root)
    if patch.ca_revoke_crl is not UNSET:
        ca_crt, disabled = check.revocations(patch.ca_revoke_crl, root, ca_crt, disabled)
    tls_crt, est_tls_crt = factory.tls_crt, factory.est_tls_crt
    if patch.tls_crt is not UNSET:
        tls_crt = check.server(patch.tls_crt, root, TLS, factory.gateway_name)
    if patch.est_tls_crt is not UNSET:
        est_tls_crt = check.server(patch.est_tls_crt, root, EST_TLS, factory.est_name)
    kept = accounts.Certificates(certificates.pem(root), ca_crt, tls_crt, est_tls_crt, disabled)
    accounts.keep_certificates(db, factory.name, kept, author=author, now=now)


def on_file(factory: FactoryRecord) -> wire.Certs:
    """The certificates as `GET certs/` shows them."""
    return wire.Certs(
        root_crt=factory.root_crt,
        ca_crt=factory.ca_crt,
        est_tls_crt=factory.est_tls_crt,
        tls_crt=factory.tls_crt,
        disabled_ca_serials=sorted(disabled_serials(factory)),
        change_meta=change_meta(vars(factory)),
    )


@dataclass(frozen=True)
class KeyPair:
    """A certificate (PEM) with the file of its key."""

    certificate: str
    key: Path


def key_pair(db: sqlite3.Connection, directory: Path, factory: FactoryRecord, kind: str) -> KeyPair | None:
    """The certificate on file of that kind whose key the backend has, the newest key's where there are several.

    None where there is none: not made yet, or revoked.
    """
    on_file = {CA: factory.ca_crt, EST_TLS: factory.est_tls_crt, TLS: factory.tls_crt}[kind]
    keyed = {public_key_of(certificate): certificate for certificate in bundled(on_file)}
    for key in backend_keys.newest_first(db, factory.name, kind):
        if certificate := keyed.get(key.public_key):
            path = keys_directory(directory, factory.name) / key.file
            return KeyPair(certificates.pem(certificate), path)
    return None


def bundled(pem: str | None) -> list[x509.Certificate]:
    """The certificates in `pem`, which may be empty or None."""
    return load_bundle(pem, "the certificates on file")


def keys_directory(directory: Path, factory: str) -> Path:
    """Where the backend's keys for the factory are."""
    return directory / "keys" / factory


def public_key_of(certificate: x509.Certificate) -> str:
    """The certificate's public key, PEM, which is what a device is known by; raises Problem (400)."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Problem(400, "the certificate's key is not an EC key")
    return keys.public_key_pem(key)


def issuer_of(bundle: str | None, certificate: x509.Certificate) -> x509.Certificate | None:
    """The device CA in `bundle` (PEM) that signed the certificate."""
    for ca in bundled(bundle):
        if _is_issued_by(certificate, ca):
            return ca
    return None


def is_disabled(factory: FactoryRecord, ca: x509.Certificate) -> bool:
    """Whether the device CA registers no new devices."""
    return str(ca.serial_number) in disabled_serials(factory)


def disabled_serials(factory: FactoryRecord) -> set[str]:
    """The serials (base 10) of device CAs that register no new devices."""
    return set(json.loads(factory.disabled_ca_serials))


def is_production(certificate: x509.Certificate) -> bool:
    """Whether the device was made a production device (`factory-registration-ref`: businessCategory)."""
    categories = certificate.subject.get_attributes_for_oid(NameOID.BUSINESS_CATEGORY)
    return any(category.value == "production" for category in categories)


def _csr(db: sqlite3.Connection, directory: Path, factory: FactoryRecord, kind: str) -> str:
    if waiting := backend_keys.waiting_csr(db, factory.name, kind):
        return waiting
    key = keys.generate_key()
    names = {CA: None, EST_TLS: factory.est_name, TLS: factory.gateway_name}
    common_name = names[kind] or f"{factory.name}-online-ca"
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        certificates.name(common_name, factory.name)
    )
    if dns_name := names[kind]:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(dns_name)]), critical=False)
    csr = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    public_key = keys.public_key_pem(key.public_key())
    file = f"{kind}-{hashlib.sha256(public_key.encode()).hexdigest()[:16]}.key"
    folder = keys_directory(directory, factory.name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.create_new(folder / file, keys.private_key_pem(key))
    backend_keys.add(db, factory.name, kind, BackendKey(public_key, file), csr)
    return csr


class _Upload:
    """The checks of an upload; each returns what is to be kept."""

    def __init__(self, db: sqlite3.Connection, factory: FactoryRecord, now: datetime.datetime) -> None:
        self._db = db
        self._factory = factory
        self._now = now

    def root(self, given: str | object) -> x509.Certificate:
        """The root on file, or the given one where there is none yet."""
        known = self._factory.root_crt
        if not isinstance(given, str):
            if not known:
                raise _wrong("root-crt", "is missing, and the Factory has none yet")
            return load_certificate(known, "the root on file")
        root = self._single("root-crt", given)
        if known and certificates.pem(root) != known:
            raise Problem(409, "the Factory has another root, and a root is set once")
        self._ca("root-crt", root)
        if root.issuer == root.subject and not _is_issued_by(root, root):
            raise _wrong("root-crt", "has a signature that its own key did not make")
        return root

    def device_cas(self, bundle: str, root: x509.Certificate) -> str:
        """The bundle, which must hold every device CA that is on file already."""
        found = self._parse("ca-crt", bundle)
        for ca in found:
            self._ca("ca-crt", ca)
            self._issued("ca-crt", ca, root)
            self._claim(ca, CA)
        for known in bundled(self._factory.ca_crt):
            if known not in found:
                raise _wrong(
                    "ca-crt", f"lacks the device CA with serial {known.serial_number}; a CRL revokes one"
                )
        return bundle

    def server(self, pem: str, root: x509.Certificate, kind: str, name: str) -> str:
        """The server certificate for `name` whose key the backend has."""
        field = f"{kind}-crt"
        certificate = self._single(field, pem)
        self._issued(field, certificate, root)
        if dns_names(certificate) != [name]:
            raise _wrong(field, f"is not for the DNS name {name} alone")
        if ExtendedKeyUsageOID.SERVER_AUTH not in (extension(certificate, x509.ExtendedKeyUsage) or ()):
            raise _wrong(field, "is not for TLS servers (extended key usage serverAuth)")
        if not self._claim(certificate, kind):
            raise _wrong(field, "is for another key than the CSR's")
        return pem

    def revocations(
        self, pem: str, root: x509.Certificate, bundle: str | None, disabled: set[str]
    ) -> tuple[str | None, set[str]]:
        """Device CAs and disabled serials after a CRL: it takes a CA away, holds it, or frees it again."""
        try:
            crl = load_crl(pem, "the CRL")
        except Error:
            raise _wrong("ca-revoke-crl", "is not a CRL in PEM") from None
        root_key = root.public_key()
        if not isinstance(root_key, ec.EllipticCurvePublicKey) or not crl.is_signature_valid(root_key):
            raise _wrong("ca-revoke-crl", "is not signed by the Factory's root")
        cas = bundled(bundle)
        disabled = set(disabled)
        for entry in crl:
            serial = str(entry.serial_number)
            if serial not in {str(ca.serial_number) for ca in cas}:
                raise _wrong("ca-revoke-crl", f"names the serial {serial}, which no device CA has")
            reason = _reason(entry)
            if reason is x509.ReasonFlags.certificate_hold:
                disabled.add(serial)
            elif reason is x509.ReasonFlags.remove_from_crl:
                disabled.discard(serial)
            else:
                disabled.discard(serial)
                cas = [ca for ca in cas if str(ca.serial_number) != serial]
        return "\n".join(certificates.pem(ca) for ca in cas) or None, disabled

    def _claim(self, certificate: x509.Certificate, kind: str) -> bool:
        """Whether the certificate is for a key that the backend made for this; if so it is noted there."""
        return backend_keys.claim(
            self._db, self._factory.name, kind, public_key_of(certificate), certificates.pem(certificate)
        )

    def _parse(self, field: str, pem: str) -> list[x509.Certificate]:
        try:
            return load_bundle(pem, field)
        except Error:
            raise _wrong(field, "is not a certificate in PEM") from None

    def _single(self, field: str, pem: str) -> x509.Certificate:
        found = self._parse(field, pem)
        if len(found) != 1:
            raise _wrong(field, f"has {len(found)} certificates, not one")
        return found[0]

    def _ca(self, field: str, certificate: x509.Certificate) -> None:
        """A CA of this Factory, valid now, with a key of the kind that a Factory has."""
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise _wrong(field, "has a key that is not EC P-256")
        units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
        if [unit.value for unit in units] != [self._factory.name]:
            raise _wrong(field, f"has a subject without OU={self._factory.name}")
        if not is_ca(certificate):
            raise _wrong(field, "is not a CA certificate")
        self._valid(field, certificate)

    def _issued(self, field: str, certificate: x509.Certificate, root: x509.Certificate) -> None:
        if not _is_issued_by(certificate, root):
            raise _wrong(field, "is not signed by the Factory's root")
        self._valid(field, certificate)

    def _valid(self, field: str, certificate: x509.Certificate) -> None:
        # A minute's grace for clocks that differ.
        grace = datetime.timedelta(minutes=1)
        if not certificate.not_valid_before_utc - grace <= self._now < certificate.not_valid_after_utc:
            raise _wrong(field, "is not valid now")


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _reason(entry: x509.RevokedCertificate) -> x509.ReasonFlags | None:
    try:
        return entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    except x509.ExtensionNotFound:
        return None


def _wrong(field: str, message: str) -> Problem:
    return Problem(400, "the certificates are not valid", {field: message})
