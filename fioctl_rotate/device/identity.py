"""Who a device is: its sota.toml, and the key and certificate named there, in files or in slots of a token.

Here a token is a directory in place of PKCS#11: `p11.module` names it, and an object is a PEM file with its id in
the name. A rotation swaps ids exactly as on real hardware.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fioctl_rotate.errors import Error
from fioctl_rotate.files import read, write_atomic
from fioctl_rotate.pki.keys import generate_key, private_key_pem
from fioctl_rotate.pki.parsing import load_certificate, load_private_key
from fioctl_rotate.toml import read_toml

MAX_NUMBER = 10**9
"""The largest number in sota.toml that is valid: 32 years in seconds."""


class Sota:
    """A device's sota.toml. Keys are written with a dot: `import.tls_pkey_path`. Raises Error if damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tables = read_toml(path, "the device's")

    def text(self, key: str) -> str:
        """The text of `key`. Raises Error where it is missing, empty or something else."""
        value = self._value(key)
        if not isinstance(value, str) or not value or "\0" in value:
            raise Error(
                f"{self.path}: {key} is missing" if value is None else f"{self.path}: {key} is not valid"
            )
        return value

    def number(self, key: str, default: int) -> int:
        """The number of `key`, or `default` where it is missing. Raises Error where it is something else."""
        value = self._value(key)
        if value is None:
            return default
        if not isinstance(value, int) or abs(value) > MAX_NUMBER:
            raise Error(f"{self.path}: {key} is not valid")
        return value

    def _value(self, key: str) -> object:
        table, _, name = key.partition(".")
        values = self._tables.get(table)
        return values.get(name) if isinstance(values, dict) else None

    def update(self, values: Mapping[str, str | int]) -> None:
        """Set the values and write the file, mode 0640."""
        for key, value in values.items():
            table, _, name = key.partition(".")
            self._tables.setdefault(table, {})[name] = value
        write_atomic(self.path, tomli_w.dumps(self._tables).encode(), 0o640, sync=False)

    @property
    def uses_slots(self) -> bool:
        """Whether key and certificate are in a token's slots."""
        return self.text("tls.pkey_source") == "pkcs11"


class TokenDirectory:
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
        """Make a key in the slot; it replaces an old one."""
        key = generate_key()
        write_atomic(self.key_path(slot), private_key_pem(key), 0o600, sync=False)
        return key

    def import_certificate(self, slot: str, certificate: x509.Certificate) -> None:
        """Put the certificate into the slot; it replaces an old one."""
        write_atomic(self.certificate_path(slot), certificate.public_bytes(Encoding.PEM), 0o600, sync=False)


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


def token_of(sota: Sota) -> TokenDirectory:
    """The token that holds this device's slots."""
    return TokenDirectory(Path(sota.text("p11.module")))


def load_identity(sota: Sota) -> Identity:
    """The key and the certificate that sota.toml names. Raises Error where one is missing or not valid."""
    if sota.uses_slots:
        token = token_of(sota)
        key_path = token.key_path(sota.text("p11.tls_pkey_id"))
        certificate_path = token.certificate_path(sota.text("p11.tls_clientcert_id"))
    else:
        key_path = Path(sota.text("import.tls_pkey_path"))
        certificate_path = Path(sota.text("import.tls_clientcert_path"))
    key = load_private_key(read(key_path), name=str(key_path))
    certificate = load_certificate(read(certificate_path), str(certificate_path))
    return Identity(key, certificate, key_path, certificate_path)


def next_slot(slots: list[str] | None, current: str, fallback: str) -> str:
    """The first slot of the list that is not the current one (fioconfig: nextPkeyId)."""
    return next((slot for slot in slots or [] if slot != current), fallback)


def write_unique(directory: Path, prefix: str, text: str) -> Path:
    """A new file `<prefix>.<random>.pem` in `directory`, mode 0600."""
    fd, name = tempfile.mkstemp(dir=directory, prefix=f"{prefix}.", suffix=".pem")
    with os.fdopen(fd, "w") as file:
        file.write(text)
    return Path(name)


def _object_id(slot: str) -> str:
    """An id as fioconfig turns it into bytes: digit by digit, leading zeros dropped (fioconfig: IdToBytes)."""
    digits = bytes((ord(character) - ord("0")) % 256 for character in slot).lstrip(b"\0")
    if not digits:
        raise Error(f"slot id {slot!r} means no slot; fioconfig crashes on it")
    return digits.hex()
