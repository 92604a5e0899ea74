"""Plans that a reviewer can trust: what a file says, its digest, and for whom it may be applied."""

import json
from pathlib import Path

import pytest

from tests.commandline import Cli
from tests.pushing import DEVICE, GROUP, Terminal, file_of, log, push, value
from tests.scripted import Answer, Asked, Reply, Server

PLAN = (*GROUP, "--rotation-id", "certs-1", "--dryrun", "--out")


@pytest.fixture
def plan(cli: Cli, acme: Path, tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    push(cli, *PLAN, path)
    return path


def digest(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("Digest: ")).removeprefix("Digest: ")


# --- plan show ---


def test_a_plan_is_shown_as_the_dry_run_showed_it(cli: Cli, acme: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    dry_run = push(cli, *PLAN, path)
    shown = cli("plan", "show", path)
    assert (shown.code, shown.err) == (0, "the plan is intact\n")
    assert shown.out == dry_run.out
    assert "Made by Mock Admin at " in shown.out


def test_a_plan_is_shown_as_json_with_its_digest(cli: Cli, plan: Path) -> None:
    shown = push(cli, "plan", "show", plan, "--format", "json").json
    assert shown["intact"] is True
    assert shown["plan"]["digest"] == digest(push(cli, "plan", "show", plan).out)
    assert shown["plan"]["digest"] == push(cli, "plan", "digest", plan).out.rstrip("\n")
    assert (shown["target"]["group"], shown["target"]["devices"]) == ("field", 2)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("devices = 2", "devices = 20"),
        ('group = "field"', 'group = "canaries"'),
        ('by = "Mock Admin"', 'by = "The Boss"'),
        ("localhost:8443", "localhost:8444"),
        ("checks = []", "# checked by the boss\nchecks = []"),
    ],
)
def test_no_claim_is_outside_of_the_digest(cli: Cli, plan: Path, old: str, new: str) -> None:
    text = plan.read_text()
    assert old in text
    plan.write_text(text.replace(old, new))
    shown = cli("plan", "show", plan)
    assert (shown.code, "the plan was edited" in shown.err) == (5, True)
    assert cli("plan", "show", plan, "--format", "json").json["intact"] is False
    assert "To push just this" not in shown.out
    digest_alone = cli("plan", "digest", plan)
    assert (digest_alone.code, digest_alone.out) == (5, "")
    assert cli("apply", plan, "--no-checks").code == 5
    assert log(cli) == []


@pytest.mark.parametrize("digest", ["", "123", "sha256:123", "SHA256:" + "0" * 64])
def test_what_is_not_a_digest_is_wrong_usage(cli: Cli, plan: Path, digest: str) -> None:
    result = cli("apply", plan, "--digest", digest)
    assert (result.code, result.out) == (2, "")
    assert f"--digest: expected sha256: and 64 hexadecimal digits, got `{digest}`" in result.err
    assert log(cli) == []


def test_a_plan_that_an_editor_on_windows_saved_is_intact(cli: Cli, plan: Path) -> None:
    plan.write_bytes(b"\xef\xbb\xbf" + plan.read_bytes().replace(b"\n", b"\r\n"))
    assert cli("plan", "show", plan).code == 0
    assert cli("apply", plan, "--no-checks").code == 0


def test_what_is_not_a_plan_is_not_shown(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text('factory = "acme"\n')
    result = cli("plan", "show", path)
    assert (result.code, result.out) == (2, "")
    assert "the file is not a plan: expected `plan` as a table" in result.err


# --- The digest ---


def test_only_what_was_approved_is_applied(cli: Cli, plan: Path) -> None:
    approved = digest(push(cli, "plan", "show", plan).out)
    other = plan.with_name("other.toml")
    push(cli, *GROUP, "--rotation-id", "certs-2", "--dryrun", "--out", other)
    refused = cli("apply", other, "--no-checks", "--digest", approved)
    assert (refused.code, "not the one that was approved" in refused.err) == (5, True)
    assert log(cli) == []
    assert cli("apply", plan, "--no-checks", "--digest", approved).code == 0
    assert file_of(log(cli)[0]) == value("certs-1")


def test_an_edit_is_not_approved_although_edits_are_taken(cli: Cli, plan: Path) -> None:
    approved = digest(push(cli, "plan", "show", plan).out)
    plan.write_text(plan.read_text().replace("localhost:8443", "localhost:8444"))
    refused = cli("apply", plan, "--no-checks", "--edited", "--digest", approved)
    assert (refused.code, "not the one that was approved" in refused.err) == (5, True)
    assert log(cli) == []


def test_a_device_s_plan_is_not_one_to_stop(cli: Cli, acme: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    push(cli, "device", "config", "rotate-certs", "device-1", "-r", "why", "--dryrun", "--out", plan)
    refused = cli("rotations", "stop", plan)
    assert (refused.code, refused.out) == (2, "")
    assert "the plan is for device device-1, and only a group's rotation is stopped" in refused.err
    assert "`fioctl-rotate device config delete device-1 fio-rotate-certs`" in refused.err


# --- Streams ---


def test_a_plan_goes_through_a_pipe(
    cli: Cli, acme: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = push(cli, *PLAN, "-")
    assert "Digest: sha256:" in made.err
    assert not Path("-").exists()
    assert cli("plan", "show", "-", stdin=made.out).code == 0
    applied = cli("apply", "-", "--no-checks", stdin=made.out)
    assert applied.code == 0, applied.err
    assert file_of(log(cli)[0]) == value("certs-1")


@pytest.mark.parametrize("format", ["json", "toml"])
def test_stdout_has_the_plan_or_the_dry_run(cli: Cli, acme: Path, format: str) -> None:
    result = cli(*PLAN, "-", "--format", format)
    assert (result.code, result.out) == (2, "")
    assert f"--format {format} and the file `-` would both go to stdout" in result.err


def test_only_one_file_goes_to_stdout(cli: Cli, acme: Path) -> None:
    result = cli(*PLAN, "-", "--summary", "-")
    assert (result.code, result.out) == (2, "")
    assert "only one file can go to stdout" in result.err


# --- The devices ---


def test_a_plan_for_two_devices_that_meets_four_is_refused(cli: Cli, acme: Path, plan: Path) -> None:
    assert cli("mock", "add-devices", acme, "-g", "field", "--devices", 2).code == 0
    refused = cli("apply", plan, "--no-checks")
    assert (refused.code, refused.out) == (5, "")
    assert "group field had 2 device(s) when the plan was made; now it has 4" in refused.err
    assert "--allow devices-changed" in refused.err
    assert log(cli) == []
    assert cli("apply", plan, "--no-checks").code == 5
    allowed = cli("apply", plan, "--no-checks", "--allow", "devices-changed")
    assert allowed.code == 0, allowed.err


def test_as_many_devices_are_not_the_same_devices(cli: Cli, acme: Path, plan: Path) -> None:
    push(cli, "config", "device-group", "create", "lab")
    push(cli, "devices", "config", "group", "device-1", "lab")
    assert cli("mock", "add-devices", acme, "-g", "field", "--devices", 1).code == 0
    refused = cli("apply", plan, "--no-checks")
    assert (refused.code, "now it has as many, but others" in refused.err) == (5, True)


def test_what_is_applied_already_is_not_compared(cli: Cli, acme: Path, plan: Path) -> None:
    assert cli("apply", plan, "--no-checks").code == 0
    assert cli("mock", "add-devices", acme, "-g", "field", "--devices", 2).code == 0
    again = cli("apply", plan, "--no-checks")
    assert (again.code, again.out.startswith("already there")) == (0, True)


# --- Questions ---


def test_the_question_shows_what_the_dry_run_shows(cli: Cli, acme: Path) -> None:
    push(cli, *GROUP, "--rotation-id", "certs-1")
    shown = push(cli, *GROUP, "--rotation-id", "certs-2", "--server-name", "localhost", "--dryrun").out
    terminal = Terminal(*GROUP, "--rotation-id", "certs-2", "--server-name", "localhost")
    terminal.wait_for("Push it? [y/N]")
    asked = terminal.screen
    terminal.type("n\n")
    assert terminal.end() == 1
    for line in shown.partition("Digest: ")[0].splitlines():
        # Each time is a plan of its own.
        if not line.startswith("Made by"):
            # The terminal breaks long lines.
            assert " ".join(line.split()) in " ".join(asked.split()), line
    assert "- ROTATIONID=certs-1" in asked


def test_a_device_says_whose_entry_it_no_longer_sees(cli: Cli, acme: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    push(cli, *DEVICE, "--dryrun", "--out", path)
    shown = push(cli, "plan", "show", path, "--format", "json").json
    assert shown["target"]["of-group"] == "field"
    assert json.dumps(shown).count("device-1") == 1


def test_a_token_that_may_not_read_users_makes_plans_too(
    cli: Cli, acme: Path, acme_answers: Answer, tmp_path: Path
) -> None:
    def answer(asked: Asked) -> Reply:
        return Reply(403) if "/users/" in asked.path else acme_answers(asked)

    with Server(answer) as server:
        shown = push(cli, *GROUP, "--dryrun", "--format", "json", "--server", server.url, "-t", "x").json
    assert shown["made"]["by"] is None


def test_a_dry_run_says_by_its_exit_code_whether_anything_would_change(cli: Cli, acme: Path) -> None:
    push = ("config", "rotate-certs", "-g", "field", "-r", "why", "--rotation-id", "r-1", "--no-checks")
    dry = (*push, "--dryrun", "--detailed-exitcode", "--format", "json")
    pending = cli(*dry)
    assert (pending.code, pending.json["changed"], pending.err.count("error:")) == (6, True, 0)
    assert cli(*push, "--format", "json").json["changed"] is True
    there = cli(*dry)
    assert (there.code, there.json["changed"]) == (0, False)
    assert cli(*push, "--format", "json").json["changed"] is False
    offline = cli(*dry, "--offline", "--server-name", "est.example.com")
    assert (offline.code, "cannot be used with --offline" in offline.err) == (2, True)
