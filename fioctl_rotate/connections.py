"""Connections within limits: accepted, handshaken, read by uvicorn's HTTP protocol, and closed in time."""

import asyncio
import contextlib
import errno
import itertools
import resource
import socket
import ssl
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

Refused = Callable[[str, str], None]
"""Is called with the peer's address and the reason, for a connection refused before a request was complete."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of one process for its clients; times in seconds.

    A connection with TLS takes up to 0.35 MB, so `connections` sets the memory. At that limit a new client takes
    the place of the oldest connection on which nothing was sent. Where there is none, it takes the place of the
    oldest that has waited for its client for longer than `grace`. Where there is none either, it waits.
    """

    connections: int = 512
    grace: float = 2.0
    unseen: int = 7  # the kernel keeps a connection for so long until its client sends something; Linux only
    handshake: float = 10.0
    head: float = 10.0  # for the request line and the headers
    head_size: int = 32 * 1024  # bytes
    body: float = 20.0
    idle: int = 5  # between two requests
    stalled: float = 20.0  # an answer that the client does not read


LIMITS = Limits()
# Seconds between two messages about a limit.
_MESSAGE_INTERVAL = 10.0
# So many connections are accepted before those that are there get their turn.
_AT_ONCE = 4
# RFC 8446 §5.1: a TLS record begins with its type, two bytes of version, and two of length.
_RECORD_HEAD, _HANDSHAKE, _LONGEST_RECORD = 5, 22, 2**14
_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class _Client(Protocol):
    """A connection, while its handshake runs or its requests are served."""

    since: float
    silent: bool
    """Its client has not begun yet: it sent nothing, or a part of its first TLS record."""

    @property
    def waiting(self) -> bool:
        """Whether the client is expected to send something."""
        ...

    def drop(self) -> None:
        """Close the connection at once."""


class _HttpConnection(HttpToolsProtocol):
    """uvicorn's HTTP protocol with limits, and with the client's certificate in the scope.

    uvicorn does not fill `scope["extensions"]["tls"]` (ASGI specification, "TLS extension"), and limits neither
    headers nor time.
    """

    def __init__(self, listener: "Listener", handshake: "_Handshake") -> None:
        super().__init__(listener.config, listener.state, {})
        self.since = time.monotonic()
        self.silent = False
        self._handshake = handshake
        self._listener = listener
        self._limits = listener.limits
        self._head_size = 0
        self._reading_head = True
        self._whole = False  # a request has been read to its end
        self._too_long = 431, f"headers longer than {listener.limits.head_size} bytes"
        self._fault = 400, "not a valid HTTP request"
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> bool:
        """Whether the client is expected to send something: no complete request waits for its answer."""
        return not self._whole or self.cycle is None or self.cycle.response_complete

    def drop(self) -> None:
        """Close the connection at once."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Give the client its time for the first request."""
        self._headers = _CanonicalHeaders(transport)
        super().connection_made(self._headers)  # type: ignore[arg-type]  # all else is passed on
        self._listener.clients[self] = self._listener.clients.pop(self._handshake, None)
        self._allow(self._limits.head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._allow(None)
        self.resume_writing()
        self._listener.forget(self)

    def data_received(self, data: bytes) -> None:
        """Read a part of a request, as long as its head stays in its limits."""
        if self.transport.is_closing():
            return  # TLS had decrypted more than what was refused
        if self._reading_head and self._deadline is None:
            self._allow(self._limits.head)
        self._head_size += len(data)  # set back where a request ends in `data`
        super().data_received(data)
        if (
            self._reading_head
            and self._head_size > self._limits.head_size
            and not self.transport.is_closing()
        ):
            self._refuse(*self._too_long)

    def on_message_begin(self) -> None:
        """Add the TLS extension to the scope of the request that begins."""
        super().on_message_begin()
        self._whole = False
        connection = self.transport.get_extra_info("ssl_object")
        if connection is not None:
            der = connection.getpeercert(binary_form=True)
            chain = [ssl.DER_cert_to_PEM_cert(der)] if der else []
            self.scope["extensions"] = {"tls": {"client_cert_chain": chain}}

    def on_headers_complete(self) -> None:
        """Give the client its time for the body."""
        if (
            len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            > self._limits.head_size
        ):
            self._fault = self._too_long
            raise ValueError  # ends the parser, and so comes to `send_400_response`
        self._reading_head = False
        self._allow(self._limits.body)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Wait for the next request."""
        super().on_message_complete()
        self._reading_head, self._head_size, self._whole = True, 0, True
        self._allow(None)

    def on_response_complete(self) -> None:
        """Take the place behind those that have waited longer."""
        self._headers.end()
        super().on_response_complete()
        if self in self._listener.clients:
            self.since = time.monotonic()
            self._listener.clients[self] = self._listener.clients.pop(self)

    def pause_writing(self) -> None:
        """Give the client its time to read."""
        super().pause_writing()
        self._stall = self.loop.call_later(self._limits.stalled, self.drop)

    def resume_writing(self) -> None:
        """Stop that time."""
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def send_400_response(self, msg: str) -> None:
        """Refuse what ended the parser."""
        self._refuse(*self._fault)

    def _allow(self, seconds: float | None) -> None:
        """Close the connection after `seconds` unless something else is allowed until then."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self._too_slow) if seconds is not None else None

    def _too_slow(self) -> None:
        self._refuse(408, "the request was not complete in time")
        self.drop()

    def _refuse(self, status: int, reason: str) -> None:
        self._listener.refused(_name_of_peer(self.client), reason)
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.drop()
            return
        content = f"{reason}\n".encode()
        self.transport.write(
            STATUS_LINE[status] + b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(content), content)
        )
        self.transport.close()


class _CanonicalHeaders:
    """A transport that sends header names as `Content-Type`: libest's client compares them letter by letter.

    uvicorn writes each head in one piece, with names in lower case, and the body after it. The head waits for the
    body, so that both leave in one TLS record and one packet.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self._in_body = False

    def write(self, data: bytes) -> None:
        """Pass `data` on; keep it, with the names of its headers in canonical case, where it is a head."""
        if not self._in_body and data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 100 "):
            self._in_body = True
            head, separator, rest = data.partition(b"\r\n\r\n")
            status, *lines = head.split(b"\r\n")
            named = (line.partition(b":") for line in lines)
            self._head = b"\r\n".join([status, *(n.title() + c + v for n, c, v in named)]) + separator + rest
            return
        self._transport.write(self._head + data)
        self._head = b""

    def end(self) -> None:
        """Send what is kept: the answer is complete."""
        if self._head:
            self._transport.write(self._head)
        self._head, self._in_body = b"", False

    def close(self) -> None:
        """Close the connection once all is sent."""
        self.end()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Silent:
    """A connection whose client has not begun: it sent nothing, or a part of its first TLS record.

    It takes neither a task nor memory for TLS, so that many of them cost little.
    """

    silent = waiting = True

    def __init__(self, listener: "Listener", connection: socket.socket, peer: Any) -> None:
        self.since = time.monotonic()
        self._listener = listener
        self._connection = connection
        self._peer = peer
        self._waited_for = 0  # bytes
        self._loop = asyncio.get_running_loop()
        limits = listener.limits
        seconds = limits.head if listener.context is None else limits.handshake
        self._deadline = self._loop.call_later(seconds, self._too_late)

    def read(self) -> None:
        """Begin the handshake where the first byte, or the first TLS record, has come; else wait for it."""
        try:
            seen = self._connection.recv(_RECORD_HEAD + _LONGEST_RECORD, socket.MSG_PEEK)
        except OSError:
            seen = b""  # nothing yet, or nothing any more
        needed = 1 if self._listener.context is None else _first_record(seen)
        if len(seen) >= needed:
            self._end()
            if self._waited_for > 1:
                self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            handshake = _Handshake(self._listener, self._connection, self._peer)
            self._listener.clients[handshake] = self._listener.clients.pop(self)
        elif self._waited_for == needed:  # no more will come
            self.drop()
            if seen:  # else it was a health check of a load balancer
                self._listener.refused(_name_of_peer(self._peer), "handshake: the peer closed the connection")
        else:
            if needed > 1:
                self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, needed)
            if not self._waited_for:
                self._loop.add_reader(self._connection, self.read)
            self._waited_for = needed

    def drop(self) -> None:
        """Close the connection."""
        self._end()
        self._connection.close()
        self._listener.forget(self)

    def _too_late(self) -> None:
        self.drop()
        self._listener.refused(_name_of_peer(self._peer), "the client did not begin in time")

    def _end(self) -> None:
        self._deadline.cancel()
        self._loop.remove_reader(self._connection)


class _Handshake:
    """A connection until its TLS handshake is done, if there is one."""

    silent, waiting = False, True

    def __init__(self, listener: "Listener", connection: socket.socket, peer: Any) -> None:
        self.since = time.monotonic()
        self._listener = listener
        self._connection = connection
        self._peer = peer
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._done)

    def drop(self) -> None:
        """End the handshake."""
        self._task.cancel()

    async def _run(self) -> None:
        context, limits = self._listener.context, self._listener.limits
        try:
            async with asyncio.timeout(limits.handshake):
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: _HttpConnection(self._listener, self),
                    self._connection,
                    ssl=context,
                    ssl_shutdown_timeout=limits.idle if context is not None else None,
                )
        except OSError as error:
            self._connection.close()
            self._listener.refused(_name_of_peer(self._peer), f"handshake: {_reason(error)}")
            _free(error)
        except asyncio.CancelledError as error:
            _free(error)
            raise

    def _done(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            self._connection.close()
        self._listener.forget(self)


class Listener:
    """Accepts connections on one socket, within limits.

    asyncio's own servers have no limit of connections, swallow the errors of handshakes, and log a traceback for
    each connection that they cannot accept.
    """

    def __init__(
        self, app: Any, sock: socket.socket, context: ssl.SSLContext | None, limits: Limits, refused: Refused
    ) -> None:
        self.config = uvicorn.Config(
            app,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=limits.idle,
        )
        self.config.load()
        self.state = ServerState()
        self.limits = limits
        # Each takes an open file, and the process needs some for itself.
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = limits.connections
        if files != resource.RLIM_INFINITY:
            self._most = min(self._most, max(files // 2, files - 100))
        self.refused = refused
        self.clients: dict[_Client, None] = {}  # the oldest first
        self._sock = sock
        if limits.unseen and sock.family != socket.AF_UNIX and sys.platform == "linux":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, limits.unseen)
        self.context = context
        self._freed = asyncio.Event()
        self._last_message = -_MESSAGE_INTERVAL

    async def accept(self) -> None:
        """Accept connections until cancelled."""
        loop = asyncio.get_running_loop()
        self._sock.setblocking(False)
        for number in itertools.count(1):
            try:
                connection, peer = await loop.sock_accept(self._sock)
            except OSError as error:
                await self._back_off(error)
                continue
            try:
                while len(self.clients) >= self._most:
                    await self._make_room()
            except asyncio.CancelledError:
                connection.close()
                raise
            client = _Silent(self, connection, peer)
            self.clients[client] = None
            client.read()
            # While clients wait to be accepted, nothing above gives way to those that are already here.
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)

    def forget(self, client: _Client) -> None:
        """Give the place of a connection that has ended to another."""
        self.clients.pop(client, None)
        self._freed.set()

    async def close(self) -> None:
        """End: requests under way get two seconds."""
        self._sock.close()
        for client in list(self.clients):
            if isinstance(client, _HttpConnection):
                client.shutdown()
            else:
                client.drop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                while self.clients:
                    self._freed.clear()
                    await self._freed.wait()
        for client in list(self.clients):
            client.drop()
        for task in self.state.tasks:
            task.cancel()
        await asyncio.gather(*self.state.tasks, return_exceptions=True)

    async def _make_room(self) -> None:
        """Close a connection that waits for its client, or wait until one ends."""
        self._report_limit(f"{self._most} connections are open")
        if self._shed_silent():
            return
        old = time.monotonic() - self.limits.grace
        oldest = next((client for client in self.clients if client.waiting), None)
        if oldest is not None and oldest.since <= old:
            self._shed(oldest)
            return
        self._freed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(oldest.since - old if oldest is not None else None):
                await self._freed.wait()

    async def _back_off(self, error: OSError) -> None:
        """After a connection that could not be accepted: make room where files have run out."""
        if error.errno not in _NO_FILES:
            return  # the peer has gone before it was accepted
        self._report_limit(str(error.strerror))
        # Many at once, or those who wait to be accepted would wait as long as there are silent ones before them.
        if self._shed_silent(most=1 + len(self.clients) // 4):
            await asyncio.sleep(0)  # until they are closed
            return
        oldest = next((client for client in self.clients if client.waiting), None)
        if oldest is not None:
            self._shed(oldest)
        await asyncio.sleep(0.1)

    def _shed_silent(self, most: int = 1) -> bool:
        """Close the oldest connections on which nothing was sent: a client in good faith speaks at once."""
        oldest = list(itertools.islice((client for client in self.clients if client.silent), most))
        for client in oldest:
            self._shed(client)
        return bool(oldest)

    def _shed(self, client: _Client) -> None:
        client.drop()
        self.forget(client)

    def _report_limit(self, reason: str) -> None:
        if time.monotonic() - self._last_message >= _MESSAGE_INTERVAL:
            self._last_message = time.monotonic()
            self.refused("", f"at a limit ({reason}): connections that wait for their client are closed")


def _first_record(seen: bytes) -> int:
    """How many bytes a TLS client's first record takes, as far as `seen` tells; of all else 5 do."""
    if len(seen) < _RECORD_HEAD or seen[0] != _HANDSHAKE:
        return _RECORD_HEAD
    return _RECORD_HEAD + min(int.from_bytes(seen[3:_RECORD_HEAD]), _LONGEST_RECORD)


def _free(error: BaseException | None) -> None:
    """Free what a failed handshake holds: asyncio's frames and futures keep each other, and 0.3 MB with them."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, TimeoutError):
        return "not finished in time"
    return "the peer closed the connection"


def _name_of_peer(peer: Any) -> str:
    """The peer's address; "" for a UNIX socket, whose peers have none."""
    return address(peer[0], peer[1]) if peer else ""


def address(host: str, port: int) -> str:
    """`host` and `port` as a URL has them: an IPv6 address in brackets. RFC 3986 §3.2.2."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
