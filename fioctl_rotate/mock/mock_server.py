"""The mocked Factory on its three ports: operator API, device gateway and EST server.

Gateway and EST server use the Factory's current certificates at each handshake. So they need no restart after a PKI
was made.
"""

import contextlib
import functools
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fioctl_rotate import files, tls
from fioctl_rotate.clock import Clock, utc_now
from fioctl_rotate.errors import Refused
from fioctl_rotate.est.server import LogRecord
from fioctl_rotate.mock.est_faults import EstFault, est_with
from fioctl_rotate.mock.gateway import failing_while, gateway_app
from fioctl_rotate.mock.live_certificates import LiveCertificates
from fioctl_rotate.mock.operator import operator_app
from fioctl_rotate.mock.store import accounts
from fioctl_rotate.mock.store.accounts import FactoryRecord
from fioctl_rotate.mock.store.database import Store
from fioctl_rotate.serving import listen, running


@dataclass(frozen=True)
class Ports:
    """The ports to listen on; None: the one in the state, 0: any free one."""

    api: int | None = None
    gateway: int | None = None
    est: int | None = None


@dataclass(frozen=True)
class Serving:
    """How a mocked Factory is served: on `host` and `ports`, by which `clock`.

    Ports that are given are kept in the state. `log` is called with each request to the EST server. `complain` is
    called once with each reason why a server cannot work. `refused` is called with each refused connection: the
    server's name, the peer and the reason. `certificate_clock` is for certificates, where `clock` is not the real
    time, which TLS uses. The gateway answers 500 while `gateway_fails` returns True. `threads` is as for
    `gateway_app`.
    """

    host: str = "127.0.0.1"
    ports: Ports = Ports()
    clock: Clock = utc_now
    log: Callable[[LogRecord], None] = lambda _record: None
    complain: Callable[[str], None] = lambda _text: None
    refused: Callable[[str, str, str], None] = lambda _server, _peer, _reason: None
    est_fault: EstFault | None = None
    rfc7030: bool = False
    certificate_clock: Clock | None = None
    gateway_fails: Callable[[], bool] = lambda: False
    threads: bool = True


DEFAULT_SERVING = Serving()


@contextlib.asynccontextmanager
async def serve_factory(
    directory: Path,
    factory_name: str | None = None,
    serving: Serving = DEFAULT_SERVING,
) -> AsyncIterator[FactoryRecord]:
    """Serve a factory (the first unless named) while the block runs; yields it, with its ports.

    Raises Error: no state, no such factory, a port that is taken, a key that is missing; Refused where another
    process serves this factory.
    """
    ports, clock, complain = serving.ports, serving.clock, _once(serving.complain)
    async with contextlib.AsyncExitStack() as stack:
        store = stack.enter_context(contextlib.closing(Store(directory)))
        with store.reading() as db:
            factory = accounts.choose_factory(db, factory_name)
        busy = Refused(f"factory {factory.name} in {directory} is already served by another `mock serve`")
        stack.enter_context(files.locked(serving_lock(directory, factory.name), busy))
        serving = replace(serving, complain=complain)
        certificates = stack.enter_context(_live_certificates(directory, factory.name, serving))
        sockets: list[socket.socket] = []
        for given, kept in (
            (ports.api, factory.api_port),
            (ports.gateway, factory.gateway_port),
            (ports.est, factory.est_port),
        ):
            sock = listen(serving.host, kept if given is None else given)
            stack.enter_context(sock)
            sockets.append(sock)
        api_port, gateway_port, est_port = (sock.getsockname()[1] for sock in sockets)
        with store.transaction() as db:
            accounts.keep_ports(db, factory.name, (api_port, gateway_port, est_port))
            factory = accounts.choose_factory(db, factory.name)
        api = operator_app(store, authenticate=True, clock=clock, complain=complain)
        gateway = gateway_app(store, factory.name, clock=clock, complain=complain, threads=serving.threads)
        gateway_tls = tls.reloading_context(certificates.gateway_context, required=True)
        for name, app, context, sock in (
            ("operator API", api, None, sockets[0]),
            ("gateway", failing_while(serving.gateway_fails, gateway), gateway_tls, sockets[1]),
        ):
            tell = functools.partial(serving.refused, name)
            await stack.enter_async_context(running(app, sock, context, refused=tell))
        await stack.enter_async_context(_est_running(certificates, sockets[2], serving))
        yield replace(factory, api_host=_host_in_url(serving.host))


@contextlib.asynccontextmanager
async def serve_est(
    directory: Path, factory_name: str, serving: Serving = DEFAULT_SERVING
) -> AsyncIterator[None]:
    """Serve the factory's EST server alone, on its port in the state, while the block runs.

    `serve_factory` must run with the fault `stop`, which leaves the port free. Raises Error as that does.
    """
    with contextlib.closing(Store(directory)) as store, store.reading() as db:
        port = accounts.choose_factory(db, factory_name).est_port
    with (
        _live_certificates(directory, factory_name, serving) as certificates,
        listen(serving.host, port) as sock,
    ):
        async with _est_running(certificates, sock, serving):
            yield


@contextlib.contextmanager
def _live_certificates(directory: Path, factory: str, serving: Serving) -> Iterator[LiveCertificates]:
    clock = serving.certificate_clock or serving.clock
    with contextlib.closing(Store(directory)) as watching:
        yield LiveCertificates(watching, factory, clock=clock, complain=serving.complain)


@contextlib.asynccontextmanager
async def _est_running(
    certificates: LiveCertificates, sock: socket.socket, serving: Serving
) -> AsyncIterator[None]:
    app = est_with(
        serving.est_fault,
        certificates.authority,
        clock=serving.certificate_clock or serving.clock,
        log=serving.log,
        rfc7030=serving.rfc7030,
    )
    if app is None:
        sock.close()
        yield
        return
    context = tls.reloading_context(certificates.est_context, required=False)
    tell = functools.partial(serving.refused, "EST server")
    async with running(app, sock, context, refused=tell):
        yield


def serving_lock(directory: Path, factory: str) -> Path:
    """The file that is locked while the factory is served."""
    return directory / f".serve-{factory}.lock"


def _once(complain: Callable[[str], None]) -> Callable[[str], None]:
    """`complain`, but called only once with each text."""
    said: set[str] = set()

    def say(text: str) -> None:
        if text not in said:
            said.add(text)
            complain(text)

    return say


def _host_in_url(host: str) -> str:
    """The host for the URL of a server that listens on `host`: localhost where that leads there, too."""
    if host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "::"):  # noqa: S104  compared, not listened on
        return "localhost"
    return f"[{host}]" if ":" in host else host
