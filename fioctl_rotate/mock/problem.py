"""What the mocked Factory refuses, with the status and the words that go over the wire."""

import sqlite3
from collections.abc import Mapping, Sequence

from starlette.exceptions import HTTPException

HANDLED = (HTTPException, sqlite3.OperationalError)
"""What the apps' exception handlers take besides Problem."""


class Problem(Exception):
    """A request that is refused. `errors` is one of the API's two shapes: a list, or an object by field."""

    def __init__(
        self, status: int, message: str, errors: Sequence[str] | Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.errors = errors

    @classmethod
    def of(cls, error: Exception) -> "Problem":
        """The problem that an app's exception handler was called with.

        A state that cannot be read or written now (locked for too long, disk full) is 503: clients try again.
        """
        if isinstance(error, cls):
            return error
        if isinstance(error, HTTPException):
            return cls(error.status_code, error.detail)
        return cls(503, f"the mock's state is not usable: {error}")

    def body(self) -> dict[str, object]:
        """The JSON body. The API names the message `message` beside errors by field, else `msg`; so do we."""
        if isinstance(self.errors, Mapping):
            return {"message": self.message, "errors": dict(self.errors)}
        return {"msg": self.message, **({"errors": list(self.errors)} if self.errors else {})}
