"""`devices`, and `device`: lists, one device, its log, its updates and their events."""

import json
from pathlib import Path
from typing import Any

import pytest

from fioctl_rotate.clock import utc_now
from fioctl_rotate.mock.store import updates
from fioctl_rotate.mock.store.database import Store
from tests.commandline import Cli
from tests.scripted import Answer, Asked

PUSH = (
    "device",
    "config",
    "rotate-certs",
    "device-1",
    "-r",
    "why",
    "--no-checks",
    "--rotation-id",
    "certs-1",
)


def uuid_of(cli: Cli, name: str) -> str:
    uuid: str = cli("devices", "show", name, "--format", "json").json["uuid"]
    return uuid


def post_events(directory: Path, uuid: str, *told: dict[str, Any], update: str = "certs-1") -> None:
    """As the device's gateway takes them; each with a step and what else its `event` shall hold."""
    batch = [
        {
            "id": f"{update}-{number}",
            "deviceTime": f"2026-01-0{number}T00:00:00Z",
            "eventType": {"id": event.pop("step")},
            "event": {"correlationId": update, "targetName": "lmp-1", "version": "1", **event},
        }
        for number, event in enumerate(told, 1)
    ]
    store = Store(directory)
    with store.transaction() as db:
        updates.keep(db, uuid, batch, utc_now())
    store.close()


@pytest.mark.parametrize("spelling", ["devices", "device"])
def test_devices_are_listed_by_name(cli: Cli, acme: Path, spelling: str) -> None:
    assert cli("mock", "init", acme, "-f", "other").code == 0
    text = cli(spelling, "list")
    assert (text.code, text.err) == (0, "")
    header, *rows = text.out.splitlines()
    assert header.split("\t") == ["NAME", "DEVICE-GROUP", "LAST-SEEN", "LMP", "TARGET"]
    assert [row.split()[:2] for row in rows] == [["device-1", "field"], ["device-2", "field"]]
    listed = cli(spelling, "list", "-g", "field", "--format", "json").json["devices"]
    assert [(d["name"], d["device-group"], d["factory"]) for d in listed] == [
        ("device-1", "field", "acme"),
        ("device-2", "field", "acme"),
    ]
    assert cli(spelling, "list", "-f", "other", "--format", "json").json["devices"] == []


def test_a_group_s_list_holds_its_devices_alone(cli: Cli, acme: Path) -> None:
    assert cli("config", "device-group", "create", "empty").code == 0
    assert cli("devices", "list", "-g", "empty", "--format", "json").json["devices"] == []


def test_a_device_is_shown_with_its_key_and_its_configuration(cli: Cli, acme: Path) -> None:
    assert cli(*PUSH).code == 0
    text = cli("devices", "show", "device-1")
    assert (text.code, text.err) == (0, "")
    lines = text.out.splitlines()
    assert lines[:4] == [
        "Name:       device-1",
        f"UUID:       {uuid_of(cli, 'device-1')}",
        "Factory:    acme",
        "Group:      field",
    ]
    assert "Production: false" in lines
    assert "-----BEGIN PUBLIC KEY-----" in lines
    assert lines[lines.index("Configuration in force:") + 1].startswith("Created At:")
    assert "Applied At:    not yet" in lines
    assert lines[-1] == "\t | ROTATIONID=certs-1"
    assert "Configuration in force" not in cli("devices", "show", "device-2").out
    assert (
        cli("devices", "show", uuid_of(cli, "device-2"), "-u", "--format", "json").json["name"] == "device-2"
    )


def test_what_a_device_says_of_itself_does_not_reach_the_terminal(
    cli: Cli, acme: Path, acme_answers: Answer
) -> None:
    uuid = uuid_of(cli, "device-1")
    # The store takes what the API would not let pass.
    store = Store(acme)
    with store.transaction() as db:
        db.execute("UPDATE device SET target_name = ?, tag = ? WHERE uuid = ?", ("\x1b[2Jx", "[red]t", uuid))
    store.close()
    post_events(acme, uuid, {"step": "\x1b[2J", "success": False, "details": "[bold]\x1b[2J\nno"})
    for command in (
        ("list",),
        ("show", "device-1"),
        ("updates", "device-1"),
        ("updates", "device-1", "certs-1"),
    ):
        result = cli("devices", *command)
        assert result.code == 0, result.err
        assert "\x1b" not in result.out
    assert "[bold]\\x1b[2J\\nno" in cli("devices", "updates", "device-1", "certs-1").out


def test_a_devices_own_log_shows_when_it_was_applied(cli: Cli, acme: Path) -> None:
    assert cli("devices", "config", "log", "device-1").out == ""
    assert cli(*PUSH).code == 0
    assert cli(*PUSH[:-1], "certs-2").code == 0
    text = cli("device", "config", "log", "device-1", "-n", 1)
    assert "Applied At:    not yet" in text.out
    assert "ROTATIONID=certs-2" in text.out
    assert "certs-1" not in text.out
    assert text.out == cli("device", "config", "log", uuid_of(cli, "device-1"), "-u", "-n", 1).out


def test_a_device_whose_own_entry_is_deleted_follows_its_group_again(cli: Cli, acme: Path) -> None:
    assert cli(*PUSH).code == 0
    result = cli("device", "config", "delete", "device-1", "fio-rotate-certs")
    assert result.out == f"deleted fio-rotate-certs of device device-1 in factory acme at mock {acme}\n"
    newest = cli("device", "config", "log", "device-1", "-n", 1, "--format", "json").json["config"][0]
    assert newest["files"] == []
    assert cli("device", "config", "delete", "device-1", "fio-rotate-certs").code == 1


def test_updates_and_the_events_of_one(cli: Cli, acme: Path) -> None:
    uuid = uuid_of(cli, "device-1")
    post_events(acme, uuid, {"step": "CertRotationStarted", "success": True}, update="certs-0")
    post_events(
        acme,
        uuid,
        {"step": "CertRotationStarted", "success": True},
        {"step": "Generate new certificate", "success": False, "details": "HTTP_500 - no"},
        {"step": "Odd"},
    )
    listed = cli("devices", "updates", "device-1", "--format", "json").json["updates"]
    assert [update["correlation-id"] for update in listed] == ["certs-1", "certs-0"]
    header, first, *_ = cli("devices", "updates", "device-1").out.splitlines()
    assert header.split() == ["ID", "TIME", "VERSION", "TARGET"]
    assert first.split()[2:] == ["1", "lmp-1"]
    assert len(cli("devices", "updates", "device-1", "-n", 1, "--format", "json").json["updates"]) == 1
    rows = cli("devices", "updates", "device-1", "certs-1").out.splitlines()[1:]
    assert rows[1].startswith("2026-01-02T00:00:00Z")
    assert "Generate new certificate" in rows[1]
    assert rows[1].endswith("HTTP_500 - no")
    assert rows[0].split("\t")[2] == "ok"
    told = cli("devices", "updates", uuid, "certs-1", "-u", "--format", "json").json["events"]
    assert [event["eventType"]["id"] for event in told][:2] == [
        "CertRotationStarted",
        "Generate new certificate",
    ]
    assert [event["event"].get("success") for event in told][:2] == [True, False]


def test_of_an_update_nobody_reported_there_is_nothing(cli: Cli, acme: Path) -> None:
    assert cli("devices", "updates", "device-1", "--format", "json").json["updates"] == []
    result = cli("devices", "updates", "device-1", "certs-9", "--format", "json")
    assert (result.code, result.out) == (1, "")
    assert "no update certs-9" in result.err


def test_a_name_with_odd_characters_is_found(cli: Cli, acme: Path, acme_answers: Answer) -> None:
    uuid = uuid_of(cli, "device-1")
    name = "pump #7 ? é %2F"
    path = f"/ota/devices/{uuid}/?factory=acme&by-uuid=1"
    body = json.dumps({"name": name}).encode()
    assert acme_answers(Asked("PATCH", path, {"host": "localhost"}, body, 0)).status == 200
    assert uuid_of(cli, name) == uuid
    assert cli("device", "config", "rotate-certs", name, "-r", "why", "--no-checks").code == 0
