"""The plain push in a process of its own."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fioctl_rotate.ops import rehearsal, rehearsal_child
from fioctl_rotate.ops.rehearsal_play import RehearsalOptions
from fioctl_rotate.ops.rehearsed import Played
from tests.commandline import Cli
from tests.rehearsal.conftest import DEVICES, Rehearsable, Rehearse, last_line


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "FEW", 0)


def test_the_child_process_gives_the_same_result(rehearse: Rehearse) -> None:
    result = rehearse("--est-fault", "404", "--format", "json")
    assert (result.code, last_line(result)["plain-push"]["counts"]["wedged"]) == (3, DEVICES)


def test_a_refusal_in_the_child_process_is_an_error(cli: Cli, made: Rehearsable, tmp_path: Path) -> None:
    """The rollout in stages is refused for the same reason; the first of both is shown."""
    other = tmp_path / "acme"
    assert cli("mock", "init", other, "-f", "acme", "-g", "field", "--devices", 1).code == 0
    result = cli("apply", made.staged, "--rehearse", other)
    assert "had 4 device(s) when the plan was made" in result.err


def test_the_child_process_ends_when_its_stdin_ends(made: Rehearsable, tmp_path: Path) -> None:
    task = rehearsal_child._Task(
        source=str(made.clone),
        copy=str(tmp_path / "copy"),
        state=str(tmp_path / "state"),
        plan=made.plain.read_text(),
        options=RehearsalOptions(),
    )
    data = msgspec.msgpack.encode(task)
    done = subprocess.run(
        [sys.executable, "-m", "fioctl_rotate.ops.rehearsal_child"],
        input=len(data).to_bytes(8, "big") + data,
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (1, b"")


def answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: bytes) -> None:
    """Another program in the place of the child process, which writes these bytes."""
    (tmp_path / "answer").write_bytes(answer)
    program = tmp_path / "child"
    program.write_text(f"#!/bin/sh\nexec cat {tmp_path}/answer\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))


def test_connections_that_were_refused_in_the_child_process_are_reported(
    rehearse: Rehearse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    played = Played("2026-11-24T12:00:00Z", "done", "", 1, [], [])
    answer = rehearsal_child._Answer(played=played, refused=["192.0.2.1:443"])
    answers(monkeypatch, tmp_path, msgspec.msgpack.encode(answer))
    result = rehearse("--format", "json")
    assert last_line(result)["refused"] == ["192.0.2.1:443"]
    assert "a connection to 192.0.2.1:443 was refused: it would have left this machine" in result.err


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "the process for the plain push ended early, with status 0"),
        (
            msgspec.msgpack.encode(rehearsal_child._Answer(error="no space left")),
            "the plain push could not be rehearsed: no space left",
        ),
    ],
)
def test_a_child_process_that_fails_is_an_error(
    rehearse: Rehearse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: bytes, message: str
) -> None:
    answers(monkeypatch, tmp_path, answer)
    result = rehearse()
    assert (result.code, f"error: {message}" in result.err) == (1, True), result.err
