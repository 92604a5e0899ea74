"""What a server grants its clients: how many connections, how much time, how long a head."""

from collections.abc import Callable
from dataclasses import dataclass

Refused = Callable[[str, str], None]
"""Called with the peer's address and the reason when a connection is refused before its request is complete."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of one process for its clients; times in seconds.

    A connection with TLS takes up to 0.35 MB, so `connections` sets the memory. At that limit a new client takes
    the place of the oldest connection whose client has not begun: it sent nothing, or a part of a handshake. Where
    there is none, it takes the place of the oldest that has waited for its client for longer than `grace`. Where
    there is none either, it waits.
    """

    connections: int = 512
    grace: float = 2.0
    unseen: int = 7  # so long the kernel keeps a connection whose client sends nothing; Linux only
    handshake: float = 10.0
    head: float = 10.0  # for the request line and the headers
    head_size: int = 32 * 1024  # bytes
    body: float = 20.0
    idle: int = 5  # between two requests
    stalled: float = 20.0  # an answer that the client does not read


LIMITS = Limits()
