"""What is written where: on a terminal, in a pipe, to a full disk, in an encoding that lacks characters."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.commandline import Cli

PROGRAM = (sys.executable, "-m", "fioctl_rotate")
LONG = "a-name-that-is-longer-than-all-others-by-far-in-this-list"


def on_terminal(columns: int, *arguments: str, **environment: str) -> list[str]:
    """What the command writes on a terminal of so many columns, without colours."""
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    settings = {
        key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")
    }
    with subprocess.Popen(
        [*PROGRAM, *arguments], stdin=terminal, stdout=terminal, env=settings | environment
    ) as running:
        os.close(terminal)
        written = b""
        while True:
            try:
                piece = os.read(reader, 4096)
            except OSError:  # what Linux says once nobody has the terminal open
                break
            if not piece:
                break
            written += piece
    os.close(reader)
    assert running.returncode == 0
    return re.sub(rb"\x1b\[[0-9;]*m", b"", written).decode("utf-8", "replace").replace("\r", "").splitlines()


@pytest.fixture
def named(cli: Cli, acme: Path) -> Path:
    assert cli("devices", "rename", "device-1", LONG).code == 0
    return acme


def test_one_long_name_moves_its_own_row_alone(named: Path) -> None:
    for columns in (40, 80, 200):
        header, long, short = on_terminal(columns, "devices", "list", "--columns", "name,device-group,tag")
        assert header == "NAME      DEVICE-GROUP  TAG"
        assert long == f"{LONG}  field         main"
        assert short == "device-2  field         main"


def test_a_long_last_cell_is_broken_below_itself(cli: Cli, acme: Path) -> None:
    assert cli("devices", "rename", "device-1", "pump in the north hall of plant seven").code == 0
    assert on_terminal(46, "devices", "list", "--columns", "device-group,name") == [
        "DEVICE-GROUP  NAME",
        "field         device-2",
        "field         pump in the north hall of plant",
        "              seven",
    ]


def test_in_a_pipe_nothing_is_padded_cut_or_left_blank(named: Path, cli: Cli) -> None:
    lines = cli("devices", "list", "--columns", "name,apps,device-group,apps").out.splitlines()
    assert lines == ["NAME\tAPPS\tDEVICE-GROUP\tAPPS", f"{LONG}\t\tfield", "device-2\t\tfield"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_character_that_the_encoding_lacks_is_no_error(
    cli: Cli, acme: Path, encoding: str, terminal: bool
) -> None:
    assert cli("config", "device-group", "create", "Prüfstand-☃").code == 0
    command = ("config", "device-group", "list")
    if terminal:
        assert any("stand-" in line for line in on_terminal(80, *command, PYTHONIOENCODING=encoding))
        return
    done = subprocess.run(
        [*PROGRAM, *command], capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"stand-" in done.stdout


def test_an_error_on_a_terminal_is_broken_between_words_and_no_command_is_broken() -> None:
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    settings = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    done = subprocess.run([*PROGRAM, "devices", "list", "-f", "acme"], stderr=terminal, env=settings)
    os.close(terminal)
    lines = os.read(reader, 4096).decode().replace("\r", "").splitlines()
    os.close(reader)
    assert done.returncode == 2
    assert lines == [
        "error: no token and no mock given",
        "hint: set FIOCTL_TOKEN to an API token of",
        "      https://app.foundries.io/settings/tokens/, run",
        "      `fioctl-rotate login --factory acme`, or rehearse on a",
        "      mock: `fioctl-rotate mock init DIR --factory NAME`,",
        "      then `--mock DIR`",
    ]


def test_a_full_disk_ends_in_one_line(acme: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*PROGRAM, "devices", "list"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")


def test_what_was_changed_is_said_on_stderr_where_stdout_cannot_be_written(acme: Path) -> None:
    with Path("/dev/full").open("w") as full:
        rename = [*PROGRAM, "devices", "rename", "device-1", "pump-1"]
        done = subprocess.run(rename, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "device device-1 is called pump-1 in factory acme" in done.stderr


def test_a_closed_stdout_ends_in_one_line(acme: Path) -> None:
    for arguments in (("devices", "list"), ("devices", "list", "--format", "json")):
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" >&-', "sh", *PROGRAM, *arguments], stderr=subprocess.PIPE, text=True
        )
        assert done.returncode == 1
        assert done.stderr == "error: stdout is closed, so the result cannot be shown\n"


def test_a_reader_that_has_left_is_no_error(acme: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*PROGRAM, "devices", "list"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([b"devices", b"show", b"\xff"], "error: the argument `\\udcff` is not valid UTF-8"),
        ([b"devices", b"updates", b"device-1", b"-n", "²".encode()], "'²' is not a valid int"),
        ([b"devices", b"list", b"-n", b"1" * 5000], "is not a valid int"),
        ([b"config", b"rotate-certs", b"-g", b"x", b"-r", b"y", b"-p", b"9" * 5000], "error: "),
        ([b"devices", b"list", b"--offline-threshold", b"\xd9\xa3\xe2\x82\x83"], "is not a valid int"),
    ],
)
def test_odd_arguments_end_in_a_line(acme: Path, arguments: list[bytes], message: str) -> None:
    done = subprocess.run([*map(os.fsencode, PROGRAM), *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr) < 400
    assert "unexpected" not in done.stderr
