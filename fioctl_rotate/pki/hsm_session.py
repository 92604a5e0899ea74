"""A logged-in session with a PKCS#11 token, and messages for the error codes of PKCS#11.

Needs the extra `[hsm]` (python-pkcs11).
"""

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from fioctl_rotate.errors import Error, printable

if TYPE_CHECKING:
    import pkcs11

T = TypeVar("T")


@dataclass(frozen=True)
class Token:
    """A PKCS#11 token: the path of its module (a shared library), a function that returns its PIN, how it is found.

    Where label, serial, model or manufacturer are not None, the token must have them.
    """

    module: str
    label: str | None
    pin: Callable[[], str] = field(repr=False)
    serial: str | None = None
    model: str | None = None
    manufacturer: str | None = None

    @property
    def name(self) -> str:
        """How messages name it."""
        return printable(self.label or self.serial or self.model or self.manufacturer or self.module)


class Session:
    """One logged-in session with a token, opened at its first use, and again after the token has ended it."""

    def __init__(self, token: Token) -> None:
        self.token = token
        self._open: pkcs11.Session | None = None
        self._writable = False
        # PKCS#11 sessions have one operation under way at a time.
        self._lock = threading.Lock()

    def call(self, work: Callable[["pkcs11.Session"], T], *, write: bool = False) -> T:
        """What `work` returns for the session. Raises Error where PKCS#11 reports an error."""
        try:
            from pkcs11 import exceptions
        except ImportError as error:
            raise Error(
                "keys in an HSM need python-pkcs11, which is not installed",
                hint="install python-pkcs11, which the extra `hsm` of this package brings",
            ) from error
        ended = (
            exceptions.SessionHandleInvalid,
            exceptions.SessionClosed,
            exceptions.UserNotLoggedIn,
            exceptions.DeviceRemoved,
        )
        with self._lock:
            try:
                if self._open is None or write > self._writable:
                    self._connect(write=write)
                assert self._open is not None  # noqa: S101  _connect has set it
                try:
                    return work(self._open)
                except ended:
                    self._connect(write=write)
                    return work(self._open)
            except exceptions.PKCS11Error as error:
                raise Error(
                    f"token {self.token.name}: {_message(error)}",
                    hint=_HINTS.get(type(error).__name__, f"the PKCS#11 module is {self.token.module}"),
                ) from error
            # python-pkcs11 raises these for a value from the token that it cannot read.
            except (ValueError, KeyError, NotImplementedError) as error:
                raise Error(f"token {self.token.name}: its answer cannot be read ({error})") from error

    def _connect(self, *, write: bool) -> None:
        from pkcs11.exceptions import SessionClosed, SessionHandleInvalid, UserAlreadyLoggedIn

        if self._open is not None:
            with contextlib.suppress(SessionClosed, SessionHandleInvalid):
                self._open.close()
            self._open = None
        token = self._found()
        try:
            self._open = token.open(rw=write, user_pin=self.token.pin())
        except UserAlreadyLoggedIn:
            # The login belongs to the process: another key of this token is in use.
            self._open = token.open(rw=write)
        self._writable = write

    def _found(self) -> "pkcs11.Token":
        import pkcs11

        wanted = self.token
        tokens = [
            token
            for token in pkcs11.lib(wanted.module).get_tokens()
            if wanted.label in (None, token.label)
            and wanted.serial in (None, _text(token.serial))
            and wanted.model in (None, _text(token.model))
            and wanted.manufacturer in (None, _text(token.manufacturer_id))
        ]
        if len(tokens) != 1:
            raise Error(
                f"token {wanted.name}: expected one such token, got {len(tokens) or 'none'}",
                hint="`pkcs11-tool --list-slots --module FILE` shows the tokens with label and serial",
            )
        return tokens[0]


def _text(value: str | bytes) -> str:
    """A token's attribute without padding; python-pkcs11 returns some as bytes."""
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else value).rstrip(" \0")


_PIN = "FIOCTL_ROTATE_HSM_PIN, --hsm-pin-file or the prompt gives the user's PIN"
_HINTS = {
    "PinIncorrect": _PIN,
    "PinLenRange": _PIN,
    "PinLocked": "too many wrong PINs; the security officer can set a new one",
}

_MESSAGES = {
    "PinIncorrect": "the PIN is wrong",
    "PinLenRange": "the PIN is wrong: it is too short or too long",
    "PinLocked": "the PIN is locked",
    "UserPinNotInitialized": "no user PIN was set yet",
    "UserNotLoggedIn": "it wants a login for each signature, but did not accept this one",
    "TokenWriteProtected": "the token is write-protected",
    "MechanismInvalid": "it does not support ECDSA on P-256",
}


def _message(error: Exception) -> str:
    name = type(error).__name__
    return _MESSAGES.get(name) or (str(error) or f"PKCS#11 error {name}")
