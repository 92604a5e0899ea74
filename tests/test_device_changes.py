"""Devices and configurations changed: what fioctl's users type for it, and what the Factory has then."""

import json
from pathlib import Path

import pytest

from fioctl_rotate import ecies
from fioctl_rotate.pki.parsing import load_private_key
from tests.commandline import Cli


def names(cli: Cli, *arguments: object) -> list[str]:
    listed = cli("devices", "list", *arguments, "--format", "json")
    assert listed.code == 0, listed.err
    return [device["name"] for device in listed.json["devices"]]


@pytest.fixture
def five(cli: Cli, acme: Path) -> Path:
    """`acme` with three devices more, which are in no group."""
    assert cli("mock", "add-devices", acme, "--devices", 3).code == 0
    return acme


def uuid_of(cli: Cli, name: str) -> str:
    uuid: str = cli("devices", "show", name, "--format", "json").json["uuid"]
    return uuid


# --- The list ---


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("*-[23]",), [2, 3]),
        (("device-1",), [1]),
        (("--by-group", "field"), [1, 2]),
        (("-g", "field", "*-2"), [2]),
        (("--by-tag", "main"), [1, 2, 3, 4, 5]),
        (("--by-tag", "other"), []),
        (("--by-target", "no-such-target"), []),
        (("--just-mine",), [1, 2, 3, 4, 5]),
        (("--only-prod",), []),
        (("--only-non-prod",), [1, 2, 3, 4, 5]),
        (("--sort-by-name=desc",), [5, 4, 3, 2, 1]),
        (("--sort-by-name",), [1, 2, 3, 4, 5]),
        (("-n", 10, "-p", 1), [1, 2, 3, 4, 5]),
        (("-n", 10, "-p", 2), []),
    ],
)
def test_fioctl_s_flags_choose_and_order(
    cli: Cli, five: Path, arguments: tuple[object, ...], shown: list[int]
) -> None:
    assert names(cli, *arguments) == [f"device-{number}" for number in shown]


def test_the_device_seen_last_can_come_first(cli: Cli, five: Path) -> None:
    seen = [device["last-seen"] for device in cli("devices", "list", "--format", "json").json["devices"]]
    newest = cli("devices", "list", "--sort-by-last-seen=desc", "--format", "json").json["devices"]
    assert [device["last-seen"] for device in newest] == sorted(seen, reverse=True)


def test_the_columns_are_those_asked_for_with_fioctl_s_names(cli: Cli, five: Path) -> None:
    shown = cli("devices", "list", "device-1", "--columns", "name,status,is-prod,owner,created-at,apps")
    header, row = [line.split("\t") for line in shown.out.splitlines()]
    assert header == ["NAME", "STATUS", "IS-PROD", "OWNER", "CREATED-AT", "APPS"]
    assert row[:4] == ["device-1", "OK", "false", "Mock Admin"]
    offline = cli("devices", "list", "device-1", "--columns", "status", "--offline-threshold", 0)
    assert offline.out.splitlines() == ["STATUS", "OFFLINE"]
    wrong = cli("devices", "list", "--columns", "name,colour")
    assert (wrong.code, wrong.out) == (2, "")
    assert wrong.err.startswith("error: there is no column `colour`\nhint: columns: apps, ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--only-prod", "--only-non-prod"),
        ("--sort-by-name", "--sort-by-last-seen"),
        ("--sort-by-name=up",),
        ("-n", 11),
        ("-n", 10, "-p", 0),
    ],
)
def test_flags_that_mean_nothing_are_refused(cli: Cli, acme: Path, arguments: tuple[object, ...]) -> None:
    assert cli("devices", "list", *arguments).code == 2


def test_a_page_says_that_there_is_another_one(cli: Cli, acme: Path) -> None:
    assert cli("mock", "add-devices", acme, "--devices", 9).code == 0
    first = cli("devices", "list", "-n", 10)
    assert len(first.out.splitlines()) == 11
    assert first.err == "there are more: --page 2 shows the next ones\n"
    second = cli("devices", "list", "-n", 10, "--page", 2)
    assert (len(second.out.splitlines()), second.err) == (2, "")


# --- Changes ---


def test_a_device_moves_between_groups(cli: Cli, five: Path) -> None:
    moved = cli("devices", "config", "group", "device-3", "field")
    assert moved.out == f"device device-3 is in group field in factory acme at mock {five}\n"
    assert names(cli, "-g", "field") == ["device-1", "device-2", "device-3"]
    again = cli("devices", "config", "group", "device-3", "field", "--format", "json").json
    assert (again["changed"], again["group"]) == (False, "field")
    assert cli("devices", "config", "group", uuid_of(cli, "device-3"), "-u", "--unset").code == 0
    assert names(cli, "-g", "field") == ["device-1", "device-2"]
    assert cli("devices", "config", "group", "device-3", "nowhere").code == 1
    assert cli("devices", "config", "group", "device-3").code == 2
    assert cli("devices", "config", "group", "device-3", "field", "--unset").code == 2


def test_a_device_gets_another_name_and_another_owner(cli: Cli, acme: Path) -> None:
    assert cli("devices", "rename", "device-1", "pump").code == 0
    assert names(cli) == ["device-2", "pump"]
    taken = cli("devices", "rename", "pump", "device-2")
    assert taken.code == 1
    reader = cli("users", "--format", "json").json["users"][1]["polis-id"]
    assert cli("devices", "chown", "pump", reader).code == 0
    assert cli("devices", "show", "pump", "--format", "json").json["owner"] == reader


def test_a_deleted_device_is_denied_until_it_is_allowed_again(cli: Cli, five: Path) -> None:
    uuids = [uuid_of(cli, name) for name in ("device-1", "device-2")]
    gone = cli("devices", "delete", "device-1", "device-2", "device-9", "device-3", "--format", "json")
    # Those before the failed one are gone, and said to be.
    assert (gone.code, gone.json) == (1, {"deleted": ["device-1", "device-2"]})
    assert "no device with the name `device-9`" in gone.err
    assert names(cli) == ["device-3", "device-4", "device-5"]
    denied = cli("devices", "list-denied", "--format", "json").json["devices"]
    assert {device["uuid"] for device in denied} == set(uuids)
    assert cli("devices", "delete-denied", uuids[0]).code == 0
    left = cli("devices", "list-denied").out.splitlines()[1:]
    assert [line.split("\t")[0] for line in left] == [uuids[1]]
    absent = cli("devices", "delete-denied", "x")
    assert absent.code == 1
    assert "the deny list of acme has no uuid `x`" in absent.err


# --- Configurations ---


def stored(cli: Cli, *scope: object) -> dict[str, object]:
    [newest] = cli(*scope, "-n", 1, "--format", "json").json["config"]
    return {file["name"]: file for file in newest["files"]} | {"reason": newest["reason"]}


def test_a_device_s_values_are_encrypted_for_it_alone(cli: Cli, acme: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("ß secret\n")
    done = cli(
        "devices", "config", "set", "device-1", "motd=hello=you", f"token=={tmp_path / 'token'}", "-m", "why"
    )
    assert done.out == f"set motd, token of device device-1 in factory acme at mock {acme}\n"
    files = stored(cli, "devices", "config", "log", "device-1")
    assert files.pop("reason") == "why"
    uuid = uuid_of(cli, "device-1")
    key_file = acme / "devices" / uuid / "pkey.pem"
    key = load_private_key(key_file.read_bytes(), name="the device's key")
    values = {name: ecies.decrypt(key, file["value"]) for name, file in files.items()}  # type: ignore[index]
    assert values == {"motd": "hello=you", "token": "ß secret\n"}
    assert not any(file.get("unencrypted") for file in files.values())  # type: ignore[attr-defined]


def test_a_raw_file_says_what_is_not_encrypted_and_what_runs(cli: Cli, acme: Path, tmp_path: Path) -> None:
    request = {
        "reason": "raw",
        "files": [{"name": "a", "value": "clear", "unencrypted": True, "on-changed": ["/bin/true"]}],
    }
    for source, stdin in ((tmp_path / "raw.json", ""), ("-", json.dumps(request))):
        (tmp_path / "raw.json").write_text(json.dumps(request))
        done = cli("devices", "config", "set", "device-1", "--raw", source, stdin=stdin)
        assert done.code == 0, done.err
        files = stored(cli, "devices", "config", "log", "device-1")
        assert files["reason"] == "raw"
        assert files["a"] == {
            "name": "a", "value": "clear", "unencrypted": True, "on-changed": ["/bin/true"]
        }  # fmt: skip
    broken = cli("devices", "config", "set", "device-1", "--raw", "-", stdin="{")
    assert (broken.code, broken.out) == (1, "")
    assert broken.err.startswith("error: - is not a configuration in JSON: ")


@pytest.mark.parametrize(
    ("scope", "log"),
    [
        (("-g", "field"), ("config", "log", "-g", "field")),
        ((), ("config", "log")),
    ],
    ids=["group", "fleet"],
)
def test_a_group_s_and_the_fleet_s_values_are_sent_as_they_are(
    cli: Cli, acme: Path, scope: tuple[str, ...], log: tuple[str, ...]
) -> None:
    assert cli("config", "set", *scope, "a=1", "b=2", "-r", "first").code == 0
    assert cli("config", "set", *scope, "b==-", stdin="3").code == 0
    files = stored(cli, *log)
    assert (files["a"]["value"], files["b"]["value"]) == ("1", "3")  # type: ignore[index]
    assert cli("config", "set", *scope, "c=4", "--create").code == 0
    assert set(stored(cli, *log)) == {"c", "reason"}
    assert cli("config", "delete", *scope, "c").code == 0
    assert set(stored(cli, *log)) == {"reason"}


def test_a_dry_run_sets_nothing(cli: Cli, acme: Path) -> None:
    shown = cli("config", "set", "-g", "field", "a=1", "--dry-run")
    assert (shown.code, shown.out) == (0, "would set a of group field\n")
    assert cli("config", "log", "-g", "field").out == ""


@pytest.mark.parametrize("files", [("a",), ("=1",), ("a==/no/such/file",)])
def test_files_that_are_not_there_are_refused(cli: Cli, acme: Path, files: tuple[str, ...]) -> None:
    refused = cli("config", "set", *files)
    assert refused.code in (1, 2)
    assert refused.err.startswith("error: ")
    assert cli("config", "log").out == ""


def test_a_rotation_s_entry_is_not_set_by_hand(cli: Cli, acme: Path) -> None:
    for command in (("config", "set", "-g", "field"), ("devices", "config", "set", "device-1")):
        refused = cli(*command, "fio-rotate-certs=ESTSERVER=https://x")
        assert (refused.code, refused.out) == (5, "")
        assert "is not set by hand" in refused.err


def test_tag_and_apps_are_shown_and_changing_them_is_fioctl_s(cli: Cli, acme: Path) -> None:
    none = cli("config", "updates", "-g", "field")
    assert (none.code, none.out) == (0, "group field sets neither tag nor apps\n")
    toml = '[pacman]\ntags = "devel"\ndocker_apps = "shell"\n'
    assert cli("config", "set", "-g", "field", f"z-50-fioctl.toml={toml}").code == 0
    shown = cli("config", "updates", "-g", "field", "--format", "json").json
    assert shown["configured"] == {"tags": "devel", "docker_apps": "shell"}
    assert cli("devices", "config", "updates", "device-1").out.splitlines() == [
        "tag that the device reports: main",
        "device device-1 sets neither tag nor apps",
    ]
    changed = cli("devices", "config", "updates", "device-1", "--tag", "x")
    assert changed.code == 2
    assert "only fioctl changes tag and apps: `fioctl devices config updates device-1`" in changed.err


# --- The Factory ---


def test_the_status_counts_devices_and_names_rotations(cli: Cli, five: Path) -> None:
    push = ("config", "rotate-certs", "-g", "field", "-r", "why", "--rotation-id", "certs-1", "--no-checks")
    assert cli(*push).code == 0
    text = cli("status").out.splitlines()
    assert text == [
        f"5 devices in factory acme at mock {five}",
        "GROUP\tDEVICES\tONLINE\tROTATION",
        "field\t2\t2\tcerts-1",
        "(no group)\t3\t3",
    ]
    groups = cli("status", "--offline-threshold", 0, "--format", "json").json["groups"]
    assert [(group["group"], group["online"]) for group in groups] == [("field", 0), (None, 0)]


def test_the_users_are_listed_and_one_is_shown(cli: Cli, acme: Path) -> None:
    header, *rows = [line.split("\t") for line in cli("users").out.splitlines()]
    assert header == ["ID", "NAME", "ROLE"]
    assert [row[1:] for row in rows] == [["Mock Admin", "admin"], ["Mock Reader", "readonly"]]
    assert cli("users", "self", "--format", "json").json["polis-id"] == rows[0][0]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_the_script_for_a_shell_is_printed(cli: Cli, shell: str) -> None:
    assert "_FIOCTL_ROTATE_COMPLETE" in cli("completion", shell).out
    assert cli("completion", "ksh").code == 2
