"""ASGI apps served by uvicorn: sockets, TLS, and the client's certificate in the scope."""

import asyncio
import contextlib
import errno
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fioctl_rotate.errors import Error


class TlsHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with the client's certificate in the scope, as the ASGI TLS extension names it.

    uvicorn does not fill `scope["extensions"]["tls"]` yet; the day it does, this class goes and no reader of the
    scope changes. Source: the ASGI specification, "TLS extension".
    """

    def on_message_begin(self) -> None:
        """Add the extension to the scope of the request that begins."""
        super().on_message_begin()
        connection = self.transport.get_extra_info("ssl_object")
        if connection is not None:
            der = connection.getpeercert(binary_form=True)
            chain = [ssl.DER_cert_to_PEM_cert(der)] if der else []
            self.scope["extensions"] = {"tls": {"client_cert_chain": chain}}


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to whoever runs it, and tells when it accepts connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


_HINTS = {
    errno.EADDRINUSE: "another port may be free",
    errno.EACCES: "ports below 1024 are for root, or for a program with the capability CAP_NET_BIND_SERVICE",
}


def address(host: str, port: int) -> str:
    """`host` and `port` as a URL has them: an IPv6 address in brackets. RFC 3986 §3.2.2."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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
        # Listening at once makes a second program's bind fail now rather than later.
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise Error(
            f"cannot listen on {address(host, port)}: {error.strerror or error}",
            hint=_HINTS.get(error.errno or 0),
        ) from error
    return sock


@contextlib.asynccontextmanager
async def running(app: Any, sock: socket.socket, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve the ASGI `app` on `sock`, over TLS where there is a `context`, while the block runs.

    Yields the port. The responses carry no `Date` and no `Server` header of uvicorn's: an app that needs one sets
    its own. On the way out requests under way are given two seconds.
    """
    config = uvicorn.Config(
        app,
        http=TlsHttpProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        date_header=False,
        server_header=False,
        timeout_graceful_shutdown=2,
        backlog=1024,
        ssl_context_factory=(lambda _config, _default: context) if context is not None else None,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[sock]))
    listening = asyncio.create_task(server.listening.wait())
    try:
        await asyncio.wait({task, listening}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield sock.getsockname()[1]
    finally:
        listening.cancel()
        server.should_exit = True
        await task


async def until_interrupted(heard: Callable[[], None] = lambda: None) -> None:
    """Return at SIGINT or SIGTERM; `heard` is called once these are heard, so that Ctrl-C can be told of."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        heard()
        await stop.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
