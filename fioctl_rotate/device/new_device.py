"""Makes a device's directory: key, certificate, root and sota.toml, as `lmp-device-register` leaves one."""

import datetime
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fioctl_rotate.device.device import SECRETS
from fioctl_rotate.device.identity import TokenDirectory
from fioctl_rotate.device.state_file import COMPLETED_FILE, RotationState, go_json
from fioctl_rotate.pki.certificates import pem, sign_device
from fioctl_rotate.pki.keys import generate_key, private_key_pem

TWENTY_YEARS = datetime.timedelta(days=20 * 365)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What kind of device: its LmP version, and how it differs from a new one with keys in files.

    `strict_est`: fioconfig before 2026-02, which takes only 201 and the bare media type from an EST server.
    `slots`: key and certificate are in a token, with ids 01 and 03. `clock_offset`: seconds its clock is ahead.
    `interval`: seconds between its check-ins, None: as for all. `offline`: it stays off. `completed`: the
    ROTATIONID of the rotation that it completed last.
    """

    lmp: int = 97
    strict_est: bool = False
    slots: bool = False
    clock_offset: int = 0
    interval: int | None = None
    offline: bool = False
    completed: str | None = None


def create_device(
    directory: Path,
    *,
    subject: x509.Name,
    gateway: str,
    root_pem: str,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
    lifetime: datetime.timedelta = TWENTY_YEARS,
    kind: Kind = Kind(),
    target: tuple[str, int] | None = None,
) -> x509.Certificate:
    """Make a device in `directory` (which must not exist) and return its certificate.

    `gateway` is the gateway's URL (`https://host:port`). The device trusts the roots in `root_pem` and no others.
    `ca` and `ca_key` are the device CA that signs for it. `target` is name and version of what it runs. Paths in
    its sota.toml are absolute, so that the real fioconfig runs on it, too.
    """
    directory.mkdir(parents=True)
    directory = directory.resolve()
    (directory / SECRETS).mkdir()
    key = generate_key()
    certificate = sign_device(subject, key.public_key(), ca, ca_key, now=now, lifetime=lifetime)
    key_path, certificate_path, tables = _in_slots(directory) if kind.slots else _in_files(directory)
    sota: dict[str, dict[str, Any]] = {
        **tables,
        "storage": {"path": str(directory)},
        "simulation": {
            "lmp": kind.lmp,
            "strict_est": kind.strict_est,
            "clock_offset": kind.clock_offset,
            "offline": kind.offline,
            **({"interval": kind.interval} if kind.interval else {}),
        },
    }
    sota["tls"] |= {"server": gateway, "ca_source": "file"}
    sota["import"]["tls_cacert_path"] = str(directory / "root.crt")
    _write_new(key_path, private_key_pem(key), 0o600)
    _write_new(certificate_path, pem(certificate).encode(), 0o644)
    _write_new(directory / "root.crt", root_pem.encode(), 0o644)
    if target is not None:
        text = tomli_w.dumps({"TARGET_NAME": target[0], "CUSTOM_VERSION": str(target[1])})
        _write_new(directory / "current-target", text.encode(), 0o644)
    if kind.completed is not None:
        done = RotationState(rotation_id=kind.completed, finalized=True)
        _write_new(directory / COMPLETED_FILE, go_json(done), 0o640)
    _write_new(directory / "sota.toml", tomli_w.dumps(sota).encode(), 0o640)
    return certificate


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a new file. It is not synced: five syncs a device would be slow, and nobody knows the device yet."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)


_KeyPaths = tuple[Path, Path, dict[str, dict[str, Any]]]
"""The paths of key and certificate, and the tables of sota.toml that name them."""


def _in_files(directory: Path) -> _KeyPaths:
    key, certificate = directory / "pkey.pem", directory / "client.pem"
    return (
        key,
        certificate,
        {
            "tls": {"pkey_source": "file", "cert_source": "file"},
            "import": {"tls_pkey_path": str(key), "tls_clientcert_path": str(certificate)},
        },
    )


def _in_slots(directory: Path) -> _KeyPaths:
    token = directory / "token"
    token.mkdir()
    slots = {"tls_pkey_id": "01", "tls_clientcert_id": "03"}
    return (
        TokenDirectory(token).key_path(slots["tls_pkey_id"]),
        TokenDirectory(token).certificate_path(slots["tls_clientcert_id"]),
        {
            "tls": {"pkey_source": "pkcs11", "cert_source": "pkcs11"},
            "import": {},
            "p11": {"module": str(token), "pass": "1234", **slots},
        },
    )
