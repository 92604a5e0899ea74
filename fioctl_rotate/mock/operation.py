"""What a call of the operator API is made of: its description, its input, and the checks that all calls share."""

import datetime
import functools
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
from msgspec import inspect

from fioctl_rotate.mock import accounts
from fioctl_rotate.mock.accounts import Factory, Identity
from fioctl_rotate.mock.problem import Problem

LIMITS = (10, 20, 30, 40, 50, 100, 200, 500, 1000)
"""The sizes of a page that the API knows."""

DEFAULT_LIMIT = 500

BODY_LIMIT = 2 << 20
"""A request's body in bytes at most; a configuration has a limit of its own."""


@dataclass
class Call:
    """One request: who asks, for what, when, with the state as of now."""

    operation: "Operation"
    db: sqlite3.Connection
    directory: Path
    identity: Identity
    path: Mapping[str, str]
    query: Mapping[str, str]
    content: bytes
    now: datetime.datetime
    url: str

    @functools.cached_property
    def body(self) -> Any:
        """The body as what the operation takes; raises Problem (400)."""
        return decode(self.content, self.operation.takes)

    def factory(self, name: str) -> Factory:
        """The factory; raises Problem: the caller does not see it (404), or may only read it (403)."""
        factory = accounts.find_factory(self.db, name) if name in self.identity else None
        if factory is None:
            raise Problem(404, f"no factory {name}")
        if self.operation.writes and self.identity[name].role == accounts.READ_ONLY:
            raise Problem(403, "this token may only read")
        return factory

    def author(self, factory: Factory) -> str:
        """Who the caller is in that factory (a polis id)."""
        return self.identity[factory.name].polis_id

    def flag(self, name: str) -> bool | None:
        """A parameter that is 0 or 1, None where it is not there; raises Problem (400)."""
        value = self.query.get(name)
        if value is None:
            return None
        if value not in ("0", "1"):
            raise Problem(400, "a parameter is not right", {name: "is neither 0 nor 1"})
        return value == "1"

    def page(self) -> tuple[int, int]:
        """The page asked for, from 1, and its size; raises Problem (400)."""
        limit = self._number("limit", DEFAULT_LIMIT)
        if limit not in LIMITS:
            raise Problem(
                400, "a parameter is not right", {"limit": f"is not one of {', '.join(map(str, LIMITS))}"}
            )
        return self._number("page", 1), limit

    def next(self, page: int, limit: int, total: int) -> str | None:
        """The next page's absolute URL, or None after the last."""
        if page * limit >= total:
            return None
        parts = urlsplit(self.url)
        query = {**dict(parse_qsl(parts.query)), "page": str(page + 1), "limit": str(limit)}
        return urlunsplit(parts._replace(query=urlencode(query)))

    def _number(self, name: str, default: int) -> int:
        value = self.query.get(name, str(default))
        # Ten digits are more than any page has and fewer than what SQLite takes.
        if not (value.isascii() and value.isdigit() and len(value) <= 10 and int(value)):
            raise Problem(400, "a parameter is not right", {name: "is not a number from 1 on"})
        return int(value)


@dataclass(frozen=True)
class Text:
    """An answer that is not JSON."""

    content: str
    media_type: str


@dataclass(frozen=True)
class Answer:
    """An answer with a status of its own."""

    status: int
    content: Any = None


@dataclass(frozen=True)
class Operation:
    """A call of the API: method and path, what it takes and gives, and the function that does it.

    The function's docstring is the description in /openapi.json. `public` needs no token.
    """

    method: Literal["GET", "POST", "PATCH", "PUT", "DELETE"]
    path: str
    function: Callable[[Call], Any]
    takes: Any = None
    gives: Any = None
    status: int = 200
    parameters: tuple[str, ...] = ()
    errors: tuple[int, ...] = field(default=())
    public: bool = False

    @property
    def writes(self) -> bool:
        """Whether it may change anything, so that a read-only token may not call it."""
        return self.method != "GET"


def decode(body: bytes, kind: Any) -> Any:
    """The body as `kind`; raises Problem (400): not JSON, a wrong type, a key that the message does not have.

    An unknown key is refused because it is most likely a misspelt one, which a real Factory may ignore.
    """
    try:
        raw = msgspec.json.decode(body)
        value = msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        where = place.rstrip("`").lstrip(".") or "body"
        raise Problem(400, "the body is not right", {where: message}) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, "the body is not JSON", [str(error)]) from None
    unknown = _unknown_key(raw, inspect.type_info(kind))
    if unknown is not None:
        raise Problem(400, "the body is not right", {unknown: "is not a field of this message"})
    return value


def _unknown_key(raw: Any, kind: inspect.Type) -> str | None:
    if isinstance(kind, inspect.UnionType) and raw is not None:
        kind = next((t for t in kind.types if isinstance(t, inspect.StructType | inspect.ListType)), kind)
    if isinstance(kind, inspect.ListType) and isinstance(raw, list):
        return next((key for item in raw if (key := _unknown_key(item, kind.item_type)) is not None), None)
    if isinstance(kind, inspect.StructType) and isinstance(raw, dict):
        known = {member.encode_name: member.type for member in kind.fields}
        for key, value in raw.items():
            unknown = key if key not in known else _unknown_key(value, known[key])
            if unknown is not None:
                return str(unknown)
    return None
