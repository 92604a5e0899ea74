"""What every server here grants its clients: time, size, and a limit of connections."""

import asyncio
import asyncio.sslproto
import contextlib
import errno
import gc
import socket
import ssl
import sys
from typing import Any

import pytest
from starlette.responses import Response

from fioctl_rotate.limits import Limits
from fioctl_rotate.pki.certificates import pem
from fioctl_rotate.serving import listen, running
from fioctl_rotate.tls import client_context, server_context
from tests.making import Pki, write_pair
from tests.served import PATIENCE, App, Connection, Served, served, until


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki.make()


@pytest.fixture
def tls(pki: Pki, tmp_path) -> ssl.SSLContext:
    return server_context(*write_pair(tmp_path, "tls", pki.server()), pem(pki.ca), required=True)


@pytest.fixture
def trusting(pki: Pki, tmp_path) -> ssl.SSLContext:
    files = write_pair(tmp_path, "device", pki.device())
    return client_context(pem(pki.root), cert=files[0], key=files[1])


def test_header_names_are_canonical() -> None:
    async def work() -> None:
        async with served() as server:
            sent = b"HTTP/1.1 a-b: c\r\nd-e: f\r\n\r\n"
            head, _, body = (await server.ask(sent)).partition(b"\r\n\r\n")
            names = [line.split(b":")[0] for line in head.split(b"\r\n")[1:]]
            assert set(names) == {b"X-Way", b"Content-Length", b"Connection"}
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert body == sent

    asyncio.run(work())


def test_a_client_may_wait_for_100_continue() -> None:
    async def work() -> None:
        async with served() as server:
            connection = await server.connect()
            connection.write(
                b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
            )
            assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.write(b"ok")
            assert b"\r\nContent-Length: 2\r\n" in await connection.reader.readuntil(b"\r\n\r\n")

    asyncio.run(work())


@pytest.mark.parametrize("connection", [b"close", b"keep-alive"])
def test_an_answer_without_a_body_is_sent(connection: bytes) -> None:
    async def work() -> None:
        async with served() as server:
            client = await server.connect()
            client.write(b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: %b\r\n\r\n" % connection)
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")

    asyncio.run(work())


LONG = [
    b"GET /" + b"a" * 70_000,
    b"GET / HTTP/1.1\r\nX:" + b"a" * 70_000,
    b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 9000,
]


@pytest.mark.parametrize("beginning", LONG)
def test_a_head_without_end_is_cut(beginning: bytes) -> None:
    async def work() -> None:
        async with served() as server:
            connection = await server.connect()
            connection.write(beginning)
            assert (await connection.rest()).startswith((b"HTTP/1.1 431", b"HTTP/1.1 400", b""))
            assert [reason for _, reason in server.refused] == ["headers longer than 32768 bytes"]
            assert server.refused[0][0].startswith("127.0.0.1:")
            assert (await server.ask()).endswith(b"x")
            assert server.app.bodies == [b"x"]

    asyncio.run(work())


@pytest.mark.parametrize("header", [b"A: " + b"a" * 60_000 + b"\r\n", b"A: b\r\n" * 8000])
def test_a_head_that_is_too_long_is_not_answered_over_tls(
    tls: ssl.SSLContext, trusting: ssl.SSLContext, header: bytes
) -> None:
    """TLS hands over what it has decrypted in pieces, of which the last ends the head."""

    async def work() -> None:
        async with served(context=tls) as server:
            connection = await server.connect(trusting)
            connection.write(b"GET / HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n")
            assert (await connection.rest()).startswith(b"HTTP/1.1 431")
            assert len(server.refused) == 1
            assert server.app.bodies == []

    asyncio.run(work())


@pytest.mark.parametrize("size", [40_000, 1_000_000])
def test_a_body_may_be_longer_than_a_head(tls: ssl.SSLContext, trusting: ssl.SSLContext, size: int) -> None:
    async def work() -> None:
        for context, client in ((tls, trusting), (None, None)):
            async with served(context=context) as server:
                assert len(await server.ask(b"a" * size, client)) > size
                assert server.refused == []

    asyncio.run(work())


@pytest.mark.parametrize("limit", ["head", "body"])
@pytest.mark.parametrize("head", [b"", b"\r\n", b"GET /", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"])
def test_a_request_that_is_not_complete_in_time_is_closed(head: bytes, limit: str) -> None:
    """The client may send a byte now and then: the time is for all of the head, or of the body."""
    in_body = head.startswith(b"POST")

    async def trickle(connection: Connection) -> None:
        while not connection.writer.is_closing():
            connection.write(b"\n" if not head.strip() else b"a")
            await asyncio.sleep(0.05)

    async def work() -> None:
        async with served(None, context=None, **{limit: 0.3}) as server:
            connection = await server.connect()
            connection.write(head)
            if in_body is not (limit == "body"):
                return  # that time is long
            sending = asyncio.create_task(trickle(connection)) if head.strip() and not in_body else None
            answer = await connection.rest()
            if sending is not None:
                sending.cancel()
            assert answer.startswith(b"HTTP/1.1 408") or not head.strip()
            assert server.refused or not head
            if in_body:
                await until(lambda: server.app.left == 1)
            assert (await server.ask()).endswith(b"x")

    asyncio.run(work())


def test_a_connection_between_two_requests_is_closed() -> None:
    async def work() -> None:
        async with served(idle=1) as server:
            connection = await server.connect()
            connection.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await connection.rest()).startswith(b"HTTP/1.1 200")
            assert server.refused == []

    asyncio.run(work())


def test_requests_over_one_connection_may_take_longer_together_than_one_alone() -> None:
    async def work() -> None:
        async with served(head=1.0, idle=PATIENCE) as server:
            connection = await server.connect()
            for _ in range(5):
                connection.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok")
                head = await connection.reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200")
                assert await connection.reader.readexactly(2) == b"ok"
                await asyncio.sleep(0.3)

    asyncio.run(work())


def test_pipelined_requests_are_answered_in_order() -> None:
    async def work() -> None:
        async with served() as server:
            connection = await server.connect()
            for number in range(9):
                last = b"Connection: close\r\n" if number == 8 else b""
                connection.write(
                    b"POST / HTTP/1.1\r\nHost: x\r\n%bContent-Length: 1\r\n\r\n%d" % (last, number)
                )
            answers = (await connection.rest()).split(b"HTTP/1.1 200 OK")[1:]
            assert [answer[-1:] for answer in answers] == [b"%d" % number for number in range(9)]

    asyncio.run(work())


def test_an_answer_that_nobody_reads_is_given_up() -> None:
    async def work() -> None:
        async with served(App(answer=b"a" * 50_000_000), stalled=0.3) as server:
            connection = await server.connect()
            connection.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's has it
            connection.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: bool(server.app.bodies))
            await asyncio.sleep(0.6)
            connection.writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
            assert len(await connection.rest()) < 50_000_000

    asyncio.run(work())


def test_what_is_not_http_is_refused_in_a_line() -> None:
    async def work() -> None:
        async with served() as server:
            connection = await server.connect()
            connection.write(b"\x16\x03\x01 hello\r\n\r\n")
            assert (await connection.rest()).startswith(b"HTTP/1.1 400")
            assert [reason for _, reason in server.refused] == ["not a valid HTTP request"]

    asyncio.run(work())


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels hand over every connection at once")
def test_silent_connections_take_no_place() -> None:
    async def work() -> None:
        async with served(connections=1, grace=PATIENCE, unseen=int(PATIENCE)) as server:
            silent = [await server.connect() for _ in range(5)]
            assert (await server.ask()).endswith(b"x")
            assert server.refused == []
            for connection in silent:  # none was closed
                connection.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert (await connection.rest()).startswith(b"HTTP/1.1 200")

    asyncio.run(work())


def test_beyond_the_limit_the_oldest_that_waits_is_closed() -> None:
    async def work() -> None:
        async with served(connections=3, grace=0.0) as server:
            silent = [await server.connect() for _ in range(3)]
            assert (await server.ask()).endswith(b"x")
            assert await silent[0].rest() == b""
            later = asyncio.create_task(silent[2].rest())
            assert (await server.ask()).endswith(b"x")
            assert not later.done()
            later.cancel()

    asyncio.run(work())


def test_beyond_the_limit_a_connection_that_has_not_waited_long_is_kept() -> None:
    async def work() -> None:
        async with served(connections=2, grace=PATIENCE, idle=int(PATIENCE)) as server:
            kept = [await server.connect() for _ in range(2)]
            for connection in kept:
                connection.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                await connection.reader.readuntil(b"\r\n\r\n")
            asking = asyncio.create_task(server.ask())
            await asyncio.sleep(0.3)
            assert not asking.done()
            kept[0].writer.transport.abort()
            assert (await asking).endswith(b"x")

    asyncio.run(work())


def test_beyond_the_limit_silent_connections_give_way_at_once() -> None:
    async def work() -> None:
        async with served(connections=2, grace=PATIENCE) as server:
            silent = [await server.connect() for _ in range(4)]
            assert (await server.ask()).endswith(b"x")
            assert await silent[0].rest() == b""
            assert [told[1].startswith("limit reached") for told in server.refused] == [True]

    asyncio.run(work())


def test_without_open_files_a_part_of_the_silent_connections_gives_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        accept, failures = loop.sock_accept, [OSError(errno.EMFILE, "Too many open files")]

        async def sock_accept(sock: socket.socket) -> Any:
            if len(silent) == 8 and failures:
                raise failures.pop()
            return await accept(sock)

        silent: list[Connection] = []
        monkeypatch.setattr(loop, "sock_accept", sock_accept)
        async with served() as server:
            for _ in range(8):
                silent.append(await server.connect())
            assert (await server.ask()).endswith(b"x")
            assert (await server.ask()).endswith(b"x")
            assert [await connection.rest() for connection in silent[:3]] == [b""] * 3
            silent[3].write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await silent[3].rest()).startswith(b"HTTP/1.1 200")
            assert [told[1].split(":")[0] for told in server.refused] == [
                "limit reached (Too many open files)"
            ]

    asyncio.run(work())


def test_beyond_the_limit_a_body_that_does_not_come_gives_way() -> None:
    async def work() -> None:
        async with served(connections=1, grace=0.0) as server:
            slow = await server.connect()
            slow.write(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
            await slow.reader.readuntil(b"\r\n\r\n")
            slow.write(b"abc")
            assert (await server.ask()).endswith(b"x")
            assert await slow.rest() == b""
            assert server.app.left == 1

    asyncio.run(work())


def test_forwarded_headers_are_not_believed() -> None:
    peers = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        peers.append((scope["client"][0], scope["scheme"]))
        await Response(b"x")(scope, receive, send)

    async def work() -> None:
        async with served(app) as server:
            connection = await server.connect()
            connection.write(
                b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                b"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n\r\n"
            )
            assert (await connection.rest()).endswith(b"x")

    asyncio.run(work())
    assert peers == [("127.0.0.1", "http")]


def test_beyond_the_limit_a_request_that_is_being_answered_is_kept() -> None:
    async def work() -> None:
        app = App(hold=asyncio.Event())
        async with served(app, connections=2, grace=0.0) as server:
            busy = [asyncio.create_task(server.ask(b"%d" % number)) for number in range(2)]
            await until(lambda: len(app.bodies) == 2)
            third = asyncio.create_task(server.ask(b"2"))
            await asyncio.sleep(0.2)
            assert len(app.bodies) == 2
            assert app.hold is not None
            app.hold.set()
            answers = await asyncio.gather(*busy, third)
            assert [answer[-1:] for answer in answers] == [b"0", b"1", b"2"]

    asyncio.run(work())


def hello(trusting: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.MemoryBIO, bytes]:
    """A client's side of TLS, where it takes what the server sends, and its first flight."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return tls, incoming, outgoing.read()


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (0, "the client did not begin in time"),
        (2, "the client did not begin in time"),
        (100, "the client did not begin in time"),
        (None, "handshake: not finished in time"),
    ],
)
def test_a_handshake_that_is_not_finished_in_time(
    tls: ssl.SSLContext, trusting: ssl.SSLContext, part: int | None, reason: str
) -> None:
    async def work() -> None:
        async with served(context=tls, handshake=0.3) as server:
            connection = await server.connect()
            connection.write(hello(trusting)[2][:part])
            await connection.rest()
            assert [told for _, told in server.refused] == [reason]

    asyncio.run(work())


def test_a_client_hello_may_come_in_pieces(tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    async def work() -> None:
        async with served(context=tls) as server:
            connection = await server.connect()
            client, incoming, first = hello(trusting)
            for start, end in ((0, 1), (1, 5), (5, 99), (99, None)):
                assert ssl_connections() == 0, "only a whole one takes memory for TLS"
                connection.write(first[start:end])
                await asyncio.sleep(0.05)
            while client.version() is None:
                incoming.write(await connection.reader.read(65536))
                with contextlib.suppress(ssl.SSLWantReadError):
                    client.do_handshake()

    asyncio.run(work())


def test_a_handshake_that_fails_frees_its_memory_at_once(
    tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    """A quarter of a megabyte each, which would otherwise wait for the collector of garbage."""

    async def work() -> None:
        async with served(context=tls, handshake=0.3, connections=4, grace=0.0) as server:
            for sent in (b"\x16\x03\x01\x00\x05hello", *[hello(trusting)[2]] * 9):  # fails; shed, or too late
                (await server.connect()).write(sent)
            await until(lambda: len(server.refused) > 4)
            await until(lambda: ssl_connections() == 0)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(work())
    finally:
        gc.enable()


def ssl_connections() -> int:
    return sum(isinstance(thing, asyncio.sslproto.SSLProtocol) for thing in gc.get_objects())


def test_a_health_check_leaves_no_line(tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    async def work() -> None:
        async with served(context=tls) as server:
            checking = await server.connect()
            checking.writer.close()
            assert await checking.rest() == b""
            assert (await server.ask(context=trusting)).endswith(b"x")
            assert server.refused == []

    asyncio.run(work())


def test_handshakes_that_wait_give_way_to_others(tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    async def work() -> None:
        async with served(context=tls, connections=3, grace=0.0) as server:
            silent = [await server.connect() for _ in range(6)]
            assert (await server.ask(context=trusting)).endswith(b"x")
            assert await silent[0].rest() == b""

    asyncio.run(work())


def test_a_refused_handshake_is_reported_with_its_reason(
    tls: ssl.SSLContext, pki: Pki, tmp_path: Any
) -> None:
    other = Pki.make(owner="u2")
    files = write_pair(tmp_path, "other", other.device())
    clients = [
        client_context(pem(pki.root)),
        client_context(pem(pki.root), cert=files[0], key=files[1]),
        None,
    ]

    async def work() -> None:
        async with served(context=tls) as server:
            for number, client in enumerate(clients, 1):
                with contextlib.suppress(OSError):
                    await server.ask(context=client)
                await until(lambda number=number: len(server.refused) == number)  # type: ignore[misc]  # bound now
            first, second, third = (reason for _, reason in server.refused)
            assert first == "handshake: peer did not return a certificate"
            assert second.startswith("handshake: the client certificate is refused: unable to get")
            assert third in ("handshake: http request", "handshake: wrong version number")

    asyncio.run(work())


@pytest.mark.parametrize("finished", [True, False])
def test_a_server_that_ends_lets_requests_finish(caplog: pytest.LogCaptureFixture, finished: bool) -> None:
    async def work() -> None:
        app = App(hold=asyncio.Event())
        with listen("127.0.0.1", 0) as sock:
            async with running(app, sock, limits=Limits(unseen=0)) as port:
                server = Served(app, port, [])
                asking = asyncio.create_task(server.ask())
                idle = await server.connect()
                await until(lambda: len(app.bodies) == 1)
                assert app.hold is not None
                if finished:
                    asyncio.get_running_loop().call_later(0.2, app.hold.set)
            assert (await asking).endswith(b"x") is finished
            assert await idle.rest() == b""
            server.close()

    asyncio.run(work())
    assert caplog.records == [], "a request that is cut off is not a fault"
