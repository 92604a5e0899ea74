"""One server over HTTP: sends it a request and returns the whole answer, with limits on time and size."""

import asyncio
import base64
import contextlib
import os
import socket
import ssl
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Self
from urllib.parse import urlencode

import msgspec

from fioctl_rotate import __version__
from fioctl_rotate.api.failures import ApiError, Unreachable
from fioctl_rotate.api.proxies import Proxy
from fioctl_rotate.errors import Error, UsageError, printable
from fioctl_rotate.http import httpx

MOST_BYTES = 32 << 20  # of an answer, decompressed; a page of 1000 devices has one or two MiB
_CONNECT = 10.0  # seconds at most to connect

_WRONG_SERVER = "is this the address of a device gateway or an EST server?"

# What httpx, anyio and Python's own network code may raise; asyncio's TimeoutError is an OSError.
_FAILURES = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError, ExceptionGroup)


class Answer(msgspec.Struct, frozen=True):
    """An answer. `request` is the method and path of its request, for people."""

    request: str
    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def text(self) -> str:
        """The start of the body on one line, as UTF-8: JSON has no other charset."""
        return " ".join(self.body[:4096].decode("utf-8", "replace").split())


class Peer:
    """One server.

    Each request takes a connection from a stack of idle ones and uses it alone. (A shared pool is slow: it is
    searched at each request.)

    Args:
        url: the server's, without a slash at its end.
        open_transport: makes a transport, one for each request that is under way at the same time.
        name: the server's name in messages, if not its URL.
        credentials: returns the headers that authenticate us; their values are never shown.
        timeout: seconds until the last byte of an answer must be there.
        proxy: the proxy on the way, for messages.
        trace: gets a line for each request (method, URL, status); no header and no body.
    """

    def __init__(
        self,
        url: str,
        open_transport: Callable[[], httpx.AsyncBaseTransport],
        *,
        name: str | None = None,
        credentials: Callable[[], Awaitable[Mapping[str, str]]] | None = None,
        timeout: float = 30.0,
        proxy: Proxy | None = None,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        self.url = url
        self.name = name or url
        self._open_transport = open_transport
        self._credentials = credentials
        self._timeout = timeout
        self._proxy = proxy
        self._trace = trace
        self._idle: list[httpx.AsyncBaseTransport] = []
        self._secrets: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._idle:
            await self._idle.pop().aclose()

    async def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
        content_type: str = "application/json",
    ) -> Answer:
        """Send a request, once, and return its answer, whatever the status.

        `path` is below the server's URL, and may have a query already. Raises Unreachable where no answer came,
        ApiError where it cannot be read, Error where `path` or its query is not valid.
        """
        request = self._request(method, path, params, content, content_type)
        if self._credentials is not None:
            given = await self._credentials()
            self.keep_secret(*_secrets(given))
            request.headers.update(given)
        transport = self._idle.pop() if self._idle else self._open_transport()
        try:
            async with asyncio.timeout(self._timeout):
                response = await transport.handle_async_request(request)
                try:
                    body = await self._body(response)
                finally:
                    await response.aclose()
        except _FAILURES as error:
            self._tell(f"{method} {request.url}: {type(error).__name__}")
            raise self._failure(error) from error
        finally:
            self._idle.append(transport)
        self._tell(f"{method} {request.url}: {response.status_code}")
        return Answer(f"{method} {request.url.path}", response.status_code, response.headers, body)

    def keep_secret(self, *secrets: str) -> None:
        """Hide these from now on in all messages about this server."""
        self._secrets.update(secrets)

    def hide(self, text: str) -> str:
        """`text` without the secrets that were sent: some servers repeat a request in their answer."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "…")
        return text

    def _tell(self, line: str) -> None:
        if self._trace:
            self._trace(printable(self.hide(line)))

    def _request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        content: bytes | None,
        content_type: str,
    ) -> httpx.Request:
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
            "User-Agent": f"fioctl-rotate/{__version__}",
        }
        if content is not None:
            headers["Content-Type"] = content_type
        # The time to connect ends before the whole time, so that a timeout shows whether anything was sent.
        connect = min(_CONNECT, self._timeout * 0.9)
        try:
            return httpx.Request(
                method,
                f"{self.url}{path}" + (f"?{urlencode(params)}" if params else ""),
                headers=headers,
                content=content,
                extensions={"timeout": {"connect": connect}},
            )
        except UnicodeEncodeError as error:
            raise UsageError(f"the request to {self.name} has text that is not UTF-8") from error
        except (httpx.InvalidURL, ValueError) as error:
            raise Error(
                f"{self.hide(path)[:160]} is not a valid path on {self.name}: {error}"[:400]
            ) from error

    async def _body(self, response: httpx.Response) -> bytes:
        """The whole body, decompressed piece by piece, so that it cannot grow beyond the limit."""
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity", "gzip"):
            raise self._unreadable(response, f"its encoding is not supported: {encoding}")
        expand = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
        body = bytearray()
        assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101  an async transport gives one
        async for piece in response.stream:
            try:
                body += expand.decompress(piece, MOST_BYTES + 1 - len(body)) if expand else piece
            except zlib.error as error:
                raise self._unreadable(response, "it is not gzip as its header says") from error
            if len(body) > MOST_BYTES:
                raise self._unreadable(response, f"it is larger than {MOST_BYTES >> 20} MiB")
        if expand and not expand.eof and body:
            raise self._unreadable(response, "its gzip is cut off")
        return bytes(body)

    def _unreadable(self, response: httpx.Response, why: str) -> ApiError:
        return ApiError(
            f"the answer of {self.name} cannot be read: {self.hide(why)}", status=response.status_code
        )

    def _failure(self, error: Exception) -> Unreachable:
        """What `error` means: which end failed, how, and whether another try can help."""
        reasons = list(_chain(error))
        tls = next((reason for reason in reasons if isinstance(reason, ssl.SSLError)), None)
        sent = not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError))
        if tls is not None:
            return self._tls_failure(tls, sent=sent)
        if isinstance(error, httpx.ProxyError):
            said = self.hide(str(error))
            hint = (
                f"set it as http://USER:PASSWORD@HOST:PORT in {self._proxy.variable}" if self._proxy else None
            )
            refused = said.startswith("4")  # 407 above all
            return Unreachable(
                f"{self._proxy} answered {said}",
                sent=False,
                lasting=refused,
                hint=hint if said.startswith("407") else None,
            )
        # Where nothing was sent, it is the proxy, if there is one, that did not answer.
        end = str(self._proxy) if self._proxy and not sent else self.name
        if isinstance(error, (httpx.TimeoutException, TimeoutError)):
            return Unreachable(f"{end} did not answer within {self._timeout:g} s", sent=sent)
        system = next((r for r in reversed(reasons) if isinstance(r, OSError) and r.strerror), None)
        why = self.hide(_reason(system) if system else str(error) or type(error).__name__)
        if isinstance(error, httpx.RemoteProtocolError):
            closed = "closed connection" in why or "disconnected" in why
            return Unreachable(
                f"{end} closed the connection before its answer was complete"
                if closed
                else f"{end} sent an answer that is not valid HTTP: {why}",
                sent=True,
            )
        if not sent:
            return Unreachable(f"{end} cannot be reached: {why}", sent=False)
        lasting = isinstance(error, (ValueError, httpx.InvalidURL, httpx.UnsupportedProtocol))
        never_left = isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol))
        # The TLS alert that says so is often lost when the server closes the connection.
        reset = self.url.startswith("https:") and isinstance(system, ConnectionResetError)
        hint = (
            f"a server that wants a client certificate may fail like this: {_WRONG_SERVER}" if reset else None
        )
        return Unreachable(
            f"the connection to {end} failed: {why}", sent=not never_left, lasting=lasting, hint=hint
        )

    def _tls_failure(self, error: ssl.SSLError, *, sent: bool) -> Unreachable:
        through = f" through {self._proxy}" if self._proxy else ""
        if isinstance(error, ssl.SSLCertVerificationError):
            return Unreachable(
                f"{self.name} cannot be trusted{through}: certificate verify failed: {error.verify_message}",
                sent=False,
                lasting=True,
                hint="name the CA of the server, or of the proxy, with CACERT, if it is one that you trust",
            )
        reason = (error.reason or str(error)).replace("_", " ").lower()
        if "certificate required" in reason or (not sent and "handshake failure" in reason):
            return Unreachable(
                f"{self.name} wants a client certificate{through}: {reason}",
                sent=sent,
                lasting=True,
                hint=f"the operator API wants none: {_WRONG_SERVER}",
            )
        return Unreachable(
            f"TLS with {self.name}{through} failed: {reason}", sent=sent, lasting="alert" in reason
        )


def _reason(error: OSError) -> str:
    """The system's message, which asyncio replaces by one with the address. A name resolver has its own."""
    ours = isinstance(error, socket.gaierror) or not error.errno
    return str(error.strerror) if ours else os.strerror(error.errno or 0)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and its causes, the first cause last."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        if isinstance(error, BaseExceptionGroup):
            yield from _chain(error.exceptions[0])
        error = error.__cause__ or error.__context__  # type: ignore[assignment]  # None ends the loop


def _secrets(headers: Mapping[str, str]) -> set[str]:
    """The secrets in these headers: each value, and an access token in both its forms."""
    found = set()
    for value in headers.values():
        word = value.removeprefix("Bearer ")
        found |= {value, word}
        with contextlib.suppress(ValueError):
            found.add(base64.b64decode(word, validate=True).decode())
    return found - {""}
