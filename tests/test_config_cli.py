"""`config`: groups and configuration logs, as text and as JSON."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commandline import Cli
from tests.scripted import Answer, Asked, Reply

PUSH = ("config", "rotate-certs", "-g", "field", "-r", "why", "--no-checks")


def patch(answers: Answer, path: str, body: Any) -> None:
    """What somebody else's tool sends."""
    reply = answers(Asked("PATCH", path, {"host": "localhost"}, json.dumps(body).encode(), 0))
    assert reply.status == 201


def test_a_log_shows_who_changed_what_and_why_newest_first(
    cli: Cli, acme: Path, acme_answers: Answer
) -> None:
    patch(
        acme_answers,
        "/ota/factories/acme/device-groups/field/config/",
        {
            "reason": "a secret",
            "files": [
                {"name": "key", "value": "c2VjcmV0"},
                {"name": "empty", "value": "", "unencrypted": True},
            ],
        },
    )
    assert cli(*PUSH, "--rotation-id", "certs-1").code == 0
    result = cli("config", "log", "-g", "field")
    assert (result.code, result.err) == (0, "")
    newest, before = result.out.split("\n\n")
    assert newest.splitlines()[2:] == [
        "Change Reason: why",
        "Files:",
        "\tkey",
        "\tempty",
        "\tfio-rotate-certs - [/usr/share/fioconfig/handlers/renew-client-cert]",
        "\t | ESTSERVER=https://localhost:8443/.well-known/est",
        "\t | PKEYIDS=01,07",
        "\t | CERTIDS=03,09",
        "\t | ROTATIONID=certs-1",
    ]
    assert newest.splitlines()[0].startswith("Created At:    20")
    assert newest.splitlines()[1].endswith(" / Mock Admin")
    # What is encrypted for devices says nothing to a person.
    assert "Change Reason: a secret" in before
    assert "c2VjcmV0" not in result.out
    assert "Applied At" not in result.out


def test_a_log_is_cut_to_the_newest(cli: Cli, acme: Path) -> None:
    for number in (1, 2, 3):
        assert cli(*PUSH, "--rotation-id", f"certs-{number}").code == 0
    entries = cli("config", "log", "-g", "field", "-n", 2, "--format", "json").json["config"]
    assert ["ROTATIONID=certs-3" in entries[0]["files"][0]["value"], len(entries)] == [True, 2]
    assert cli("config", "log", "-g", "field", "-n", 0).code == 2


def test_the_fleets_log_is_shown_without_a_group(cli: Cli, acme: Path, acme_answers: Answer) -> None:
    file = {"name": "motd", "value": "hello\nworld", "unencrypted": True}
    patch(acme_answers, "/ota/factories/acme/config/", {"reason": "greet", "files": [file]})
    assert "\tmotd\n\t | hello\n\t | world\n" in cli("config", "log").out
    assert cli("config", "log", "-g", "field").out == ""


def test_what_others_wrote_into_a_log_does_not_reach_the_terminal(
    cli: Cli, acme: Path, acme_answers: Answer
) -> None:
    escape = "\x1b[2J\x07\x9b"
    file = {"name": "f", "value": f"{escape}x", "unencrypted": True, "on-changed": [escape]}
    path = "/ota/factories/acme/device-groups/field/config/"
    patch(acme_answers, path, {"reason": escape, "files": [file]})
    commands: list[tuple[str, ...]] = [
        ("config", "log", "-g", "field"),
        ("config", "log", "-g", "field", "--format", "json"),
        (*PUSH, "--dryrun"),
        (*PUSH, "-r", escape),
        ("config", "rotate-certs", "-g", f"x{escape}", "-r", "why"),
        ("config", "device-group", "create", f"x{escape}"),
        ("config", "delete", "-g", "field", "f"),
    ]
    for command in commands:
        result = cli(*command)
        assert "\x1b" not in result.out + result.err
        assert "\x07" not in result.out + result.err
        assert "\x9b" not in result.out + result.err
    assert cli(*commands[1]).json["config"][-1]["reason"] == escape


def test_a_log_is_shown_without_names_to_a_token_that_may_not_see_users(
    cli: Cli, serve: Any, acme_answers: Answer
) -> None:
    serve(lambda a: Reply(403, {"msg": "no"}) if a.path.endswith("/users/") else acme_answers(a))
    assert cli(*PUSH).code == 0
    result = cli("config", "log", "-g", "field")
    assert (result.code, " / ?\n" in result.out) == (0, True)


def test_deleting_a_file_keeps_the_others(cli: Cli, acme: Path, acme_answers: Answer) -> None:
    path = "/ota/factories/acme/device-groups/field/config/"
    patch(acme_answers, path, {"files": [{"name": "a/b", "value": "1"}, {"name": "c", "value": "2"}]})
    result = cli("config", "delete", "-g", "field", "a/b")
    assert result.out == f"deleted a/b of group field in factory acme at mock {acme}\n"
    assert [
        f["name"] for f in cli("config", "log", "-g", "field", "--format", "json").json["config"][0]["files"]
    ] == ["c"]
    assert "files there: c" in cli("config", "delete", "-g", "field", "a/b").err


def test_a_group_is_made_described_renamed_and_deleted(cli: Cli, acme: Path) -> None:
    at = f"factory acme at mock {acme}"
    assert (
        cli("config", "device-group", "create", "lab", "On the bench").out == f"created group lab in {at}\n"
    )
    assert (
        cli("config", "device-group", "update", "lab", "-d", "In the lab").out
        == f"updated group lab in {at}\n"
    )
    assert cli("config", "device-group", "update", "lab", "-n", "l a/b").code == 1
    assert (
        cli("config", "device-group", "update", "lab", "-n", "bench").out == f"updated group bench in {at}\n"
    )
    groups = cli("config", "device-group", "list", "--format", "json").json["groups"]
    assert [(group["name"], group["description"]) for group in groups] == [
        ("bench", "In the lab"),
        ("field", None),
    ]
    text = cli("config", "device-group", "list").out.splitlines()
    assert text[0].split() == ["NAME", "DESCRIPTION", "CREATED", "AT", "UPDATED", "AT"]
    assert text[1].startswith("bench\tIn the lab\t")
    assert cli("config", "device-group", "delete", "bench").out == f"deleted group bench in {at}\n"
    assert [g["name"] for g in cli("config", "device-group", "list", "--format", "json").json["groups"]] == [
        "field"
    ]
    created = cli("config", "device-group", "create", "lab", "--format", "json").json
    assert created["name"] == "lab"


def test_an_update_of_nothing_is_refused(cli: Cli, acme: Path) -> None:
    result = cli("config", "device-group", "update", "field")
    assert (result.code, result.err.splitlines()[0]) == (2, "error: nothing to change")


@pytest.mark.parametrize("command", ["config", "config device-group", "devices", "device", "device config"])
def test_a_group_of_commands_alone_shows_its_help_on_stderr(cli: Cli, command: str) -> None:
    result = cli(*command.split())
    assert (result.code, result.out) == (2, "")
    assert "Usage: fioctl-rotate " + command in result.err
