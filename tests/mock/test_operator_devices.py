"""The operator API's devices: lists, changes, registration, denial, updates."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from fioctl_rotate.mock.store import device_records
from fioctl_rotate.pki import certificates
from tests.making import Pki
from tests.mock.mocked import FACTORY, Mock

DEVICES = "/ota/devices/"


def names(mock: Mock, **query: str) -> list[str]:
    answer = mock.admin("GET", DEVICES, params={"factory": "acme", "limit": "10", **query})
    assert answer.status_code == 200, answer.text
    return [device["name"] for device in answer.json()["devices"]]


def url(name: str, rest: str = "") -> str:
    return f"{DEVICES}{name}/{rest}?factory=acme"


@pytest.fixture
def trio(mock: Mock) -> Mock:
    """Three devices: pump-1 in `field`, pump-2 and valve in no group, seen one after the other."""
    mock.register("uuid-1", name="pump-1", group="field")
    mock.register("uuid-2", name="pump-2")
    mock.register("uuid-3", name="valve")
    for number, (uuid, tag) in enumerate((("uuid-3", "main"), ("uuid-1", "main"), ("uuid-2", "devel"))):
        mock.clock.pass_seconds(60)
        with mock.store.transaction() as db:
            device_records.report(db, uuid, lmp_ver="97", target_name=f"lmp-{number}", tag=tag)
            device_records.see_device(
                db, device_records.find_device(db, "acme", uuid, by_uuid=True), mock.clock()
            )
    return mock


def test_a_device_in_a_list(trio: Mock) -> None:
    answer = trio.admin("GET", DEVICES, params={"factory": "acme", "name": "pump-1"}).json()
    assert (answer["total"], answer["next"]) == (1, None)
    device = answer["devices"][0]
    assert device["uuid"] == "uuid-1"
    assert device["factory"] == "acme"
    assert device["owner"] == trio.user_id
    assert device["device-group"] == "field"
    assert device["last-seen"] == "2026-03-01T12:02:00+00:00"
    assert (device["lmp-ver"], device["target-name"], device["tag"]) == ("97", "lmp-1", "main")
    assert device["is-prod"] is False
    assert device["public-key"] is None
    assert device["change-meta"]["created-at"] == "2026-03-01T12:00:00"


def test_a_device_alone(mock: Mock) -> None:
    device = mock.register(name="pump", group="field")
    mock.admin("PATCH", url("pump", "config/"), {"reason": "r", "files": [{"name": "a", "value": "1"}]})
    shown = mock.admin("GET", url("pump")).json()
    assert shown == mock.admin("GET", url("uuid-1") + "&by-uuid=1").json()
    assert shown["public-key"] == device.public_key
    assert shown["group"]["name"] == "field"
    assert isinstance(shown["group"]["id"], int)
    assert shown["last-seen"] is None
    assert shown["active-config"]["reason"] == "r"
    assert shown["active-config"]["applied-at"] is None
    assert mock.admin("GET", url("uuid-1")).status_code == 404
    assert mock.admin("GET", url("pump") + "&by-uuid=1").status_code == 404


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["pump-1", "pump-2", "valve"]),
        ({"group": "field"}, ["pump-1"]),
        ({"group": "nope"}, []),
        ({"name": "pump-*"}, ["pump-1", "pump-2"]),
        ({"name": "pump-[!1]"}, ["pump-2"]),
        ({"name": "?????"}, ["valve"]),
        ({"name": "PUMP-1"}, []),
        ({"uuid": "uuid-3"}, ["valve"]),
        ({"match_tag": "main"}, ["pump-1", "valve"]),
        ({"target_name": "lmp-2"}, ["pump-2"]),
        ({"prod": "1"}, []),
        ({"prod": "0", "name": "valve"}, ["valve"]),
        ({"mine": "1"}, ["pump-1", "pump-2", "valve"]),
        ({"sortby": "-name"}, ["valve", "pump-2", "pump-1"]),
        ({"sortby": "last_seen"}, ["valve", "pump-1", "pump-2"]),
        ({"sortby": "-last_seen"}, ["pump-2", "pump-1", "valve"]),
        ({"sortby": "-last_seen,name"}, ["pump-2", "pump-1", "valve"]),
    ],
)
def test_filters_and_orders(trio: Mock, query: dict[str, str], expected: list[str]) -> None:
    assert names(trio, **query) == expected


def test_only_the_name_is_a_pattern(trio: Mock) -> None:
    trio.admin("POST", "/ota/factories/acme/device-groups/", {"name": "plant-[!1]"})
    trio.admin("PATCH", url("valve"), {"group": "plant-[!1]"})
    assert names(trio, group="plant-[!1]") == ["valve"]


def test_mine_are_not_another_users(trio: Mock) -> None:
    trio.admin("PATCH", url("valve"), {"owner": "somebody"})
    assert names(trio, mine="1") == ["pump-1", "pump-2"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "11"),
        ("limit", "x"),
        ("page", "0"),
        ("page", "-1"),
        ("page", "99999999999999999999"),
        ("sortby", "uuid"),
        ("mine", "yes"),
        ("prod", "2"),
    ],
)
def test_a_parameter_that_is_not_right(trio: Mock, name: str, value: str) -> None:
    answer = trio.admin("GET", DEVICES, params={"factory": "acme", name: value})
    assert answer.status_code == 400
    assert list(answer.json()["errors"]) == [name]


@pytest.mark.parametrize("limit", [10, 20, 30, 40, 50, 100, 200, 500, 1000])
def test_the_limits_that_fioctl_offers(trio: Mock, limit: int) -> None:
    assert names(trio, limit=str(limit)) == ["pump-1", "pump-2", "valve"]


def test_pages_name_the_next_by_an_absolute_url_that_keeps_the_query(mock: Mock) -> None:
    for number in range(25):
        mock.register(f"uuid-{number}", name=f"device-{number:02}", group="field")
    seen: list[str] = []
    following: str | None = f"{DEVICES}?factory=acme&limit=10&group=field&sortby=-name&name=device-%2A"
    pages = 0
    while following:
        page = mock.admin("GET", following).json()
        assert page["total"] == 25
        seen += [device["name"] for device in page["devices"]]
        following = page["next"]
        pages += 1
        if following:
            parts = urlsplit(following)
            assert (parts.scheme, parts.netloc, parts.path) == ("https", "api.test", DEVICES)
            assert parse_qs(parts.query)["name"] == ["device-*"]
            assert parse_qs(parts.query)["page"] == [str(pages + 1)]
    assert pages == 3
    assert seen == [f"device-{number:02}" for number in reversed(range(25))]


def test_changes(mock: Mock) -> None:
    mock.register(name="pump")
    mock.clock.pass_seconds(60)
    moved = mock.admin("PATCH", url("pump"), {"group": "field"})
    assert moved.status_code == 200
    assert moved.json()["group"]["name"] == "field"
    assert moved.json()["change-meta"]["updated-at"] == "2026-03-01T12:01:00"
    assert mock.admin("PATCH", url("pump"), {"name": "engine"}).json()["name"] == "engine"
    assert mock.admin("PATCH", url("engine"), {"owner": "u2"}).json()["owner"] == "u2"
    assert mock.admin("PATCH", url("engine"), {"group": ""}).json()["group"] is None
    assert mock.admin("GET", url("pump")).status_code == 404


def test_changes_that_are_refused(mock: Mock) -> None:
    mock.register(name="pump")
    mock.register("uuid-2", name="valve")
    assert mock.admin("PATCH", url("pump"), {"name": "valve"}).status_code == 409
    assert mock.admin("PATCH", url("pump"), {"group": "nope"}).status_code == 404
    assert mock.admin("PATCH", url("pump"), {"name": ""}).status_code == 400
    assert mock.admin("PATCH", url("pump"), {"uuid": "x"}).status_code == 400
    assert mock.admin("PATCH", url("nope"), {"name": "x"}).status_code == 404
    assert mock.admin("GET", url("pump")).json()["change-meta"]["updated-at"] is None


# --- Registration ---


def test_registering(mock: Mock) -> None:
    device = mock.device("uuid-9")
    answer = mock.admin("PUT", DEVICES, {"client.pem": device.pem, "name": "pump", "group": "field"})
    assert answer.status_code == 201
    shown = answer.json()
    assert (shown["uuid"], shown["name"], shown["owner"]) == ("uuid-9", "pump", mock.user_id)
    assert shown["group"]["name"] == "field"
    assert shown["public-key"] == device.public_key


def test_a_device_without_a_name_is_called_by_its_uuid(mock: Mock) -> None:
    device = mock.device("uuid-9")
    assert mock.admin("PUT", DEVICES, {"client.pem": device.pem}).json()["name"] == "uuid-9"


def test_a_production_device_says_so_in_its_certificate(mock: Mock) -> None:
    subject = x509.Name(
        [
            *certificates.name("uuid-9", "acme"),
            x509.NameAttribute(NameOID.BUSINESS_CATEGORY, "production"),
        ]
    )
    device = mock.device("uuid-9", subject=subject)
    assert mock.admin("PUT", DEVICES, {"client.pem": device.pem}).json()["is-prod"] is True
    assert names(mock, prod="1") == ["uuid-9"]


def test_conflicts(mock: Mock) -> None:
    first = mock.register("uuid-1", name="pump")
    assert mock.admin("PUT", DEVICES, {"client.pem": first.pem, "name": "other"}).status_code == 409
    second = mock.device("uuid-2")
    assert mock.admin("PUT", DEVICES, {"client.pem": second.pem, "name": "pump"}).status_code == 409
    assert mock.admin("PUT", DEVICES, {"client.pem": second.pem, "group": "nope"}).status_code == 404
    assert names(mock) == ["pump"]


def test_certificates_that_register_nothing(mock: Mock) -> None:
    foreign = mock.device(ca=Pki.make(owner=mock.user_id, now=mock.pki.now)).pem
    no_factory = mock.device(subject=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "uuid-1")])).pem
    other_factory = mock.device(subject=certificates.name("uuid-1", "other")).pem
    for text in (foreign, no_factory, other_factory, "nothing"):
        answer = mock.admin("PUT", DEVICES + "?factory=acme", {"client.pem": text})
        assert answer.status_code == 400
        assert list(answer.json()["errors"]) == ["client.pem"]
    assert names(mock) == []


# --- Deletion and denial ---


def test_a_deleted_device_is_denied_until_it_is_allowed_again(mock: Mock) -> None:
    device = mock.register("uuid-1", name="pump")
    mock.admin("PATCH", url("pump", "config/"), {"reason": "r", "files": [{"name": "a"}]})
    assert mock.admin("DELETE", url("pump")).status_code == 204
    assert mock.admin("GET", url("pump")).status_code == 404
    denied = mock.admin("GET", f"{FACTORY}/denied-devices/?limit=10&page=1").json()
    assert [(entry["uuid"], entry["name"]) for entry in denied["devices"]] == [("uuid-1", "pump")]
    assert (denied["total"], denied["next"]) == (1, None)
    assert mock.admin("PUT", DEVICES, {"client.pem": device.pem}).status_code == 409
    assert mock.admin("DELETE", f"{FACTORY}/denied-devices/uuid-1/").status_code == 204
    assert mock.admin("DELETE", f"{FACTORY}/denied-devices/uuid-1/").status_code == 404
    assert mock.admin("PUT", DEVICES, {"client.pem": device.pem}).status_code == 201
    assert mock.admin("GET", url("uuid-1", "config/")).json()["total"] == 0


def test_denied_devices_come_in_pages(mock: Mock) -> None:
    for number in range(11):
        mock.register(f"uuid-{number}")
        mock.admin("DELETE", url(f"uuid-{number}"))
    first = mock.admin("GET", f"{FACTORY}/denied-devices/?limit=10&page=1").json()
    assert len(first["devices"]) == 10
    second = mock.admin("GET", first["next"]).json()
    assert len(second["devices"]) == 1
    assert second["next"] is None


# --- Updates ---


def event(number: int, correlation_id: str, kind: str, **event: Any) -> dict[str, Any]:
    return {
        "id": f"event-{number}",
        "deviceTime": f"2026-03-01T12:00:{number:02}Z",
        "eventType": {"id": kind, "version": 0},
        "event": {
            "correlationId": correlation_id,
            "success": True,
            "targetName": "lmp-1",
            "version": "1",
            **event,
        },
    }


def test_updates_newest_first_and_their_events_as_they_came(mock: Mock) -> None:
    device = mock.register(name="pump")
    sent = [
        event(1, "certs-1", "CertRotationStarted"),
        event(3, "certs-1", "Generate new certificate", success=False, details="no\nanswer"),
        event(2, "certs-2", "CertRotationStarted", targetName="lmp-2", version="2"),
        event(4, "certs-1", "CertRotationStarted", targetName="lmp-3", version="3"),
    ]
    assert mock.gateway(device)("POST", "/events", sent).status_code == 200
    assert mock.admin("GET", url("pump", "updates/")).json() == {
        "updates": [
            {
                "correlation-id": "certs-2",
                "target": "lmp-2",
                "version": "2",
                "time": "2026-03-01T12:00:02Z",
            },
            {
                "correlation-id": "certs-1",
                "target": "lmp-1",
                "version": "1",
                "time": "2026-03-01T12:00:01Z",
            },
        ],
        "total": 2,
        "next": None,
    }
    assert mock.admin("GET", url("pump", "updates/certs-1/")).json() == [
        {
            "deviceTime": "2026-03-01T12:00:01Z",
            "eventType": {"id": "CertRotationStarted"},
            "event": {"success": True, "targetName": "lmp-1", "version": "1"},
        },
        {
            "deviceTime": "2026-03-01T12:00:03Z",
            "eventType": {"id": "Generate new certificate"},
            "event": {"success": False, "targetName": "lmp-1", "version": "1", "details": "no\nanswer"},
        },
        {
            "deviceTime": "2026-03-01T12:00:04Z",
            "eventType": {"id": "CertRotationStarted"},
            "event": {"success": True, "targetName": "lmp-3", "version": "3"},
        },
    ]
    assert mock.admin("GET", url("pump", "updates/nope/")).status_code == 404
    assert mock.admin("GET", url("uuid-1", "updates/") + "&by-uuid=1").json()["total"] == 2


def test_the_last_ten_updates(mock: Mock) -> None:
    device = mock.register(name="pump")
    mock.gateway(device)("POST", "/events", [event(n, f"certs-{n}", "x") for n in range(12)])
    shown = mock.admin("GET", url("pump", "updates/")).json()
    assert [update["correlation-id"] for update in shown["updates"]] == [
        f"certs-{n}" for n in range(11, 1, -1)
    ]
    assert (shown["total"], shown["next"]) == (10, None)


def test_a_device_without_updates(mock: Mock) -> None:
    mock.register(name="pump")
    assert mock.admin("GET", url("pump", "updates/")).json() == {"updates": [], "total": 0, "next": None}
