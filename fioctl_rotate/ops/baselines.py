"""What a poll of a rotation stores on this machine, so that a later poll asks only for what has changed since.

One file for each server, Factory, ROTATIONID and target, in the user's state folder: JSON lines, a header and
then one line a device. It holds states, digests of public keys and times, nothing secret. Without it (another
machine, a folder that cannot be written, a file that is not ours) a poll still works; it then asks every device,
and proves less at first (see rotation/state.py).
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

import msgspec

from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.files import write_atomic
from fioctl_rotate.folders import state_folder
from fioctl_rotate.rotation.progress import Time
from fioctl_rotate.rotation.state import Facts, Rotation
from fioctl_rotate.rotation.tracker import Readings

_FORMAT = 1
_LARGEST = 1 << 30  # bytes of a file that is read; 100,000 devices need some 50 MB


class _Header(msgspec.Struct, rename="kebab", kw_only=True):
    format: int
    pushed_at: Time | None = None
    mark: Time | None = None
    total: int | None = None
    whole_list: Time | None = None


def load(api: FactoryApi, rotation: Rotation) -> Readings:
    """The stored readings of a rotation. Empty where no file can be read, or where it is of another push."""
    readings = Readings()
    with suppress(OSError, ValueError, msgspec.MsgspecError, RecursionError, MemoryError):
        lines = _lines(_file(api, rotation))
        header = msgspec.json.decode(next(lines, b""), type=_Header)
        pushed = {header.pushed_at, rotation.pushed_at} - {None}
        if header.format != _FORMAT or len(pushed) > 1:
            return readings
        decoder = msgspec.json.Decoder(Facts)
        devices = {facts.uuid: facts for facts in map(decoder.decode, lines)}
        return Readings(devices, header.mark, header.total, header.whole_list)
    return readings


def save(api: FactoryApi, rotation: Rotation, readings: Readings) -> None:
    """Keep what was read. A folder that cannot be written is not an error: the file only saves work."""
    header = _Header(
        format=_FORMAT,
        pushed_at=rotation.pushed_at,
        mark=readings.mark,
        total=readings.total,
        whole_list=readings.whole_list,
    )
    encoder = msgspec.json.Encoder()
    lines = (encoder.encode(line) + b"\n" for line in chain([header], readings.devices.values()))
    with suppress(OSError):
        path = _file(api, rotation)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(path, lines)


def _lines(path: Path) -> Iterator[bytes]:
    # Without O_NONBLOCK, opening a FIFO would wait for a writer.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST:
            yield from file


def _file(api: FactoryApi, rotation: Rotation) -> Path:
    kind, _, directory = api.server.partition(" ")
    server = f"mock {Path(directory).resolve()}" if kind == "mock" else api.server
    # Typed names may hold any character; a digest of them is always a valid file name.
    key = "\0".join((server, api.factory, rotation.id, str(rotation.scope)))
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    return state_folder() / "watched" / f"{name}.jsonl"
