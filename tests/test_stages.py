"""Rotating in stages, as it is typed: dry run, plan, apply, stop, unshadow."""

import asyncio
import re
import shlex
import shutil
import tomllib
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fioctl_rotate import wire
from fioctl_rotate.clock import utc_now
from fioctl_rotate.folders import state_folder
from fioctl_rotate.mock.store import device_records, updates
from fioctl_rotate.mock.store.config_levels import Level, change
from fioctl_rotate.mock.store.database import Store
from tests.commandline import Cli
from tests.processes import FREE, Process, est_port
from tests.rotation.fleets import outcomes

ROTATE = ("config", "rotate-certs", "-g", "field", "-r", "yearly", "--rotation-id", "r-9", "--no-checks")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stages", "x"], "--stages: expected a number of devices or a percentage such as 5%, got `x`"),
        (["--soak", "1m"], "--soak needs --stages or --canary"),
        (["--clear-older"], "--clear-older needs --stages or --canary"),
        (["--stages", "1", "--max-failures", "x"], "--max-failures: expected"),
        (["--stages", "1", "--soak", "soon"], "soon"),
        (["--stages", "1", "--stage-timeout", "0"], "--stage-timeout"),
        (["--detailed-exitcode"], "--detailed-exitcode needs --dryrun, or a plan in stages"),
        (
            ["--stages", "1", "--dryrun", "--offline", "--server-name", "est.example.com"],
            "--offline cannot be used with stages",
        ),
    ],
)
def test_wrong_options_are_refused_before_anybody_is_asked(
    cli: Cli, acme: Path, options: list[str], message: str
) -> None:
    result = cli(*ROTATE, *options)
    assert result.code == 2
    assert message in result.err
    assert cli("config", "log", "-g", "field").out == ""


def test_devices_that_cannot_follow_are_named_and_nobody_left_is_refused(cli: Cli, acme: Path) -> None:
    with closing(Store(acme)) as store, store.transaction() as db:
        for name in ("device-1", "device-2"):
            device = device_records.find_device(db, "acme", name, by_uuid=False)
            device_records.see_device(db, device, utc_now() - timedelta(hours=5))
    result = cli(*ROTATE, "--stages", "1", "--dryrun")
    assert result.code == 5
    assert "no device of group field can be in an early stage: 2 offline (device-1, device-2)" in result.err
    result = cli(*ROTATE, "--canary", "device-1", "--dryrun")
    assert (result.code, "canary device-1 would not follow: offline" in result.err) == (5, True)


def test_a_dry_run_shows_the_stages_and_a_plan_holds_them(cli: Cli, acme: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    result = cli(*ROTATE, "--stages", "1", "--soak", "2m", "--max-failures", "10%", "--dryrun", "--out", plan)
    assert result.code == 0, result.err
    assert "1 of 2\tdevice-1\tseen " in result.out
    assert "Rules: soak 2 min, 10% failures allowed in a stage, at most 1 d a stage" in result.out
    stages = tomllib.loads(plan.read_text())["stages"]
    assert [device["name"] for device in stages["early"][0]["devices"]] == ["device-1"]
    assert (stages["soak"], stages["max-failures"], stages["stage-timeout"]) == (120, "10%", 86400)
    shown = cli(*ROTATE, "--stages", "1", "--dryrun", "--format", "json").json
    assert shown["stages"]["early"][0]["devices"][0]["name"] == "device-1"
    assert cli("config", "log", "-g", "field").out == ""


def test_a_size_that_adds_no_device_is_mentioned(cli: Cli, acme: Path) -> None:
    result = cli(*ROTATE, "--stages", "1,5%,6%", "--dryrun")
    assert "--stages: 2 sizes add no device, so there is no stage for that" in result.err
    assert "--stages" not in cli(*ROTATE, "--stages", "1", "--dryrun").err


def test_what_lies_beneath_is_said_and_can_be_cleared_first(cli: Cli, acme: Path) -> None:
    older = ("config", "rotate-certs", "-g", "field", "-r", "older", "--rotation-id", "r-1", "--no-checks")
    assert cli(*older).code == 0
    result = cli(*ROTATE, "--stages", "1", "--dryrun")
    assert (
        "rotation r-1 at https://localhost:8443/.well-known/est lies beneath; 0 of 1 early devices"
        in result.err
    )
    assert "An early device that reboots before it is settled rotates again, by rotation r-1" in result.out
    result = cli(*ROTATE, "--stages", "1", "--clear-older", "--dryrun")
    assert "0 of 2\t\tthe group's older entry is deleted\n" in result.out
    assert "reboots before it is settled" not in result.out


def test_the_older_entry_of_a_group_is_not_cleared_over_a_fleet_wide_one(cli: Cli, acme: Path) -> None:
    older = wire.ConfigFile(name="fio-rotate-certs", value="ROTATIONID=r-0", unencrypted=True)
    with closing(Store(acme)) as store, store.transaction() as db:
        for level in (Level("fleet", "acme"), Level("group", "1")):
            change(db, level, [older], reason="older", author="me", now=utc_now(), replace=False)
    result = cli(*ROTATE, "--stages", "1", "--clear-older", "--dryrun")
    assert result.code == 5
    assert "without the group's older entry, devices could rotate by the fleet-wide entry" in result.err
    result = cli(*ROTATE, "--stages", "1", "--clear-older", "--clear-fleet-wide", "--dryrun")
    assert result.code == 0


def test_a_run_whose_time_is_over_says_where_it_stands_and_leaves_the_files(
    cli: Cli, acme: Path, tmp_path: Path, run_out: Cli
) -> None:
    plan, junit = tmp_path / "plan.toml", tmp_path / "junit.xml"
    cli(*ROTATE, "--stages", "1", "--dryrun", "--out", plan)
    apply = ("apply", plan, "--no-checks", "--junit", junit, "--format", "json")
    result = run_out(cli, *apply)
    assert result.code == 4
    lines = result.lines
    assert [line["kind"] for line in lines if line["kind"] in ("write", "summary")] == ["write", "summary"]
    assert (lines[-1]["verdict"], lines[-1]["stage"], lines[-1]["of"]) == ("in progress", 1, 2)
    suites = ElementTree.parse(junit).getroot()  # noqa: S314  our own file
    assert [suite.get("name") for suite in suites] == ["stage 1 of 2", "stage 2 of 2"]
    assert run_out(cli, *apply, "--detailed-exitcode").code == 6
    reasons = [
        config["reason"]
        for config in cli("device", "config", "log", "device-1", "--format", "json").json["config"]
    ]
    assert len(reasons) == 1
    assert reasons[0].startswith("yearly (stage 1 of 2, plan ")

    assert "-g is missing" in cli("rotations", "stop", "r-9").err
    assert "the plan is for group field" in cli("rotations", "stop", plan, "-g", "other").err
    stopped = cli("rotations", "stop", plan)
    assert stopped.code == 0
    assert "device-1\tr-9\tdelete\tit has not fetched the entry, and will not rotate" in stopped.out
    again = cli(*apply)
    assert again.code == 5
    assert "rotation r-9 of group field was stopped" in again.err
    assert cli("rotations", "show", plan).code == 5


def post(acme: Path, name: str, kind: str, *, success: bool = True) -> None:
    """The device posts an event of the rotation."""
    detail = {"correlationId": "r-9", "success": success, "targetName": "t", "version": "1"}
    event = {
        "id": f"event of {name}",
        "deviceTime": "2026-11-24T12:00:00Z",
        "eventType": {"id": kind},
        "event": detail | ({} if success else {"details": "no"}),
    }
    with closing(Store(acme)) as store, store.transaction() as db:
        device = device_records.find_device(db, "acme", name, by_uuid=False)
        updates.keep(db, device.uuid, [event], utc_now())
        device_records.see_device(db, device, utc_now())


def test_a_run_whose_time_is_over_while_a_step_fails_exits_with_4(
    cli: Cli, acme: Path, tmp_path: Path, run_out: Cli
) -> None:
    plan = tmp_path / "plan.toml"
    cli(*ROTATE, "--stages", "1", "--dryrun", "--out", plan)
    apply = ("apply", plan, "--no-checks", "--detailed-exitcode")
    assert run_out(cli, *apply).code == 6
    post(acme, "device-1", "Generate new certificate", success=False)
    result = run_out(cli, *apply)
    assert result.code == 4
    assert "time ran out after 3600 s: in progress, stage 1 of 2; failing: device-1" in result.err
    cli("rotations", "show", plan, "--junit", tmp_path / "junit.xml")
    failure = ElementTree.parse(tmp_path / "junit.xml").getroot().find(".//failure")  # noqa: S314  our own file
    assert failure is not None
    assert (failure.get("type"), failure.text) == ("failing", "Generate new certificate: no")


def test_a_step_that_fails_in_the_last_stage_exits_with_4_too(
    cli: Cli, acme: Path, tmp_path: Path, run_out: Cli
) -> None:
    plan = tmp_path / "plan.toml"
    cli(*ROTATE, "--stages", "1", "--dryrun", "--out", plan)
    apply = ("apply", plan, "--no-checks", "--detailed-exitcode")
    assert run_out(cli, *apply).code == 6
    assert cli("rotations", "stop", plan, "--finish").code == 0
    post(acme, "device-2", "Generate new certificate", success=False)
    result = run_out(cli, *apply)
    assert result.code == 4
    assert "in progress, stage 2 of 2; failing: device-2" in result.err


def test_a_rotation_that_a_device_has_begun_and_no_log_has_is_not_pushed_again(
    cli: Cli, acme: Path, tmp_path: Path
) -> None:
    """A log keeps ten entries: months later it has none of the rotation, which was stopped since."""
    plan = tmp_path / "plan.toml"
    cli(*ROTATE, "--stages", "1", "--dryrun", "--out", plan)
    post(acme, "device-1", "CertRotationStarted")
    result = cli("apply", plan, "--no-checks")
    assert result.code == 5
    assert "device device-1 has begun rotation r-9, but no log has it now: it was stopped" in result.err
    assert cli("device", "config", "log", "device-1", "--format", "json").json["config"] == []


def test_the_timeout_counts_from_the_start_of_the_command(
    cli: Cli, acme: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def for_ever(*_: object) -> bool:
        await asyncio.sleep(3600)
        return False

    plan = tmp_path / "plan.toml"
    cli(*ROTATE, "--stages", "1", "--dryrun", "--out", plan)
    monkeypatch.setattr("fioctl_rotate.ops.rollout.has_begun", for_ever)
    result = cli("apply", plan, "--no-checks", "--timeout", "1")
    assert (result.code, "time ran out: nothing was sent" in result.err) == (4, True)


def with_own_entries(cli: Cli) -> list[str]:
    """The devices that have an entry of their own."""
    names = ("device-1", "device-2")
    return [name for name in names if "ROTATIONID" in cli("devices", "config", "log", name, "-n", "1").out]


def test_a_rollout_that_was_typed_goes_on_by_the_command_that_is_named(
    cli: Cli, acme: Path, run_out: Cli
) -> None:
    typed = (*ROTATE, "--stages", "1", "-y")
    begun = run_out(cli, *typed)
    assert begun.code == 4, begun.err
    (command,) = re.findall(r"hint: `fioctl-rotate (apply [^`]+)` goes on", begun.err)
    assert with_own_entries(cli) == ["device-1"]
    # The same command would choose other devices for the same stages.
    again = cli(*typed)
    assert again.code == 5
    assert "error: rotation r-9 was begun already" in again.err
    assert command in again.err
    # An id that this one begins with is another's.
    other = (
        "config",
        "rotate-certs",
        "-g",
        "field",
        "-r",
        "x",
        "--rotation-id",
        "r",
        "--no-checks",
        "--dryrun",
    )
    assert cli(*other, "--stages", "1").code == 0
    shown = cli("rotations", "show", *shlex.split(command)[1:])
    assert shown.code == 0, shown.err
    assert "1 of 2\trunning\t0 of 1\tdevice-1  given" in shown.out
    assert with_own_entries(cli) == ["device-1"]


def test_a_rollout_that_was_begun_elsewhere_is_not_begun_with_other_devices(
    cli: Cli, acme: Path, run_out: Cli
) -> None:
    typed = (*ROTATE, "--stages", "1", "-y")
    assert run_out(cli, *typed).code == 4
    shutil.rmtree(state_folder() / "plans")
    again = cli(*typed)
    assert again.code == 5
    assert "error: rotation r-9 was begun already: device-1\n" in again.err
    assert with_own_entries(cli) == ["device-1"]


def test_own_entries_are_taken_back_by_rule(cli: Cli, acme: Path) -> None:
    push = (
        "device",
        "config",
        "rotate-certs",
        "device-2",
        "-r",
        "one",
        "--no-checks",
        "--rotation-id",
        "r-2",
    )
    assert cli(*push).code == 0
    result = cli("rotations", "unshadow", "-g", "field", "--format", "json")
    assert [(device["name"], device["fate"]) for device in result.json["devices"]] == [("device-2", "delete")]
    assert (
        "no device of group field has an entry of its own" in cli("rotations", "unshadow", "-g", "field").out
    )
    result = cli("rotations", "stop", "r-2", "-g", "field")
    assert (result.code, "neither group field nor a device of it has rotation r-2" in result.err) == (1, True)


def test_a_group_of_devices_over_tls(cli: Cli, mock_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers, TLS and devices for real: two early stages, and an older entry beneath that is cleared first."""
    init = cli("mock", "init", mock_dir, "--factory", "acme", "--group", "field", "--devices", 5)
    assert init.code == 0, init.err
    monkeypatch.setenv("FIOCTL_FACTORY", "acme")
    monkeypatch.setenv("FIOCTL_ROTATE_MOCK", str(mock_dir))
    with Process("mock", "serve", mock_dir, *FREE, "--format", "json") as server:
        port = est_port(server.document())
        with Process("mock", "devices", mock_dir, "--interval", 0.3):
            push = ("config", "rotate-certs", "-g", "field", "-r", "yearly", "-p", port, "--interval", 0.2)
            assert cli(*push, "--rotation-id", "r-1", "--wait", "--timeout", "10m").code == 0
            result = cli(
                *push, "--rotation-id", "r-9", "--stages", "1,60%", "--soak", "1s", "--clear-older",
                "--timeout", "10m", "--format", "json",
            )  # fmt: skip
    assert result.code == 0, result.err
    lines = result.lines
    assert lines[-1]["verdict"] == "done"
    assert lines[-1]["group"]["done"] == 5
    assert [stage["status"] for stage in lines[-1]["stages"]] == ["passed", "passed"]
    writes = [line["message"] for line in lines if line["kind"] == "write"]
    assert writes[0] == "deleted the older entry of group field"
    for number in range(1, 6):
        updates = cli("devices", "updates", f"device-{number}", "--format", "json").json["updates"]
        assert sorted(update["correlation-id"] for update in updates) == ["r-1", "r-9"]
        log = cli("device", "config", "log", f"device-{number}", "-n", 1, "--format", "json").json["config"]
        assert not any(config["files"] for config in log)


def test_a_plan_file_stands_for_its_rotation(cli: Cli, acme: Path, tmp_path: Path, run_out: Cli) -> None:
    plan, junit, summary, html = (tmp_path / name for name in ("plan.toml", "j.xml", "s.md", "r.html"))
    cli(*ROTATE, "--stages", "1", "--dryrun", "--out", plan)
    result = cli("rotations", "show", plan, "--junit", junit, "--summary", summary)
    assert result.code == 0, result.err
    assert result.out.splitlines()[1] == "in progress, stage 1 of 2"
    assert "1 of 2\trunning\t0 of 1" in result.out
    assert "## Rotation r\\-9 of group field in stages" in summary.read_text()
    assert outcomes(ElementTree.parse(junit).getroot()[0]) == {"device-1": "skipped"}  # noqa: S314  our own file
    # Nothing was sent by looking.
    assert cli("device", "config", "log", "device-1", "--format", "json").json["config"] == []

    assert run_out(cli, "apply", plan, "--no-checks").code == 4
    shown = cli("rotations", "show", plan, "--format", "json").json
    assert [(device["name"], device["point"]) for device in shown["devices"]] == [("device-1", "given")]
    watched = run_out(cli, "rotations", "watch", plan)
    assert watched.code == 4
    assert "device-1  given" in watched.out
    assert cli("rotations", "report", plan, "--html", html).code == 0
    assert '<h2 id="stages">Stages</h2>' in html.read_text()
