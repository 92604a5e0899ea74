"""The demo: what it shows is true, its commands work as typed, and it leaves nothing behind."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commandline import Cli

STEPS = (
    "Generate new certificate",
    "Lock device configuration on server",
    "Update local configuration with new key",
    "Update device specific configuration on server with new key",
    "Finalize aktualizr configuration",
)
BIN = Path(sys.executable).parent


def commands(output: str) -> list[str]:
    return [line.removeprefix("$ ") for line in output.splitlines() if line.startswith("$ ")]


def proofs(output: str) -> list[str]:
    table = output.split("OLD REFUSED")[1]
    return [" ".join(line.split()) for line in table.splitlines() if line.strip()]


def test_every_device_rotates_and_is_proven(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    result = cli("demo", "--devices", 4)
    assert (result.code, result.err) == (0, "all 4 devices have rotated\n")
    assert proofs(result.out) == [f"device-{number} yes yes yes yes" for number in (1, 2, 3, 4)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", range(1, 6))
def test_a_device_that_is_made_to_fail_is_reported_and_the_others_rotate(cli: Cli, step: int) -> None:
    result = cli("demo", "--devices", 3, "--fail", step)
    assert result.code == 3
    assert result.err.startswith("error: device-1 failed, as --fail says: ")
    assert f"--fail {step} &" in result.out
    assert re.search(rf"device-1 +failing at {step}/5", result.out)
    assert [line.split(maxsplit=1)[1] for line in proofs(result.out)] == ["failed", *["yes yes yes yes"] * 2]


def test_a_percentage_of_the_devices_fails(cli: Cli) -> None:
    result = cli("demo", "--devices", 4, "--fail", "2:50", "--fail", 3)
    assert result.code == 3
    assert result.err.startswith("error: device-1, device-2, device-3 failed, as --fail says: ")
    assert re.search(r"device-2 +failing at 2/5", result.out)
    assert re.search(r"device-3 +failing at 3/5", result.out)
    assert [line.split(maxsplit=1)[1] for line in proofs(result.out)][3] == "yes yes yes yes"


def test_one_device_is_enough(cli: Cli) -> None:
    assert cli("demo", "--devices", 1).code == 0


def test_the_commands_shown_work_when_typed_in_order(cli: Cli, tmp_path: Path) -> None:
    shown = cli("demo", "--devices", 3, "--keep", tmp_path / "played")
    assert shown.code == 0
    typed = commands(shown.out)
    assert typed[0] == f"D={tmp_path / 'played'}"
    script = "\n".join(
        ["set -e", "trap 'kill $(jobs -p); wait' EXIT", f"D={tmp_path / 'typed'}", *typed[1:]],
    )
    environment = {**os.environ, "PATH": f"{BIN}:/usr/bin:/bin"}
    with subprocess.Popen(
        ["bash", "-c", script],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as bash:
        try:
            out, _ = bash.communicate(timeout=600)
        finally:
            # However it ended, the servers that it has started end with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(bash.pid, signal.SIGKILL)
    assert bash.returncode == 0, out
    assert "3 of 3 done" in out
    assert out.count("DEVICE_PUBKEY_CHANGE") == 3


def test_a_kept_directory_can_be_inspected(cli: Cli, tmp_path: Path) -> None:
    directory = tmp_path / "kept"
    shown = cli("demo", "--devices", 2, "--keep", directory)
    assert f"export FIOCTL_ROTATE_MOCK={directory}" in shown.err
    rotation = re.search(r"--rotation-id (\S+)", shown.out)
    assert rotation is not None
    place = ("--mock", directory, "-f", "demo")
    assert "2 of 2 done" in cli("rotations", "show", rotation[1], "-g", "field", *place).out
    events = cli("devices", "updates", "device-1", rotation[1], *place).out
    assert [step for step in STEPS if step in events] == list(STEPS)


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--fail", "6"], "error: expected STEP or STEP:PERCENT, got `6`"),
        (["--fail", "1:0"], "error: expected STEP or STEP:PERCENT, got `1:0`"),
        (["--fail", "Generate"], "error: expected STEP or STEP:PERCENT, got `Generate`"),
        (["--devices", "0"], "error: invalid value for '--devices'"),
    ],
)
def test_a_wrong_option_is_refused(cli: Cli, argv: list[str], line: str) -> None:
    result = cli("demo", *argv)
    assert result.code == 2
    assert result.err.startswith(line)


def test_a_directory_in_use_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    result = cli("demo", "--keep", tmp_path)
    assert (result.code, result.out) == (2, "")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_interrupted_it_ends_with_130_and_leaves_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(
        [BIN / "fioctl-rotate", "demo"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("8."):
                process.send_signal(signal.SIGINT)
                break
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err.splitlines()[-1]) == (130, "interrupted")
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
