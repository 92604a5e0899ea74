"""Where an operator's private keys are: in a PKI directory, in a file, or in a PKCS#11 token."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from fioctl_rotate.errors import UsageError
from fioctl_rotate.pki.directory import PkiDirectory
from fioctl_rotate.pki.hsm import ROOT_LABEL, TokenKeyStore
from fioctl_rotate.pki.hsm_session import Token
from fioctl_rotate.pki.pkcs11_uri import Pkcs11Uri, parse_pkcs11_uri
from fioctl_rotate.pki.stores import FileKeyStore, KeyStore, Remembered

__all__ = ["KeyAccess", "KeyStore", "PkiDirectory", "named_hsm"]


def named_hsm(module: Path | None, token_label: str | None, uri: str | None) -> Pkcs11Uri | None:
    """The HSM that these options name; None without options. Raises UsageError if one is missing or given twice."""
    if uri is None:
        if (module is None) != (token_label is None):
            raise UsageError("--hsm-module and --hsm-token-label are needed together")
        return None if module is None else Pkcs11Uri(token=token_label, module_path=str(module))
    if token_label is not None:
        raise UsageError("give either --hsm-uri or --hsm-token-label")
    named = parse_pkcs11_uri(uri)
    if (module is None) == (named.module_path is None):
        raise UsageError(
            "give the PKCS#11 module once: as --hsm-module, or as module-path in --hsm-uri",
            hint="--hsm-uri 'pkcs11:token=LABEL?module-path=/usr/lib/softhsm/libsofthsm2.so'",
        )
    return named if module is None else replace(named, module_path=str(module))


@dataclass(frozen=True)
class KeyAccess:
    """The token that holds keys, if any, and how to ask for secrets.

    `ask_pin` is called at most once, `ask_passphrase` once for each key, with its name; it returns None where
    nobody knows the passphrase.
    """

    hsm: Pkcs11Uri | None
    ask_pin: Callable[[], str] = field(repr=False)
    ask_passphrase: Callable[[str], bytes | None] = field(repr=False)

    def directory(self, path: Path) -> PkiDirectory:
        """The PKI directory at `path`, with the root's key in it or in the token."""
        root_key = None if self.hsm is None else self.chosen_key(ROOT_LABEL)
        return PkiDirectory(path, ask_passphrase=self._passphrase, root_key=root_key)

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

    def chosen_key(self, label: str) -> KeyStore:
        """The key that the PKCS#11 URI names, else the one with this label. Raises UsageError as `token_key`."""
        if self._token is None or self.hsm is None or (self.hsm.object is None and self.hsm.id is None):
            return self.token_key(label)
        return TokenKeyStore(self._token, self.hsm.object, self.hsm.id)

    @functools.cached_property
    def _passphrase(self) -> Callable[[str], bytes | None]:
        return Remembered(self.ask_passphrase)

    @functools.cached_property
    def _token(self) -> Token | None:
        if self.hsm is None or self.hsm.module_path is None:
            return None
        return Token(
            self.hsm.module_path,
            self.hsm.token,
            Remembered(self.ask_pin),
            serial=self.hsm.serial,
            model=self.hsm.model,
            manufacturer=self.hsm.manufacturer,
        )
