"""`mock init`, `mock serve`, `mock events` as typed."""

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from fioctl_rotate.mock.store import event_queue
from fioctl_rotate.mock.store.database import Store
from fioctl_rotate.serving import listen
from tests.processes import FREE

Cli = Callable[..., Any]


@pytest.fixture
def factory(cli: Cli, mock_dir: Path) -> Path:
    result = cli("mock", "init", mock_dir, "--factory", "acme", "--group", "field", "--devices", 2, *FREE)
    assert result.code == 0, result.err
    return mock_dir


def test_init_makes_a_factory_ready_to_rotate(cli: Cli, mock_dir: Path) -> None:
    result = cli(
        "mock", "init", mock_dir, "-f", "acme", "-g", "field", "--devices", 2, "--format", "json", *FREE
    )
    assert result.code == 0
    assert result.json["factory"] == "acme"
    assert result.json["pki"] == str(mock_dir / "pki")
    assert [device["name"] for device in result.json["devices"]] == ["device-1", "device-2"]
    assert {path.name for path in (mock_dir / "devices").iterdir()} == {
        device["uuid"] for device in result.json["devices"]
    }
    listed = cli("devices", "list", "-g", "field", "--mock", mock_dir, "-f", "acme", "--format", "json")
    assert [device["name"] for device in listed.json["devices"]] == ["device-1", "device-2"]
    assert all(device["last-seen"] for device in listed.json["devices"])
    for device in listed.json["devices"]:
        # What it says that it runs is what its events will name.
        current = (mock_dir / "devices" / device["uuid"] / "current-target").read_text()
        assert f'TARGET_NAME = "{device["target-name"]}"' in current
    dry = cli(
        "config", "rotate-certs", "-g", "field", "-r", "r", "--dryrun", "--mock", mock_dir, "-f", "acme"
    )
    assert dry.code == 0, dry.err
    assert "ESTSERVER=https://localhost:" in dry.out


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
def test_a_command_on_a_mock_leaves_its_state_closed(cli: Cli, mock_dir: Path) -> None:
    assert cli("mock", "init", mock_dir, "--factory", "acme", "--group", "field", *FREE).code == 0
    assert cli("devices", "list", "--mock", mock_dir, "-f", "acme").code == 0
    opened = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert [path for path in opened if path.startswith(str(mock_dir))] == []


def test_what_init_says(cli: Cli, mock_dir: Path) -> None:
    result = cli("mock", "init", mock_dir, "--factory", "acme", "--group", "field", *FREE)
    assert result.out == f"made the mocked Factory acme in {mock_dir}\n"
    following = result.err.splitlines()[-1].removeprefix("next: fioctl-rotate ")
    assert cli(*following.split()).code == 0


def test_a_bare_factory_has_nothing_set_up(cli: Cli, mock_dir: Path) -> None:
    result = cli("mock", "init", mock_dir, "--factory", "acme", "--bare", *FREE)
    assert result.code == 0
    assert not (mock_dir / "pki").exists()
    shown = cli("mock", "init", mock_dir, "--factory", "b", "--bare", "--format", "json", *FREE).json
    assert (shown["pki"], shown["devices"]) == (None, [])
    following = result.err.splitlines()[-1].removeprefix("next: fioctl-rotate ")
    assert cli(*following.split(), "-y").code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--factory", "a b"),
        ("--factory", "acme", "--bare", "--group", "field"),
        ("--factory", "acme", "--bare", "--devices", 1),
        ("--factory", "acme", "--devices", -1),
        ("--factory", "acme", "--port", 70000),
        ("--factory", "acme", "--est-name", "127.0.0.1"),
        ("--factory", "acme", "--est-name", "a..b"),
        ("--factory", "acme", "--gateway-name", "https://gateway"),
        ("--factory", "acme", "--gateway-name", "-a"),
        ("--factory", "acme", "--gateway-name", "a." * 32 + "b"),
        (),
    ],
    ids=str,
)
def test_init_refuses(cli: Cli, mock_dir: Path, arguments: tuple[object, ...]) -> None:
    result = cli("mock", "init", mock_dir, *arguments)
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert not mock_dir.exists()


def test_init_makes_a_factory_once(cli: Cli, factory: Path) -> None:
    result = cli("mock", "init", factory, "--factory", "acme", *FREE)
    assert result.code == 2
    assert "already" in result.err


def test_names_for_est_server_and_gateway(cli: Cli, mock_dir: Path) -> None:
    names = ("--est-name", "est.example", "--gateway-name", "gateway.example")
    assert cli("mock", "init", mock_dir, "-f", "acme", "--devices", 1, *names, *FREE).code == 0
    (device,) = (mock_dir / "devices").iterdir()
    assert 'server = "https://gateway.example:' in (device / "sota.toml").read_text()
    dry = cli(
        "device",
        "config",
        "rotate-certs",
        "device-1",
        "-r",
        "r",
        "--dryrun",
        "--mock",
        mock_dir,
        "-f",
        "acme",
    )
    assert "ESTSERVER=https://est.example:8443/.well-known/est" in dry.out


def test_events_of_a_quiet_factory(cli: Cli, factory: Path) -> None:
    assert cli("mock", "events", factory).out == ""
    assert cli("mock", "events", factory, "--format", "json").json["events"] == []


def test_events(cli: Cli, factory: Path) -> None:
    time = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
    with contextlib.closing(Store(factory)) as store, store.transaction() as db:
        event_queue.push_config_applied(db, "acme", "uuid-1", time)
    line = "2026-03-01T12:00:00+00:00  DEVICE_CONFIG_APPLIED  uuid-1\n"
    assert cli("mock", "events", factory).out == line
    assert cli("mock", "events", factory, "-f", "acme", "--format", "json").json["events"] == [
        {"event-type": "DEVICE_CONFIG_APPLIED", "data": {"Uuid": "uuid-1", "Time": 1772366400}}
    ]


@pytest.mark.parametrize("command", ["events", "serve"])
def test_a_directory_without_a_factory(cli: Cli, tmp_path: Path, command: str) -> None:
    result = cli("mock", command, tmp_path)
    assert result.code == 2
    assert result.err.startswith("error: no mocked Factory in ")
    assert "hint: make one: fioctl-rotate mock init" in result.err


@pytest.mark.parametrize("command", ["events", "serve"])
def test_an_unknown_factory(cli: Cli, factory: Path, command: str) -> None:
    result = cli("mock", command, factory, "-f", "nope")
    assert result.code == 2
    assert "hint: it has: acme" in result.err


def test_a_taken_port_is_one_line(cli: Cli, factory: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        result = cli("mock", "serve", factory, "--est-port", port)
    assert result.code == 1
    assert result.err.startswith(f"error: cannot listen on 127.0.0.1:{port}: ")
    assert result.out == ""


@contextlib.contextmanager
def serving(directory: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "fioctl_rotate", "mock", "serve", str(directory)]
    command += [*map(str, FREE), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def output(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_prints_what_to_paste_and_ends_quietly(factory: Path, number: signal.Signals) -> None:
    with serving(factory) as process:
        lines = [output(process.stdout).readline() for _ in range(8)]
        text = "".join(lines)
        for line in lines:
            # What is to be pasted works in a shell.
            if line.startswith("  export"):
                shown = subprocess.run(["sh", "-c", f"{line}env"], capture_output=True, text=True, check=True)
                for variable in ("FIOCTL_TOKEN", "FIOCTL_CONFIG", "FIOCTL_ROTATE_SERVER"):
                    assert (f"\n{variable}=" in f"\n{shown.stdout}") == (variable in line)
        os.kill(process.pid, number)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert err == ""
    assert "no certificate yet" not in text
    token = (factory / "tokens" / "acme.admin").read_text()
    assert token not in text


def test_serve_as_json(factory: Path) -> None:
    with serving(factory, "--format", "json") as process:
        document = ""
        while not document.endswith("\n}\n"):
            document += output(process.stdout).readline()
        told: dict[str, Any] = json.loads(document)
        request = urllib.request.Request(  # noqa: S310  our own server
            told["server"] + "/ota/factories/", headers={"OSF-TOKEN": Path(told["token-file"]).read_text()}
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310  a loopback URL of our own
            assert json.load(answer)[0]["name"] == "acme"
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=120)
    assert sorted(told) == ["est", "factory", "fioctl-config", "gateway", "server", "token-file"]
    assert Path(told["fioctl-config"]).suffix == ".yaml"


def test_a_fault_on_purpose_is_said(factory: Path) -> None:
    with serving(factory, "--est-fault", "stop") as process:
        told = output(process.stderr).readline()
        est = [output(process.stdout).readline() for _ in range(4)][3].split()[-1]
        with pytest.raises(urllib.error.URLError, match="refused"):
            urllib.request.urlopen(f"{est}/cacerts")  # noqa: S310  a loopback URL of our own
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=120)
    assert told == "the EST server has a fault on purpose: stop\n"


def test_serve_says_what_a_bare_factory_lacks(cli: Cli, mock_dir: Path) -> None:
    cli("mock", "init", mock_dir, "-f", "acme", "--bare", *FREE)
    with serving(mock_dir) as process:
        lines = [output(process.stdout).readline() for _ in range(4)]
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=120)
    at = f"{mock_dir}/pki --factory acme --mock {mock_dir}"
    assert lines[2].endswith(f"(no certificate yet: `fioctl-rotate keys ca create {at}` makes it)\n")
    assert lines[3].endswith(f"(no certificate yet: `fioctl-rotate est authorize {at}` makes it)\n")
