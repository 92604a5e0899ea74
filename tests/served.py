"""An app served within limits, and its clients, for `test_serving.py`."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from fioctl_rotate.limits import Limits
from fioctl_rotate.serving import listen, running

PATIENCE = 60.0  # seconds; a test that waits so long has failed


@dataclass
class App:
    """Answers what it was sent; `hold` makes it wait first."""

    hold: asyncio.Event | None = None
    answer: bytes | None = None
    bodies: list[bytes] = field(default_factory=list)
    left: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            self.left += 1
            return
        self.bodies.append(body)
        if self.hold is not None:
            await self.hold.wait()
        await Response(self.answer or body, headers={"x-way": "back"})(scope, receive, send)


class Served:
    """A server with these limits; `refused` has the peers and reasons, `connect` opens a connection to it."""

    def __init__(self, app: Any, port: int, refused: list[tuple[str, str]]) -> None:
        self.app = app
        self.port = port
        self.refused = refused
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self, context: ssl.SSLContext | None = None) -> "Connection":
        reader, writer = await asyncio.open_connection("localhost", self.port, ssl=context)
        self._writers.append(writer)
        return Connection(reader, writer)

    async def ask(self, body: bytes = b"x", context: ssl.SSLContext | None = None) -> bytes:
        """The answer to a whole request over a connection of its own."""
        connection = await self.connect(context)
        connection.write(
            b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        return await connection.rest()

    def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def rest(self) -> bytes:
        """All until the server closes the connection, however it does."""
        data = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while chunk := await self.reader.read(65536):
                data += chunk
        return data


@contextlib.asynccontextmanager
async def served(
    app: Any = None, *, context: ssl.SSLContext | None = None, **limits: Any
) -> AsyncIterator[Served]:
    """Serve `app`. The kernel keeps no connection back, so that the server itself meets silent ones."""
    refused: list[tuple[str, str]] = []
    app = app or App()
    with listen("127.0.0.1", 0) as sock:
        async with running(
            app,
            sock,
            context,
            limits=Limits(**{"unseen": 0, **limits}),
            refused=lambda *told: refused.append(told),
        ) as port:
            server = Served(app, port, refused)
            try:
                async with asyncio.timeout(PATIENCE):
                    yield server
            finally:
                server.close()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  what changes it is not ours
        await asyncio.sleep(0.01)
