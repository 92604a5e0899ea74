"""Files that others wrote: read within bounds, or refused in one line that names the file."""

import contextlib
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fioctl_rotate.errors import UsageError
from fioctl_rotate.files import read_file
from fioctl_rotate.toml import parse_toml
from tests.commandline import Cli

WITH_MARK = '\ufefffactory = "acme"\r\nserver = "http://127.0.0.1:1"\r\ntoken = "x"\r\n'.encode()
ODD_TOML = {
    "nested arrays": (b"a=" + b"[" * 100_000, "nested too deeply"),
    "nested tables": (b"a=" + b"{a=" * 100_000, "nested too deeply"),
    "dotted deeply": (b"a." * 400 + b"a = 1", "nested too deeply"),
    "a key of many parts": (b"a." * 200_000 + b"a = 1", "too many dots on one line"),
    "many keys of many parts": ((b"[" + b"a." * 99 + b"a]\n") * 4000, "too many dots on one line"),
    "a long number": (b"timeout = " + b"9" * 5000, "out of range"),
    "no UTF-8": (b'factory = "\xff"', "not UTF-8 at byte 11"),
    "UTF-16": ('factory = "acme"'.encode("utf-16"), "not UTF-8 at byte 0"),
    "too large": (b"#" * (2 << 20), "larger than 1048576 bytes"),
}


@pytest.mark.parametrize("name", ODD_TOML)
def test_odd_toml_is_refused_in_one_line(cli: Cli, tmp_path: Path, name: str) -> None:
    data, words = ODD_TOML[name]
    path = tmp_path / "c.toml"
    path.write_bytes(data)
    result = cli("whoami", "-c", path)
    assert (result.code, result.out) == (2, "")
    (line,) = result.err.splitlines()
    assert line.startswith("error: ")
    assert f"settings file {path}" in line
    assert words in line


def test_a_byte_order_mark_and_crlf_are_taken(tmp_path: Path) -> None:
    assert parse_toml(WITH_MARK, "x")["factory"] == "acme"


@pytest.mark.parametrize("special", ["/dev/zero", "/dev/null", "/", "folder", "loop"])
def test_a_special_file_in_place_of_a_settings_file_ends_in_one_line(
    cli: Cli, tmp_path: Path, special: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    result = cli("whoami", "-f", "acme", "-c", tmp_path / special)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ")


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"x" * 200_000,))
    writer.start()
    assert read_file(path) == b"x" * 200_000
    writer.join()


def test_a_pipe_that_nobody_writes_to_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fioctl_rotate.files._PATIENCE", 0.05)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="nothing came"):
        read_file(tmp_path / "pipe")


def test_a_name_that_no_file_can_have_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="not a valid file name"):
        read_file(Path("a\0b"))


@given(
    st.binary(max_size=200)
    | st.text(st.sampled_from('ab=."[]{}\n0#,-:T\ufeff'), max_size=200).map(str.encode)
)
def test_any_bytes_are_toml_or_refused(data: bytes) -> None:
    with contextlib.suppress(UsageError):
        assert isinstance(parse_toml(data, "x"), dict)
