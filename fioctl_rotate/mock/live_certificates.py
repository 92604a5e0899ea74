"""The TLS contexts and the signing key of the mock's servers, made from the Factory's current certificates."""

import datetime
import ssl
from collections.abc import Callable
from pathlib import Path

from fioctl_rotate import files, tls
from fioctl_rotate.clock import Clock
from fioctl_rotate.errors import Error
from fioctl_rotate.est.service import Authority
from fioctl_rotate.mock import authority
from fioctl_rotate.mock.store import accounts
from fioctl_rotate.mock.store.accounts import FactoryRecord
from fioctl_rotate.mock.store.database import Store
from fioctl_rotate.pki.parsing import load_certificate, load_private_key

CERTIFICATE_LIFETIME = datetime.timedelta(days=365)
"""Lifetime of a certificate that the managed EST server issues."""


class LiveCertificates:
    """What the servers of a Factory use for TLS and for signing, made again when its certificates have changed.

    `store` is its own connection to the state: a handshake must not wait for a writer. Where a certificate or key
    cannot be used, `complain` is called with the reason, and the old ones stay in use.
    """

    def __init__(self, store: Store, factory: str, *, clock: Clock, complain: Callable[[str], None]) -> None:
        """Raises Error where the current certificates and keys cannot be used."""
        self._store = store
        self._clock = clock
        self._name = factory
        self._complain = complain
        self._version = -1
        self._gateway: ssl.SSLContext | None = None
        self._est: ssl.SSLContext | None = None
        self._authority: Authority | None = None
        self._refresh()

    def gateway_context(self) -> ssl.SSLContext | None:
        """The gateway's TLS context, or None while it has no certificate."""
        self._refresh_or_complain()
        return self._gateway

    def est_context(self) -> ssl.SSLContext | None:
        """The EST server's TLS context, or None while EST is not authorized."""
        self._refresh_or_complain()
        return self._est

    def authority(self) -> Authority | None:
        """The CA that signs for EST clients: the Factory's online CA, or None where it has none."""
        self._refresh_or_complain()
        return self._authority

    def _refresh_or_complain(self) -> None:
        try:
            self._refresh()
        except Error as error:
            self._complain(str(error))

    def _refresh(self) -> None:
        with self._store.reading() as db:
            factory = accounts.choose_factory(db, self._name)
            if factory.certs_version == self._version:
                return
            folder = authority.keys_directory(self._store.directory, factory.name)
            pairs = {
                kind: authority.key_pair(db, self._store.directory, factory, kind)
                for kind in (authority.TLS, authority.EST_TLS, authority.CA)
            }
        cas = factory.ca_crt or ""
        gateway = _context(folder / "tls.pem", pairs[authority.TLS], cas, required=True)
        # cacerts needs no client certificate. The app refuses an enrollment without one.
        est = _context(folder / "est-tls.pem", pairs[authority.EST_TLS], cas, required=False)
        signing = _authority(factory, pairs[authority.CA])
        self._gateway, self._est, self._authority = gateway, est, signing
        self._version = factory.certs_version
        for kind, pair in pairs.items():
            if pair is not None and (fault := _out_of_time(kind, pair, self._clock())):
                self._complain(fault)


def _out_of_time(kind: str, pair: authority.KeyPair, now: datetime.datetime) -> str | None:
    """What is wrong with the certificate's dates or with this machine's clock; None if it is valid now."""
    name = f"the mock's {kind} certificate"
    certificate = load_certificate(pair.certificate, name)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if begin <= now <= end:
        return None
    return f"{name} is valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, now is {now:%Y-%m-%d %H:%M}"


def _context(
    path: Path, pair: authority.KeyPair | None, cas: str, *, required: bool
) -> ssl.SSLContext | None:
    if pair is None:
        return None
    try:
        # OpenSSL reads a server's certificate from a file only.
        files.write_atomic(path, pair.certificate.encode())
    except OSError as error:
        raise Error(f"{path} cannot be written: {error.strerror or error}") from error
    return tls.server_context(path, pair.key, cas, required=required)


def _authority(factory: FactoryRecord, pair: authority.KeyPair | None) -> Authority | None:
    if pair is None or factory.root_crt is None:
        return None
    return Authority(
        roots=[load_certificate(factory.root_crt, "the mock's root certificate")],
        certificate=load_certificate(pair.certificate, "the mock's online CA"),
        key=load_private_key(files.read(pair.key), name=str(pair.key)),
        lifetime=CERTIFICATE_LIFETIME,
    )
