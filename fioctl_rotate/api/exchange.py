"""Requests to the operator API and their answers: retries, errors in words, paging, nothing secret told.

Reading is retried on transport errors, 5xx and 429 (whose Retry-After is obeyed); writing never is, because only
the caller knows whether it is safe to repeat.
"""

import base64
import contextlib
import datetime
import email.utils
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec
import stamina

from fioctl_rotate.errors import Error, printable

T = TypeVar("T")

# stamina logs each retry, which without a handler ends up on stderr as a bare word.
logging.getLogger("stamina").addHandler(logging.NullHandler())

ATTEMPTS = 4
_EXTRACT = 160
_PLAIN_HEADERS = {
    *("host", "accept", "accept-encoding", "connection", "user-agent", "content-type", "content-length"),
}


class ApiError(Error):
    """The operator API answered with an error, or with something that is not an answer. `status` is HTTP's."""

    def __init__(self, message: str, *, status: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class Unreachable(Error):
    """No answer came. `sent` is False where the request cannot have reached the server."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Exchange:
    """Talks to one server; `busy_answers` counts its 429 and 503, also those that a retry got over.

    Args:
        http: a client whose base URL is the server's and which carries the authentication.
        server: what people call the other end: its URL, or `mock DIR`.
        trace: is told each request in one line (method, URL, status); no header and no body.
    """

    def __init__(
        self, http: httpx.AsyncClient, server: str, trace: Callable[[str], None] | None = None
    ) -> None:
        self.server = server
        self.busy_answers = 0
        self._http = http
        self._trace = trace
        self._credentials: set[str] = set()

    async def get(
        self,
        path: str,
        kind: type[T],
        params: Mapping[str, str] | None = None,
        *,
        empty: set[int] | None = None,
    ) -> T:
        """What is at `path`, as `kind`; an empty one where the status is in `empty`."""
        async for attempt in stamina.retry_context(
            on=_retry_after, attempts=ATTEMPTS, timeout=None, wait_initial=0.2, wait_max=5.0
        ):
            with attempt:
                response = await self._request("GET", path, params=params)
                self.busy_answers += response.status_code in (429, 503)
                if response.status_code in (empty or ()):
                    return kind()
                self._raise_for(response)
        return self._decode(response, kind)

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        params: Mapping[str, str] | None = None,
        answer: type[T] | None = None,
    ) -> T:
        """Send `body` as JSON, once; what comes back as `answer`, where that is wanted."""
        content = None if body is None else msgspec.json.encode(body)
        response = await self._request(method, path, params=params, content=content)
        self._raise_for(response)
        # A write's answer is read only where it says something: fioctl ignores it too.
        return None if answer is None else self._decode(response, answer)  # type: ignore[return-value]  # T is None's then

    async def pages(self, path: str, params: Mapping[str, str], kind: type[T]) -> AsyncIterator[T]:
        """Pages of `kind` (which has `next`), the first at `path` with `params`, the others where it says."""
        url, query = path, params
        seen = set()
        while True:
            page = await self.get(url, kind, query)
            yield page
            following: str | None = page.next  # type: ignore[attr-defined]  # every page has it
            if not following:
                return
            self._check_same_origin(following)
            if following in seen:
                raise Error(f"the answer of {self.server} names a page twice: {self._hidden(following)}")
            seen.add(following)
            # An absolute URL carries its own query.
            url, query = following, {}

    def _check_same_origin(self, url: str) -> None:
        # The token goes along with every request: a page elsewhere would get it.
        if _origin(url) != _origin(str(self._http.base_url)):
            host = self._hidden(urlsplit(url).netloc)
            raise Error(f"the answer of {self.server} sends us to another server, {host}; not followed")

    async def _request(
        self, method: str, path: str, *, params: Mapping[str, str] | None, content: bytes | None = None
    ) -> httpx.Response:
        headers = {"Content-Type": "application/json"} if content is not None else {}
        request = self._http.build_request(
            method, path, params=params or None, content=content, headers=headers
        )
        try:
            response = await self._http.send(request)
        except httpx.InvalidURL as error:
            raise Error(f"{path} is not a URL: {error}") from error
        except httpx.TransportError as error:
            sent = not isinstance(
                error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol)
            )
            self._tell(f"{method} {request.url}: {type(error).__name__}")
            raise Unreachable(f"{self.server} {_why(error)}", sent=sent) from error
        self._credentials |= _credentials(request.headers)
        self._tell(f"{method} {request.url}: {response.status_code}")
        return response

    def _tell(self, line: str) -> None:
        if self._trace:
            self._trace(printable(self._hidden(line)))

    def _hidden(self, text: str) -> str:
        """`text`, which may be a server's, without the credentials that it was sent: some say a request back."""
        for secret in sorted(self._credentials, key=len, reverse=True):
            text = text.replace(secret, "…")
        return text

    def _raise_for(self, response: httpx.Response) -> None:
        status = response.status_code
        if status in (200, 201, 202, 204):
            return
        what = f"{response.request.method} {response.request.url.path}"
        if response.is_redirect:
            target = self._hidden(response.headers.get("location", "elsewhere"))
            raise ApiError(
                f"{self.server} redirects {what} to {target}; not followed, because the token would go along",
                status=status,
            )
        hints = {
            401: "the token is wrong or has expired; see FIOCTL_TOKEN, or `fioctl-rotate login`",
            403: "the token may not do this; its user or its scopes lack the right",
            429: "the server is busy; try again later",
        }
        raise _Answered(
            f"{self.server} answered {status} to {what}{self._words(response)}",
            status=status,
            hint=hints.get(status),
            retry_after=_seconds(response.headers.get("retry-after")),
        )

    def _decode(self, response: httpx.Response, kind: type[T]) -> T:
        what = f"{response.request.method} {response.request.url.path}"
        try:
            return msgspec.json.decode(response.content, type=kind)
        except msgspec.ValidationError as error:
            with contextlib.suppress(msgspec.DecodeError, RecursionError):
                # A null where a value should be is as good as nothing: fioctl (Go) reads it so.
                return msgspec.convert(_without_nulls(msgspec.json.decode(response.content)), kind)
            raise ApiError(
                f"the answer of {self.server} to {what} is not understood: {self._hidden(str(error))}",
                status=response.status_code,
            ) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ApiError(
                f"the answer of {self.server} to {what} is not JSON: {self._extract(response)}",
                status=response.status_code,
                hint="is this the address of the operator API?",
            ) from error

    def _words(self, response: httpx.Response) -> str:
        """What the body says went wrong: its message and errors where it is JSON, else a short extract."""
        try:
            body: Any = json.loads(response.content)
        except (ValueError, RecursionError):
            text = self._extract(response)
            return f": {text}" if text else ""
        if not isinstance(body, dict):
            return f": {self._extract(response)}"
        message = body.get("msg") or body.get("message")
        errors = body.get("errors")
        parts = [str(message)] if message else []
        if isinstance(errors, dict):
            parts += [f"{field}: {text}" for field, text in errors.items()]
        elif isinstance(errors, list):
            parts += [str(text) for text in errors]
        return f": {self._hidden('; '.join(parts)) if parts else self._extract(response)}"

    def _extract(self, response: httpx.Response) -> str:
        text = self._hidden(" ".join(response.text.split()))
        if not text:
            return "an empty body"
        return printable(text if len(text) <= _EXTRACT else text[:_EXTRACT] + "…")


class _Answered(ApiError):
    """An error status, with the server's wish of when to come back, in seconds."""

    def __init__(self, message: str, *, status: int, hint: str | None, retry_after: float | None) -> None:
        super().__init__(message, status=status, hint=hint)
        self.retry_after = retry_after


def _retry_after(error: Exception) -> bool | float:
    """stamina's question: shall this be tried again, and if so after how many seconds?"""
    if isinstance(error, _Answered):
        if error.status == 429 or error.status >= 500:
            return True if error.retry_after is None else min(error.retry_after, 120.0)
        return False
    return isinstance(error, Unreachable)


def _seconds(value: str | None) -> float | None:
    """Retry-After in seconds, from either of its forms (RFC 9110 §10.2.3)."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value)
        return max(0.0, (when - datetime.datetime.now(datetime.UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _credentials(headers: httpx.Headers) -> set[str]:
    """What went along in headers that are not httpx's own: a token, and an access token in both its forms."""
    found = set()
    for name, value in headers.items():
        if name not in _PLAIN_HEADERS:
            word = value.removeprefix("Bearer ")
            found |= {value, word}
            with contextlib.suppress(ValueError):
                found.add(base64.b64decode(word, validate=True).decode())
    return found - {""}


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _why(error: httpx.TransportError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "did not answer in time"
    if isinstance(error, httpx.ConnectError):
        return f"cannot be reached: {error}"
    return f"broke off: {error or type(error).__name__}"
