"""Reads files within limits, and writes them so that nobody sees half a file, even after a crash."""

import contextlib
import errno
import fcntl
import os
import select
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from fioctl_rotate.errors import Error

# What FAT, SMB and some FUSE file systems answer to a hard link, a mode or the sync of a directory.
_NOT_SUPPORTED = {errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK}

# What `flock` answers where there are no locks: NFS, SMB and FUSE, depending on their mount options.
_NO_LOCKS = {errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

MOST = 1 << 20
"""Bytes that a file may have unless its reader allows more: keys, certificates and settings have far fewer."""

# Seconds. Nobody types a passphrase or writes a settings file more slowly than this.
_PATIENCE = 10.0


STDIO = Path("-")
"""As a file name: stdin for reading, stdout for writing."""


def read_file(path: Path, *, most: int = MOST) -> bytes:
    """All that is in a file, a pipe or a device; `-` is stdin.

    Raises OSError; FileNotFoundError where there is no file. It is also an error if there are more than `most`
    bytes (/dev/zero has no end), or if nothing comes for ten seconds (a FIFO may have no writer); stdin may wait.
    """
    if path == STDIO:
        return _from_stdin(most)
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


def _from_stdin(most: int) -> bytes:
    if sys.stdin is None:
        raise OSError(errno.EBADF, "stdin is closed", "-")
    stream = getattr(sys.stdin, "buffer", None)
    data: bytes = stream.read(most + 1) if stream else sys.stdin.read(most + 1).encode()
    if len(data) > most:
        raise OSError(errno.EFBIG, f"larger than {most} bytes", "-")
    return data


def _to_stdout(data: bytes) -> None:
    if sys.stdout is None:
        raise OSError(errno.EBADF, "stdout is closed", "-")
    stream = getattr(sys.stdout, "buffer", None)
    sys.stdout.flush()
    if stream:
        stream.write(data)
    else:
        sys.stdout.write(data.decode())
    sys.stdout.flush()


def read(path: Path, *, most: int = MOST) -> bytes:
    """What is in the file, as `read_file`. Raises Error."""
    data = read_if_there(path, most=most)
    if data is None:
        raise Error(f"{path}: no such file")
    return data


def read_if_there(path: Path, *, most: int = MOST) -> bytes | None:
    """What is in the file, as `read`; None where there is no such file."""
    try:
        return read_file(path, most=most)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Error(f"{path} cannot be read: {_reason(error)}") from error


def read_text(path: Path) -> str:
    """What is in the file as text: UTF-8, without the BOM that Windows puts first. Raises Error."""
    try:
        return read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Error(f"{path} is not UTF-8 text") from error


def write_atomic(path: Path, data: bytes | Iterable[bytes], mode: int = 0o600, *, sync: bool = True) -> None:
    """Replace `path` with `data`: temporary file beside it, created with `mode`, fsync, rename. `-` is stdout.

    Much data may come in pieces. Without `sync` the file is whole after a kill, but may not be after a power cut.
    Raises OSError.
    """
    if path == STDIO:
        _to_stdout(data if isinstance(data, bytes) else b"".join(data))
        return
    temporary = _written_beside(path, data, mode, sync=sync)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        _fsync_directory(path.parent)


def create_new(path: Path, data: bytes, mode: int = 0o400) -> None:
    """Create `path` with `mode` and `data`; it either appears whole or not at all. `-` is stdout.

    Raises Error where something is there already, which stays as it is, or where `path` cannot be written.
    """
    try:
        if path == STDIO:
            _to_stdout(data)
            return
        temporary = _written_beside(path, data, mode)
        try:
            _rename_new(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _fsync_directory(path.parent)
    except FileExistsError as error:
        raise Error(f"{path} already exists, and is never overwritten") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise Error(f"{path} cannot be written: {_reason(error)}") from error


def set_aside(path: Path) -> Path:
    """Rename a file to `NAME.bak`, or `NAME.bak.2` and so on where that is taken; returns the new path.

    Raises Error where it cannot be renamed.
    """
    number = 1
    while True:
        kept = path.with_name(f"{path.name}.bak" if number == 1 else f"{path.name}.bak.{number}")
        try:
            _rename_new(path, kept)
            return kept
        except FileExistsError:
            number += 1
        except OSError as error:
            raise Error(f"{path} cannot be renamed to {kept.name}: {_reason(error)}") from error


def lock(fd: int) -> bool:
    """Lock an open file or directory; False where its file system has no locks (some network mounts).

    The lock ends with the process or when `fd` is closed. Raises BlockingIOError where another process holds it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


@contextlib.contextmanager
def locked(path: Path, busy: Error) -> Iterator[None]:
    """Hold the lock of `path`, a directory or a file that is made and stays, while the block runs.

    Raises `busy` where another process holds it, Error where it cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDONLY | (0 if path.is_dir() else os.O_CREAT), 0o600)
    except OSError as error:
        raise Error(f"{path} cannot be opened: {_reason(error)}") from error
    try:
        try:
            lock(fd)
        except BlockingIOError:
            raise busy from None
        yield
    finally:
        os.close(fd)


def _rename_new(source: Path, target: Path) -> None:
    """Rename, but never over something: raises FileExistsError where `target` exists."""
    try:
        # A link fails where the name exists; a rename would replace it.
        target.hardlink_to(source)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
        # No hard links here: a new, empty file reserves the name until the rename.
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            source.replace(target)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
    else:
        source.unlink()


def _written_beside(path: Path, data: bytes | Iterable[bytes], mode: int, *, sync: bool = True) -> Path:
    """A temporary file beside `path` with `mode` and `data`. An OSError names `path`, which people know."""
    import tempfile  # here, because only commands that write need it

    try:
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(fd, "wb") as file:
                file.writelines([data] if isinstance(data, bytes) else data)
                file.flush()
                _set_mode(file.fileno(), mode)
                if sync:
                    os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    return temporary


def _set_mode(fd: int, mode: int) -> None:
    """Set the mode where the file system has modes; elsewhere the mount decides."""
    try:
        os.fchmod(fd, mode)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise


def _fsync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
    finally:
        os.close(fd)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
