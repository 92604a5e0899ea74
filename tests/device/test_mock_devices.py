"""`mock devices` as typed, against `mock serve`: processes over real TLS, and nothing lost."""

import json
import sqlite3

import pytest

from tests.processes import FREE, Process, est_port

STEPS_AND_START = 6


@pytest.fixture
def factory(cli, mock_dir):
    made = cli("mock", "init", mock_dir, "-f", "acme", "-g", "field", "--devices", 5, *FREE)
    assert made.code == 0, made.err
    made = cli("mock", "add-devices", mock_dir, "--devices", 1, "--slots", 1)
    assert made.code == 0, made.err
    return mock_dir


def test_a_group_rotates_and_nothing_is_lost(cli, factory):
    connection = ("--mock", factory, "-f", "acme")
    with Process("mock", "serve", factory, "--format", "json") as server:
        served = server.document()
        port = est_port(served)
        with Process(
            "mock", "devices", factory, "-g", "field", "--interval", "0.2", "--format", "json"
        ) as devices:
            pushed = cli(
                *("config", "rotate-certs", "-g", "field", "-r", "r", "-p", port, "-y", *connection),
                *("--wait", "--interval", 1, "--timeout", 600),
            )
            assert pushed.code == 0, pushed.out + pushed.err
            code, out, err = devices.interrupt()
        assert server.interrupt()[0] == 0
    assert code == 0
    assert err.startswith("running 5 device(s), a check-in every 0.2 s; Ctrl-C ends it\n")
    lines = [json.loads(line) for line in out.splitlines()]
    assert {line["device"] for line in lines} == {f"device-{number}" for number in range(1, 6)}
    assert all(line["success"] for line in lines)
    assert len(lines) == 5 * STEPS_AND_START
    with sqlite3.connect(factory / "mock.db") as db:
        assert db.execute("SELECT count(*) FROM event").fetchone() == (5 * STEPS_AND_START,)
    db.close()


def test_a_step_is_a_line_and_a_failure_says_why(cli, factory):
    """No server runs: a note on stderr says that the device cannot check in."""
    connection = ("--mock", factory, "-f", "acme")
    unreachable = cli(
        *("config", "rotate-certs", "-g", "field", "-r", "r", "--server-name", "localhost", "-p", 1),
        *("-y", "--no-checks", *connection),
    )
    assert unreachable.code == 0, unreachable.err
    with (
        Process("mock", "serve", factory, "--format", "json") as server,
        Process("mock", "devices", factory, "-g", "field", "--interval", "0.2") as devices,
    ):
        lines = [devices.lines.readline().rstrip("\n") for _ in range(15)]
        assert devices.interrupt()[0] == 0
        assert server.interrupt()[0] == 0
    mine = [line for line in lines if line.startswith("device-1 ")]
    assert mine[0] == "device-1  CertRotationStarted"
    assert mine[1].startswith("device-1  Generate new certificate: POST https://localhost:1/")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("-g", "nowhere"), "no device group"),
        (("-f", "other"), "other"),
        (("-g", "empty"), "no simulated device"),
    ],
)
def test_what_there_is_nothing_to_run_for(cli, factory, argv, message):
    cli("config", "device-group", "create", "empty", "--mock", factory, "-f", "acme")
    result = cli("mock", "devices", factory, *argv)
    assert result.code in (1, 2)
    assert message in result.err
