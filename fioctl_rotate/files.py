"""Files read within bounds, and written so that neither a crash nor another reader sees half of one."""

import errno
import os
import select
import tempfile
from pathlib import Path

# Nobody types a passphrase or writes a settings file slower than this, in seconds.
_PATIENCE = 10.0


def read_file(path: Path, *, most: int = 1 << 20) -> bytes:
    """All that is in a file, a pipe or a device.

    Raises OSError, also where that is more than `most` bytes or where nothing comes for ten seconds: so neither
    /dev/zero nor a FIFO that nobody writes to holds a command up. FileNotFoundError where there is no file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError as error:
        raise OSError(errno.EINVAL, "not a valid file name", str(path)) from error
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    data = bytearray()
    try:
        while poll.poll(_PATIENCE * 1000):
            piece = os.read(fd, most + 1 - len(data))
            if not piece:
                return bytes(data)
            data += piece
            if len(data) > most:
                raise OSError(errno.EFBIG, f"larger than {most} bytes", str(path))
    finally:
        os.close(fd)
    raise OSError(errno.ETIMEDOUT, f"nothing came for {_PATIENCE:g} s", str(path))


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` with `data`: temporary file beside it, created with `mode`, fsync, rename."""
    fd, temporary = _temporary(path)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync_directory(path.parent)


def create_exclusive(path: Path, data: bytes, mode: int = 0o400) -> None:
    """Create `path` with `mode` and `data`; it either appears whole or not at all.

    Raises:
        FileExistsError: something is there already; it is left as it was.
    """
    fd, temporary = _temporary(path)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        # A hard link fails where the name is taken, which a rename would not.
        path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)
    _fsync_directory(path.parent)


def _temporary(path: Path) -> tuple[int, Path]:
    """A new file beside `path`, mode 0600, open. An OSError names `path`, which is what people know of."""
    try:
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    return fd, Path(name)


def _fsync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
