"""Checks that stop a push, and what waives them: by name, recorded, and no more than that."""

import contextlib
import socket
from pathlib import Path

import pytest

from fioctl_rotate import files
from fioctl_rotate.errors import Error
from fioctl_rotate.mock.mock_server import serving_lock
from fioctl_rotate.mock.store import accounts
from fioctl_rotate.mock.store.database import Store
from tests.commandline import Cli
from tests.pushing import log, push

# Nothing listens there, and it isn't where the mock serves its own EST server.
NOWHERE = ("--server-name", "localhost", "-p", "1")
PUSH = ("config", "rotate-certs", "-g", "field", "-r", "why", "--rotation-id", "certs-1")
DEVICE = ("device", "config", "rotate-certs", "device-1", "-r", "why", "--rotation-id", "certs-1")


def own_est(mock_dir: Path) -> tuple[str, str]:
    """The option that names the mock's own EST server."""
    with contextlib.closing(Store(mock_dir)) as store, store.reading() as db:
        return "-p", str(accounts.choose_factory(db, "acme").est_port)


@pytest.fixture
def acme(cli: Cli, mock_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The mocked Factory, its EST server on a port where nothing listens, whatever else this machine serves."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("FIOCTL_FACTORY", "acme")
    monkeypatch.setenv("FIOCTL_ROTATE_MOCK", str(mock_dir))
    made = ("mock", "init", mock_dir, "-f", "acme", "--group", "field", "--devices", 2, "--est-port", port)
    assert cli(*made).code == 0
    return mock_dir


@pytest.mark.parametrize("command", [PUSH, DEVICE], ids=["group", "device"])
def test_an_est_server_that_cannot_be_reached_stops_a_push(
    cli: Cli, acme: Path, command: tuple[str, ...]
) -> None:
    refused = cli(*command, *NOWHERE)
    assert (refused.code, refused.out) == (5, "")
    assert "fail  est-reachable  localhost:1 refuses connections" in refused.err
    assert "nothing was sent because of est-reachable" in refused.err
    assert "--allow est-reachable" in refused.err
    assert log(cli) == []


def test_a_waiver_is_for_one_check_and_is_recorded(cli: Cli, acme: Path) -> None:
    assert cli(*PUSH, *NOWHERE, "--allow", "lifetimes").code == 5
    result = cli(*PUSH, *NOWHERE, "--allow", "est-reachable", "--format", "json")
    assert result.code == 0, result.err
    assert result.json["allow"] == ["est-reachable"]
    failed = [check["name"] for check in result.json["checks"] if check["status"] == "fail"]
    assert failed == ["est-reachable"]
    assert "--allow est-reachable" in result.json["repeat"]
    assert cli(*PUSH, *NOWHERE, "--allow", "est-reachable").out.startswith("already there")


@pytest.mark.parametrize("name", ["nothing", "", "devices-changed", "est-reachable "])
def test_a_name_that_is_not_a_check_is_refused_and_the_checks_are_named(
    cli: Cli, acme: Path, name: str
) -> None:
    result = cli(*PUSH, "--allow", name)
    assert (result.code, result.out) == (2, "")
    assert f"there is no check `{name.strip()}" in result.err
    assert "est-reachable, est-chain" in result.err


def test_without_checks_there_are_no_warnings(cli: Cli, acme: Path) -> None:
    result = cli(*PUSH, "--no-checks", "--strict")
    assert (result.code, "cannot be used with --no-checks" in result.err) == (2, True)


def test_a_mock_that_nobody_serves_is_a_warning_of_that(cli: Cli, acme: Path) -> None:
    result = cli(*PUSH, *own_est(acme))
    assert result.code == 0
    assert f"`fioctl-rotate mock serve {acme}` is not running" in result.err


def test_a_mock_that_is_served_without_its_est_server_is_no_exception(cli: Cli, acme: Path) -> None:
    with files.locked(serving_lock(acme, "acme"), Error("served already")):
        refused = cli(*PUSH, *own_est(acme))
    assert (refused.code, "fail  est-reachable" in refused.err) == (5, True)


def test_strict_lets_warnings_stop_it_too(cli: Cli, acme: Path) -> None:
    refused = cli(*PUSH, *own_est(acme), "--strict")
    assert refused.code == 5
    assert "nothing was sent because of est-reachable" in refused.err
    assert log(cli) == []
    # The devices of the mock have never been seen.
    waived = ("--allow", "est-reachable", "--allow", "online")
    assert cli(*PUSH, *own_est(acme), "--strict", *waived).code == 0


def test_a_check_before_takes_the_same_waivers(cli: Cli, acme: Path) -> None:
    check = ("rotations", "check", "-g", "field", *NOWHERE)
    refused = cli(*check)
    assert refused.code == 5
    assert "group field is not ready to rotate because of est-reachable" in refused.err
    assert "--allow est-reachable" in refused.err
    waived = cli(*check, "--allow", "est-reachable", "--format", "json")
    assert (waived.code, waived.json["ok"], waived.json["allow"]) == (0, True, ["est-reachable"])
    assert cli(*check, "--allow", "nothing").code == 2
    # What is a warning, since nobody serves the mock.
    warned = ("rotations", "check", "-g", "field", *own_est(acme))
    assert cli(*warned).code == 0
    assert cli(*warned, "--strict").code == 5
    assert cli(*warned, "--strict", "--allow", "est-reachable").code == 0


def test_a_dry_run_records_what_failed_and_is_no_error(cli: Cli, acme: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    shown = push(cli, *PUSH, *NOWHERE, "--dryrun", "--out", plan)
    assert "fail  est-reachable  localhost:1 refuses connections" in shown.out
    assert "A push is refused because of est-reachable; --allow NAME waives one check." in shown.out
    as_json = push(cli, *PUSH, *NOWHERE, "--dryrun", "--format", "json").json
    assert ("est-reachable", "fail") in [(check["name"], check["status"]) for check in as_json["checks"]]
    assert 'name = "est-reachable"\nstatus = "fail"' in plan.read_text()
    assert push(cli, "plan", "show", plan).out == shown.out


def test_apply_checks_again_and_inherits_the_named_waivers_alone(
    cli: Cli, acme: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.toml"
    push(cli, *PUSH, *NOWHERE, "--dryrun", "--no-checks", "--out", plan)
    refused = cli("apply", plan)
    assert (refused.code, "because of est-reachable" in refused.err) == (5, True)
    push(cli, *PUSH, *NOWHERE, "--dryrun", "--allow", "lifetimes", "--out", plan)
    assert cli("apply", plan).code == 5
    assert log(cli) == []
    push(cli, *PUSH, *NOWHERE, "--dryrun", "--allow", "est-reachable", "--out", plan)
    assert 'allow = [\n    "est-reachable",\n]' in plan.read_text()
    assert cli("apply", plan).code == 0


def test_a_waiver_at_apply_is_beside_those_of_the_plan(cli: Cli, acme: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    push(cli, *PUSH, *NOWHERE, "--dryrun", "--allow", "online", "--out", plan)
    result = cli("apply", plan, "--allow", "est-reachable", "--format", "json")
    assert result.code == 0, result.err
    assert result.json["allow"] == ["online", "est-reachable"]


def test_no_waiver_lets_wrong_input_through(cli: Cli, acme: Path) -> None:
    result = cli(*PUSH, "-e", "/.well-known/est/", "--allow", "est-endpoint", "--no-checks")
    assert (result.code, result.out) == (2, "")
    wrong = cli(*PUSH, "-e", "/.well-known/est/", "--allow", "est-endpoint")
    assert (wrong.code, "--est-resource /.well-known/est" in wrong.err) == (2, True)
