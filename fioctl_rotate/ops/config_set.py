"""Set files in a configuration as fioctl does: those of a device are encrypted for it, others sent as they are."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from fioctl_rotate import ecies, wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.errors import Error, Refused, UsageError
from fioctl_rotate.files import read
from fioctl_rotate.ops.targets import find
from fioctl_rotate.pki.parsing import load_public_key
from fioctl_rotate.rotation.entry import FILE_NAME
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.toml import parse_toml

UPDATES_FILE = "z-50-fioctl.toml"


def request(reason: str, arguments: Sequence[str]) -> wire.ConfigRequest:
    """The request that sets files, each from `NAME=VALUE` or `NAME==PATH`. Raises UsageError, and Error for a PATH.

    Source: fioctl `config set`.
    """
    files = []
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if not name or not separator:
            raise UsageError(
                f"`{argument}` is not of the form FILE=VALUE", hint="FILE==PATH reads the value from PATH"
            )
        if value.startswith("="):
            value = _text(Path(value[1:]))
        files.append(wire.ConfigFile(name=name, value=value))
    return wire.ConfigRequest(reason=reason, files=files)


def raw_request(path: Path) -> wire.ConfigRequest:
    """The request that a file holds as JSON, in the form of fioctl's --raw. Raises Error."""
    try:
        return msgspec.json.decode(read(path), type=wire.ConfigRequest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Error(f"{path} is not a configuration in JSON: {error}") from error


async def set_config(
    api: FactoryApi,
    scope: Scope,
    request: wire.ConfigRequest,
    *,
    by_uuid: bool = False,
    replace: bool = False,
) -> Scope:
    """Merge the request's files into the scope's configuration, or `replace` all of it; returns the scope as found.

    For a device each value is encrypted with its public key, unless the file is `unencrypted`. Raises Error where
    there is no such scope. Raises Refused for the entry of a rotation: other commands set it, after checks.
    """
    if any(file.name == FILE_NAME for file in request.files):
        raise Refused(
            f"{FILE_NAME} is not set by hand: a wrong one cuts devices off",
            hint="`fioctl-rotate config rotate-certs --help` and `fioctl-rotate device config rotate-certs --help`",
        )
    found, device = await find(api, scope, by_uuid=by_uuid)
    if device is not None:
        request = _encrypted(request, device)
    config = api.config(found)
    await (config.replace if replace else config.merge)(request)
    return found


async def read_overrides(
    api: FactoryApi, scope: Scope, *, by_uuid: bool = False
) -> tuple[Scope, wire.Device | None, dict[str, object]]:
    """The scope as found, its device (None for another scope), and those of `tags` and `docker_apps` that it sets.

    Source: fioctl `config updates`, which keeps them in `z-50-fioctl.toml`, under `[pacman]`.
    """
    found, device = await find(api, scope, by_uuid=by_uuid)
    log = await api.config(found).log(1)
    for file in (log[0].files or []) if log else []:
        if file.name == UPDATES_FILE:
            pacman = parse_toml(file.value.encode(), f"{UPDATES_FILE} of {found}").get("pacman", {})
            if isinstance(pacman, dict):
                return found, device, {key: pacman[key] for key in ("tags", "docker_apps") if key in pacman}
    return found, device, {}


def _encrypted(request: wire.ConfigRequest, device: wire.Device) -> wire.ConfigRequest:
    if not device.public_key:
        raise Error(f"device {device.name} has no public key to encrypt for")
    key = load_public_key(device.public_key, f"the public key of device {device.name}")
    files = [
        file if file.unencrypted else msgspec.structs.replace(file, value=ecies.encrypt(key, file.value))
        for file in request.files
    ]
    return wire.ConfigRequest(reason=request.reason, files=files)


def _text(path: Path) -> str:
    try:
        return read(path).decode()
    except UnicodeDecodeError as error:
        raise Error(f"{path} is not UTF-8 text") from error
