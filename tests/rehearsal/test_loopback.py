"""The guard of a rehearsal: nothing leaves this machine, whatever asks for it."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import httpx
import pytest

from fioctl_rotate.loopback import LeavesLoopback, loopback_only

ELSEWHERE = "192.0.2.1"  # RFC 5737: nobody's


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as sock:
        yield sock


def datagram(host: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", (host, 53))


def datagram_in_pieces(host: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendmsg([b"x", b"y"], (), 0, (host, 53))


@pytest.mark.parametrize(
    "leave",
    [
        lambda: socket.create_connection((ELSEWHERE, 443), 1),
        lambda: socket.create_connection(("2001:db8::1", 443), 1),
        lambda: socket.getaddrinfo("api.foundries.io", 443),
        lambda: socket.gethostbyname("api.foundries.io"),
        lambda: datagram(ELSEWHERE),
        lambda: datagram_in_pieces(ELSEWHERE),
        lambda: socket.create_server(("0.0.0.0", 0)),  # noqa: S104  it is what must not be
        lambda: httpx.get("https://api.foundries.io"),
    ],
)
def test_what_would_leave_is_refused_and_reported(leave) -> None:
    told: list[str] = []
    with loopback_only(set(), told.append), pytest.raises((OSError, httpx.ConnectError)):
        leave()
    assert told


def test_only_the_rehearsal_s_own_ports_are_reached(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with loopback_only({port}):
        socket.create_connection(("localhost", port), 1).close()
    with loopback_only({port + 1}), pytest.raises(LeavesLoopback):
        socket.create_connection(("127.0.0.1", port), 1)
    socket.create_connection(("127.0.0.1", port), 1).close()


def test_two_rehearsals_at_once_reach_the_ports_of_both(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with loopback_only({port}):
        with loopback_only({port + 1}):
            socket.create_connection(("127.0.0.1", port), 1).close()
        with pytest.raises(LeavesLoopback):
            socket.create_connection(("127.0.0.1", port + 1), 1)


def test_a_proxy_on_loopback_passes_nothing_on(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{listener.getsockname()[1]}")
    with loopback_only({1}), pytest.raises(httpx.HTTPError):
        httpx.get("https://api.foundries.io")
    listener.settimeout(0)
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_asyncio_and_its_threads_are_under_it_too() -> None:
    async def leave() -> None:
        with loopback_only(set()):
            with pytest.raises(LeavesLoopback):
                await asyncio.open_connection(ELSEWHERE, 443)
            with pytest.raises(LeavesLoopback):
                await asyncio.open_connection("api.foundries.io", 443)

    asyncio.run(leave())
