"""A call of the operator API: its declaration, its input, and the checks that all calls share."""

import datetime
import re
import sqlite3
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from fioctl_rotate.mock.problem import Problem
from fioctl_rotate.mock.store import accounts, device_records
from fioctl_rotate.mock.store.accounts import Caller, FactoryRecord
from fioctl_rotate.mock.store.database import DeviceRecord

FACTORY = "/ota/factories/{factory}"
DEVICE = "/ota/devices/{device}"

LIMITS = (10, 20, 30, 40, 50, 100, 200, 500, 1000)
"""The page sizes that the API accepts."""

DEFAULT_LIMIT = 500

BODY_LIMIT = 2 << 20
"""The most bytes of a request's body; a configuration has its own, smaller limit."""

_MAY_ONLY_READ = "this token may only read"
PAGED = ("page", "limit")

F = typing.TypeVar("F", bound=Callable[..., Any])


@dataclass
class Call:
    """One request, its time and the state. `status` is the answer's, which the function may change."""

    operation: "Operation"
    db: sqlite3.Connection
    directory: Path
    caller: Caller
    path: Mapping[str, str]
    query: Mapping[str, str]
    now: datetime.datetime
    url: str
    status: int

    def factory(self, name: str | None = None) -> FactoryRecord:
        """The factory of that name, else the one that the request names, else the only one that the caller sees.

        Raises Problem: no factory is named (400), the caller does not see it (404) or may only read it (403).
        """
        name = name or self.path.get("factory") or self.query.get("factory")
        if name is None and len(self.caller) == 1:
            name = next(iter(self.caller))
        if name is None:
            raise Problem(400, "a parameter is not valid", {"factory": "is missing"})
        factory = accounts.find_factory(self.db, name) if name in self.caller else None
        if factory is None:
            raise Problem(404, f"no factory {name}")
        if self.operation.writes and self.caller[name].role == accounts.READ_ONLY:
            raise Problem(403, _MAY_ONLY_READ)
        return factory

    def device(self) -> tuple[FactoryRecord, DeviceRecord]:
        """The device that the path names (with `by-uuid=1` by its uuid), after its factory; raises Problem."""
        factory = self.factory()
        by_uuid = bool(self.flag("by-uuid"))
        return factory, device_records.find_device(
            self.db, factory.name, self.path["device"], by_uuid=by_uuid
        )

    def author(self, factory: FactoryRecord) -> str:
        """The caller's polis id in that factory."""
        return self.caller[factory.name].polis_id

    def flag(self, name: str) -> bool | None:
        """A parameter that is 0 or 1, None where it is missing; raises Problem (400)."""
        value = self.query.get(name)
        if value is None:
            return None
        if value not in ("0", "1"):
            raise Problem(400, "a parameter is not valid", {name: "expected 0 or 1"})
        return value == "1"

    def page(self) -> tuple[int, int]:
        """The number of the requested page, from 1, and its size; raises Problem (400)."""
        limit = self._number("limit", DEFAULT_LIMIT)
        if limit not in LIMITS:
            expected = f"expected one of {', '.join(map(str, LIMITS))}"
            raise Problem(400, "a parameter is not valid", {"limit": expected})
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
        # No list has a page number of more digits, and SQLite takes ten.
        if not (value.isascii() and value.isdigit() and len(value) <= 10 and int(value)):
            raise Problem(400, "a parameter is not valid", {name: "expected a number, 1 or more"})
        return int(value)


@dataclass(frozen=True)
class Pem:
    """An answer that is not JSON, but PEM."""

    content: str


@dataclass(frozen=True)
class Operation:
    """A call of the API: method and path, and the function that does it.

    `takes` is the type of its body, None without one; `gives` the type of its answer, None for 204. `errors` are
    statuses that only this call may answer. A `public` call needs no token.
    """

    method: str
    path: str
    function: Callable[..., Any]
    takes: Any
    gives: Any
    status: int
    query: tuple[str, ...]
    errors: tuple[int, ...]
    public: bool

    @property
    def writes(self) -> bool:
        """Whether it may change anything, so that a read-only token may not call it."""
        return self.method != "GET"

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameters of the query. Each call for one device takes `factory` and `by-uuid`, which find it."""
        return (("factory", "by-uuid") if self.path.startswith(DEVICE) else ()) + self.query

    def run(self, call: Call, content: bytes) -> Any:
        """The function's result for a request with the body `content`; raises Problem."""
        if self.writes and all(account.role == accounts.READ_ONLY for account in call.caller.values()):
            raise Problem(403, _MAY_ONLY_READ)
        if self.takes is None:
            return self.function(call)
        return self.function(call, decode(content, self.takes))


class Operations(list[Operation]):
    """The calls of one module, each declared by this decorator on the function that does it.

    The function takes a Call, and the body where there is one; its annotations say which message that is and what
    is answered (`None`: 204). Its docstring is the description in /openapi.json.
    """

    def __call__(
        self,
        method: Literal["GET", "POST", "PATCH", "PUT", "DELETE"],
        *paths: str,
        status: int = 200,
        query: tuple[str, ...] = (),
        errors: tuple[int, ...] = (),
        public: bool = False,
    ) -> Callable[[F], F]:
        """Declare the decorated function as this method of all these paths."""

        def declare(function: F) -> F:
            hints = typing.get_type_hints(function)
            gives = None if hints["return"] is types.NoneType else hints["return"]
            for path in paths:
                self.append(
                    Operation(
                        method=method,
                        path=path,
                        function=function,
                        takes=hints.get("body"),
                        gives=gives,
                        status=204 if gives is None else status,
                        query=query,
                        errors=errors,
                        public=public,
                    )
                )
            return function

        return declare


def decode(body: bytes, kind: Any) -> Any:
    """The body as `kind`; raises Problem (400): not JSON, a wrong type, a field that the message does not have.

    The bodies in `requests` forbid unknown fields: one is probably a typing error, which a real Factory may ignore.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        raise Problem(
            400, "the body is not valid", {place.rstrip("`").lstrip(".") or "body": message}
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, "the body is not JSON", [str(error)]) from None


def path_parameters(path: str) -> list[str]:
    """The names in a path's braces."""
    return re.findall(r"{(\w+)", path)
