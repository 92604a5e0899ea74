"""Who a device is: its sota.toml, and the key and certificate that it names, in files or in slots of a token.

The token here is a directory that stands in for PKCS#11: `p11.module` names it, an object is a PEM file named by
its id. A rotation swaps ids exactly as on real hardware.
"""

import os
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fioctl_rotate.errors import Error
from fioctl_rotate.files import write_atomic
from fioctl_rotate.pki.keys import generate_key, private_key_pem
from fioctl_rotate.pki.parsing import load_private_key


class Sota:
    """A device's sota.toml. Keys are written with a dot: `import.tls_pkey_path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._tables: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise Error(f"{path.parent} is no device: it has no sota.toml") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Error(f"{path} is not TOML: {error}") from error

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`; Error where it is missing and there is no default."""
        table, _, name = key.partition(".")
        value = self._tables.get(table, {}).get(name, default)
        if value is None:
            raise Error(f"{self.path} has no {key}")
        return value

    def update(self, values: Mapping[str, str]) -> None:
        """Set the values and write the file, mode 0640."""
        for key, value in values.items():
            table, _, name = key.partition(".")
            self._tables.setdefault(table, {})[name] = value
        write_atomic(self.path, tomli_w.dumps(self._tables).encode(), 0o640)

    @property
    def uses_slots(self) -> bool:
        """Whether key and certificate are in a token's slots."""
        return bool(self.get("tls.pkey_source") == "pkcs11")


class Token:
    """A directory as a token: `pkey-<id>.pem` and `cert-<id>.pem`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def key_path(self, slot: str) -> Path:
        """Where the key with this id is."""
        return self._directory / f"pkey-{_object_id(slot)}.pem"

    def certificate_path(self, slot: str) -> Path:
        """Where the certificate with this id is."""
        return self._directory / f"cert-{_object_id(slot)}.pem"

    def generate_key(self, slot: str) -> ec.EllipticCurvePrivateKey:
        """Make a key in the slot, in the place of one that is there."""
        key = generate_key()
        write_atomic(self.key_path(slot), private_key_pem(key), 0o600)
        return key

    def import_certificate(self, slot: str, certificate: x509.Certificate) -> None:
        """Put the certificate into the slot, in the place of one that is there."""
        write_atomic(self.certificate_path(slot), certificate.public_bytes(Encoding.PEM), 0o600)


@dataclass(frozen=True)
class Identity:
    """A device's key and certificate, and the files that hold them."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    key_path: Path
    certificate_path: Path

    @property
    def uuid(self) -> str:
        """The device's UUID: the CN of its certificate."""
        names = self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(names[0].value) if names else ""


def token_of(sota: Sota) -> Token:
    """The token that holds this device's slots."""
    return Token(Path(sota.get("p11.module")))


def load_identity(sota: Sota) -> Identity:
    """The key and the certificate that sota.toml names. Raises Error where one is missing or no such thing."""
    if sota.uses_slots:
        token = token_of(sota)
        key_path = token.key_path(sota.get("p11.tls_pkey_id"))
        certificate_path = token.certificate_path(sota.get("p11.tls_clientcert_id"))
    else:
        key_path = Path(sota.get("import.tls_pkey_path"))
        certificate_path = Path(sota.get("import.tls_clientcert_path"))
    try:
        key = load_private_key(key_path.read_bytes(), name=str(key_path))
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
    except FileNotFoundError as error:
        raise Error(f"the device's {error.filename} is missing") from error
    except ValueError as error:
        raise Error(f"{certificate_path} is not a PEM certificate") from error
    return Identity(key, certificate, key_path, certificate_path)


def next_slot(slots: list[str] | None, current: str, fallback: str) -> str:
    """The first slot of the list that is not the current one (fioconfig: nextPkeyId)."""
    return next((slot for slot in slots or [] if slot != current), fallback)


def write_new(directory: Path, prefix: str, text: str) -> Path:
    """A new file `<prefix>.<random>.pem` in `directory`, mode 0600, synced to disk."""
    fd, name = tempfile.mkstemp(dir=directory, prefix=f"{prefix}.", suffix=".pem")
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return Path(name)


def _object_id(slot: str) -> str:
    """An id as fioconfig turns it into bytes: digit by digit, leading zeros dropped (fioconfig: IdToBytes)."""
    digits = bytes((ord(character) - ord("0")) % 256 for character in slot).lstrip(b"\0")
    if not digits:
        raise Error(f"slot id {slot!r} means no slot; fioconfig crashes on it")
    return digits.hex()
