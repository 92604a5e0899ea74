"""How far a long read has come: said on a terminal's stderr, cleared before the result, and nowhere else."""

import contextlib
import io
import os
import pty
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fioctl_rotate.cli.app import run
from tests.commandline import Cli
from tests.scripted import Answer, Asked, Reply, Server

ID = "certs-1763989200"
READS = (
    ("rotations", "list"),
    ("rotations", "show", ID),
    ("rotations", "report", ID, "--csv", "-"),
    ("rotations", "due", "--all"),
    ("rotations", "unshadow", "-g", "field"),
    ("config", "rotate-certs", "-g", "field", "-r", "next", "--dryrun"),
    ("mock", "clone", "copy"),
)
OF_A_DEVICE = "/ota/devices/"


class Terminal:
    """A terminal, and what was written to it so far."""

    def __init__(self) -> None:
        self._reader, follower = pty.openpty()
        self.stream = os.fdopen(follower, "w")
        self.written = bytearray()
        self.shown = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        # Linux ends a terminal whose other end has closed with EIO.
        with contextlib.suppress(OSError):
            while chunk := os.read(self._reader, 65536):
                self.written.extend(chunk)
                if b"reading devices: 0 of 2" in self.written:
                    self.shown.set()

    def close(self) -> str:
        """End it; returns all that was written."""
        self.stream.close()
        self._thread.join()
        os.close(self._reader)
        return self.written.decode()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    made = Terminal()
    yield made
    if not made.stream.closed:
        made.close()


@pytest.fixture
def slow(cli: Cli, acme: Path, acme_answers: Answer, serve: Callable[..., Server]) -> Callable[..., None]:
    """Call it with what each answer about one device has to wait for."""
    rotate = ("config", "rotate-certs", "-g", "field", "-r", "old", "--rotation-id", ID, "--no-checks", "-y")
    assert cli(*rotate).code == 0

    def start(wait: Callable[[], object]) -> None:
        def answer(asked: Asked) -> Reply:
            if asked.path.startswith(OF_A_DEVICE) and not asked.path.startswith(f"{OF_A_DEVICE}?"):
                wait()
            return acme_answers(asked)

        serve(answer)

    return start


def on(terminal: Terminal, *arguments: str) -> tuple[int, str]:
    """Run a command with its stderr on the terminal; returns exit code and stdout, which is a pipe."""
    out = io.StringIO()
    with contextlib.redirect_stderr(terminal.stream), contextlib.redirect_stdout(out):
        code = run(list(arguments))
    return code, out.getvalue()


@pytest.mark.parametrize("arguments", READS, ids=" ".join)
def test_a_long_read_says_how_far_it_is_and_leaves_nothing_behind(
    arguments: tuple[str, ...],
    terminal: Terminal,
    slow: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    slow(lambda: terminal.shown.wait(10))
    code, out = on(terminal, *arguments)
    written = terminal.close()
    assert code == (3 if "due" in arguments else 0), written
    assert out
    assert "reading devices" not in out
    *_, after = written.split("reading devices")
    # The line is erased, and the cursor is seen again.
    assert "\x1b[2K" in after
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


def test_ctrl_c_in_the_middle_gives_the_cursor_back(terminal: Terminal, slow: Callable[..., None]) -> None:
    first = threading.Lock()

    def interrupt() -> None:
        terminal.shown.wait(60)
        if first.acquire(blocking=False):
            os.kill(os.getpid(), signal.SIGINT)

    slow(interrupt)
    assert on(terminal, "rotations", "watch", ID)[0] == 130
    written = terminal.close()
    assert "interrupted" in written.split("\x1b[2K")[-1]
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


@pytest.mark.parametrize("how", ["dumb", "pipe"])
def test_where_nothing_can_be_redrawn_nothing_is_said_of_a_long_read(
    how: str,
    terminal: Terminal,
    slow: Callable[..., None],
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow(lambda: time.sleep(1.3))
    if how == "pipe":
        result = cli("rotations", "show", ID)
        code, written = result.code, result.err
    else:
        monkeypatch.setenv("TERM", "dumb")
        code, _ = on(terminal, "rotations", "show", ID)
        written = terminal.close()
    assert code == 0
    assert "reading" not in written


def test_verbose_shows_requests_in_its_place(terminal: Terminal, slow: Callable[..., None]) -> None:
    slow(lambda: time.sleep(1.3))
    assert on(terminal, "rotations", "show", ID, "-v")[0] == 0
    written = terminal.close()
    assert "reading" not in written
    assert "GET" in written
