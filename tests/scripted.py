"""An operator API on loopback that answers as a test says, and keeps what it was asked."""

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from fioctl_rotate.clock import utc_now
from fioctl_rotate.mock.operator import operator_app
from fioctl_rotate.mock.store.database import Store


@dataclass(frozen=True)
class Asked:
    """A request: `path` with its query, header names in lower case, `at` in seconds of a steady clock."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """An answer; a body that is not bytes goes out as JSON."""

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: Iterable[bytes] | None = None
    """What goes out after the headers instead of `body`, without end perhaps, until the client leaves."""
    raw: bytes | None = None
    """The whole answer, status line and all, instead of the rest."""

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


class Drop(Exception):
    """Close the connection without an answer."""


class Hang(Exception):
    """Do not answer until the test is over."""


Answer = Callable[[Asked], Reply]


class Server:
    """The server, while it runs. `url` is where; `asked` what came, in order."""

    def __init__(self, answer: Answer, context: ssl.SSLContext | None = None) -> None:
        self.asked: list[Asked] = []
        self._answer = answer
        self._over = threading.Event()
        self._http = _HttpServer(self)
        if context is not None:
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.url = f"http{'s' if context else ''}://localhost:{self._http.server_port}"
        # Polled often, because `shutdown` waits for the next poll.
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    def answer(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        try:
            return self._answer(asked)
        except Hang:
            self._over.wait()
            raise Drop from None

    def sent(self, method: str) -> list[Asked]:
        """The requests with `method`."""
        return [asked for asked in self.asked if asked.method == method]

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def close(self) -> None:
        """Take no more connections; those that are open go on."""
        self._http.shutdown()
        self._http.server_close()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.close()
        self._thread.join()


class _HttpServer(ThreadingHTTPServer):
    """Threads that end with their connection; a client that goes away is not an error."""

    daemon_threads = True

    def __init__(self, owner: Server) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    server: _HttpServer

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self.close_connection = True
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, self.path, headers, body, time.monotonic())
        try:
            reply = self.server.owner.answer(asked)
        except Drop:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        if reply.raw is not None:
            self.wfile.write(reply.raw)
            return
        self.send_response(reply.status)
        length = {} if reply.pieces is not None else {"Content-Length": str(len(reply.content))}
        for name, value in {**length, **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        for piece in [reply.content] if reply.pieces is None else reply.pieces:
            self.wfile.write(piece)

    def log_message(self, *args: Any) -> None:
        pass


def running_mock(directory: Path, *, authenticate: bool = False) -> contextlib.AbstractContextManager[Answer]:
    """The mocked Factory's own answers, for a script that changes only some."""

    @contextlib.contextmanager
    def opened() -> Iterator[Answer]:
        with contextlib.closing(Store(directory)) as store:
            app = operator_app(store, authenticate=authenticate, clock=utc_now)
            turn = threading.Lock()

            def answer(asked: Asked) -> Reply:
                async def request() -> httpx.Response:
                    url = f"http://{asked.headers['host']}"
                    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=url) as http:
                        return await http.request(
                            asked.method, asked.path, content=asked.body, headers=dict(asked.headers)
                        )

                # Requests that come at once have a thread each, and the store is one's at a time.
                with turn:
                    response = asyncio.run(request())
                return Reply(response.status_code, response.content, {"Content-Type": "application/json"})

            yield answer

    return opened()
