"""The PKI directory: the root's key and certificate, and what the root has signed, as fioctl keeps them.

`factory_ca.key/.pem`, `local-ca.key/.pem`, `online-crt`, `tls-crt`, mode 0400. Nothing is overwritten: what
a new file replaces is kept beside it as `NAME.bak`. The root's key may be in a PKCS#11 token instead.
"""

import contextlib
import datetime
import os
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fioctl_rotate import files
from fioctl_rotate.errors import Error, Refused
from fioctl_rotate.pki import certificate_rules, certificates
from fioctl_rotate.pki.parsing import load_certificate
from fioctl_rotate.pki.policy import organizational_units, require
from fioctl_rotate.pki.stores import AskPassphrase, FileKeyStore, KeyStore

ROOT_KEY = "factory_ca.key"
ROOT_CERTIFICATE = "factory_ca.pem"
LOCAL_CA = "local-ca.pem"
ONLINE_CA = "online-crt"
GATEWAY_TLS = "tls-crt"


@dataclass(frozen=True)
class Root:
    """A root that can sign: its certificate, its key, and the factory in its OU."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    factory: str


class PkiDirectory:
    """A PKI directory at `path`, with the root's key in it or in `root_key`.

    `ask_passphrase` is called for a key file that is encrypted. Methods raise Error where a file is missing or
    unreadable, Refused where what is in it breaks a rule; both name the file.
    """

    def __init__(
        self, path: Path, *, ask_passphrase: AskPassphrase | None = None, root_key: KeyStore | None = None
    ) -> None:
        self.path = path
        self._ask_passphrase = ask_passphrase
        self.root_key: KeyStore = root_key or self.key_file(ROOT_KEY)

    # --- The root ---

    def root_certificate(self, factory: str | None = None, *, now: datetime.datetime) -> x509.Certificate:
        """`factory_ca.pem`, checked to be a root (of `factory`, where given) that is valid at `now`."""
        self.check_exists()
        return self._checked_root(files.read(self.path / ROOT_CERTIFICATE), factory, now)

    def root(self, factory: str | None = None, *, now: datetime.datetime) -> Root:
        """The root with its key, checked to be a pair."""
        certificate = self.root_certificate(factory, now=now)
        key = self._key_of(certificate)
        (unit,) = organizational_units(certificate.subject)
        return Root(certificate, key, unit)

    def existing_root(self, factory: str, *, now: datetime.datetime) -> x509.Certificate | None:
        """The root's certificate, checked to be a pair with its key; None where there is no certificate yet.

        Raises Error where there is a certificate without its key: a ceremony cannot go on with that.
        """
        pem = files.read_if_there(self.path / ROOT_CERTIFICATE)
        if pem is None:
            self.root_key.load()
            return None
        certificate = self._checked_root(pem, factory, now)
        self._key_of(certificate)
        return certificate

    def make_root(self, factory: str, *, now: datetime.datetime) -> Root:
        """The root of `factory`. Existing parts are used, missing ones are made, the key first."""
        certificate = self.existing_root(factory, now=now)
        key = self.root_key.load(certificate) or self.root_key.create()
        if certificate is None:
            certificate = certificates.make_root(key, factory, now=now)
            self.write(ROOT_CERTIFICATE, certificate)
        return Root(certificate, key, factory)

    def _checked_root(self, pem: bytes, factory: str | None, now: datetime.datetime) -> x509.Certificate:
        where = str(self.path / ROOT_CERTIFICATE)
        certificate = load_certificate(pem, where)
        require(where, certificate_rules.root_violations(certificate, factory, now=now))
        return certificate

    def _key_of(self, certificate: x509.Certificate) -> ec.EllipticCurvePrivateKey:
        """The private key of the root's certificate. Raises Error where it is missing, Refused for another key."""
        key = self.root_key.load(certificate)
        if key is None:
            raise Error(
                f"{self.root_key.name} is missing: the private key of {self.path / ROOT_CERTIFICATE}",
                hint="for a key in an HSM, give --hsm-module and --hsm-token-label",
            )
        if certificate.public_key() != key.public_key():
            raise Refused(f"{self.path / ROOT_CERTIFICATE} is not the certificate of {self.root_key.name}")
        return key

    # --- What the root signs ---

    def set_aside(self, name: str) -> Path:
        """Rename a file to `NAME.bak`, or `NAME.bak.2` and so on where that is taken; returns the new path."""
        return files.set_aside(self.path / name)

    def key_file(self, name: str) -> FileKeyStore:
        """The key in a file of the directory."""
        return FileKeyStore(self.path / name, self._ask_passphrase)

    def certificate(self, name: str) -> x509.Certificate | None:
        """The certificate in the file `name`, or None where there is none."""
        pem = files.read_if_there(self.path / name)
        return None if pem is None else load_certificate(pem, str(self.path / name))

    def write(self, name: str, certificate: x509.Certificate) -> None:
        """Write a certificate to a new file, mode 0400."""
        files.create_new(self.path / name, certificates.pem(certificate).encode())

    # --- The directory itself ---

    def check_exists(self) -> None:
        """Raise Error where the path is not a directory."""
        if not self.path.is_dir():
            what = "not a directory" if self.path.exists() else "no such directory"
            raise Error(
                f"{self.path}: {what}", hint="`fioctl-rotate keys ca create DIR` makes a PKI directory"
            )

    def make(self) -> None:
        """Make the directory, mode 0700, where there is none. Raises Error where that cannot be."""
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise Error(f"cannot make the directory {self.path}: {error.strerror or error}") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory against other ceremonies while the block runs; remove what a killed one left.

        Where the file system has no locks (some network mounts), nothing is removed; even there no file is ever
        overwritten. Raises Error where another ceremony runs, or the directory cannot be read.
        """
        self.check_exists()
        try:
            fd = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise Error(f"{self.path} cannot be read: {error.strerror or error}") from error
        try:
            try:
                if files.lock(fd):
                    self._remove_leftovers()
            except BlockingIOError as error:
                raise Error(f"{self.path} is in use by another command; try again when it is done") from error
            except OSError as error:
                raise Error(f"{self.path} cannot be used: {error.strerror or error}") from error
            yield
        finally:
            os.close(fd)

    def _remove_leftovers(self) -> None:
        """Remove what an interrupted write left: a temporary file and, on a disk without hard links, an empty file.

        A temporary file may hold a key. Under the lock nobody else writes, so each one is a leftover.
        """
        for name in (ROOT_KEY, ROOT_CERTIFICATE, "*.key", "*.pem", ONLINE_CA, GATEWAY_TLS):
            for leftover in filter(Path.is_file, self.path.glob(f".{name}.????????")):
                target = leftover.with_name(leftover.name[1:-9])
                if target.is_file() and target.stat().st_size == 0:
                    target.unlink()
                leftover.unlink()

    def loose_modes(self) -> list[str]:
        """A warning each for the directory and the private keys that other users of this machine can use."""
        if not self.path.is_dir():
            return []
        found = []
        mode = stat.S_IMODE(self.path.stat().st_mode)
        if mode & 0o077:
            found.append(f"{self.path} is open to others (mode {mode:04o}); fix: `{_chmod(700, self.path)}`")
        for path in filter(Path.exists, sorted(self.path.glob("*.key"))):
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                found.append(f"{path} can be read by others (mode {mode:04o}); fix: `{_chmod(400, path)}`")
        return found


def _chmod(mode: int, path: Path) -> str:
    return f"chmod {mode} {shlex.quote(str(path))}"
