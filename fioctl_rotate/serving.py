"""Serves ASGI apps within limits: opens their sockets, starts them and ends them."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from fioctl_rotate.connections import Listener
from fioctl_rotate.errors import Error
from fioctl_rotate.http_connection import address
from fioctl_rotate.limits import LIMITS, Limits, Refused
from fioctl_rotate.signals import handling

_HINTS = {
    errno.EADDRINUSE: "choose another port",
    errno.EACCES: "ports below 1024 are for root, or for a program with the capability CAP_NET_BIND_SERVICE",
}


def listen(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A socket bound to `host` and `port` (0: any free one); `reuse_port` lets several processes share it.

    Raises Error, in one line, where the port is taken or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named; without it answers wait 40 ms for an ACK.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        # Listen now, so that a second program's bind fails at once.
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise Error(
            f"cannot listen on {address(host, port)}: {error.strerror or error}",
            hint=_HINTS.get(error.errno or 0),
        ) from error
    return sock


def listen_unix(path: Path) -> socket.socket:
    """A UNIX socket at `path`, mode 0660; replaces one that nobody listens on any more. Raises Error."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as other:
                if other.connect_ex(str(path)) == 0:
                    raise Error(f"another program listens on {path}")
            path.unlink()
        sock.bind(str(path))
        path.chmod(0o660)
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise Error(f"cannot listen on {path}: {error.strerror or error}") from error
    except Error:
        sock.close()
        raise
    return sock


def inherited() -> socket.socket | None:
    """The socket that systemd passes to a service with a socket unit, or None (sd_listen_fds(3))."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    if os.environ.get("LISTEN_FDS") != "1":
        raise Error(f"expected one socket from systemd, got {os.environ.get('LISTEN_FDS')}")
    return socket.socket(fileno=3)


@contextlib.asynccontextmanager
async def running(
    app: Any,
    sock: socket.socket,
    context: ssl.SSLContext | None = None,
    *,
    limits: Limits = LIMITS,
    refused: Refused = lambda _peer, _reason: None,
) -> AsyncIterator[int]:
    """Serve the ASGI `app` on `sock`, over TLS where there is a `context`, while the block runs.

    Yields the port (0 for a UNIX socket). uvicorn adds no `Date` and no `Server` header here: an app that needs one
    sets its own. When the block ends, requests under way get two seconds to end.
    """
    # uvicorn logs a warning for each request that is not HTTP; `refused` names the peer, too.
    log = logging.getLogger("uvicorn.error")
    log.setLevel(logging.ERROR)
    log.addFilter(_is_fault)
    listener = Listener(app, sock, context, limits, refused)
    accepting = asyncio.create_task(listener.accept())
    try:
        name = sock.getsockname()
        yield name[1] if isinstance(name, tuple) else 0
    finally:
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)
        await listener.close()


def _is_fault(record: logging.LogRecord) -> bool:
    """Whether it is more than a request that was cut off because the server ends."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


async def until_interrupted(ready: Callable[[], None] = lambda: None) -> None:
    """Return at SIGINT or SIGTERM; `ready` is called once Ctrl-C works, and may say so."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    with handling(lambda *_: loop.call_soon_threadsafe(stop.set), (signal.SIGINT, signal.SIGTERM)):
        ready()
        await stop.wait()
