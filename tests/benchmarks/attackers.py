"""Hostile clients of a TLS server on this machine, in a process of their own: `bench_attacks.py` runs it.

    python -m tests.benchmarks.attackers ATTACK COUNT PORT

It prints a line once COUNT clients are at it. A client whose connection is closed comes back a little later. All
ends when stdin is closed, or after a minute.
"""

import asyncio
import contextlib
import ssl
import sys
from collections.abc import Callable, Coroutine

PAUSE = 0.2  # seconds until a client comes back
LONGEST = 60.0  # seconds
HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "

Attack = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]


async def nothing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Send nothing, for as long as the server lets it."""
    await reader.read()


async def half_handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send the beginning of a TLS record, and no more."""
    writer.write(b"\x16\x03\x01\x02\x00\x01")
    await reader.read()


async def half_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send the beginning of a request, and no more."""
    writer.write(HEAD)
    await reader.read()


async def endless_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send one header without end."""
    writer.write(HEAD)
    while not (reader.at_eof() or reader.exception() or writer.is_closing()):
        writer.write(b"a" * 16384)
        await writer.drain()
        await asyncio.sleep(0)


ATTACKS: dict[str, tuple[Attack, bool]] = {
    "nothing": (nothing, False),
    "half-handshake": (half_handshake, False),
    "half-head": (half_head, True),
    "endless-head": (endless_head, True),
}
"""What a client does, and whether it makes a TLS handshake first."""


def _anyone() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def main(name: str, count: int, port: int) -> None:
    """Attack until stdin is closed."""
    attack, over_tls = ATTACKS[name]
    context = _anyone() if over_tls else None
    begun, all_begun = 0, asyncio.Event()

    async def client() -> None:
        nonlocal begun
        first = True
        while True:
            writer = None
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
                begun, first = begun + first, False
                if begun == count:
                    all_begun.set()
                await attack(reader, writer)
            except OSError:
                pass
            finally:
                if writer is not None:
                    writer.transport.abort()
            await asyncio.sleep(PAUSE)

    clients = [asyncio.create_task(client()) for _ in range(count)]
    await all_begun.wait()
    print("ready", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stop.set)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), LONGEST)
    for task in clients:
        task.cancel()
    await asyncio.gather(*clients, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
