"""Both rotate-certs commands at a terminal and in a pipe: the question, and streams that are closed or full."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commandline import Cli
from tests.pushing import GROUP, Terminal, file_of, log, push, value

# --- Questions ---


@pytest.mark.parametrize(
    ("typed", "code", "landed"), [("y\n", 0, 1), ("n\n", 1, 0), ("\n", 1, 0), ("\x03", 130, 0)]
)
def test_on_a_terminal_a_push_is_asked_about(
    cli: Cli, acme: Path, typed: str, code: int, landed: int
) -> None:
    terminal = Terminal(*GROUP)
    terminal.wait_for("Push it? [y/N]")
    # On a terminal words stay whole.
    assert f"to group field (2 devices) of factory acme at mock {acme}" in terminal.screen.replace(
        "\r\n", " "
    )
    assert log(cli) == []
    terminal.type(typed)
    assert terminal.end() == code
    assert len(log(cli)) == landed
    assert {0: "pushed rotation", 1: "nothing was changed", 130: "interrupted"}[code] in terminal.screen


def test_a_push_while_the_question_waits_makes_the_plan_stale(cli: Cli, acme: Path) -> None:
    terminal = Terminal(*GROUP)
    terminal.wait_for("Push it? [y/N]")
    push(cli, *GROUP, "--rotation-id", "theirs")
    terminal.type("y\n")
    assert terminal.end() == 5
    assert "has another fio-rotate-certs than when the plan was made" in terminal.screen
    assert [file_of(entry) for entry in log(cli)] == [value("theirs")]


def test_the_same_push_while_the_question_waits_is_already_there(cli: Cli, acme: Path) -> None:
    terminal = Terminal(*GROUP, "--rotation-id", "certs-1")
    terminal.wait_for("Push it? [y/N]")
    push(cli, *GROUP, "--rotation-id", "certs-1")
    terminal.type("y\n")
    assert terminal.end() == 0
    assert "already there, nothing sent" in terminal.screen
    assert len(log(cli)) == 1


def test_yes_answers_the_question(cli: Cli, acme: Path) -> None:
    terminal = Terminal(*GROUP, "-y")
    assert terminal.end() == 0
    assert "Push it?" not in terminal.screen
    assert len(log(cli)) == 1


def test_in_a_pipe_nothing_is_asked(cli: Cli, acme: Path) -> None:
    result = push(cli, *GROUP)
    assert "Push it?" not in result.err + result.out
    assert len(log(cli)) == 1


# --- Streams that are closed or full ---


@pytest.mark.parametrize("command", [" ".join(GROUP), "devices list"])
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_terminal(acme: Path, command: str, closed: str) -> None:
    line = f"exec {sys.executable} -m fioctl_rotate {command} {closed}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    unseen = " >&-" in f" {closed}"  # a result that nobody can see is not a success
    assert (done.returncode, "device" in done.stdout) == (unseen, not unseen), done.stderr
    assert ("error: stdout is closed" in done.stderr) == (unseen and "2>&-" not in closed)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("command", [(*GROUP, "--dryrun"), ("devices", "list"), ("--version",)])
def test_a_full_disk_is_an_error_of_one_line(acme: Path, command: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fioctl_rotate", *command], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")


def test_a_closed_pipe_ends_quietly(acme: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, "-m", "fioctl_rotate", *GROUP, "--dryrun"],
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write_end)
    assert done.returncode == 1
    assert "error" not in done.stderr
    assert "Broken" not in done.stderr
