"""Rollouts of 300 simulated devices over real TLS: a good one, a foreign CA, a server that dies in stage 2.

    pytest -n 0 -s tests/benchmarks/bench_rollout.py

`mock serve`, `mock devices` and the program each run in a process of their own. What is printed: the exit code, the
time, the rollout's summary, and how many devices have begun.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commandline import Cli

DEVICES = 300
STAGES = (
    "--stages",
    "1,5%,25%",
    "--soak",
    "2s",
    "--stage-timeout",
    "60s",
    "--interval",
    "1",
    "--format",
    "json",
)


class Rehearsal:
    """A mocked Factory in a directory, its servers and its devices."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.server: subprocess.Popen[str] | None = None
        self.ports: list[str] = []

    def start(self, *argv: object, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "fioctl_rotate", *map(str, argv)]
        return subprocess.Popen(command, stdout=stdout, stderr=subprocess.DEVNULL, text=True, env=os.environ)

    def serve(self, *fault: str) -> None:
        """Serve it, on the same ports each time; ends what served it before."""
        self.stop()
        ports = self.ports or ["--port", "0", "--est-port", "0", "--gateway-port", "0"]
        self.server = self.start("mock", "serve", self.directory, *ports, *fault, "--format", "json")
        assert self.server.stdout
        shown = json.loads("".join(iter(self.server.stdout.readline, "}\n")) + "}")
        url = [shown[name].split("/")[2].rpartition(":")[2] for name in ("server", "est", "gateway")]
        self.ports = ["--port", url[0], "--est-port", url[1], "--gateway-port", url[2]]

    def stop(self) -> None:
        """End the servers."""
        if self.server is not None:
            self.server.terminate()
            self.server.communicate()

    @contextlib.contextmanager
    def devices(self) -> Iterator[None]:
        """The devices check in every two seconds. Nobody reads their lines: a full pipe would stop them."""
        process = self.start("mock", "devices", self.directory, "--interval", "2", stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.terminate()
            process.communicate()


@pytest.fixture
def rehearsal(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rehearsal]:
    made = cli(
        "mock", "init", tmp_path / "mock", "--factory", "acme", "--group", "field", "--devices", DEVICES
    )
    assert made.code == 0, made.err
    monkeypatch.setenv("FIOCTL_FACTORY", "acme")
    monkeypatch.setenv("FIOCTL_ROTATE_MOCK", str(tmp_path / "mock"))
    rehearsal = Rehearsal(tmp_path / "mock")
    yield rehearsal
    rehearsal.stop()


def plan(cli: Cli, rehearsal: Rehearsal) -> Path:
    """A plan in four stages, in a file."""
    path = rehearsal.directory / "plan.toml"
    push = (
        "config",
        "rotate-certs",
        "-g",
        "field",
        "-r",
        "bench",
        "--rotation-id",
        "r-1",
        "-p",
        rehearsal.ports[3],
    )
    assert cli(*push, *STAGES, "--dryrun", "--out", path).code == 0
    return path


def apply(rehearsal: Rehearsal, path: Path) -> "subprocess.Popen[str]":
    return rehearsal.start("apply", path, "--interval", "1", "--format", "json")


def ended(name: str, run: "subprocess.Popen[str]", began: float) -> dict[str, Any]:
    out, _ = run.communicate()
    summary: dict[str, Any] = json.loads(out.splitlines()[-1])
    stages = ", ".join(f"{stage['status']} {stage['done']}/{stage['devices']}" for stage in summary["stages"])
    group = summary["group"]
    print(
        f"{name}: exit code {run.returncode} after {time.monotonic() - began:.0f} s; {summary['verdict']}, stage "
        f"{summary['stage']} of {summary['of']} ({stages}); group: {group['done'] if group else 'not given'}"
    )
    return summary


def begun(cli: Cli) -> int:
    """How many devices have reported anything of the rotation."""
    devices = cli("devices", "list", "--format", "json", "--limit", 500).json["devices"]
    return sum(
        any(
            update["correlation-id"] == "r-1"
            for update in cli("devices", "updates", device["name"], "--format", "json").json["updates"]
        )
        for device in devices
    )


def test_a_good_rollout(cli: Cli, rehearsal: Rehearsal) -> None:
    rehearsal.serve()
    with rehearsal.devices():
        summary = ended("\ngood", apply(rehearsal, plan(cli, rehearsal)), time.monotonic())
    assert summary["group"]["done"] == DEVICES


def test_a_foreign_ca(cli: Cli, rehearsal: Rehearsal) -> None:
    rehearsal.serve("--est-fault", "foreign-ca")
    with rehearsal.devices():
        summary = ended("\nforeign CA", apply(rehearsal, plan(cli, rehearsal)), time.monotonic())
        print(f"devices that have begun: {begun(cli)} of {DEVICES}")
    assert (summary["verdict"], summary["stage"]) == ("failed", 1)


def test_a_server_that_dies_in_stage_2_and_comes_back(cli: Cli, rehearsal: Rehearsal) -> None:
    rehearsal.serve()
    with rehearsal.devices():
        began, path = time.monotonic(), plan(cli, rehearsal)
        run = apply(rehearsal, path)
        assert run.stdout
        for line in run.stdout:
            told = json.loads(line)
            if told["kind"] == "stage" and (told["number"], told["status"]) == (1, "passed"):
                break
        rehearsal.serve("--est-fault", "404")
        summary = ended("\ndies in stage 2", run, began)
        print(f"devices that have begun: {begun(cli)} of {DEVICES}")
        assert (summary["verdict"], summary["stage"]) == ("failed", 2)
        rehearsal.serve()
        # as a scheduled job does: stage 2 has failed until its devices have tried again
        while summary["verdict"] == "failed":
            summary = ended("applied again", apply(rehearsal, path), time.monotonic())
    assert summary["group"]["done"] == DEVICES
