"""The plan cycle: a dry run is written, reviewed, and applied unchanged, or not at all."""

import json
import shlex
import tomllib
from pathlib import Path

import pytest

from fioctl_rotate.ops.plan_file import read_plan
from tests.commandline import Cli
from tests.pushing import (
    BOTH,
    DEVICE,
    GROUP,
    Serve,
    Terminal,
    changing_patch,
    file_of,
    log,
    push,
)
from tests.scripted import Answer, Asked, Reply


def apply(cli: Cli, plan: Path, *options: object) -> tuple[int, str, str]:
    result = cli("apply", plan, "--no-checks", *options)
    return result.code, result.out, result.err


def entry(cli: Cli, command: tuple[str, ...]) -> str | None:
    entries = log(cli) if command is GROUP else log(cli, "device-1")
    return file_of(entries[0]) if entries else None


@BOTH
def test_what_was_reviewed_is_pushed_to_the_byte(
    cli: Cli, serve: Serve, acme_answers: Answer, tmp_path: Path, command: tuple[str, ...]
) -> None:
    server = serve(acme_answers)
    plan = tmp_path / "plan.toml"
    shown = push(cli, *command, "-p", "443", "--dryrun", "--format", "json", "--out", plan)
    assert f"plan written to {plan}\n" in shown.err
    assert server.sent("PATCH") == []
    code, out, _ = apply(cli, plan)
    assert (code, out.startswith("pushed rotation certs-")) == (0, True)
    assert server.sent("PATCH")[0].json == shown.json["request"]
    # Applied again it is there already.
    code, out, _ = apply(cli, plan)
    assert (code, out.startswith("already there, nothing sent")) == (0, True)
    assert len(server.sent("PATCH")) == 1


def test_a_person_can_read_a_plan(cli: Cli, acme: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    push(cli, *GROUP, "--rotation-id", "certs-1", "--dryrun", "--out", plan)
    text = plan.read_text()
    assert "#" not in text
    # The value stands there line by line, so that two plans can be compared.
    assert "\nESTSERVER=https://localhost:8443/.well-known/est\nPKEYIDS=01,07\n" in text
    document = tomllib.loads(text)
    assert sorted(document) == [
        "allow", "checks", "current", "factory", "made", "not-following", "plan", "request", "server", "target",
    ]  # fmt: skip
    assert document["made"]["by"] == "Mock Admin"
    assert document["target"]["devices"] == 2
    assert document["request"]["reason"] == "why"
    assert document["plan"]["version"] == 3


@BOTH
def test_a_plan_is_stale_once_somebody_else_has_pushed(
    cli: Cli, acme: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    plan = tmp_path / "plan.toml"
    push(cli, *command, "--dryrun", "--out", plan)
    push(cli, *command, "--rotation-id", "theirs")
    code, out, err = apply(cli, plan)
    assert (code, out) == (5, "")
    assert "has another fio-rotate-certs than when the plan was made" in err
    assert "ROTATIONID=theirs" in str(entry(cli, command))


def test_a_plan_is_stale_once_the_entry_was_deleted(cli: Cli, acme: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    push(cli, *GROUP, "--rotation-id", "certs-1")
    push(cli, *GROUP, "--dryrun", "--out", plan)
    push(cli, "config", "delete", "-g", "field", "fio-rotate-certs")
    assert apply(cli, plan)[0] == 5


def test_a_change_of_another_file_does_not_make_a_plan_stale(
    cli: Cli, acme: Path, acme_answers: Answer, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.toml"
    push(cli, *GROUP, "--dryrun", "--out", plan)
    body = json.dumps({"files": [{"name": "other", "value": "x"}]}).encode()
    path = "/ota/factories/acme/device-groups/field/config/"
    acme_answers(Asked("PATCH", path, {"host": "localhost"}, body, 0))
    assert apply(cli, plan)[0] == 0
    assert file_of(log(cli)[0], "other") == "x"


def test_an_entry_with_crlf_line_ends_is_compared_as_it_is(
    cli: Cli, acme: Path, acme_answers: Answer, tmp_path: Path
) -> None:
    body = {"files": [{"name": "fio-rotate-certs", "value": "ROTATIONID=x\r\n", "unencrypted": True}]}
    path = "/ota/factories/acme/device-groups/field/config/"
    acme_answers(Asked("PATCH", path, {"host": "localhost"}, json.dumps(body).encode(), 0))
    plan = tmp_path / "plan.toml"
    shown = push(cli, *GROUP, "--dryrun", "--out", plan, "--format", "toml")
    assert tomllib.loads(shown.out)["current"]["file"]["value"] == "ROTATIONID=x\r\n"
    assert apply(cli, plan)[0] == 0


def test_one_byte_changed_is_refused_and_edited_allows_it(cli: Cli, acme: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    push(cli, *GROUP, "--dryrun", "--out", plan)
    plan.write_text(plan.read_text().replace("localhost:8443", "localhost:8444"))
    code, out, err = apply(cli, plan)
    assert (code, out) == (5, "")
    assert "edited" in err
    assert "--edited" in err
    assert log(cli) == []
    assert apply(cli, plan, "--edited")[0] == 0
    assert "localhost:8444" in str(entry(cli, GROUP))


def test_an_edit_must_still_be_what_the_command_line_takes(cli: Cli, acme: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    push(cli, *GROUP, "--dryrun", "--out", plan)
    plan.write_text(plan.read_text().replace("01,07", "01,01"))
    code, _, err = apply(cli, plan, "--edited")
    assert (code, "names one slot twice" in err) == (2, True)
    assert log(cli) == []


def test_another_factory_or_server_is_refused(cli: Cli, acme: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    push(cli, *GROUP, "--dryrun", "--out", plan)
    assert cli("mock", "init", acme, "-f", "other").code == 0
    code, out, err = apply(cli, plan, "-f", "other")
    assert (code, out) == (5, "")
    assert "the plan is for factory acme, not for other" in err
    code, _, err = apply(cli, plan, "--mock", tmp_path / "elsewhere")
    assert code == 5
    assert f"the plan is for mock {acme}, not for mock {tmp_path}/elsewhere" in err
    code, _, err = apply(cli, plan, "--server", "https://api.example", "-t", "canary")
    assert (code, "canary" in err) == (5, False)
    assert log(cli) == []


def test_the_plan_names_the_factory_where_nothing_else_does(
    cli: Cli, acme: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tmp_path / "plan.toml"
    push(cli, *GROUP, "--dryrun", "--out", plan)
    monkeypatch.delenv("FIOCTL_FACTORY")
    # The mock may be named from another directory.
    monkeypatch.chdir(acme.parent)
    assert apply(cli, plan, "--mock", acme.name)[0] == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read plan"),
        (b"\xff", "is not TOML"),
        (b"factory = acme", "is not TOML"),
        (b"", "not a plan"),
        (b'factory = "acme"\n', "not a plan"),
    ],
)
def test_what_is_not_a_plan_is_refused(
    cli: Cli, acme: Path, tmp_path: Path, content: bytes | None, words: str
) -> None:
    plan = tmp_path / "plan.toml"
    if content is not None:
        plan.write_bytes(content)
    for options in ([], ["--edited"]):
        code, out, err = apply(cli, plan, *options)
        assert (code, out) == (2, "")
        assert words in err


def test_a_group_that_is_gone_is_an_error(cli: Cli, acme: Path, tmp_path: Path) -> None:
    push(cli, "config", "device-group", "create", "lab")
    plan = tmp_path / "plan.toml"
    push(cli, "config", "rotate-certs", "-g", "lab", "-r", "why", "--dryrun", "--out", plan)
    push(cli, "config", "device-group", "delete", "lab")
    code, _, err = apply(cli, plan)
    assert (code, "no device group `lab`" in err) == (1, True)


def test_the_command_that_applies_a_plan_can_be_typed_whatever_the_files_name(
    cli: Cli, acme: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "Ann's plan\n.toml"
    shown = push(cli, *GROUP, "--dryrun", "--out", plan)
    typed = shlex.split(shown.out.split("To push just this:\n")[1].replace("\\n", "\n"))
    digest = read_plan(plan).plan.digest
    assert typed[1:] == ["apply", str(plan), "--digest", digest, "-f", "acme", "--mock", str(acme)]
    assert cli(*typed[1:], "--no-checks").code == 0
    assert tomllib.loads(plan.read_text())["target"]["group"] == "field"


def test_a_plan_that_cannot_be_written_is_an_error(cli: Cli, acme: Path, tmp_path: Path) -> None:
    result = cli(*GROUP, "--dryrun", "--out", tmp_path / "none" / "plan.toml")
    assert (result.code, result.out) == (2, "")
    assert f"{tmp_path}/none" in result.err


def test_toml_is_a_plans_form_and_not_a_results(cli: Cli, acme: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    push(cli, *DEVICE, "--dryrun", "--out", plan)
    result = cli("apply", plan, "--format", "toml")
    assert (result.code, "'toml' is not one of 'text', 'json'" in result.err) == (2, True)


def test_json_says_whether_it_was_pushed(cli: Cli, acme: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    push(cli, *DEVICE, "--rotation-id", "certs-1", "--dryrun", "--out", plan)
    told = [cli("apply", plan, "--no-checks", "--format", "json").json for _ in range(2)]
    assert [(t["pushed"], t["rotation-id"], t["target"]["device"]) for t in told] == [
        (True, "certs-1", "device-1"),
        (False, "certs-1", "device-1"),
    ]


def test_on_a_terminal_it_is_asked_about(cli: Cli, acme: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    push(cli, *GROUP, "--dryrun", "--out", plan)
    terminal = Terminal("apply", str(plan), "--no-checks")
    terminal.wait_for("Push it? [y/N]")
    terminal.type("n\n")
    assert terminal.end() == 1
    assert log(cli) == []


def test_a_read_only_token_cannot_apply(cli: Cli, serve: Serve, acme_answers: Answer, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    serve(changing_patch(acme_answers, lambda _: Reply(403, {"msg": "this token may only read"})))
    push(cli, *GROUP, "--dryrun", "--out", plan)
    code, out, err = apply(cli, plan)
    assert (code, out, "may only read" in err) == (1, "", True)
