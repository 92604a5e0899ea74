"""One connection's HTTP: uvicorn's protocol with limits of time and size, and with the client's certificate."""

import asyncio
import ssl
import time
from typing import Any, Protocol

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from fioctl_rotate.limits import Limits, Refused


class Client(Protocol):
    """A connection: silent, in its handshake, or with requests that are served."""

    since: float
    silent: bool
    """Whether its client has not begun yet: it sent nothing, or a part of its first TLS record."""

    @property
    def waiting(self) -> bool:
        """Whether the client is expected to send something."""
        ...

    def drop(self) -> None:
        """Close the connection at once."""


class Owner(Protocol):
    """What accepts a server's connections: the settings, and the open connections, the oldest first."""

    config: uvicorn.Config
    state: ServerState
    limits: Limits
    refused: Refused
    clients: dict[Client, None]

    def forget(self, client: Client) -> None:
        """Free the place of a connection that has ended."""


class HttpConnection(HttpToolsProtocol):
    """uvicorn's HTTP protocol with limits, and with the client's certificate in the scope.

    uvicorn does not fill `scope["extensions"]["tls"]` (ASGI specification, "TLS extension"), and limits neither
    headers nor time.
    """

    def __init__(self, owner: Owner, handshake: Client) -> None:
        super().__init__(owner.config, owner.state, {})
        self.since = time.monotonic()
        self.silent = False
        self._handshake = handshake
        self._owner = owner
        self._limits = owner.limits
        self._head_size = 0
        self._reading_head = True
        self._request_read = False  # to its end
        self._too_long = 431, f"headers longer than {owner.limits.head_size} bytes"
        self._fault = 400, "not a valid HTTP request"
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> bool:
        """Whether the client is expected to send something: no complete request waits for its answer."""
        return not self._request_read or self.cycle is None or self.cycle.response_complete

    def drop(self) -> None:
        """Close the connection at once."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Give the client its time for the first request."""
        self._headers = _CanonicalHeaders(transport)
        super().connection_made(self._headers)  # type: ignore[arg-type]  # all else is passed on
        self._owner.clients[self] = self._owner.clients.pop(self._handshake, None)
        self._set_deadline(self._limits.head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._set_deadline(None)
        self.resume_writing()
        self._owner.forget(self)

    def data_received(self, data: bytes) -> None:
        """Read a part of a request, as long as its head stays in its limits."""
        if self.transport.is_closing():
            return  # TLS had decrypted this before the connection was refused
        if self._reading_head and self._deadline is None:
            self._set_deadline(self._limits.head)
        self._head_size += len(data)  # 0 again where a request ends in `data`
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
        self._request_read = False
        connection = self.transport.get_extra_info("ssl_object")
        if connection is not None:
            der = connection.getpeercert(binary_form=True)
            chain = [ssl.DER_cert_to_PEM_cert(der)] if der else []
            self.scope["extensions"] = {"tls": {"client_cert_chain": chain}}

    def on_headers_complete(self) -> None:
        """Give the client its time for the body."""
        if (
            len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            > self._limits.head_size
        ):
            self._fault = self._too_long
            raise ValueError  # ends the parser, and so leads to `send_400_response`
        self._reading_head = False
        self._set_deadline(self._limits.body)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Wait for the next request."""
        super().on_message_complete()
        self._reading_head, self._head_size, self._request_read = True, 0, True
        self._set_deadline(None)

    def on_response_complete(self) -> None:
        """Go to the end of the owner's clients: this one begins to wait now."""
        self._headers.end()
        super().on_response_complete()
        if self in self._owner.clients:
            self.since = time.monotonic()
            self._owner.clients[self] = self._owner.clients.pop(self)

    def pause_writing(self) -> None:
        """Start the time in which the client must read."""
        super().pause_writing()
        self._stall = self.loop.call_later(self._limits.stalled, self.drop)

    def resume_writing(self) -> None:
        """The client reads again: stop that time."""
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def send_400_response(self, msg: str) -> None:
        """Refuse the request that ended the parser."""
        self._refuse(*self._fault)

    def _set_deadline(self, seconds: float | None) -> None:
        """Refuse the client after `seconds`, unless this is called again before; None: give it any time."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self._too_slow) if seconds is not None else None

    def _too_slow(self) -> None:
        self._refuse(408, "the request was not complete in time")
        self.drop()

    def _refuse(self, status: int, reason: str) -> None:
        self._owner.refused(name_of_peer(self.client), reason)
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
    """A transport that sends header names in canonical case, `Content-Type`: libest's client reads no other.

    uvicorn writes each head in one piece, with names in lower case, and the body after it. The head waits for the
    body, so that both leave in one TLS record and one packet.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self._in_body = False

    def write(self, data: bytes) -> None:
        """Send `data`; a head is kept until `data` of its body comes, with header names in canonical case."""
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


def name_of_peer(peer: Any) -> str:
    """The peer's address; "" for a UNIX socket, whose peers have none."""
    return address(peer[0], peer[1]) if peer else ""


def address(host: str, port: int) -> str:
    """`host` and `port` as a URL has them: an IPv6 address in brackets. RFC 3986 §3.2.2."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
