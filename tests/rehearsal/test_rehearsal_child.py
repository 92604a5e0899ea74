"""The plain push in a process of its own."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fioctl_rotate.ops import rehearsal, rehearsal_child
from fioctl_rotate.ops.rehearsal_play import Wanted
from tests.commandline import Cli
from tests.rehearsal.conftest import DEVICES, Rehearsable, Rehearse, last_line


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "FEW", 0)


def test_the_child_process_gives_the_same_result(rehearse: Rehearse) -> None:
    result = rehearse("--est-fault", "404", "--format", "json")
    assert (result.code, last_line(result)["plain-push"]["counts"]["wedged"]) == (3, DEVICES)


def test_a_refusal_in_the_child_process_is_an_error(cli: Cli, made: Rehearsable, tmp_path: Path) -> None:
    """The staged one is refused for the same reason; whichever is first is told."""
    other = tmp_path / "acme"
    assert cli("mock", "init", other, "-f", "acme", "-g", "field", "--devices", 1).code == 0
    result = cli("apply", made.staged, "--rehearse", other)
    assert "had 4 device(s) when the plan was made" in result.err


def test_the_child_process_ends_when_its_stdin_ends(made: Rehearsable, tmp_path: Path) -> None:
    task = rehearsal_child._Task(
        source=str(made.clone),
        place=str(tmp_path / "copy"),
        state=str(tmp_path / "state"),
        plan=made.plain.read_text(),
        wanted=Wanted(),
    )
    data = msgspec.msgpack.encode(task)
    done = subprocess.run(
        [sys.executable, "-m", "fioctl_rotate.ops.rehearsal_child"],
        input=len(data).to_bytes(8, "big") + data,
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (1, b"")
