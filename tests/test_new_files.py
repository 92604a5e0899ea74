"""Files that are made and never overwritten, with hard links, modes and locks, and without."""

import errno
import fcntl
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest

from fioctl_rotate.errors import Error
from fioctl_rotate.files import create_new, set_aside, write_atomic
from fioctl_rotate.pki.directory import PkiDirectory


def refused(code: int) -> Any:
    def call(*_arguments: object, **_more: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return call


@pytest.fixture(params=["links", "FAT", "FUSE"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the file system can: all, or neither hard links nor modes (each says so in its own way)."""
    codes = {"FAT": errno.EPERM, "FUSE": errno.ENOSYS}
    if request.param in codes:
        monkeypatch.setattr("os.link", refused(codes[request.param]))
        monkeypatch.setattr("os.fchmod", refused(codes[request.param]))
    return str(request.param)


def test_a_file_is_made_once(file_system: str, tmp_path: Path) -> None:
    path = tmp_path / "factory_ca.key"
    create_new(path, b"first")
    with pytest.raises(Error, match=r"factory_ca\.key already exists, and is never overwritten"):
        create_new(path, b"second")
    assert path.read_bytes() == b"first"
    assert [file.name for file in tmp_path.iterdir()] == ["factory_ca.key"], "nothing else is left"
    mode = stat.S_IMODE(path.stat().st_mode)
    assert mode == (0o400 if file_system == "links" else 0o600)


def test_of_many_makers_one_wins_and_its_content_is_whole(file_system: str, tmp_path: Path) -> None:
    path = tmp_path / "local-ca.key"
    contents = [bytes([65 + number]) * 100_000 for number in range(16)]

    def make(content: bytes) -> bytes | None:
        try:
            create_new(path, content)
        except Error:
            return None
        return content

    with ThreadPoolExecutor(16) as pool:
        winners = [made for made in pool.map(make, contents) if made is not None]
    assert winners == [path.read_bytes()]
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_set_aside_keeps_what_was_set_aside_before(file_system: str, tmp_path: Path) -> None:
    path = tmp_path / "tls-crt"
    for number, kept in enumerate(("tls-crt.bak", "tls-crt.bak.2", "tls-crt.bak.3")):
        path.write_text(str(number))
        assert set_aside(path).name == kept
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "tls-crt.bak": "0",
        "tls-crt.bak.2": "1",
        "tls-crt.bak.3": "2",
    }


@pytest.mark.parametrize("target", ["no/such/folder/a", "file/a", "\0"])
def test_a_file_that_cannot_be_made_is_an_error(target: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Error, match="cannot be written"):
        create_new(tmp_path / target, b"")


def test_a_full_disk_leaves_nothing(
    file_system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", refused(errno.ENOSPC))
    with pytest.raises(Error, match="a cannot be written: No space left on device"):
        create_new(tmp_path / "a", b"content")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_a_full_disk_cannot_hold_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", refused(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left on device") as failed:
        write_atomic(tmp_path / "a", b"content")
    assert failed.value.filename == str(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP])
def test_a_directory_without_locks_is_used_and_nothing_in_it_removed(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS and SMB by their mount options: another ceremony's temporary file may be there."""
    monkeypatch.setattr(fcntl, "flock", refused(code))
    other = tmp_path / ".factory_ca.key.abcdefgh"
    other.touch()
    with PkiDirectory(tmp_path).locked():
        assert other.exists()
    monkeypatch.undo()
    with PkiDirectory(tmp_path).locked():
        assert not other.exists(), "a leftover, where locks say that nobody else is here"
