"""Requests to the operator API and their answers: JSON, retries, pages, and errors that people can act on.

Reads are retried after transport errors, 5xx and 429 (as Retry-After says). Writes never are: only the caller knows
whether a write is safe to repeat.
"""

import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar, overload
from urllib.parse import urljoin, urlsplit

import msgspec

from fioctl_rotate.api.failures import UNREADABLE, ApiError, Unreachable
from fioctl_rotate.api.peer import Answer, Peer
from fioctl_rotate.clock import utc_now
from fioctl_rotate.errors import Error, TimedOut, UsageError, printable, shortened
from fioctl_rotate.http_date import parse_http_date

ATTEMPTS = 4
MOST_PAGES = 2000
_LONGEST_WAIT = 120.0  # seconds; a server that asks for more is not waited for
_QUIET_WAIT = 5.0  # seconds; up to here a wait is not announced
_EXTRACT = 160

T = TypeVar("T")


class _Page(Protocol):
    next: str | None


P = TypeVar("P", bound=_Page)


class Exchange:
    """Requests to one server, and what their answers mean.

    Args:
        peer: the server.
        announce: gets a line for each wait of more than 5 seconds.
        deadline: when the command must have ended, in seconds of `time.monotonic()`: no wait goes beyond it.
    """

    def __init__(
        self,
        peer: Peer,
        *,
        announce: Callable[[str], None] = lambda _: None,
        deadline: float | None = None,
    ) -> None:
        self.busy_answers = 0
        """How often the server has answered 429 or 503, also where a retry then succeeded."""
        self._peer = peer
        self._announce = announce
        self._deadline = deadline
        self._announced_until = 0.0

    async def get(
        self,
        path: str,
        kind: type[T],
        params: Mapping[str, str] | None = None,
        *,
        empty: frozenset[int] = frozenset(),
    ) -> T:
        """GET `path`; returns the answer as `kind`, or an empty `kind` if the status is in `empty`.

        Raises Unreachable, ApiError, or TimedOut where the server asks to wait beyond the deadline.
        """

        async def ask() -> T:
            answer = await self._peer.send("GET", path, params=params)
            self.busy_answers += answer.status in (429, 503)
            if answer.status in empty:
                return kind()
            self._raise_for(answer)
            return self._decode(answer, kind)

        try:
            return await ask()
        except (Unreachable, ApiError) as error:
            if not _can_recover(error):
                raise
            return await self._try_again(ask, error)

    @overload
    async def send(
        self, method: str, path: str, body: object = None, *, params: Mapping[str, str] | None = None
    ) -> None: ...

    @overload
    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        params: Mapping[str, str] | None = None,
        answer: type[T],
    ) -> T: ...

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        params: Mapping[str, str] | None = None,
        answer: type[T] | None = None,
    ) -> T | None:
        """Send `body` as JSON, once; returns the server's answer as an `answer`, or None without `answer`.

        Raises Unreachable, ApiError, or UsageError for text that is not UTF-8.
        """
        try:
            content = None if body is None else msgspec.json.encode(body)
        except ValueError as error:
            raise UsageError(f"the request to {self._peer.name} has text that is not UTF-8") from error
        response = await self._peer.send(method, path, params=params, content=content)
        self._raise_for(response)
        # A write's answer is read only if the caller wants it; fioctl ignores most, too.
        return None if answer is None else self._decode(response, answer)

    async def pages(self, path: str, params: Mapping[str, str], kind: type[P]) -> AsyncIterator[P]:
        """Pages of `kind`: the first at `path` with `params`, each other one where the page before says.

        Raises Error for a page that is named twice, and after 2000 of them.
        """
        where, query = path, params
        seen = {where}
        for _ in range(MOST_PAGES):
            page = await self.get(where, kind, query)
            yield page
            if not page.next:
                return
            query = {}
            where = self._on_our_server(where, page.next)
            if where in seen:
                raise Error(
                    f"the answer of {self._peer.name} names the same page twice: {self._peer.hide(where)}"
                )
            seen.add(where)
        raise Error(f"the answers of {self._peer.name} still name a next page after {MOST_PAGES}; gave up")

    def _on_our_server(self, where: str, following: str) -> str:
        """The path and query of the page `following`, named by the page at `where`.

        Only these are used: behind a proxy a server may not know its own name, and the token goes nowhere else.
        """
        base = urlsplit(self._peer.url).path
        try:
            parts = urlsplit(urljoin(f"http://server{base}{where}", following))
        except ValueError as error:
            raise Error(
                f"the answer of {self._peer.name} names a next page that is not a URL: "
                f"{self._peer.hide(following)[:_EXTRACT]}"
            ) from error
        path = "/" + parts.path.removeprefix(base).lstrip("/")
        return f"{path}?{parts.query}" if parts.query else path

    async def _try_again(self, ask: Callable[[], Awaitable[T]], failure: Unreachable | ApiError) -> T:
        """Retry `ask`, which has failed with `failure`."""
        # Imported here, because most commands never retry.
        import stamina

        # stamina logs each retry; without a handler Python would write that to stderr.
        logging.getLogger("stamina").addHandler(logging.NullHandler())
        number = 1

        def wait(error: Exception) -> bool | float:
            if (
                not isinstance(error, (Unreachable, ApiError))
                or not _can_recover(error)
                or number == ATTEMPTS
            ):
                return False
            asked_for = error.retry_after if isinstance(error, ApiError) else None
            return True if asked_for is None else self._wait(asked_for, error)

        async for attempt in stamina.retry_context(
            on=wait, attempts=ATTEMPTS, timeout=None, wait_initial=0.2, wait_max=_QUIET_WAIT
        ):
            with attempt:
                number = attempt.num
                if number == 1:
                    raise failure
                return await ask()
        raise AssertionError("the last attempt returns or raises")

    def _wait(self, seconds: float, error: Error) -> float | bool:
        """`seconds`, announced where they are many; False for too many. Raises TimedOut beyond the deadline."""
        now = time.monotonic()
        if self._deadline is not None and now + seconds > self._deadline:
            raise TimedOut(
                f"{error.message}; it asks to wait {seconds:.0f} s, longer than the time that is left"
            )
        if seconds > _LONGEST_WAIT:
            return False
        if seconds > _QUIET_WAIT and now + seconds > self._announced_until + 1:
            # Parallel requests all get the same answer: one announcement is enough.
            self._announced_until = now + seconds
            self._announce(f"{error.message}; waiting {seconds:.0f} s, as it asks")
        return seconds

    def _raise_for(self, answer: Answer) -> None:
        status = answer.status
        if status in (200, 201, 202, 204):
            return
        name = self._peer.name
        if 300 <= status < 400 and "location" in answer.headers:
            target = self._peer.hide(answer.headers["location"])
            raise ApiError(
                f"{name} redirects {answer.request} to {target}; not followed: the token would go there too",
                status=status,
            )
        asked_for = _seconds(answer.headers.get("retry-after"))
        later = f"in {asked_for:.0f} s" if asked_for is not None and asked_for > _LONGEST_WAIT else "later"
        hints = {
            401: "the token is wrong or has expired; see FIOCTL_TOKEN, or `fioctl-rotate login`",
            403: "the token may not do this: its scopes or its user do not allow it",
            429: f"the server is busy; try again {later}",
            503: f"the server is busy; try again {later}",
        }
        raise ApiError(
            f"{name} answered {status} to {answer.request}{self._reason(answer)}",
            status=status,
            hint=hints.get(status),
            retry_after=asked_for,
        )

    def _decode(self, answer: Answer, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except msgspec.ValidationError as error:
            with contextlib.suppress(*UNREADABLE):
                # fioctl (Go) reads a null as a missing value, so nulls are left out here.
                return msgspec.convert(_without_nulls(msgspec.json.decode(answer.body)), kind)
            raise ApiError(
                f"the answer of {self._peer.name} to {answer.request} is not understood: "
                f"{self._peer.hide(str(error))}",
                status=answer.status,
            ) from error
        except UNREADABLE as error:
            raise ApiError(
                f"the answer of {self._peer.name} to {answer.request} is not JSON: {self._extract(answer)}",
                status=answer.status,
                hint="is this the address of the operator API?",
            ) from error

    def _reason(self, answer: Answer) -> str:
        """What the body says went wrong: its message and errors where it is JSON, else a short extract."""
        try:
            body: Any = msgspec.json.decode(answer.body)
        except UNREADABLE:
            text = self._extract(answer) if answer.body.strip() else ""
            return f": {text}" if text else ""
        if not isinstance(body, dict):
            return f": {self._extract(answer)}"
        message = body.get("msg") or body.get("message")
        errors = body.get("errors")
        parts = [str(message)] if message else []
        if isinstance(errors, dict):
            parts += [f"{field}: {text}" for field, text in errors.items()]
        elif isinstance(errors, list):
            parts += [str(text) for text in errors]
        if not parts:
            return f": {self._extract(answer)}"
        return f": {printable(shortened(self._peer.hide('; '.join(parts)), 1000))}"

    def _extract(self, answer: Answer) -> str:
        return printable(shortened(self._peer.hide(answer.text), _EXTRACT)) or "an empty body"


def _can_recover(error: Unreachable | ApiError) -> bool:
    """Whether a retry may succeed."""
    if isinstance(error, Unreachable):
        return not error.lasting
    return error.status == 429 or error.status >= 500


def _seconds(value: str | None) -> float | None:
    """Retry-After in seconds, from either of its forms (RFC 9110 §10.2.3)."""
    if value is None:
        return None
    if re.fullmatch("[0-9]{1,9}", value.strip()):
        return float(value)
    when = parse_http_date(value)
    return None if when is None else max(0.0, (when - utc_now()).total_seconds())


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
