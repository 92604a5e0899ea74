"""A refusal of the mocked Factory, with the status and the message that go over the wire."""

from collections.abc import Mapping, Sequence


class Problem(Exception):
    """A request that is refused. `errors` is one of the API's two shapes: a list, or an object by field."""

    def __init__(
        self, status: int, message: str, errors: Sequence[str] | Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.errors = errors

    def body(self) -> dict[str, object]:
        """The JSON body. The API names the message `message` beside errors by field, else `msg`; so do we."""
        if isinstance(self.errors, Mapping):
            return {"message": self.message, "errors": dict(self.errors)}
        return {"msg": self.message, **({"errors": list(self.errors)} if self.errors else {})}
