"""Running an EST server for a user-managed Factory, with estserver's files and one or more processes."""

import asyncio
import datetime
import multiprocessing
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography import x509

from fioctl_rotate.errors import Error, printable
from fioctl_rotate.est.go_duration import parse_duration
from fioctl_rotate.est.server import PATH, LogRecord, est_app
from fioctl_rotate.est.service import Authority
from fioctl_rotate.files import read
from fioctl_rotate.pki.certificates import pem
from fioctl_rotate.pki.parsing import is_ca, load_bundle, load_certificate
from fioctl_rotate.pki.stores import KeyStore
from fioctl_rotate.serving import address, listen, running, until_interrupted
from fioctl_rotate.settings import PASSPHRASE_VARIABLE, PIN_VARIABLE
from fioctl_rotate.tls import reloading_context, server_context


@dataclass(frozen=True, kw_only=True)
class EstFiles:
    """The files of an EST server, PEM; `client_cas` are device CAs to trust beside `ca_cert`.

    The CA's key is in a file or in a token. The store goes to worker processes with what it was told.
    """

    root_cert: Path
    tls_cert: Path
    tls_key: Path
    ca_cert: Path
    ca_key: KeyStore
    client_cas: Path | None


@dataclass(frozen=True, kw_only=True)
class EstService:
    """How an EST server answers: as estserver or as RFC 7030, log lines as JSON.

    `cert_duration` is how long new certificates are valid, as Go writes it: `26280h`.
    """

    files: EstFiles
    cert_duration: str
    rfc7030: bool
    json_log: bool


def serve_est(
    service: EstService, *, host: str, port: int, workers: int, started: Callable[[str], None]
) -> None:
    """Serve until SIGINT or SIGTERM; SIGHUP reads the files again.

    `started` is called with the URL (ESTSERVER's value, as far as the name goes) when connections are taken. With
    more than one of `workers`, each is a process with a socket of its own on the port, sharing nothing. Raises
    Error where a file is not usable, the port is taken, or a worker ends by itself.
    """
    load(service)  # so that what is wrong is told once, here
    first = listen(host, port)
    port = first.getsockname()[1]
    url = f"https://{address(host, port)}{PATH}"
    if workers == 1:
        asyncio.run(_serve(service, first, lambda: started(url)))
        return
    # The port was free for us alone; now it is shared, among us.
    first.close()
    sockets = [listen(host, port, reuse_port=True) for _ in range(workers)]
    asyncio.run(_supervise(service, sockets, lambda: started(url)))


def load(service: EstService) -> tuple[Authority, ssl.SSLContext]:
    """Read the files. Raises Error, in one line, for the first that is not usable or does not fit another."""
    files = service.files
    roots = _certificates(files.root_cert)
    ca = load_certificate(read(files.ca_cert), str(files.ca_cert))
    key = files.ca_key.load()
    if key is None:
        raise Error(f"there is no {files.ca_key.name}, the CA's key")
    if key.public_key() != ca.public_key():
        raise Error(f"{files.ca_key.name} is not the key of {files.ca_cert}")
    if not is_ca(ca):
        raise Error(f"{files.ca_cert} is not a CA certificate: devices would get what no gateway takes")
    trusted = [ca, *(_certificates(files.client_cas) if files.client_cas is not None else [])]
    try:
        context = server_context(files.tls_cert, files.tls_key, pem(*trusted), required=False)
    except FileNotFoundError as error:
        raise Error(f"there is no {files.tls_cert}, or no {files.tls_key}") from error
    except ssl.SSLError as error:
        raise Error(
            f"{files.tls_cert} and {files.tls_key} are no certificate and its key: {error.reason or error}"
        ) from error
    return Authority(roots, ca, key, parse_duration(service.cert_duration)), context


def _certificates(path: Path) -> list[x509.Certificate]:
    found = load_bundle(read(path), str(path))
    if not found:
        raise Error(f"{path} has no certificate")
    return found


async def _serve(service: EstService, sock: socket.socket, started: Callable[[], None]) -> None:
    """One process of the server."""
    authority, current = load(service)

    def reload() -> None:
        nonlocal authority, current
        try:
            authority, current = load(service)
        except Error as error:
            _tell(f"files not read again, the ones before stay in use: {error.message}")
        else:
            _tell("files read again")

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
    app = est_app(
        lambda _client: authority,
        clock=lambda: datetime.datetime.now(datetime.UTC),
        rfc7030=service.rfc7030,
        log=_log_json if service.json_log else _log_text,
    )
    async with running(app, sock, reloading_context(lambda: current, required=False)):
        await until_interrupted(started)


async def _supervise(
    service: EstService, sockets: Sequence[socket.socket], started: Callable[[], None]
) -> None:
    """Run a worker on each socket, pass signals on, and end when one of them does."""
    context = multiprocessing.get_context("spawn")
    # Workers are told what they need of these; an environment can be read by others of the same user.
    for variable in ("FIOCTL_TOKEN", PIN_VARIABLE, PASSPHRASE_VARIABLE):
        os.environ.pop(variable, None)
    # A worker that is still starting must not die of a signal that the supervisor answers.
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    workers = [context.Process(target=_work, args=(service, sock)) for sock in sockets]
    for worker, sock in zip(workers, sockets, strict=True):
        worker.start()
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
    for worker in workers:
        loop.remove_reader(worker.sentinel)
        worker.terminate()
    for worker in workers:
        worker.join()
    if died.is_set():
        raise Error("a worker process of the EST server has ended by itself")


def _work(service: EstService, sock: socket.socket) -> None:
    try:
        asyncio.run(_serve(service, sock, _end_with_supervisor))
    except Error as error:
        _tell(error.diagnostics())
        sys.exit(error.exit_code)


def _end_with_supervisor() -> None:
    """Have this worker end when its supervisor has, however: no one else would, and it would keep the port."""
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
    who = f"{record.device or '-'} of {record.factory or '-'}"
    serial = f" serial {record.serial}" if record.serial else ""
    _tell(printable(f"{record.time} {record.operation} {who}: {record.status} {record.outcome}{serial}"))
