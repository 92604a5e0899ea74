"""`rotations watch` and `show` on a terminal."""

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from rich.cells import cell_len

from fioctl_rotate.cli.app import run
from fioctl_rotate.cli.watching import DoneRate
from tests.commandline import Result
from tests.rotation.fleets import WATCH

PROGRAM = (sys.executable, "-m", "fioctl_rotate")


@pytest.fixture
def on_terminal(monkeypatch, recent):
    """Run a command of `rotations` on a terminal of 80 x 24; the output is what was last drawn."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("LINES", "24")

    def call(*arguments):
        leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        seen = bytearray()

        def read():
            # Linux ends a terminal whose other end has closed with EIO.
            with contextlib.suppress(OSError):
                while chunk := os.read(leader, 65536):
                    seen.extend(chunk)

        reader = threading.Thread(target=read)
        reader.start()
        command = ["rotations", *arguments, "--mock", recent.directory, "-f", "acme"]
        with os.fdopen(follower, "w") as terminal, contextlib.redirect_stdout(terminal):
            code = run([str(argument) for argument in command])
        reader.join()
        os.close(leader)
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
        shown = "\n".join(line.rstrip() for line in plain.splitlines())
        return Result(code, shown, "")

    return call


def test_live_view_on_a_terminal(mixed, on_terminal, run_out):
    lines = run_out(on_terminal, *WATCH).out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "1 done  1 finalized  2 failing  1 running  4 pending" in lines
    assert "not following: 1 shadowed, 1 unsupported, 1 offline" in lines
    failing = next(line for line in lines if line.startswith("failing "))
    assert "failing at 1/5  Unable to submit certificate signing request" in failing
    assert "next poll in 0.05 s; Ctrl-C does not stop the rotation" in lines


def test_live_view_of_many_failures_leaves_room_and_says_where_the_rest_is(recent, on_terminal, run_out):
    names = [f"d{number:02}" for number in range(30)]
    recent.add(*names)
    asyncio.run(recent.push())
    for name in names:
        recent.rotate(name, fail=1)
    lines = run_out(on_terminal, *WATCH).out.splitlines()
    more = next(line for line in lines if line.startswith("and "))
    assert re.fullmatch(r"and \d+ more: `rotations show` with --failed lists them", more)


def test_live_view_ends_by_itself(well, on_terminal):
    result = on_terminal(*WATCH)
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[-1] == "no device can get any further"
    assert any(line.endswith("100 %  2 of 2 done") for line in lines)


def test_dumb_terminal_gets_a_line_a_change(well, on_terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    lines = on_terminal(*WATCH).out.splitlines()
    assert [line.split("  ", 1)[1] for line in lines[:2]] == ["a  done", "b  done"]


def test_show_of_more_than_a_screen_counts_the_rest_unless_all_are_wanted(recent, on_terminal):
    names = [f"d{number:02}" for number in range(40)]
    recent.add(*names)
    recent.add("bad")
    asyncio.run(recent.push())
    recent.rotate("bad", fail=1)
    lines = on_terminal("show", "certs-1").out.splitlines()
    assert len(lines) < 24
    assert next(line for line in lines if line.startswith("bad "))
    assert lines[-1] == "and 27 more (27 pending); --all shows every device"
    every = on_terminal("show", "certs-1", "--all").out
    assert all(f"\n{name} " in every for name in names)


WIDE = (
    "ポンプ場-北側の監視装置-一号機-とても長い名前",
    "🚰-pump-🔧",
    "a-gateway-in-the-basement-of-building-seven",
)


@pytest.fixture
def failing(recent):
    """A rotation that has failed on devices with long and wide names."""
    recent.add(*WIDE)
    asyncio.run(recent.push())
    for name in WIDE:
        recent.rotate(name, fail=1)
    return recent


class Watching:
    """A live view in a process of its own, on a terminal of so many columns and lines."""

    def __init__(self, world, columns, lines, *command, **environment):
        self._leader, follower = pty.openpty()
        self.resize(columns, lines)
        settings = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
        self._process = subprocess.Popen(
            [*PROGRAM, *(command or ("rotations", "watch", "certs-1")), "--interval", "1h"],
            stdin=follower,
            stdout=follower,
            env=settings
            | {"TERM": "xterm", "NO_COLOR": "1", "FIOCTL_FACTORY": "acme"}
            | {"FIOCTL_ROTATE_MOCK": str(world.directory)}
            | environment,
        )
        os.close(follower)

    def resize(self, columns, lines):
        """Change the size, as a window does: with a signal."""
        fcntl.ioctl(self._leader, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        if hasattr(self, "_process"):
            self._process.send_signal(signal.SIGWINCH)

    def view(self, encoding="utf-8", *, cleared=False):
        """The lines of the next view that is drawn, up to its last line; where it is `cleared`, after that."""
        seen = view = b""
        while b"; Ctrl-C" not in view:
            assert select.select([self._leader], [], [], 60)[0], seen
            seen += os.read(self._leader, 65536)
            view = seen.partition(b"\x1b[2J")[2] if cleared else seen
        # Drawing anew moves the cursor up: without a break, the end of one view and the next one were one line.
        text = re.sub(r"\x1b\[1A", "\n", view.decode(encoding))
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
        return [line.rstrip() for line in text.replace("\r", "").splitlines()]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._leader)


def test_live_view_on_a_narrow_terminal_shows_whole_names_and_messages(failing):
    with Watching(failing, 40, 30) as watching:
        lines = watching.view()
    assert max(cell_len(line) for line in lines) <= 40
    assert "".join(lines).count("HTTP_500 - no") == 3
    text = "".join(lines)
    assert all(name in text for name in WIDE)


def test_live_view_of_stages_on_a_narrow_terminal_shows_whole_names(recent):
    recent.add(*WIDE)
    rotate = ("config", "rotate-certs", "-g", "field", "-r", "x", "--no-checks", "-y", "--canary", WIDE[0])
    with Watching(recent, 40, 30, *rotate, "--server-name", "localhost") as watching:
        while "given" not in "".join(lines := watching.view()):
            pass
    view = lines[next(n for n, line in enumerate(lines) if line.startswith("Rotation ")) :]
    assert max(cell_len(line) for line in view) <= 40
    assert WIDE[0] in "".join(line.strip() for line in view)


def test_live_view_is_drawn_anew_after_a_resize_without_a_poll(failing):
    with Watching(failing, 100, 30) as watching:
        wide = watching.view()
        assert any(cell_len(line) > 80 for line in wide)
        watching.resize(50, 12)
        narrow = watching.view(cleared=True)
    assert max(cell_len(line) for line in narrow) <= 50
    # The whole view fits: it is drawn from the top of an empty screen.
    assert len([line for line in narrow if line.startswith("Rotation certs-1")]) == 1
    assert len(narrow) <= 12


def test_live_view_in_latin_1_has_nothing_that_this_cannot_say(failing):
    with Watching(failing, 60, 40, PYTHONIOENCODING="latin-1") as watching:
        lines = watching.view("latin-1")
    text = "".join(lines)
    assert max(len(line) for line in lines) <= 60
    assert "\\U0001f6b0-pump" in text
    assert "\\u2026" not in text
    assert "\\u2501" not in text


@pytest.mark.parametrize(
    ("done", "expected"),
    [
        ([0], "rate not known yet"),
        ([0, 0], "rate not known yet"),
        ([0, 2, 4], "2 per minute, about 3 min left"),
        ([9, 10], "1 per minute"),
    ],
)
def test_pace_and_time_left(done, expected):
    def snapshot(minute, count):
        at = datetime(2026, 11, 24, 12, minute, tzinfo=UTC)
        return SimpleNamespace(at=at, summary=SimpleNamespace(done=count, moving=10 - count))

    pace = DoneRate()
    for minute, count in enumerate(done):
        pace.add(snapshot(minute, count))
    assert pace.text(snapshot(len(done) - 1, done[-1])) == expected
