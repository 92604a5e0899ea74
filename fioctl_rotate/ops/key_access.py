"""Where an operator's private keys are: in a PKI directory, in a file, or in a PKCS#11 token."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fioctl_rotate.errors import UsageError
from fioctl_rotate.pki.directory import PkiDirectory
from fioctl_rotate.pki.hsm import Token, TokenKeyStore
from fioctl_rotate.pki.stores import FileKeyStore, KeyStore, Remembered

__all__ = ["KeyAccess", "KeyStore", "PkiDirectory"]


@dataclass(frozen=True)
class KeyAccess:
    """The token that holds keys, if any (`module` and `token_label`, both or none), and who knows the secrets.

    `ask_pin` and `ask_passphrase` (called with the key's name; None where nobody knows it) are each asked once.
    """

    module: Path | None
    token_label: str | None
    ask_pin: Callable[[], str] = field(repr=False)
    ask_passphrase: Callable[[str], bytes | None] = field(repr=False)

    def directory(self, path: Path) -> PkiDirectory:
        """The PKI directory at `path`, with the root's key in it or in the token."""
        return PkiDirectory(path, ask_passphrase=self._passphrase, token=self._token)

    def key_file(self, path: Path) -> KeyStore:
        """The key in a file."""
        return FileKeyStore(path, self._passphrase)

    def token_key(self, label: str) -> KeyStore:
        """The key with a label in the token. Raises UsageError where there is no token."""
        if self._token is None:
            raise UsageError(
                f"the key `{label}` is in an HSM, but no HSM was named",
                hint="name it with --hsm-module and --hsm-token-label",
            )
        return TokenKeyStore(self._token, label)

    @functools.cached_property
    def _passphrase(self) -> Callable[[str], bytes | None]:
        return Remembered(self.ask_passphrase)

    @functools.cached_property
    def _token(self) -> Token | None:
        if self.module is None or self.token_label is None:
            return None
        return Token(str(self.module), self.token_label, Remembered(self.ask_pin))
