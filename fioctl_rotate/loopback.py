"""No connection leaves this machine while a rehearsal runs. An audit hook enforces this (PEP 578).

Python calls the hook before each connection, datagram, listener and name look-up of any library and thread. If the
hook raises an error, the operation does not happen.
"""

import contextlib
import errno
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Set
from typing import Any

from fioctl_rotate.settings import is_loopback

_LOOK_UPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")
_SENDS = ("socket.connect", "socket.sendto", "socket.sendmsg")


class LeavesLoopback(OSError):
    """Something would have left this machine, and was refused."""


class _Guard:
    """The ports allowed now, with who hears of a refusal; several rehearsals may run at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.installed = False
        self.active: list[tuple[Set[int], Callable[[str], None]]] = []


_GUARD = _Guard()


@contextlib.contextmanager
def loopback_only(ports: Set[int], refused: Callable[[str], None] = lambda _where: None) -> Iterator[None]:
    """While the block runs, this process can connect to these ports of loopback only.

    It can look up `localhost` only, and listen on loopback only (any port). Everything else raises LeavesLoopback,
    after `refused` was called with the address. A proxy on loopback has another port, so it is refused too. `ports`
    may grow.
    """
    with _GUARD.lock:
        if not _GUARD.installed:
            sys.addaudithook(_audit)  # Python cannot remove a hook: it stays until the process ends
            _GUARD.installed = True
        entry = (ports, refused)
        _GUARD.active.append(entry)
    try:
        yield
    finally:
        with _GUARD.lock:
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
    """The address if it is not allowed, else None; a socket that is connected already has no address here."""
    if family == socket.AF_UNIX or address is None:
        return None
    if family not in (socket.AF_INET, socket.AF_INET6):
        return str(address)
    host, port = address[:2]
    allowed = _is_loopback(host) and (not check_port or any(port in ports for ports, _ in _GUARD.active))
    return None if allowed else f"{host}:{port}"


def _is_loopback(host: Any) -> bool:
    name = host.decode("ascii", "replace") if isinstance(host, (bytes, bytearray)) else str(host)
    return is_loopback(name.lower())
