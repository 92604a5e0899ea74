"""How a request can fail: with an answer that says so, or without one."""

import msgspec

from fioctl_rotate.errors import Error

UNREADABLE = (msgspec.MsgspecError, RecursionError, ValueError, OverflowError, MemoryError)
"""What decoding JSON may raise: for other text, endless nesting, bytes that are not UTF-8, endless numbers."""


class ApiError(Error):
    """The server answered with an error, or with something that cannot be read. `status` is HTTP's.

    `retry_after` is how many seconds the server asks to wait before the next try, None where it does not say.
    """

    def __init__(
        self, message: str, *, status: int, hint: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.retry_after = retry_after


class Unreachable(Error):
    """No answer came.

    `sent` is False if the request certainly did not reach the server. `lasting` is True if a retry would fail in
    the same way.
    """

    def __init__(self, message: str, *, sent: bool, lasting: bool = False, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.sent = sent
        self.lasting = lasting
