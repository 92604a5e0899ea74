"""Run an EST server for a user-managed Factory, with estserver's files and one or more processes."""

import asyncio
import contextlib
import datetime
import gc
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from cryptography import x509

from fioctl_rotate import serving
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.clock import utc_now
from fioctl_rotate.errors import Error, printable
from fioctl_rotate.est.deny import DenyList, deny_list_text, parse_deny_list
from fioctl_rotate.est.enroll_policy import Enroll
from fioctl_rotate.est.go_duration import parse_go_duration
from fioctl_rotate.est.proxied import client_from_header
from fioctl_rotate.est.server import CONNECTION, PATH, EstApp, LogRecord, client_from_tls
from fioctl_rotate.est.service import Authority
from fioctl_rotate.files import read, read_text
from fioctl_rotate.http_connection import address
from fioctl_rotate.limits import Limits
from fioctl_rotate.ops.device_cas import same_subject
from fioctl_rotate.pki.certificate_rules import is_signed_by, server_certificate_violations
from fioctl_rotate.pki.certificates import pem
from fioctl_rotate.pki.parsing import is_ca, load_bundle, load_certificate
from fioctl_rotate.pki.stores import KeyStore
from fioctl_rotate.serving import listen, running, until_interrupted
from fioctl_rotate.settings import PASSPHRASE_VARIABLE, PIN_VARIABLE
from fioctl_rotate.tls import reloading_context, server_context

if TYPE_CHECKING:
    from fioctl_rotate.est.metrics import Status


@dataclass(frozen=True, kw_only=True)
class EstFiles:
    """The files of an EST server, PEM; `client_cas` are device CAs to trust beside `ca_cert`.

    `tls_cert` and `tls_key` are None where a proxy ends TLS. `ca_key` finds the CA's key in a file or in a token.
    Worker processes get `ca_key` with its PIN or passphrase. `deny` is a deny list.
    """

    root_cert: Path
    tls_cert: Path | None
    tls_key: Path | None
    ca_cert: Path
    ca_key: KeyStore
    client_cas: Path | None
    deny: Path | None


@dataclass(frozen=True, kw_only=True)
class EstService:
    """How an EST server answers.

    `cert_duration` is how long new certificates are valid, as Go writes it: `26280h`. Answers follow estserver, or
    with `rfc7030` RFC 7030. `client_cert_header` is where a proxy puts the client's certificate; None where this
    server ends TLS itself. `connections` is how many there may be at once in each process.
    """

    files: EstFiles
    cert_duration: str
    rfc7030: bool
    enroll: Literal["own", "any", "off"]
    connections: int
    client_cert_header: str | None
    json_log: bool


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Where an EST server listens: a UNIX socket, the socket that systemd passes, or `host` and `port`.

    `status_port` on loopback has /healthz and /metrics. Of several workers, each has the port after the one before.
    """

    host: str
    port: int
    unix_socket: Path | None
    workers: int
    status_port: int | None

    def sockets(self) -> list[socket.socket]:
        """A socket for each worker. Raises Error."""
        inherited = serving.inherited()
        if inherited is not None:
            return [inherited] * self.workers
        if self.unix_socket is not None:
            return [serving.listen_unix(self.unix_socket)] * self.workers
        first = listen(self.host, self.port)
        if self.workers == 1:
            return [first]
        # Without reuse_port, `listen` has shown that no other program has the port. Now our workers share it.
        port = first.getsockname()[1]
        first.close()
        return [listen(self.host, port, reuse_port=True) for _ in range(self.workers)]

    def status_socket(self, worker: int) -> socket.socket | None:
        """The socket for the status of one worker. Raises Error."""
        if self.status_port is None:
            return None
        return listen("127.0.0.1", self.status_port + worker if self.status_port else 0)


def serve_est(service: EstService, where: Listening, *, started: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; SIGHUP reads the files again.

    `started` is called with the address of the server: its URL (an IP address instead of a name) or UNIX socket.
    With more than one worker, each is a process that shares nothing but the port. Raises Error where a file is not
    usable, the port is taken, or a worker ends by itself.
    """
    loaded = load(service)  # reports a fault once, not once in each worker
    _warn(service, loaded)
    sockets = where.sockets()
    name = _url(sockets[0], secure=service.client_cert_header is None)
    if where.workers == 1:
        asyncio.run(_serve(service, sockets[0], where.status_socket(0), lambda: started(name)))
    else:
        asyncio.run(_supervise(service, where, sockets, lambda: started(name)))


def _url(sock: socket.socket, *, secure: bool) -> str:
    name = sock.getsockname()
    if not isinstance(name, tuple):
        return f"unix:{name}"
    return f"http{'s' if secure else ''}://{address(name[0], name[1])}{PATH}"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What the files hold: who signs, which CAs clients may come from, who is denied, and TLS.

    `tls` is the server's certificate and the chain that is sent with it; empty where a proxy ends TLS.
    """

    authority: Authority
    client_cas: Sequence[x509.Certificate]
    deny: DenyList
    context: ssl.SSLContext | None
    tls: Sequence[x509.Certificate]

    def expiries(self) -> dict[str, datetime.datetime]:
        """When the server's own certificates end, by name."""
        found = {"ca": self.authority.certificate.not_valid_after_utc}
        return found | ({"tls": self.tls[0].not_valid_after_utc} if self.tls else {})


def load(service: EstService) -> Loaded:
    """Read the files. Raises Error, in one line, for the first that is not usable or does not fit another."""
    files = service.files
    roots = _certificates(files.root_cert)
    ca = load_certificate(read(files.ca_cert), str(files.ca_cert))
    key = files.ca_key.load(ca)
    if key is None:
        raise Error(f"there is no {files.ca_key.name}, the CA's key")
    if key.public_key() != ca.public_key():
        raise Error(f"{files.ca_key.name} is not the key of {files.ca_cert}")
    if not is_ca(ca):
        raise Error(f"{files.ca_cert} is not a CA certificate: no gateway would accept what it signs")
    trusted = [ca, *(_certificates(files.client_cas) if files.client_cas is not None else [])]
    deny = parse_deny_list(read_text(files.deny), str(files.deny)) if files.deny is not None else DenyList()
    context, tls = None, list[x509.Certificate]()
    if files.tls_cert is not None and files.tls_key is not None:
        context = server_context(files.tls_cert, files.tls_key, pem(*trusted), required=False)
        tls = _certificates(files.tls_cert)
    others = [*trusted, *tls[:1]]
    return Loaded(
        authority=Authority(roots, ca, key, parse_go_duration(service.cert_duration), others),
        client_cas=trusted,
        deny=deny,
        context=context,
        tls=tls,
    )


def _warnings(service: EstService, loaded: Loaded, now: datetime.datetime) -> Iterator[str]:
    """Faults that some or all clients will meet."""
    files, roots, ca = service.files, loaded.authority.roots, loaded.authority.certificate
    if loaded.tls:
        yield from same_subject(list(dict.fromkeys(loaded.client_cas)))
        server, *above = loaded.tls
        found = (server_certificate_violations(server, issuer, now=now) for issuer in above or roots)
        for violation in min(found, key=len):
            yield f"devices will not accept {files.tls_cert}: {violation}"
    if ca.not_valid_after_utc <= now:
        yield f"{files.ca_cert} expired on {ca.not_valid_after_utc:%Y-%m-%d}: no certificate can be issued"
    if not any(is_signed_by(ca, root) for root in roots):
        yield f"{files.ca_cert} is not signed by {files.root_cert}: no gateway would accept what it signs"


def _warn(service: EstService, loaded: Loaded) -> None:
    for warning in _warnings(service, loaded, utc_now()):
        _tell(f"warning: {warning}")


def _certificates(path: Path) -> list[x509.Certificate]:
    found = load_bundle(read(path), str(path))
    if not found:
        raise Error(f"{path} has no certificate")
    return found


async def factory_deny_list(api: FactoryApi) -> str:
    """The Factory's denied devices as a deny list."""
    return deny_list_text(device.uuid for device in await api.denied_devices())


async def _serve(
    service: EstService,
    sock: socket.socket,
    status_sock: socket.socket | None,
    started: Callable[[], None],
) -> None:
    """One process of the server."""
    loaded = load(service)

    def reload() -> None:
        nonlocal loaded
        try:
            loaded = load(service)
        except Error as error:
            _tell(f"reload failed, the files from before stay in use: {error.message}")
        else:
            _warn(service, loaded)
            _tell("files read again")

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
    status = _status(lambda: loaded.expiries()) if status_sock is not None else None

    def log(record: LogRecord) -> None:
        (_log_json if service.json_log else _log_text)(record)
        if status is not None:
            status.count(record)

    def refused(peer: str, reason: str) -> None:
        log(
            LogRecord(time=f"{utc_now():%Y-%m-%dT%H:%M:%SZ}", operation=CONNECTION, peer=peer, outcome=reason)
        )

    header = service.client_cert_header
    app = EstApp(
        authority=lambda: loaded.authority,
        clock=utc_now,
        enroll=Enroll(service.enroll),
        denied=lambda certificate: loaded.deny.reason(certificate),
        client_of=client_from_header(header, lambda: loaded.client_cas, utc_now)
        if header
        else client_from_tls,
        rfc7030=service.rfc7030,
        log=log,
    )
    context = reloading_context(lambda: loaded.context, required=False) if header is None else None
    async with contextlib.AsyncExitStack() as stack:
        if status is not None and status_sock is not None:
            await stack.enter_async_context(running(status, status_sock))
        limits = Limits(connections=service.connections)
        await stack.enter_async_context(running(app, sock, context, limits=limits, refused=refused))
        # The objects made so far live as long as the process. Leaving them out of garbage collection saves CPU.
        gc.freeze()
        await until_interrupted(lambda: _started(started, status_sock))


def _started(started: Callable[[], None], status_sock: socket.socket | None) -> None:
    started()
    if status_sock is not None:
        _tell(f"status at http://{address(*status_sock.getsockname())}/healthz and /metrics")


def _status(expiries: Callable[[], dict[str, datetime.datetime]]) -> "Status":
    try:
        from fioctl_rotate.est.metrics import Status
    except ImportError as error:
        raise Error(
            "metrics need the package prometheus-client", hint="pip install 'fioctl-rotate[est]'"
        ) from error
    return Status(expiries, utc_now)


async def _supervise(
    service: EstService, where: Listening, sockets: Sequence[socket.socket], started: Callable[[], None]
) -> None:
    """Run a worker on each socket, pass signals on, and end when a worker ends."""
    context = multiprocessing.get_context("spawn")
    # Workers get the secrets that they need as arguments. Other processes of the user could read an environment.
    for variable in ("FIOCTL_TOKEN", PIN_VARIABLE, PASSPHRASE_VARIABLE):
        os.environ.pop(variable, None)
    # A worker that is still starting must not die of a signal that the supervisor answers.
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    workers = [
        context.Process(target=_work, args=(service, sock, where.status_socket(number)))
        for number, sock in enumerate(sockets)
    ]
    for worker in workers:
        worker.start()
    for sock in sockets:
        sock.close()
    loop, died = asyncio.get_running_loop(), asyncio.Event()

    def reload() -> None:
        for worker in workers:
            os.kill(worker.ident or 0, signal.SIGHUP)

    loop.add_signal_handler(signal.SIGHUP, reload)
    for worker in workers:
        loop.add_reader(worker.sentinel, died.set)
    waits = [asyncio.create_task(until_interrupted(started)), asyncio.create_task(died.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    ended = multiprocessing.connection.wait([worker.sentinel for worker in workers], timeout=0)
    for worker in workers:
        loop.remove_reader(worker.sentinel)
        worker.terminate()
    for worker in workers:
        worker.join()
    if died.is_set():
        endings = [_ending(worker) for worker in workers if worker.sentinel in ended]
        raise Error(
            f"the EST server ends, because a worker process ended by itself: {', '.join(endings)}",
            hint="systemd starts the server again where its unit has `Restart=on-failure`",
        )


def _ending(worker: Any) -> str:
    code = worker.exitcode or 0
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"process {worker.pid} ({how})"


def _work(service: EstService, sock: socket.socket, status_sock: socket.socket | None) -> None:
    try:
        asyncio.run(_serve(service, sock, status_sock, _end_with_supervisor))
    except Error as error:
        _tell(error.diagnostics())
        sys.exit(error.exit_code)


def _end_with_supervisor() -> None:
    """End this worker when its supervisor has ended: otherwise it would keep the port."""
    supervisor = multiprocessing.parent_process()
    if supervisor is None:
        return
    loop, ended = asyncio.get_running_loop(), supervisor.sentinel

    def end() -> None:
        loop.remove_reader(ended)
        signal.raise_signal(signal.SIGTERM)

    loop.add_reader(ended, end)


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _log_json(record: LogRecord) -> None:
    _tell(msgspec.json.encode(record).decode())


def _log_text(record: LogRecord) -> None:
    if (record.operation, record.status) == (CONNECTION, 0):
        _tell(printable(f"{record.time} {CONNECTION} from {record.peer or '-'}: {record.outcome}"))
        return
    who = f"{record.device or '-'} of {record.factory or '-'}"
    serial = f" serial {record.serial} until {record.not_after}" if record.serial else ""
    _tell(printable(f"{record.time} {record.operation} {who}: {record.status} {record.outcome}{serial}"))
