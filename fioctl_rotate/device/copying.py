"""A copy of a device's directory, for another gateway and EST server."""

import os
import shutil
from pathlib import Path

from fioctl_rotate.device.device import SECRETS
from fioctl_rotate.device.identity import Sota
from fioctl_rotate.device.state_file import STATE_FILE
from fioctl_rotate.device.stored_config import CONFIG_FILE
from fioctl_rotate.errors import Error
from fioctl_rotate.rotation.entry import FILE_NAME

_PATHS = (
    "storage.path",
    "import.tls_pkey_path",
    "import.tls_clientcert_path",
    "import.tls_cacert_path",
    "p11.module",
)


def copy_device(
    source: Path, target: Path, *, gateway: str, est: tuple[str, str], clock_offset: int | None = None
) -> None:
    """Copy the device in `source` to `target`, which must not exist.

    `gateway` is the URL of the copy's gateway. `est` is a text and what replaces it in all that the device stores
    about rotations. `clock_offset` is how many seconds the copy's clock is ahead; None: as in `source`. Raises
    Error, OSError.
    """
    shutil.copytree(source, target)
    sota = Sota(target / "sota.toml")
    source, target = source.resolve(), target.resolve()
    changes: dict[str, str | int] = {"tls.server": gateway}
    for key in _PATHS:
        try:
            path = Path(sota.text(key))
        except Error:
            continue  # not every device has each of them
        if path.is_relative_to(source):
            changes[key] = str(target / path.relative_to(source))
    if clock_offset is not None:
        changes["simulation.clock_offset"] = clock_offset
    sota.update(changes)
    for path in (target / CONFIG_FILE, target / STATE_FILE, target / SECRETS / FILE_NAME):
        if path.exists():
            _replace(path, *(text.encode() for text in est))


def _replace(path: Path, old: bytes, new: bytes) -> None:
    """Replace the text, and keep the time of modification, which the device sends when it checks in."""
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(old, new))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
