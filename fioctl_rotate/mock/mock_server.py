"""The mocked Factory on its three ports: operator API, device gateway and EST server.

Gateway and EST server carry the certificates that the Factory has at each handshake, so a PKI that is made while
they run is picked up without a restart.
"""

import contextlib
import datetime
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509

from fioctl_rotate import files, serving, tls
from fioctl_rotate.clock import Clock, utc_now
from fioctl_rotate.est.enroll_policy import Enroll
from fioctl_rotate.est.server import EstApp, LogRecord
from fioctl_rotate.est.service import Authority
from fioctl_rotate.mock import authority
from fioctl_rotate.mock.gateway import gateway_app
from fioctl_rotate.mock.operator import operator_app
from fioctl_rotate.mock.store import accounts
from fioctl_rotate.mock.store.accounts import FactoryRecord
from fioctl_rotate.mock.store.database import Store
from fioctl_rotate.pki.parsing import load_private_key

CERTIFICATE_LIFETIME = datetime.timedelta(days=365)
"""For how long the managed EST server signs."""


@dataclass(frozen=True)
class Ports:
    """The ports to listen on; None: the one kept in the state, 0: any free one."""

    api: int | None = None
    gateway: int | None = None
    est: int | None = None


KEPT_PORTS = Ports()


@contextlib.asynccontextmanager
async def serve_factory(
    directory: Path,
    factory_name: str | None = None,
    *,
    host: str = "127.0.0.1",
    ports: Ports = KEPT_PORTS,
    clock: Clock = utc_now,
    log: Callable[[LogRecord], None] = lambda _record: None,
) -> AsyncIterator[FactoryRecord]:
    """Serve a factory (the first unless named) on `host` while the block runs; yields it, with its ports.

    Ports that are given are kept in the state. `log` is told each request to the EST server. Raises Error: no
    state, no such factory, a port that is taken.
    """
    with contextlib.closing(Store(directory)) as store, contextlib.closing(Store(directory)) as watching:
        with store.reading() as db:
            factory = accounts.choose_factory(db, factory_name)
        async with contextlib.AsyncExitStack() as stack:
            sockets: list[socket.socket] = []
            for given, kept in (
                (ports.api, factory.api_port),
                (ports.gateway, factory.gateway_port),
                (ports.est, factory.est_port),
            ):
                sock = serving.listen(host, kept if given is None else given)
                stack.enter_context(sock)
                sockets.append(sock)
            api_port, gateway_port, est_port = (sock.getsockname()[1] for sock in sockets)
            with store.transaction() as db:
                accounts.keep_ports(db, factory.name, (api_port, gateway_port, est_port))
                factory = accounts.choose_factory(db, factory.name)
            current = _Current(watching, factory.name)
            api = operator_app(store, authenticate=True, clock=clock)
            gateway = gateway_app(store, factory.name, clock=clock)
            # The managed EST server runs estserver, which enrolls any subject.
            est = EstApp(authority=current.authority, clock=clock, enroll=Enroll.ANY, log=log)
            gateway_tls = tls.reloading_context(current.gateway_context, required=True)
            # A device asks for cacerts before it has a certificate; enrolling without one is the app's to refuse.
            est_tls = tls.reloading_context(current.est_context, required=False)
            for app, sock, context in zip(
                (api, gateway, est), sockets, (None, gateway_tls, est_tls), strict=True
            ):
                await stack.enter_async_context(serving.running(app, sock, context))
            yield replace(factory, api_host=_name_of(host))


def _name_of(host: str) -> str:
    """What to put into a URL for what listens on `host`: localhost where that leads there too."""
    if host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "::"):  # noqa: S104  compared, not listened on
        return "localhost"
    return f"[{host}]" if ":" in host else host


class _Current:
    """What the servers go by, made anew whenever the Factory's certificates have changed.

    It has a connection of its own: it is asked in the middle of a handshake, and must not wait for a writer.
    """

    def __init__(self, store: Store, factory: str) -> None:
        self._store = store
        self._name = factory
        self._version = -1
        self._gateway: ssl.SSLContext | None = None
        self._est: ssl.SSLContext | None = None
        self._authority: Authority | None = None

    def gateway_context(self) -> ssl.SSLContext | None:
        """The gateway's TLS, or None while it has no certificate."""
        self._refresh()
        return self._gateway

    def est_context(self) -> ssl.SSLContext | None:
        """The EST server's TLS, or None while EST is not authorized."""
        self._refresh()
        return self._est

    def authority(self) -> Authority | None:
        """Who signs for the EST server's clients: the Factory's online CA. None where it has none."""
        self._refresh()
        return self._authority

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
        self._gateway = _context(folder / "tls.pem", pairs[authority.TLS], cas, required=True)
        self._est = _context(folder / "est-tls.pem", pairs[authority.EST_TLS], cas, required=False)
        self._authority = _authority(factory, pairs[authority.CA])
        self._version = factory.certs_version


def _context(
    path: Path, pair: authority.KeyPair | None, cas: str, *, required: bool
) -> ssl.SSLContext | None:
    if pair is None:
        return None
    # OpenSSL reads a server's certificate from a file only.
    files.write_atomic(path, pair.certificate.encode())
    return tls.server_context(path, pair.key, cas, required=required)


def _authority(factory: FactoryRecord, pair: authority.KeyPair | None) -> Authority | None:
    if pair is None or factory.root_crt is None:
        return None
    return Authority(
        roots=[x509.load_pem_x509_certificate(factory.root_crt.encode())],
        certificate=x509.load_pem_x509_certificate(pair.certificate.encode()),
        key=load_private_key(pair.key.read_bytes(), name=str(pair.key)),
        lifetime=CERTIFICATE_LIFETIME,
    )
