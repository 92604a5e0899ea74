"""Answers without end: in time, in size, in pages, in waiting. Each ends in one line."""

import asyncio
import gzip
import itertools
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import stamina

from fioctl_rotate import wire
from fioctl_rotate.api import exchange
from fioctl_rotate.api.exchange import Exchange
from fioctl_rotate.api.peer import Peer
from fioctl_rotate.errors import Error, TimedOut
from tests.commandline import Cli, Result
from tests.scripted import Asked, Reply, Server

Serve = Callable[..., Server]
LIST = ("config", "device-group", "list")


def one_line(result: Result, *words: str, code: int = 1) -> None:
    assert (result.code, result.out) == (code, ""), result.err
    (line,) = [line for line in result.err.splitlines() if not line.startswith("hint: ")]
    assert line.startswith("error: ")
    for word in words:
        assert word in line


# --- Time ---


def test_an_answer_that_trickles_ends_at_its_deadline(
    cli: Cli, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def trickle() -> Iterator[bytes]:
        while not over.wait(0.02):
            yield b" "

    monkeypatch.setenv("FIOCTL_ROTATE_TIMEOUT", "0.3")
    serve(lambda _: Reply(200, pieces=trickle()))
    one_line(cli(*LIST), "did not answer within 0.3 s")
    over.set()


def test_headers_without_end_are_an_error(cli: Cli, serve: Serve) -> None:
    # Each header is short; a client that kept them all would not end.
    serve(lambda _: Reply(200, b"", {f"X-{number}": "x" * 1000 for number in range(500)}))
    one_line(cli(*LIST), "sent an answer that is not valid HTTP")


# --- Size ---


def bomb(layers: int) -> bytes:
    """256 MiB of zeros, compressed."""
    compress = zlib.compressobj(9, wbits=31)
    megabyte = bytes(1 << 20)
    data = b"".join(compress.compress(megabyte) for _ in range(256)) + compress.flush()
    for _ in range(layers - 1):
        data = gzip.compress(data)
    return data


@pytest.mark.parametrize(
    ("layers", "encoding", "words"),
    [
        (1, "gzip", "larger than 32 MiB"),
        (2, "gzip, gzip", "its encoding is not supported: gzip, gzip"),
        (1, "br", "not supported: br"),
    ],
)
def test_an_answer_is_decompressed_up_to_a_limit(
    cli: Cli, serve: Serve, layers: int, encoding: str, words: str
) -> None:
    body = bomb(layers)
    server = serve(lambda _: Reply(200, body, {"Content-Encoding": encoding}))
    tracemalloc.start()
    try:
        one_line(cli(*LIST), words)
        assert tracemalloc.get_traced_memory()[1] < 150 << 20
    finally:
        tracemalloc.stop()
    assert len(server.asked) == 1


def test_a_flood_ends_at_the_limit(cli: Cli, serve: Serve) -> None:
    serve(lambda _: Reply(200, pieces=itertools.repeat(b"x" * (1 << 20))))
    one_line(cli(*LIST), "larger than 32 MiB")


def test_what_is_compressed_once_is_read(cli: Cli, serve: Serve) -> None:
    body = gzip.compress(b'{"groups": [{"name": "field"}]}')
    server = serve(lambda _: Reply(200, body, {"Content-Encoding": "gzip"}))
    assert cli(*LIST, "--format", "json").json["groups"][0]["name"] == "field"
    assert server.asked[0].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize(
    ("body", "words"),
    [(b"{}", "not gzip"), (gzip.compress(b"{}", mtime=0)[:-9], "cut off")],
    ids=["plain", "half"],
)
def test_gzip_that_is_not_valid_is_refused(cli: Cli, serve: Serve, body: bytes, words: str) -> None:
    serve(lambda _: Reply(200, body, {"Content-Encoding": "gzip"}))
    one_line(cli(*LIST), words)


# --- Pages ---


def test_a_list_has_a_limit_of_pages() -> None:
    async def work() -> None:
        count = itertools.count(2)

        def answer(_: httpx.Request) -> httpx.Response:
            return httpx.Response(200, json={"devices": [], "next": f"/ota/devices/?page={next(count)}"})

        async with Peer("http://api", lambda: httpx.MockTransport(answer)) as peer:
            with pytest.raises(Error, match="still name a next page after 2000"):
                async for _ in Exchange(peer).pages("/ota/devices/", {}, wire.DeviceList):
                    pass
        assert next(count) == exchange.MOST_PAGES + 2

    asyncio.run(work())


@pytest.mark.parametrize(
    "following",
    [
        "https://api.example:444/ota/devices/?page=2",
        "http://{elsewhere}/ota/devices/?page=2",
        "//{elsewhere}/ota/devices/?page=2",
        "http://user:password@{elsewhere}/ota/devices/?page=2",
        "/ota/devices/?page=2",
        "?page=2",
    ],
)
def test_the_next_page_is_read_from_our_server_whatever_host_it_names(
    cli: Cli, serve: Serve, following: str
) -> None:
    def answer(asked: Asked) -> Reply:
        more = None if "page=2" in asked.path else following.format(elsewhere=elsewhere.url.split("//")[1])
        name = "second" if more is None else "first"
        return Reply(200, {"devices": [{"uuid": name, "name": name}], "total": 2, "next": more})

    with Server(lambda _: Reply(200, {"devices": []})) as elsewhere:
        server = serve(answer)
        result = cli("devices", "list", "--format", "json")
    assert [device["name"] for device in result.json["devices"]] == ["first", "second"]
    assert server.asked[1].path == "/ota/devices/?page=2"
    assert server.asked[1].headers["osf-token"] == "canary-token"
    assert elsewhere.asked == []


def test_the_next_page_of_a_server_below_a_path_is_there(
    cli: Cli, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = iter(["https://inner/api/ota/devices/?page=2", "https://inner/ota/devices/?page=3", None])
    server = serve(lambda _: Reply(200, {"devices": [], "total": 0, "next": next(pages)}))
    monkeypatch.setenv("FIOCTL_ROTATE_SERVER", f"{server.url}/api")
    assert cli("devices", "list").code == 0
    assert [asked.path for asked in server.asked[1:]] == [
        "/api/ota/devices/?page=2",
        "/api/ota/devices/?page=3",
    ]


@pytest.mark.parametrize("following", ["http://[::1", "http://a\x00b", "x" * 100_000, "\ud800"])
def test_a_next_page_that_is_no_url_ends_in_one_line(cli: Cli, serve: Serve, following: str) -> None:
    serve(lambda _: Reply(200, {"devices": [], "total": 9, "next": following}))
    result = cli("devices", "list")
    assert (result.code, result.out) == (1, "")
    assert len([line for line in result.err.splitlines() if line.startswith("error: ")]) == 1
    assert len(result.err) < 2000


# --- Waiting ---


def busy_once(wait: str) -> Callable[[Asked], Reply]:
    count = itertools.count()
    return lambda _: Reply(200, {"groups": []}) if next(count) else Reply(429, b"", {"Retry-After": wait})


def test_a_wait_of_more_than_five_seconds_is_announced(cli: Cli, serve: Serve) -> None:
    server = serve(busy_once("60"))
    result = cli(*LIST)  # tests do not really wait
    assert result.code == 0
    assert result.err == (
        f"{server.url} answered 429 to GET /ota/factories/acme/device-groups/; waiting 60 s, as it asks\n"
    )


@pytest.mark.parametrize("wait", ["0", "5", "²", "1e3", "-1", "9" * 5000, "Mon, 99 Nov 99999 00:00:00 GMT"])
def test_a_short_wait_or_none_is_not_announced(cli: Cli, serve: Serve, wait: str) -> None:
    serve(busy_once(wait))
    result = cli(*LIST)
    assert (result.code, result.err) == (0, "")


def test_a_server_that_asks_for_hours_is_not_waited_for(cli: Cli, serve: Serve) -> None:
    server = serve(busy_once("7200"))
    result = cli(*LIST)
    one_line(result, "answered 429")
    assert "try again in 7200 s" in result.err
    assert len(server.asked) == 1


def test_a_wait_beyond_the_deadline_ends_at_once() -> None:
    async def work() -> None:
        def answer(_: httpx.Request) -> httpx.Response:
            return httpx.Response(503, headers={"Retry-After": "100"})

        announced: list[str] = []
        with stamina.set_testing(False):
            async with Peer("http://api", lambda: httpx.MockTransport(answer)) as peer:
                talk = Exchange(peer, announce=announced.append, deadline=time.monotonic() + 90)
                with pytest.raises(TimedOut, match="asks to wait 100 s, longer than the time that is left"):
                    await talk.get("/ota/", dict[str, Any])
        assert announced == []

    asyncio.run(work())


def test_requests_at_once_announce_one_wait() -> None:
    """And each is a connection of its own, used again by the next."""

    async def work() -> None:
        busy, opened, announced = set[str](), [], list[str]()

        def answer(request: httpx.Request) -> httpx.Response:
            path = request.url.path
            if path in busy:
                return httpx.Response(200, json={})
            busy.add(path)
            return httpx.Response(429, headers={"Retry-After": "60"})

        def transport() -> httpx.AsyncBaseTransport:
            opened.append(httpx.MockTransport(answer))
            return opened[-1]

        with stamina.set_testing(True, attempts=4, cap=True):
            async with Peer("http://api", transport) as peer:
                talk = Exchange(peer, announce=announced.append)
                await asyncio.gather(*(talk.get(f"/{number}", dict[str, Any]) for number in range(8)))
        assert len(announced) == 1
        assert len(opened) <= 8

    asyncio.run(work())


def test_a_secret_that_begins_another_one_leaves_nothing_of_it() -> None:
    peer = Peer("https://api.example", httpx.AsyncHTTPTransport)
    peer.keep_secret("canary", "canary-refresh")
    assert peer.hide("canary-refresh, canary") == "…, …"
