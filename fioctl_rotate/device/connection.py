"""A device's requests: one TLS connection each, retried as fioconfig retries (fioconfig: HttpDo)."""

import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fioctl_rotate.device.identity import Identity
from fioctl_rotate.device.state import go_json
from fioctl_rotate.errors import Error
from fioctl_rotate.http import httpx
from fioctl_rotate.tls import client_context

RETRY_DELAYS = (1, 2, 5, 13, 30)  # seconds
TIMEOUT = 30.0  # seconds, for one attempt

Sleep = Callable[[float], Awaitable[object]]


class Connection:
    """Talks to gateway and EST server as the holder of `identity`, trusting the roots in `cacert` alone."""

    def __init__(self, identity: Identity, cacert: Path, *, user_agent: str, sleep: Sleep) -> None:
        self._user_agent = user_agent
        self._sleep = sleep
        try:
            self._context = client_context(
                cacert.read_text(), cert=identity.certificate_path, key=identity.key_path
            )
        except (OSError, ssl.SSLError) as error:
            raise Error(f"the device cannot set up TLS: {error}") from error

    async def request(
        self, method: str, url: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """The answer to a request with the JSON of `body`; 5xx and transport errors are tried again five times.

        Raises Error where the last attempt got no answer.
        """
        content = b"" if body is None else go_json(body)
        sent = {"User-Agent": self._user_agent, "Content-Type": "application/json", **(headers or {})}
        for delay in RETRY_DELAYS:
            try:
                response = await self._once(method, url, content, sent)
                if response.status_code < 500:
                    return response
            except Error:
                pass
            await self._sleep(delay)
        return await self._once(method, url, content, sent)

    async def post_csr(self, url: str, csr: bytes) -> httpx.Response:
        """The EST server's answer; this request is never tried again. Raises Error where there is none."""
        return await self._once("POST", url, csr, {"Content-Type": "application/pkcs10"})

    async def _once(self, method: str, url: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
        try:
            async with httpx.AsyncClient(verify=self._context, timeout=TIMEOUT, trust_env=False) as client:
                return await client.request(
                    method, url, content=content, headers={**headers, "Connection": "close"}
                )
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
            raise Error(f"{method} {url}: {_words(error)}") from error


def _words(error: Exception) -> str:
    if isinstance(error, (httpx.ReadError, httpx.RemoteProtocolError)):
        # TLS 1.3 tells a refused client certificate after the client has seen its handshake succeed.
        return f"the connection was closed; the server may not trust this device's certificate ({error})"
    return str(error) or type(error).__name__
