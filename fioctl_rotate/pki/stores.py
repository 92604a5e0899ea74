"""Key stores, each for one private key: their interface, and the store that is a file."""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fioctl_rotate import files
from fioctl_rotate.errors import Error
from fioctl_rotate.pki import keys
from fioctl_rotate.pki.parsing import load_private_key

T = TypeVar("T")

AskPassphrase = Callable[[str], bytes | None]
"""Called with the key's name, only where the key is encrypted; returns None where no passphrase is given."""


class Remembered(Generic[T]):
    """Asks a question once and remembers the answer. In another process it has the answers, but cannot ask."""

    def __init__(self, ask: Callable[..., T]) -> None:
        self._ask: Callable[..., T] | None = ask
        self._answers: dict[tuple[object, ...], T] = {}

    def __call__(self, *about: object) -> T:
        """The answer. Raises Error where another process must ask for it."""
        if about not in self._answers:
            if self._ask is None:
                raise Error("a PIN or passphrase is needed in a process that cannot ask for it")
            self._answers[about] = self._ask(*about)
        return self._answers[about]

    def __getstate__(self) -> dict[str, object]:
        return {"_ask": None, "_answers": self._answers}

    def __repr__(self) -> str:
        return "Remembered(…)"  # never a secret


class KeyStore(Protocol):
    """A place that holds one private key."""

    @property
    def name(self) -> str:
        """The key's name in messages."""
        ...

    def load(self, certificate: x509.Certificate | None = None) -> ec.EllipticCurvePrivateKey | None:
        """The key, or None where there is none. Raises Error where there is one that cannot be used.

        `certificate` is the key's, where it is known. It has the public half of the key, which some stores lack.
        """

    def create(self) -> ec.EllipticCurvePrivateKey:
        """Make the key; the next `load` returns it, whatever happens after. Raises Error where there is one."""
        ...


class FileKeyStore:
    """A key in a PEM file: written as SEC1, mode 0400, as by fioctl; PKCS#8 and encrypted keys are read, too."""

    def __init__(self, path: Path, ask_passphrase: AskPassphrase | None = None) -> None:
        self.path = path
        self._ask = ask_passphrase

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self.path)

    def load(self, certificate: x509.Certificate | None = None) -> ec.EllipticCurvePrivateKey | None:
        """The file's key, or None where there is no file. Raises Error where it cannot be read or used."""
        pem = files.read_if_there(self.path)
        if pem is None:
            return None
        ask = self._ask
        return load_private_key(pem, name=self.name, passphrase=(lambda: ask(self.name)) if ask else None)

    def create(self) -> ec.EllipticCurvePrivateKey:
        """Make a key and write it. Raises Error where the file is there already or cannot be written."""
        key = keys.generate_key()
        files.create_new(self.path, keys.private_key_pem(key))
        return key
