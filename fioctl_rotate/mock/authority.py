"""The backend's part of a Factory's PKI: it makes keys, hands out CSRs and stores certificates."""

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
    """The requested CSRs, each the same until its certificate is uploaded. Their keys go to `directory`, mode 0400.

    Raises Problem (409): a first-time initialization where there is a root, another request where there is none.
    """
    if request.first_time_init and factory.root_crt:
        raise Problem(409, "the Factory's PKI is already set up; that can be done only once")
    if not request.first_time_init and not factory.root_crt:
        raise Problem(409, "the Factory's PKI is not set up: send first-time-init first")

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
    """Store new certificates: all of them, or none where one is not valid.

    Raises Problem: 400 with the field and what is wrong with it; 409 for another root than the one on file.
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
    """The certificate of this kind on file whose key the backend has; of several, the one with the newest key.

    None where there is none: not made yet, or revoked.
    """
    certificates_on_file = {CA: factory.ca_crt, EST_TLS: factory.est_tls_crt, TLS: factory.tls_crt}[kind]
    by_key = {public_key_of(certificate): certificate for certificate in bundled(certificates_on_file)}
    for key in backend_keys.newest_first(db, factory.name, kind):
        if certificate := by_key.get(key.public_key):
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
    """The certificate's public key, PEM, which identifies a device; raises Problem (400): not an EC key."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Problem(400, "the certificate's key is not an EC key")
    return keys.public_key_pem(key)


def issuer_of(bundle: str | None, certificate: x509.Certificate) -> x509.Certificate | None:
    """The device CA in `bundle` (PEM) that signed the certificate, or None."""
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
    """The checks of an upload. Each returns what to store, or raises Problem."""

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
        self._check_ca("root-crt", root)
        if root.issuer == root.subject and not _is_issued_by(root, root):
            raise _wrong("root-crt", "is not signed with its own key")
        return root

    def device_cas(self, bundle: str, root: x509.Certificate) -> str:
        """The bundle, which must hold every device CA that is on file already."""
        found = self._parse("ca-crt", bundle)
        for ca in found:
            self._check_ca("ca-crt", ca)
            self._check_issued("ca-crt", ca, root)
            self._keep(ca, CA)
        for known in bundled(self._factory.ca_crt):
            if known not in found:
                raise _wrong(
                    "ca-crt",
                    f"does not have the device CA with serial {known.serial_number}; a CA is removed by a CRL",
                )
        return bundle

    def server(self, pem: str, root: x509.Certificate, kind: str, name: str) -> str:
        """The server certificate for `name` whose key the backend has."""
        field = f"{kind}-crt"
        certificate = self._single(field, pem)
        self._check_issued(field, certificate, root)
        if (names := dns_names(certificate)) != [name]:
            raise _wrong(field, f"expected the DNS name {name}, got {', '.join(names) or 'none'}")
        if ExtendedKeyUsageOID.SERVER_AUTH not in (extension(certificate, x509.ExtendedKeyUsage) or ()):
            raise _wrong(field, "does not have the extended key usage serverAuth")
        if not self._keep(certificate, kind):
            raise _wrong(field, "has another key than the CSR")
        return pem

    def revocations(
        self, pem: str, root: x509.Certificate, bundle: str | None, disabled: set[str]
    ) -> tuple[str | None, set[str]]:
        """The device CAs and the disabled serials after a CRL, which revokes, disables or enables CAs."""
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
                continue
            disabled.discard(serial)
            if reason is not x509.ReasonFlags.remove_from_crl:
                cas = [ca for ca in cas if str(ca.serial_number) != serial]
        return "\n".join(certificates.pem(ca) for ca in cas) or None, disabled

    def _keep(self, certificate: x509.Certificate, kind: str) -> bool:
        """Store the certificate with the backend's key of this kind; False where the backend has no such key."""
        return backend_keys.keep_certificate(
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

    def _check_ca(self, field: str, certificate: x509.Certificate) -> None:
        """Raise Problem unless it is a CA of this Factory, valid now, with an EC P-256 key."""
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise _wrong(field, "has a key that is not EC P-256")
        units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
        if [unit.value for unit in units] != [self._factory.name]:
            raise _wrong(field, f"has a subject without OU={self._factory.name}")
        if not is_ca(certificate):
            raise _wrong(field, "is not a CA certificate")
        self._check_dates(field, certificate)

    def _check_issued(self, field: str, certificate: x509.Certificate, root: x509.Certificate) -> None:
        if not _is_issued_by(certificate, root):
            raise _wrong(field, "is not signed by the Factory's root")
        self._check_dates(field, certificate)

    def _check_dates(self, field: str, certificate: x509.Certificate) -> None:
        # The clocks of root and backend may differ.
        tolerance = datetime.timedelta(minutes=1)
        if not certificate.not_valid_before_utc - tolerance <= self._now < certificate.not_valid_after_utc:
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
