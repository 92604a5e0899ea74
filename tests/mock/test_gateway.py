"""The device gateway. The facts are in CONTRIBUTING, "The device gateway"."""

import datetime
import email.utils
import itertools
import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fioctl_rotate.mock.operation import BODY_LIMIT
from fioctl_rotate.pki import certificates
from tests.making import Pki
from tests.mock.mocked import (
    FACTORY,
    FLEET,
    GROUP,
    OWN,
    RECORD,
    START,
    Mock,
    file,
    go_time,
    push,
    queue,
    served,
)

FIELDS = st.sampled_from(
    [
        *("reason", "files", "public-key", "next_pubkey", "name", "value", "unencrypted", "on-changed"),
        *("id", "deviceTime", "eventType", "event", "correlationId", "success", "targetName", "version"),
    ]
)
BODIES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20), FIELDS
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(FIELDS, inner, max_size=6)),
    max_leaves=20,
)
EXAMPLES = itertools.count()  # each of hypothesis's gets a device of its own


# --- GET /config ---


def test_never_configured_is_204_even_with_a_date(mock: Mock) -> None:
    device = mock.register(group="field")
    gateway = mock.gateway(device)
    assert gateway("GET", "/config").status_code == 204
    since = {"If-Modified-Since": go_time(START + datetime.timedelta(days=1))}
    assert gateway("GET", "/config", headers=since).status_code == 204
    assert gateway("GET", "/config").content == b""


def test_a_file_as_it_is_served(mock: Mock) -> None:
    device = mock.register()
    push(mock, OWN, {**file("1\n"), "on-changed": ["/bin/true", "x"]}, {"name": "s", "value": "c2Vj"})
    answer = mock.gateway(device)("GET", "/config")
    assert answer.json() == {
        "a": {"Value": "1\n", "OnChanged": ["/bin/true", "x"], "Unencrypted": True},
        "s": {"Value": "c2Vj", "OnChanged": None, "Unencrypted": False},
    }


def test_device_over_group_over_fleet_file_by_file(mock: Mock) -> None:
    device = mock.register(group="field")
    for path, names in ((FLEET, "abcd"), (GROUP, "bcd"), (OWN, "cd")):
        push(mock, path, *(file(path, name) for name in names))
    assert served(mock.gateway(device)("GET", "/config")) == {"a": FLEET, "b": GROUP, "c": OWN, "d": OWN}


def test_another_groups_configuration_is_not_served(mock: Mock) -> None:
    device = mock.register()
    push(mock, GROUP, file("1"))
    push(mock, OWN, file("own"))
    assert served(mock.gateway(device)("GET", "/config")) == {"a": "own"}


@pytest.mark.parametrize("path", [FLEET, GROUP])
def test_values_above_the_device_are_served_as_clear(mock: Mock, path: str) -> None:
    """fioctl's `config set` sends them with `unencrypted: false`; a device would try to decrypt them."""
    device = mock.register(group="field")
    push(mock, path, {"name": "a", "value": "plain", "unencrypted": False})
    assert mock.gateway(device)("GET", "/config").json()["a"]["Unencrypted"] is True


def test_the_one_toml_file_is_merged_key_by_key(mock: Mock) -> None:
    device = mock.register(group="field")
    name = "z-50-fioctl.toml"
    push(mock, FLEET, file('[pacman]\ntags = "main"\nkeep = 1\n', name, **{"on-changed": ["/x"]}))
    push(mock, GROUP, file('[pacman]\ntags = "devel"\n[other]\na = 1\n', name))
    push(mock, OWN, file("[other]\nb = 2\n", name))
    entry = mock.gateway(device)("GET", "/config").json()[name]
    assert entry["Value"] == '[pacman]\ntags = "devel"\nkeep = 1\n\n[other]\na = 1\nb = 2\n'
    assert entry["OnChanged"] == ["/x"]
    push(mock, OWN, file("no toml [", name))
    assert mock.gateway(device)("GET", "/config").json()[name]["Value"] == "no toml ["


def test_date_is_the_newest_changes_and_there_is_one(mock: Mock) -> None:
    device = mock.register(group="field")
    mock.clock.pass_seconds(10)
    push(mock, GROUP, file("1"))
    mock.clock.pass_seconds(10)
    push(mock, OWN, file("1", "b"))
    mock.clock.pass_seconds(10)
    answer = mock.gateway(device)("GET", "/config")
    assert answer.headers.get_list("date") == ["Sun, 01 Mar 2026 12:00:20 GMT"]


def test_not_modified_to_the_second(mock: Mock) -> None:
    device = mock.register()
    gateway = mock.gateway(device)
    push(mock, OWN, file("1"))
    changed = email.utils.parsedate_to_datetime(gateway("GET", "/config").headers["date"])
    second = datetime.timedelta(seconds=1)
    for since, status in ((changed - second, 200), (changed, 304), (changed + second, 304)):
        answer = gateway("GET", "/config", headers={"If-Modified-Since": go_time(since)})
        assert answer.status_code == status
        assert email.utils.parsedate_to_datetime(answer.headers["date"]) == changed
        mock.clock.pass_seconds(60)
    for odd in (
        "yesterday",
        f"Sun, 01 Mar 2026 12:00:00 +{'9' * 20}",
        f"Sun, 01 Mar {'9' * 20} 12:00:00 GMT",
    ):
        assert gateway("GET", "/config", headers={"If-Modified-Since": odd}).status_code == 200
    http_date = email.utils.format_datetime(changed, usegmt=True)
    assert gateway("GET", "/config", headers={"If-Modified-Since": http_date}).status_code == 304


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.sampled_from(["fleet", "group", "own", "delete", "move", "wait", "fetch"]), max_size=12)
)
def test_a_device_that_fetches_by_date_always_ends_with_what_is_configured(
    mock: Mock, steps: list[str]
) -> None:
    """However fast the changes follow each other: none hides in a second that was served already."""
    number = next(EXAMPLES)
    device = mock.register(f"uuid-h{number}", group="field")
    gateway, own = mock.gateway(device), f"/ota/devices/{device.uuid}/config/"
    held: dict[str, str] = {}
    date: str | None = None

    def fetch() -> None:
        nonlocal held, date
        answer = gateway("GET", "/config", headers={"If-Modified-Since": date} if date else {})
        if answer.status_code == 200:
            held = served(answer)
            date = go_time(email.utils.parsedate_to_datetime(answer.headers["date"]))

    for index, step in enumerate(steps):
        value = f"{number}.{index}"
        if step == "fleet":
            push(mock, FLEET, file(value))
        elif step == "group":
            push(mock, GROUP, file(value, "b"))
        elif step == "own":
            push(mock, f"{own}?factory=acme", file(value, "c"))
        elif step == "delete":
            mock.admin("DELETE", f"{own}c/?factory=acme")
        elif step == "move":
            record = f"/ota/devices/{device.uuid}/?factory=acme"
            group = mock.admin("GET", record).json()["group"]
            mock.admin("PATCH", record, {"group": "" if group else "field"})
        elif step == "wait":
            mock.clock.pass_seconds(1)
        else:
            fetch()
    fetch()
    truth = gateway("GET", "/config")
    assert held == (served(truth) if truth.status_code == 200 else {})


def test_joining_and_leaving_a_group_changes_the_configuration(mock: Mock) -> None:
    device = mock.register()
    gateway = mock.gateway(device)
    push(mock, GROUP, file("1"))
    mock.clock.pass_seconds(10)
    assert gateway("GET", "/config").status_code == 204
    mock.admin("PATCH", RECORD, {"group": "field"})
    joined = gateway("GET", "/config")
    assert served(joined) == {"a": "1"}
    assert joined.headers["date"] == "Sun, 01 Mar 2026 12:00:10 GMT"
    mock.clock.pass_seconds(10)
    mock.admin("PATCH", RECORD, {"group": ""})
    left = gateway(
        "GET",
        "/config",
        headers={"If-Modified-Since": go_time(mock.clock.now - datetime.timedelta(seconds=5))},
    )
    assert served(left) == {}


def test_emptied_is_an_empty_object(mock: Mock) -> None:
    device = mock.register()
    push(mock, OWN, file("1"))
    assert mock.admin("DELETE", "/ota/devices/uuid-1/config/a/?factory=acme").status_code == 204
    answer = mock.gateway(device)("GET", "/config")
    assert (answer.status_code, answer.json()) == (200, {})


def test_applied_at_is_null_until_fetched(mock: Mock) -> None:
    device = mock.register()
    push(mock, OWN, file("1"))
    mock.clock.pass_seconds(30)

    def applied() -> list[str | None]:
        return [entry["applied-at"] for entry in mock.admin("GET", OWN).json()["config"]]

    assert applied() == [None]
    mock.gateway(device)("GET", "/config")
    assert applied() == ["2026-03-01T12:00:30"]
    push(mock, OWN, file("2"))
    assert applied() == [None, "2026-03-01T12:00:30"]


def test_a_fetched_configuration_is_reported_on_the_queue(mock: Mock) -> None:
    device = mock.register()
    push(mock, OWN, file("1"))
    gateway = mock.gateway(device)
    assert queue(mock, "DEVICE_CONFIG_APPLIED") == []
    gateway("GET", "/config")
    expected = [{"Uuid": "uuid-1", "Time": int(START.timestamp())}]
    assert queue(mock, "DEVICE_CONFIG_APPLIED") == expected
    gateway("GET", "/config", headers={"If-Modified-Since": go_time(START)})
    assert queue(mock, "DEVICE_CONFIG_APPLIED") == expected


# --- GET /config-device and PATCH /config ---


def test_own_level_alone(mock: Mock) -> None:
    device = mock.register(group="field")
    gateway = mock.gateway(device)
    push(mock, GROUP, file("group"), file("group", "b"))
    assert gateway("GET", "/config-device").status_code == 204
    push(mock, OWN, file("own"), {"name": "s", "value": "c2Vj"})
    assert gateway("GET", "/config-device").json() == {
        "a": {"Value": "own", "OnChanged": None, "Unencrypted": True},
        "s": {"Value": "c2Vj", "OnChanged": None, "Unencrypted": False},
    }
    mock.admin("POST", OWN, {"reason": "r", "files": []})
    emptied = gateway("GET", "/config-device")
    assert (emptied.status_code, emptied.json()) == (200, {})


@pytest.mark.parametrize("files", [None, [], [file("1")]])
def test_a_device_writes_its_configuration_and_gets_201(mock: Mock, files: Any) -> None:
    """A fresh device sends an empty public key and takes nothing but 201."""
    gateway = mock.gateway(mock.register())
    body = {"reason": "Set initial fioconfig device data", "files": files, "public-key": ""}
    assert gateway("PATCH", "/config", body).status_code == 201
    entry = mock.admin("GET", OWN).json()["config"][0]
    assert entry["reason"] == "Set initial fioconfig device data"
    assert entry["created-by"] == "uuid-1"
    assert [kept["name"] for kept in entry["files"]] == [sent["name"] for sent in files or []]


def test_a_devices_write_merges(mock: Mock) -> None:
    gateway = mock.gateway(mock.register())
    push(mock, OWN, file("1"), file("1", "b"))
    new = {"name": "b", "value": "bmV3", "unencrypted": False, "on-changed": ["/x"]}
    gateway("PATCH", "/config", {"reason": "r", "files": [new], "public-key": ""})
    assert served(gateway("GET", "/config-device")) == {"a": "1", "b": "bmV3"}


# --- Who is let in ---


def test_no_certificate(mock: Mock) -> None:
    for method, path in (("GET", "/config"), ("PATCH", "/config"), ("POST", "/events"), ("GET", "/device")):
        assert mock.gateway(None)(method, path, {}).status_code == 403


def test_an_unknown_device_registers_itself(mock: Mock) -> None:
    device = mock.device("uuid-new")
    assert mock.gateway(device)("GET", "/config").status_code == 204
    record = mock.admin("GET", "/ota/devices/uuid-new/?factory=acme").json()
    assert record["public-key"] == device.public_key
    assert record["owner"] == mock.user_id  # the local CA's CN is fio-<polis-id>
    assert record["is-prod"] is False
    assert record["last-seen"] == "2026-03-01T12:00:00+00:00"


@pytest.mark.parametrize("known", [True, False])
def test_an_unknown_device_is_its_cas_owners(mock: Mock, known: bool) -> None:
    """Of the user in the CA's CN; where that is none of the Factory's, of whoever set it up."""
    reader = mock.reader("GET", f"{FACTORY}/users/self/").json()["polis-id"]
    theirs = mock.pki.with_another_ca(reader if known else "gone")
    bundle = mock.admin("GET", f"{FACTORY}/certs/").json()["ca-crt"]
    mock.admin("PATCH", f"{FACTORY}/certs/", {"ca-crt": bundle + "\n" + certificates.pem(theirs.ca)})
    assert mock.gateway(mock.device("uuid-new", ca=theirs))("GET", "/config").status_code == 204
    owner = mock.admin("GET", "/ota/devices/uuid-new/?factory=acme").json()["owner"]
    assert owner == (reader if known else mock.user_id)


def test_an_unknown_production_device(mock: Mock) -> None:
    category = x509.NameAttribute(NameOID.BUSINESS_CATEGORY, "production")
    subject = x509.Name([category, *certificates.name("uuid-new", "acme")])
    mock.gateway(mock.device("uuid-new", subject=subject))("GET", "/config")
    assert mock.admin("GET", "/ota/devices/uuid-new/?factory=acme").json()["is-prod"] is True


def test_strangers(mock: Mock) -> None:
    """The handshake stops them; the app does not rely on it for a device that it does not know."""
    no_name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "acme")])
    for stranger in (mock.device(ca=Pki.make(owner=mock.user_id, now=START)), mock.device(subject=no_name)):
        assert mock.gateway(stranger)("GET", "/config").status_code == 403
    assert mock.admin("GET", "/ota/devices/?factory=acme").json()["total"] == 0


def test_a_deleted_device_is_refused(mock: Mock) -> None:
    device = mock.register()
    mock.admin("DELETE", RECORD)
    assert mock.gateway(device)("GET", "/config").status_code == 403
    assert mock.admin("GET", RECORD).status_code == 404
    mock.admin("DELETE", f"{FACTORY}/denied-devices/uuid-1/")
    assert mock.gateway(device)("GET", "/config").status_code == 204


def test_last_seen(mock: Mock) -> None:
    device = mock.register()
    for method, path, body in (
        ("GET", "/config", None),
        ("GET", "/device", None),
        ("POST", "/events", []),
    ):
        mock.clock.pass_seconds(60)
        mock.gateway(device)(method, path, body)
        seen = mock.admin("GET", RECORD).json()["last-seen"]
        assert datetime.datetime.fromisoformat(seen) == mock.clock.now


def test_own_record(mock: Mock) -> None:
    device = mock.register(name="pump", group="field")
    record = mock.gateway(device)("GET", "/device").json()
    assert record == mock.admin("GET", "/ota/devices/pump/?factory=acme").json()
    assert record["uuid"] == "uuid-1"


# --- POST /events ---


def event(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": "e1",
        "deviceTime": "2026-03-01T13:00:00+01:00",
        "eventType": {"id": "CertRotationStarted", "version": 0},
        "event": {"correlationId": "certs-1", "success": True, "targetName": "t", "version": "1"},
    }
    detail = changes.pop("event", None)
    made.update(changes)
    if detail is not None:
        made["event"] = made["event"] | detail
    return {key: value for key, value in made.items() if value is not ...}


def stored(mock: Mock, update: str = "certs-1") -> list[dict[str, Any]]:
    answer = mock.admin("GET", f"/ota/devices/uuid-1/updates/{update}/?factory=acme")
    return list(answer.json()) if answer.status_code == 200 else []


def test_retried_events_are_stored_once(mock: Mock) -> None:
    gateway = mock.gateway(mock.register())
    for _ in range(3):
        assert gateway("POST", "/events", [event(), event(), event(id="e2")]).status_code == 200
    assert len(stored(mock)) == 2
    # Ids are the device's: another may have the same.
    other = mock.gateway(mock.register("uuid-2"))
    other("POST", "/events", [event()])
    assert mock.admin("GET", "/ota/devices/uuid-2/updates/?factory=acme").json()["total"] == 1


@pytest.mark.parametrize(
    "bad",
    [
        event(id=...),
        event(id=""),
        event(id=7),
        event(event={"correlationId": ""}),
        event(event={"correlationId": "a b"}),
        event(event={"correlationId": 1}),
        event(event={"correlationId": "ä"}),
        {key: value for key, value in event().items() if key != "event"},
        event(eventType={}),
        event(eventType="CertRotationStarted"),
        "event",
        None,
        [],
    ],
)
def test_a_bad_event_is_skipped_and_not_the_batch(mock: Mock, bad: Any) -> None:
    gateway = mock.gateway(mock.register())
    answer = gateway("POST", "/events", [event(id="before"), bad, event(id="after")])
    assert answer.status_code == 200
    assert len(stored(mock)) == 2
    assert mock.admin("GET", "/ota/devices/uuid-1/updates/?factory=acme").json()["total"] == 1


@pytest.mark.parametrize(
    "time", ["", "yesterday", "2026-03-01T12:00:00", 12, None, ..., "2026-13-01T00:00:00Z"]
)
def test_a_bad_time_is_replaced_by_now(mock: Mock, time: Any) -> None:
    mock.clock.pass_seconds(60)
    mock.gateway(mock.register())("POST", "/events", [event(deviceTime=time)])
    assert [kept["deviceTime"] for kept in stored(mock)] == ["2026-03-01T12:01:00Z"]


def test_a_good_time_is_kept_as_it_is(mock: Mock) -> None:
    mock.gateway(mock.register())("POST", "/events", [event()])
    assert [kept["deviceTime"] for kept in stored(mock)] == ["2026-03-01T13:00:00+01:00"]


@pytest.mark.parametrize("body", [b"", b"[", b"{}", b'"x"', b"\xff", b"[" * 100_000])
def test_what_is_not_a_list_is_400(mock: Mock, body: bytes) -> None:
    assert mock.gateway(mock.register())("POST", "/events", content=body).status_code == 400


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/events"), ("PATCH", "/config"), ("PATCH", "/device")]
)
def test_a_body_has_a_limit(mock: Mock, method: str, path: str) -> None:
    answer = mock.gateway(mock.register())(method, path, content=b" " * (BODY_LIMIT + 1))
    assert answer.status_code == 413


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    call=st.sampled_from(
        [("PATCH", "/config"), ("PATCH", "/device"), ("POST", "/events"), ("GET", "/config")]
    ),
    body=st.one_of(
        st.binary(max_size=200), BODIES.map(lambda body: json.dumps(body).encode("utf-8", "replace"))
    ),
    since=st.one_of(st.none(), st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)),
)
def test_whatever_a_device_sends_is_answered(
    mock: Mock, call: tuple[str, str], body: bytes, since: str | None
) -> None:
    device = mock.register(f"uuid-x{next(EXAMPLES)}")
    headers = {"If-Modified-Since": since} if since else {}
    answer = mock.gateway(device)(*call, content=body, headers=headers)
    assert answer.status_code in (200, 201, 204, 304, 400, 413)
    assert len(answer.headers.get_list("date")) == 1
    assert mock.gateway(device)("GET", "/config").status_code in (200, 204)
    assert mock.admin("GET", f"/ota/devices/{device.uuid}/updates/?factory=acme").status_code == 200


def test_unknown_paths(mock: Mock) -> None:
    gateway = mock.gateway(mock.register())
    assert gateway("GET", "/nope").status_code == 404
    assert gateway("GET", "/config/").status_code == 404
    assert gateway("POST", "/config", {}).status_code == 405
