"""No connection leaves this machine while a rehearsal runs: enforced below everything that makes one.

Python tells an audit hook of each connection, datagram, listener and name look-up before the system is asked, in
whatever library and thread it begins (PEP 578). What the hook refuses does not happen.
"""

import contextlib
import errno
import ipaddress
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Set
from typing import Any

_LOOK_UPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")
_SENDS = ("socket.connect", "socket.sendto", "socket.sendmsg")


class LeavesLoopback(OSError):
    """Something was about to leave this machine, and did not."""


class _Guard:
    """What is allowed now; several rehearsals may run at once."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.installed = False
        self.active: list[tuple[Set[int], Callable[[str], None]]] = []


_GUARD = _Guard()


@contextlib.contextmanager
def loopback_only(ports: Set[int], refused: Callable[[str], None] = lambda _where: None) -> Iterator[None]:
    """While the block runs, this process connects to these ports of loopback alone; all else is an OSError.

    A proxy on loopback, which would pass things on, has another port. `ports` may grow. `refused` is told what was
    refused. Names other than `localhost` are not looked up, and nothing listens but on loopback.
    """
    with _GUARD.turn:
        if not _GUARD.installed:
            sys.addaudithook(_audit)  # for as long as the process lives: there is no way to take one out
            _GUARD.installed = True
        entry = (ports, refused)
        _GUARD.active.append(entry)
    try:
        yield
    finally:
        with _GUARD.turn:
            _GUARD.active.remove(entry)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _GUARD.active or not event.startswith("socket."):
        return
    where = None
    if event in _SENDS:
        connection, address = arguments[:2]
        where = _outside(connection.family, address, check_port=True)
    elif event == "socket.bind":
        where = _outside(arguments[0].family, arguments[1], check_port=False)
    elif event in _LOOK_UPS:
        host = arguments[0][0] if event == "socket.getnameinfo" else arguments[0]
        where = None if host is None or _is_loopback(host) else str(host)
    if where is not None:
        for _, refused in list(_GUARD.active):
            refused(where)
        raise LeavesLoopback(errno.ENETUNREACH, f"a rehearsal does not reach {where}")


def _outside(family: int, address: Any, *, check_port: bool) -> str | None:
    """The address where it is not allowed, None where it is, or there is none: the socket is connected."""
    if family == socket.AF_UNIX or address is None:
        return None
    if family not in (socket.AF_INET, socket.AF_INET6):
        return str(address)
    host, port = address[:2]
    allowed = _is_loopback(host) and (not check_port or any(port in ports for ports, _ in _GUARD.active))
    return None if allowed else f"{host}:{port}"


def _is_loopback(host: Any) -> bool:
    name = host.decode("ascii", "replace") if isinstance(host, (bytes, bytearray)) else str(host)
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() == "localhost"
