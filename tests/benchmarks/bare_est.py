"""An EST server without EST: it ends TLS with asyncio, asks for a client certificate, and answers 201 to anything.

    python -m tests.benchmarks.bare_est --ca-cert=FILE --tls-cert=FILE --tls-key=FILE --port=N

What it takes is what asyncio's TLS takes: the floor of a server that is written in Python.
"""

import argparse
import asyncio
from pathlib import Path

from fioctl_rotate.tls import server_context


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(head.rpartition(b"Content-Length: ")[2].split(b"\r\n")[0]))
    writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    writer.close()
    await writer.wait_closed()


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    for name in ("root-cert", "ca-cert", "ca-key", "tls-cert", "tls-key"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--port", type=int)
    files = parser.parse_args()
    context = server_context(files.tls_cert, files.tls_key, files.ca_cert.read_text(), required=True)
    server = await asyncio.start_server(answer, "localhost", files.port, ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
