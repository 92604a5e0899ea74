"""A device's configuration: as the gateway sends it, in clear, encrypted for a key, and stored on disk."""

import datetime
import os
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from fioctl_rotate import ecies
from fioctl_rotate.errors import Error
from fioctl_rotate.files import read_if_there, write_atomic
from fioctl_rotate.wire import GatewayFile

CONFIG_FILE = "config.encrypted"
MAX_CONFIG = 8 << 20
"""The most bytes of a configuration. Values have at most 1 MiB; base64, JSON and three levels add to that."""

GatewayConfig = dict[str, GatewayFile]


def decode_config(data: bytes) -> GatewayConfig:
    """A configuration as the gateway sends it and the device stores it. Raises Error where it is something else."""
    try:
        return msgspec.json.decode(data, type=GatewayConfig | None) or {}
    except (ValueError, RecursionError) as error:
        raise Error(f"the configuration is not what a gateway sends: {error}") from error


def decrypted(config: GatewayConfig, key: ec.EllipticCurvePrivateKey) -> GatewayConfig:
    """The configuration in clear. Raises Error that names the file that cannot be decrypted."""
    clear = {}
    for name, file in config.items():
        try:
            value = file.value if file.unencrypted else ecies.decrypt(key, file.value)
        except Error as error:
            raise Error(f"{name}: {error.message}") from error
        clear[name] = msgspec.structs.replace(file, value=value)
    return clear


def encrypted(config: GatewayConfig, key: ec.EllipticCurvePublicKey) -> GatewayConfig:
    """The configuration with every value encrypted that is not marked as unencrypted."""
    return {
        name: file
        if file.unencrypted
        else msgspec.structs.replace(file, value=ecies.encrypt(key, file.value))
        for name, file in config.items()
    }


def read_config(storage: Path) -> bytes | None:
    """The stored configuration, values encrypted; None where there is none. Raises Error."""
    return read_if_there(storage / CONFIG_FILE, most=MAX_CONFIG)


def store_config(storage: Path, data: bytes, modified: datetime.datetime) -> None:
    """Write `config.encrypted` with this modification time, which the next check-in sends. Raises OSError."""
    path = storage / CONFIG_FILE
    write_atomic(path, data, 0o640, sync=False)
    os.utime(path, (modified.timestamp(), modified.timestamp()))
