"""Connections within limits: accepted, handshaken, handed to HTTP, and closed to make room for others."""

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
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from fioctl_rotate.http_connection import Client, HttpConnection, name_of_peer
from fioctl_rotate.limits import Limits, Refused

# Seconds between two messages about a limit.
_MESSAGE_INTERVAL = 10.0
# After this many new connections the open ones get their turn.
_NEW_AT_ONCE = 4
# RFC 8446 §5.1: a TLS record begins with its type, two bytes of version, and two of length.
_RECORD_HEAD, _HANDSHAKE, _LONGEST_RECORD = 5, 22, 2**14
_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


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
        self._waited_for = 0  # bytes that must come before `read` is called again
        self._loop = asyncio.get_running_loop()
        limits = listener.limits
        seconds = limits.head if listener.context is None else limits.handshake
        self._deadline = self._loop.call_later(seconds, self._too_late)

    def read(self) -> None:
        """Begin the handshake once the first byte, or the first whole TLS record, has come; until then wait."""
        try:
            seen = self._connection.recv(_RECORD_HEAD + _LONGEST_RECORD, socket.MSG_PEEK)
        except OSError:
            seen = b""  # nothing has come yet, or the connection has ended
        needed = 1 if self._listener.context is None else _first_record(seen)
        if len(seen) >= needed:
            self._end()
            if self._waited_for > 1:
                self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            handshake = _Handshake(self._listener, self._connection, self._peer)
            self._listener.clients[handshake] = self._listener.clients.pop(self)
        elif self._waited_for == needed:  # called without them: the client has closed its side
            self.drop()
            if seen:  # a client that sent nothing is a load balancer's health check
                self._listener.refused(name_of_peer(self._peer), "handshake: the peer closed the connection")
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
        self._listener.refused(name_of_peer(self._peer), "the client did not begin in time")

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
                    lambda: HttpConnection(self._listener, self),
                    self._connection,
                    ssl=context,
                    ssl_shutdown_timeout=limits.idle if context is not None else None,
                )
        except OSError as error:
            self._connection.close()
            self._listener.refused(name_of_peer(self._peer), f"handshake: {_reason(error)}")
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
        self.clients: dict[Client, None] = {}  # the oldest first
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
            # While clients wait to be accepted, nothing above lets the event loop serve the open connections.
            if number % _NEW_AT_ONCE == 0:
                await asyncio.sleep(0)

    def forget(self, client: Client) -> None:
        """Free the place of a connection that has ended."""
        self.clients.pop(client, None)
        self._freed.set()

    async def close(self) -> None:
        """Close everything; requests under way get two seconds to end."""
        self._sock.close()
        for client in list(self.clients):
            if isinstance(client, HttpConnection):
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
        if self._drop_silent():
            return
        old = time.monotonic() - self.limits.grace
        oldest = self._oldest_waiting()
        if oldest is not None and oldest.since <= old:
            self._drop(oldest)
            return
        self._freed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(oldest.since - old if oldest is not None else None):
                await self._freed.wait()

    async def _back_off(self, error: OSError) -> None:
        """After a connection that could not be accepted: make room where files have run out."""
        if error.errno not in _NO_FILES:
            return  # the peer left before it was accepted
        self._report_limit(str(error.strerror))
        # Many at once: else the clients that wait to be accepted would wait for each silent one before them.
        if self._drop_silent(most=1 + len(self.clients) // 4):
            await asyncio.sleep(0)  # until they are closed
            return
        if (oldest := self._oldest_waiting()) is not None:
            self._drop(oldest)
        await asyncio.sleep(0.1)

    def _oldest_waiting(self) -> Client | None:
        return next((client for client in self.clients if client.waiting), None)

    def _drop_silent(self, most: int = 1) -> bool:
        """Close the oldest silent connections, whose clients have not begun: an honest client begins at once.

        Returns whether there was one.
        """
        oldest = list(itertools.islice((client for client in self.clients if client.silent), most))
        for client in oldest:
            self._drop(client)
        return bool(oldest)

    def _drop(self, client: Client) -> None:
        client.drop()
        self.forget(client)

    def _report_limit(self, reason: str) -> None:
        if time.monotonic() - self._last_message >= _MESSAGE_INTERVAL:
            self._last_message = time.monotonic()
            self.refused("", f"limit reached ({reason}): closing connections that wait for their client")


def _first_record(seen: bytes) -> int:
    """The bytes of the first TLS record, as its head says; 5 before the head has come, and for what is not TLS."""
    if len(seen) < _RECORD_HEAD or seen[0] != _HANDSHAKE:
        return _RECORD_HEAD
    return _RECORD_HEAD + min(int.from_bytes(seen[3:_RECORD_HEAD]), _LONGEST_RECORD)


def _free(error: BaseException | None) -> None:
    """Free the 0.3 MB of a failed handshake, which asyncio's frames and futures keep: they refer to each other."""
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
