"""A device's requests: one TLS connection each, retried as fioconfig retries (fioconfig: HttpDo)."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from fioctl_rotate.device.identity import Identity
from fioctl_rotate.device.state_file import go_json
from fioctl_rotate.errors import Error
from fioctl_rotate.est import client as est
from fioctl_rotate.files import read
from fioctl_rotate.http import httpx
from fioctl_rotate.tls import client_context

RETRY_DELAYS = (1, 2, 5, 13, 30)  # seconds
TIMEOUT = 30.0  # seconds, for one attempt
MAX_REDIRECTS = 10

Sleep = Callable[[float], Awaitable[object]]


class Connection:
    """Sends requests to gateway and EST server as the holder of `identity`, trusting the roots in `cacert` alone.

    `failed` is called with the reason before a request is retried. Raises Error where the files
    of the device cannot be used for TLS.
    """

    def __init__(
        self,
        identity: Identity,
        cacert: Path,
        *,
        user_agent: str,
        sleep: Sleep,
        failed: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self._user_agent = user_agent
        self._sleep = sleep
        self._failed = failed
        roots = read(cacert).decode("utf-8", "replace")
        self._context = client_context(
            roots, roots_name=str(cacert), cert=identity.certificate_path, key=identity.key_path
        )
        # Never closed: each answer closes its connection, so nothing stays open. A client for each would cost more.
        self._client = httpx.AsyncClient(verify=self._context, timeout=TIMEOUT, trust_env=False)

    async def request(
        self, method: str, url: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """The answer to a request with the JSON of `body`; 5xx and transport errors are retried five times.

        Raises Error where the last attempt got no answer.
        """
        content = b"" if body is None else go_json(body)
        sent = {"User-Agent": self._user_agent, "Content-Type": "application/json", **(headers or {})}
        for delay in RETRY_DELAYS:
            try:
                response = await self._once(method, url, content, sent)
                if response.status_code < 500:
                    return response
                self._failed(f"{method} {url}: {refusal(response).message}")
            except Error as error:
                self._failed(error.message)
            await self._sleep(delay)
        return await self._once(method, url, content, sent)

    async def post_csr(self, url: str, csr: bytes) -> est.Answer:
        """The EST server's answer. The path goes out as it is; this request is never retried. Raises Error.

        A redirect is followed, after 301 to 303 by a GET without a body (Go: http.Client).
        """
        method = "POST"
        for _ in range(MAX_REDIRECTS + 1):
            try:
                answer = await est.send(method, url, context=self._context, content=csr, deadline=TIMEOUT)
            except est.NoAnswer as error:
                raise Error(f"{method} {url}: {error.message}") from error
            if answer.status not in (301, 302, 303, 307, 308) or not answer.location:
                return answer
            if answer.status < 307:
                method, csr = "GET", b""
            try:
                url = urljoin(url, answer.location)
            except ValueError as error:
                raise Error(f"{method} {url}: redirects to `{answer.location}`, not a URL") from error
        raise Error(f"{method} {url}: stopped after {MAX_REDIRECTS} redirects")

    async def _once(self, method: str, url: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
        try:
            return await self._client.request(
                method, url, content=content, headers={**headers, "Connection": "close"}
            )
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise Error(f"{method} {url}: {_reason(error)}") from error


def refusal(response: httpx.Response) -> Error:
    """The error for an answer of the gateway that a device does not accept."""
    return Error(f"the gateway answers {response.status_code}: {response.text.strip()[:500]}".rstrip(": "))


def _reason(error: Exception) -> str:
    if isinstance(error, (httpx.ReadError, httpx.RemoteProtocolError)):
        # In TLS 1.3 the refusal of a client certificate arrives after the client has ended its handshake.
        return f"the connection was closed; the server may not trust this device's certificate ({error})"
    return est.reason(error)
