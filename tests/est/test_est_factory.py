"""What `est` commands take from a Factory: its EST server, its device CAs, its denied devices."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from fioctl_rotate.errors import Error
from fioctl_rotate.est.deny import parse_deny_list
from fioctl_rotate.limits import Limits
from fioctl_rotate.serving import inherited, listen_unix, running
from tests.commandline import Cli, Result
from tests.est.process import options
from tests.processes import FREE, Process, est_port

Check = Callable[..., Result]


@pytest.fixture
def check(acme: Path, cli: Cli) -> Check:
    """`check("--est-fault", …)`: `est check` with a device's certificate, against the mocked Factory served so."""
    device = min((acme / "devices").iterdir())
    identity = ("--cert", device / "client.pem", "--key", device / "pkey.pem", "--format", "json")

    def checked(*options: str) -> Result:
        with Process("mock", "serve", acme, "--format", "json", *FREE, *options) as server:
            return cli("est", "check", "-p", est_port(server.document()), *identity)

    return checked


def test_the_issuer_is_held_against_the_factory_s_device_cas(check: Check) -> None:
    result = check()
    checks = {check["name"]: check for check in result.json["checks"]}
    assert {check["status"] for check in checks.values()} == {"pass"}, result.out
    assert checks["issuer"]["message"].startswith("signed by ")
    assert result.json["issued"]["serial"] in checks["reenroll"]["message"]


def test_a_ca_that_the_gateway_does_not_trust_fails(check: Check) -> None:
    result = check("--est-fault", "foreign-ca")
    checks = {check["name"]: check for check in result.json["checks"]}
    assert (result.code, checks["issuer"]["status"], checks["lmp-90"]["status"]) == (5, "fail", "pass")
    assert "the gateway would refuse the device" in checks["issuer"]["message"]


def test_an_est_server_that_answers_404_fails(check: Check) -> None:
    result = check("--est-fault", "404")
    failed = [check["name"] for check in result.json["checks"] if check["status"] == "fail"]
    assert failed == ["endpoint", "reenroll", "lmp-97", "lmp-90"]


def test_rfc7030_is_nothing_for_old_devices(check: Check) -> None:
    result = check("--rfc7030")
    statuses = {check["name"]: check["status"] for check in result.json["checks"]}
    assert (statuses["lmp-97"], statuses["lmp-90"], result.code) == ("pass", "warn", 0)


def test_denied_devices_become_a_deny_list(cli: Cli, acme: Path) -> None:
    assert cli("est", "deny-list").out == ""
    devices = json.loads(cli("devices", "list", "--format", "json").out)["devices"]
    uuid = next(device["uuid"] for device in devices if device["name"] == "device-1")
    assert cli("devices", "delete", "device-1", "-y").code == 0
    result = cli("est", "deny-list")
    assert (result.code, result.out) == (0, f"uuid {uuid}\n")
    assert parse_deny_list(result.out, "x").entries == {("uuid", uuid)}
    assert cli("est", "deny-list", "--format", "json").json == {"deny": [f"uuid {uuid}"]}


BEHIND = ("--behind-proxy", "--client-cert-header", "X-Client-Cert")


def behind(files: dict[str, Path]) -> list[str]:
    return [*BEHIND, *options({name: path for name, path in files.items() if not name.startswith("tls-")})]


def over(path: Path) -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://est")


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="systemd is not installed")
@pytest.mark.parametrize("workers", [1, 2])
def test_systemd_may_pass_the_socket(files: dict[str, Path], tmp_path: Path, workers: int) -> None:
    path = tmp_path / "est.sock"
    command = [
        "systemd-socket-activate",
        "-l",
        str(path),
        sys.executable,
        "-m",
        "fioctl_rotate",
        "est",
        "serve",
    ]
    with subprocess.Popen(
        [*command, *behind(files), "--workers", str(workers)], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Listening on")
        with over(path) as client:
            # The first connection is what starts the server.
            client.timeout = 60
            assert client.get("/.well-known/est/cacerts").status_code == 200
        process.send_signal(signal.SIGTERM)
        told = process.stderr.read()
    assert f"EST server at unix:{path}" in told
    assert process.returncode == 0


def test_a_socket_that_nobody_listens_on_any_more_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "est.sock"
    with listen_unix(path) as first:
        assert path.stat().st_mode & 0o777 == 0o660
        with pytest.raises(Error, match="another program listens"):
            listen_unix(path)
        assert first.fileno() >= 0
    with listen_unix(path):
        pass
    (tmp_path / "file").write_text("mine")
    with pytest.raises(Error, match="cannot listen on"):
        listen_unix(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_limits_hold_on_a_unix_socket(tmp_path: Path) -> None:
    refused: list[tuple[str, str]] = []

    async def work() -> None:
        with listen_unix(tmp_path / "s") as sock:
            async with running(
                None, sock, limits=Limits(head=0.2), refused=lambda *told: refused.append(told)
            ):
                reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
                writer.write(b"GET /")
                assert (await reader.read()).startswith(b"HTTP/1.1 408")
                writer.close()

    asyncio.run(work())
    assert refused == [("", "the request was not complete in time")]


@pytest.mark.parametrize("passed", ["2", "0", "x"])
def test_another_number_of_sockets_is_refused(monkeypatch: pytest.MonkeyPatch, passed: str) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", passed)
    with pytest.raises(Error, match=f"expected one socket from systemd, got {passed}"):
        inherited()
    monkeypatch.setenv("LISTEN_PID", "1")
    assert inherited() is None
