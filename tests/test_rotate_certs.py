"""Both rotate-certs commands: what a dry run shows, what a push sends, what is printed."""

import json
import re
import shlex
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
import time_machine

from fioctl_rotate import __version__
from tests.commandline import Cli
from tests.pushing import BOTH, DEVICE, GROUP, HANDLER, Serve, file_of, log, push, value
from tests.scripted import Answer, Asked, Reply

# --- Dry run ---


def test_a_dry_run_shows_what_would_be_sent_and_the_command_that_sends_just_this(
    cli: Cli, acme: Path
) -> None:
    with time_machine.travel(1731340767, tick=False):
        shown = cli(*GROUP, "--dryrun")
    assert shown.code == 0
    digest = next(line for line in shown.out.splitlines() if line.startswith("Digest: sha256:"))
    assert shown.out == (
        f"Would send rotation certs-1731340767 to group field (2 devices) of factory acme at mock {acme}, "
        "EST server https://localhost:8443/.well-known/est\n"
        "Reason: why\n"
        f"Made by Mock Admin at 2024-11-11T15:59:27Z with fioctl-rotate {__version__}\n"
        f"\tfio-rotate-certs - [{HANDLER}]\n"
        "\t | ESTSERVER=https://localhost:8443/.well-known/est\n"
        "\t | PKEYIDS=01,07\n"
        "\t | CERTIDS=03,09\n"
        "\t | ROTATIONID=certs-1731340767\n"
        "\n"
        "The group has no fio-rotate-certs now.\n"
        "\n"
        f"{digest}\n"
        "To push just this:\n"
        "  fioctl-rotate config rotate-certs -g field -r why --server-name localhost "
        f"--rotation-id certs-1731340767 -f acme --mock {acme}\n"
    )
    assert shown.err == "devices that join group field later will get this entry too, and rotate then\n"
    assert log(cli) == []
    # And the command that is shown pushes just this.
    command = shlex.split(shown.out.splitlines()[-1])[1:]
    push(cli, *command, "--no-checks")
    assert [file_of(entry) for entry in log(cli)] == [value("certs-1731340767")]


def test_a_dry_run_shows_what_differs_from_what_is_there(cli: Cli, acme: Path) -> None:
    push(cli, *GROUP, "--rotation-id", "certs-1")
    shown = push(cli, *GROUP, "--rotation-id", "certs-2", "--server-name", "est.example.com", "--dry-run")
    compared = shown.out.split("now:\n")[1].split("\n\n")[0]
    assert [line.strip() for line in compared.splitlines()] == [
        "- ESTSERVER=https://localhost:8443/.well-known/est",
        "- ROTATIONID=certs-1",
        "+ ESTSERVER=https://est.example.com:8443/.well-known/est",
        "+ ROTATIONID=certs-2",
    ]
    again = push(cli, *GROUP, "--rotation-id", "certs-1", "--dryrun")
    assert "already has exactly this entry: a push would send nothing" in again.out


@BOTH
def test_the_json_of_a_dry_run_holds_the_body_that_a_push_sends(
    cli: Cli, serve: Serve, acme_answers: Answer, command: tuple[str, ...]
) -> None:
    server = serve(acme_answers)
    shown = push(cli, *command, "--rotation-id", "certs-1", "--dryrun", "--format", "json").json
    assert list(shown) == [
        "factory", "server", "target", "current", "request", "checks", "allow", "not-following", "made", "plan",
        "changed",
    ]  # fmt: skip
    assert shown["target"].pop("members").startswith("sha256:")
    assert (shown["factory"], shown["server"], shown["current"]) == ("acme", server.url, {"file": None})
    assert server.sent("PATCH") == []
    push(cli, *command, "--rotation-id", "certs-1")
    (sent,) = server.sent("PATCH")
    assert sent.json == shown["request"]
    # To the byte what fioctl sends.
    escaped = value("certs-1").replace("\n", "\\n")
    assert sent.body.decode() == (
        f'{{"reason":"why","files":[{{"name":"fio-rotate-certs","value":"{escaped}",'
        f'"unencrypted":true,"on-changed":["{HANDLER}"]}}]}}'
    )
    assert sent.headers["content-type"] == "application/json"
    if command is GROUP:
        assert shown["target"] == {"group": "field", "devices": 2}
        assert sent.path == "/ota/factories/acme/device-groups/field/config/"
    else:
        uuid = shown["target"].pop("uuid")
        assert shown["target"] == {"device": "device-1", "of-group": "field", "devices": 1}
        assert sent.path == f"/ota/devices/{uuid}/config/?factory=acme&by-uuid=1"


@BOTH
def test_toml_says_the_same_as_json(cli: Cli, acme: Path, command: tuple[str, ...]) -> None:
    for _ in range(2):
        wish = (*command, "--rotation-id", "certs-1", "--dryrun")
        with time_machine.travel(1731340767, tick=False):  # it says when it was made
            as_json = push(cli, *wish, "--format", "json").json
            as_toml = tomllib.loads(push(cli, *wish, "--format", "toml").out)
        # TOML has no null: what there is none of is not there.
        if as_json["current"]["file"] is None:
            del as_json["current"]["file"]
        del as_json["changed"]  # of the dry run, not of the plan
        assert as_toml == as_json
        push(cli, *command, "--rotation-id", "certs-1")


# --- Offline ---


def test_an_offline_dry_run_asks_nobody_and_says_what_it_does_not_know(cli: Cli) -> None:
    wish = (
        "-f",
        "acme",
        "--server-name",
        "est.example.com",
        "--dryrun",
        "--offline",
        "--rotation-id",
        "certs-7",
    )
    shown = push(cli, *GROUP, *wish)
    assert "an unknown number of devices" in shown.out
    assert "Not compared with what is there now: the Factory was not asked." in shown.out
    assert "how this differs from what it has now is not known" in shown.err
    assert value("certs-7", "est.example.com") == "".join(
        line.removeprefix("\t | ") + "\n" for line in shown.out.splitlines() if line.startswith("\t | ")
    )
    as_json = push(cli, *DEVICE, *wish, "--format", "json").json
    assert as_json["current"] is None
    assert as_json["target"] == {"device": "device-1"}
    assert as_json["server"] == "https://api.foundries.io"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--offline",), "--offline needs --dryrun"),
        (("--offline", "--dryrun"), "--offline needs --server-name"),
        (("--out", "plan.toml"), "--out needs --dryrun"),
        (
            ("--out", "p", "--dryrun", "--offline", "--server-name", "e"),
            "--out cannot be used with --offline",
        ),
        (("--wait", "--dryrun"), "--wait cannot be used with --dryrun"),
        (("--timeout", "1"), "--timeout needs --wait"),
        (("--junit", "j.xml"), "--junit needs --wait"),
        (("--junit", "j.xml", "--dryrun"), "--junit cannot be used with --dryrun"),
        (("--wait", "--junit", "nowhere/j.xml"), "the folder nowhere is missing"),
        (("--format", "toml"), "--format toml needs --dryrun"),
        (("-r", " "), "the reason is empty"),
        (("--server-name", "https://x"), "has a scheme"),
        (("-p", "0"), "between 1 and 65535"),
        (("-e", "/a?b"), "a query"),
        (("--hsm-pkey-ids", "01,01"), "twice"),
        (("--hsm-cert-ids", "00,01"), "crashes"),
        (("--rotation-id", "a b"), "letters"),
        (("--rotation-id", ""), "rotation id ``"),
        (("--server-name", ""), "the EST server's name is empty"),
    ],
)
@BOTH
def test_what_makes_no_sense_is_refused_before_anybody_is_asked(
    cli: Cli, serve: Serve, command: tuple[str, ...], options: tuple[str, ...], words: str
) -> None:
    server = serve(lambda _: Reply(500))
    result = cli(*command, *options)
    assert (result.code, result.out) == (2, "")
    assert words in result.err
    assert server.asked == []


@pytest.mark.parametrize("command", [("config", "rotate-certs", "-g"), ("device", "config", "rotate-certs")])
def test_a_target_without_a_name_is_refused(cli: Cli, command: tuple[str, ...]) -> None:
    offline = ("-r", "why", "-f", "acme", "--server-name", "est.example.com", "--dryrun", "--offline")
    result = cli(*command, "", *offline)
    assert (result.code, result.out) == (2, "")
    assert "name is empty" in result.err


@pytest.mark.parametrize("missing", ["-g", "-r"])
def test_group_and_reason_are_required(cli: Cli, acme: Path, missing: str) -> None:
    at = GROUP.index(missing)
    result = cli(*GROUP[:at], *GROUP[at + 2 :])
    assert result.code == 2
    assert f"'{missing}'" in result.err
    assert "hint: `fioctl-rotate config rotate-certs --help`" in result.err


# --- ROTATIONID ---


@BOTH
def test_the_same_id_again_is_already_there_and_sends_nothing(
    cli: Cli, serve: Serve, acme_answers: Answer, command: tuple[str, ...]
) -> None:
    server = serve(acme_answers)
    push(cli, *command, "--rotation-id", "certs-1")
    again = push(cli, *command, "--rotation-id", "certs-1")
    assert again.out.startswith("already there, nothing sent: rotation certs-1 to ")
    as_json = push(cli, *command, "--rotation-id", "certs-1", "--format", "json").json
    assert (as_json["pushed"], as_json["rotation-id"]) == (False, "certs-1")
    assert len(server.sent("PATCH")) == 1


@BOTH
def test_an_id_with_other_content_is_refused(cli: Cli, acme: Path, command: tuple[str, ...]) -> None:
    push(cli, *command, "--rotation-id", "certs-1")
    result = cli(*command, "--rotation-id", "certs-1", "-p", "443")
    assert (result.code, result.out) == (5, "")
    assert "has rotation certs-1 with other content" in result.err


@pytest.mark.parametrize(
    "change", [{"on-changed": ["/bin/true"]}, {"on-changed": None}, {"unencrypted": False}]
)
def test_the_same_value_without_its_handler_is_other_content(
    cli: Cli, acme: Path, acme_answers: Answer, change: dict[str, Any]
) -> None:
    """A device would not run the handler, so it does not count as a rotation that is there already."""
    shown = push(cli, *GROUP, "--rotation-id", "certs-1", "--dryrun", "--format", "json").json
    shown["request"]["files"][0].update(change)
    path = "/ota/factories/acme/device-groups/field/config/"
    body = json.dumps(shown["request"]).encode()
    assert acme_answers(Asked("PATCH", path, {"host": "localhost"}, body, 0)).status == 201
    result = cli(*GROUP, "--rotation-id", "certs-1")
    assert (result.code, "with other content" in result.err) == (5, True)


@BOTH
def test_an_older_id_of_the_log_is_refused(cli: Cli, acme: Path, command: tuple[str, ...]) -> None:
    push(cli, *command, "--rotation-id", "certs-1")
    push(cli, *command, "--rotation-id", "certs-2")
    for options in ([], ["--dryrun"]):
        result = cli(*command, "--rotation-id", "certs-1", *options)
        assert (result.code, result.out) == (5, "")
        assert "certs-1 is an older one" in result.err


def test_rotations_in_one_second_get_different_ids(cli: Cli, acme: Path) -> None:
    with time_machine.travel(1731340767, tick=False):
        for command in (GROUP, GROUP, DEVICE, DEVICE):
            push(cli, *command)
    of_group = [file_of(entry) for entry in log(cli)]
    of_device = [file_of(entry) for entry in log(cli, "device-1")]
    assert of_group == [value("certs-1731340768"), value("certs-1731340767")]
    # A device's events know no group, so its ids stay clear of its group's too.
    assert of_device == [value("certs-1731340770"), value("certs-1731340769")]


# --- What a push changes ---


def test_a_group_push_keeps_the_groups_other_files(cli: Cli, serve: Serve, acme_answers: Answer) -> None:
    serve(acme_answers)
    body = {"reason": "before", "files": [{"name": "other.txt", "value": "kept", "unencrypted": True}]}
    path = "/ota/factories/acme/device-groups/field/config/"
    headers = {"host": "localhost"}
    acme_answers(Asked("PATCH", path, headers, json.dumps(body).encode(), 0))
    push(cli, *GROUP, "--rotation-id", "certs-1")
    newest, before = log(cli)
    assert (file_of(newest, "other.txt"), file_of(newest)) == ("kept", value("certs-1"))
    assert (newest["reason"], before["reason"]) == ("why", "before")


def test_a_device_push_leaves_the_group_alone(cli: Cli, acme: Path) -> None:
    push(cli, *GROUP, "--rotation-id", "certs-1")
    push(cli, *DEVICE, "--rotation-id", "certs-2")
    assert [file_of(entry) for entry in log(cli)] == [value("certs-1")]
    assert [file_of(entry) for entry in log(cli, "device-1")] == [value("certs-2")]
    assert log(cli, "device-2") == []


def test_a_device_is_found_by_uuid_too(cli: Cli, acme: Path) -> None:
    uuid = cli("devices", "show", "device-1", "--format", "json").json["uuid"]
    by_uuid = ("device", "config", "rotate-certs", uuid, "-u", "-r", "why", "--no-checks")
    result = push(cli, *by_uuid, "--rotation-id", "certs-1")
    assert "to device device-1 (1 device) of factory acme" in result.out
    assert file_of(log(cli, uuid, "-u")[0]) == value("certs-1")
    by_name = ("device", "config", "rotate-certs", uuid, "-r", "why", "--no-checks")
    assert "no device with the name" in cli(*by_name).err


def test_the_device_says_which_factory_it_is_in(cli: Cli, serve: Serve, acme_answers: Answer) -> None:
    """As fioctl has it: what the device's record says is used from there on."""

    def answer(asked: Asked) -> Reply:
        return acme_answers(
            Asked(asked.method, asked.path.replace("=typed", "=acme"), asked.headers, asked.body, 0)
        )

    server = serve(answer)
    push(cli, *DEVICE, "-f", "typed")
    assert "factory=acme" in server.sent("PATCH")[0].path


# --- What is printed ---


def test_a_device_push_warns_that_the_group_is_no_longer_followed(cli: Cli, acme: Path) -> None:
    result = push(cli, *DEVICE)
    assert "warning: with an entry of its own, device-1 will no longer follow its group `field`" in result.err
    assert "fioctl-rotate device config delete device-1 fio-rotate-certs" in result.err


def test_a_group_push_mentions_devices_that_join_later(cli: Cli, acme: Path) -> None:
    result = push(cli, *GROUP)
    assert "devices that join group field later will get this entry too" in result.err
    assert re.fullmatch(
        rf"pushed rotation certs-\d+ to group field \(2 devices\) of factory acme at mock {acme}, "
        r"EST server https://localhost:8443/.well-known/est\n",
        result.out,
    )
    assert "fioctl-rotate rotations watch certs-" in result.err


def test_the_commands_that_are_suggested_can_be_typed(cli: Cli, acme: Path) -> None:
    name = "the $field; 'x'"
    push(cli, "config", "device-group", "create", name)
    result = push(cli, "config", "rotate-certs", "-g", name, "-r", "why", "--no-checks")
    suggested = result.err.split("watch it with: ")[1]
    words = shlex.split(suggested)
    assert words[:3] == ["fioctl-rotate", "rotations", "watch"]
    assert words[4:] == ["-g", name, "-f", "acme", "--mock", str(acme)]
    shown = push(cli, "config", "rotate-certs", "-g", name, "-r", "a 'b' $c", "--dryrun").out.splitlines()[-1]
    assert name in shlex.split(shown)
    assert "a 'b' $c" in shlex.split(shown)


def test_an_empty_group_is_warned_about(cli: Cli, acme: Path) -> None:
    push(cli, "config", "device-group", "create", "empty")
    result = push(cli, "config", "rotate-certs", "-g", "empty", "-r", "why", "--no-checks")
    assert "warning: group empty has no devices: no device would rotate now" in result.err
    assert "(0 devices)" in result.out


@pytest.mark.parametrize("options", [(), ("--dryrun",), ("--dryrun", "--offline")])
def test_an_international_name_is_shown_in_both_forms(cli: Cli, acme: Path, options: tuple[str, ...]) -> None:
    result = push(cli, *GROUP, "--server-name", "münchen.example", *options)
    assert "EST server name münchen.example is sent as xn--mnchen-3ya.example" in result.err
    assert "https://xn--mnchen-3ya.example:8443" in result.out


def test_slots_that_are_more_than_a_byte_are_warned_about(cli: Cli, acme: Path) -> None:
    assert "warning: slot id 10" in push(cli, *GROUP, "--hsm-pkey-ids", "10,01").err


def test_json_of_a_push_is_one_object_on_stdout(cli: Cli, acme: Path) -> None:
    result = push(cli, *GROUP, "--rotation-id", "certs-1", "--format", "json").json
    assert list(result) == [
        "kind", "outcome", "pushed", "changed", "found", "replaced", "problem", "rotation-id", "repeat",
        "factory", "server", "target", "current", "request", "checks", "allow", "not-following", "made",
    ]  # fmt: skip
    assert (result["kind"], result["pushed"], result["rotation-id"]) == ("push", True, "certs-1")
    assert (result["outcome"], result["found"]) == ("landed", "rotation certs-1")


@BOTH
def test_with_wait_a_push_ends_as_a_watch_does(
    cli: Cli, acme: Path, command: tuple[str, ...], tmp_path: Path, run_out: Cli
) -> None:
    waiting = ("--rotation-id", "certs-1", "--wait")
    result = run_out(cli, *command, *waiting, "--junit", tmp_path / "junit.xml")
    assert 'tests="' in (tmp_path / "junit.xml").read_text()
    # Nobody runs the devices here, so time runs out.
    assert result.code == 4
    assert result.out.startswith("pushed rotation certs-1 to ")
    assert "error: time ran out" in result.err
    assert "rotations watch" not in result.err
    lines = run_out(cli, *command, *waiting, "--format", "json").lines
    assert [lines[0]["kind"], lines[0]["pushed"], lines[-1]["kind"]] == ["push", False, "summary"]
    devices = ["device-1", "device-2"] if command is GROUP else ["device-1"]
    assert [line["name"] for line in lines if line["kind"] == "device"] == devices


# --- Requests ---


@pytest.mark.parametrize("devices", [2, 5])
def test_the_requests_of_a_push(cli: Cli, acme: Path, devices: int) -> None:
    """So that none creeps in: groups, log, devices and certificates, once; each device; the log; PATCH; the log."""
    if devices > 2:
        push(cli, "mock", "add-devices", acme, "-g", "field", "--devices", devices - 2)
    checked = [option for option in GROUP if option != "--no-checks"]
    nowhere = ("-p", 1, "--allow", "est-reachable")
    result = push(cli, *checked, *nowhere, "-v")
    asked = [line.split()[0] for line in result.err.splitlines() if re.match(r"(GET|PATCH) http", line)]
    assert asked == ["GET"] * (4 + devices + 1) + ["PATCH", "GET"]


def test_what_does_not_depend_on_another_answer_is_asked_at_once(
    cli: Cli, serve: Serve, acme_answers: Answer
) -> None:
    """The four readings of a plan wait for each other here: none is answered before all are asked."""
    all_asked = threading.Barrier(4)

    def answer(asked: Asked) -> Reply:
        if not server.sent("PATCH") and len(server.asked) <= 4:
            all_asked.wait(60)
        return acme_answers(asked)

    server = serve(answer)
    push(cli, *GROUP)
