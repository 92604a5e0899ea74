"""The operator API: who may do what, and how it refuses."""

import base64
import datetime
from typing import Any

import pytest

from fioctl_rotate.mock import new_factory
from fioctl_rotate.mock.operator import OPERATIONS, operator_app
from tests.mock.mocked import FACTORY, START, Http, Mock

BODIES: dict[Any, Any] = {"PATCH": {}, "POST": {}, "PUT": {}}


def anonymous(mock: Mock, **headers: str) -> Http:
    return Http(operator_app(mock.store, authenticate=True, clock=mock.clock), headers)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: f"{o.method} {o.path}")
def test_every_call_needs_a_token_and_a_writer_for_changes(mock: Mock, operation: Any) -> None:
    path = (
        operation.path.replace("{factory}", "acme")
        .replace("{group}", "field")
        .replace("{file:path}", "file")
        .replace("{device}", "uuid-1")
        .replace("{update}", "certs-1")
        .replace("{user}", "self")
        .replace("{uuid}", "uuid-1")
    )
    body = {"name": "x", "client.pem": "x"} if operation.takes else None
    answer = anonymous(mock)(operation.method, path, body)
    assert answer.status_code == (200 if operation.public else 401)
    if operation.writes and operation.method != "PUT":
        assert mock.reader(operation.method, path, body).status_code == 403


def test_registering_needs_a_writer(mock: Mock) -> None:
    device = mock.device()
    assert mock.reader("PUT", "/ota/devices/", {"client.pem": device.pem}).status_code == 403


def test_reader_reads(mock: Mock) -> None:
    assert mock.reader("GET", f"{FACTORY}/device-groups/").status_code == 200
    me = mock.reader("GET", f"{FACTORY}/users/self/").json()
    assert me["role"] == "readonly"
    assert "devices:read" in me["effective-scopes"]
    assert "devices:read-update" not in me["effective-scopes"]


@pytest.mark.parametrize("token", ["nobody", ""])
def test_unknown_token(mock: Mock, token: str) -> None:
    answer = anonymous(mock, **{"OSF-TOKEN": token})("GET", "/ota/factories/")
    assert answer.status_code == 401
    assert answer.json()["msg"]


def test_bearer_carries_the_token_in_base64(mock: Mock) -> None:
    token = new_factory.token_file(mock.directory, "acme").read_bytes()
    good = {"Authorization": "Bearer " + base64.b64encode(token).decode()}
    assert anonymous(mock, **good)("GET", f"{FACTORY}/certs/").status_code == 200
    for wrong in (token.decode(), "!", base64.b64encode(b"\xff").decode()):
        refused = anonymous(mock, Authorization=f"Bearer {wrong}")("GET", f"{FACTORY}/certs/")
        assert refused.status_code == 401
    basic = {"Authorization": "Basic " + base64.b64encode(token).decode()}
    assert anonymous(mock, **basic)("GET", f"{FACTORY}/certs/").status_code == 401


def test_both_headers_are_taken_together(mock: Mock) -> None:
    token = new_factory.token_file(mock.directory, "acme").read_text()
    for first, second in ((token, "stale"), ("stale", token)):
        both = {"OSF-TOKEN": first, "Authorization": "Bearer " + base64.b64encode(second.encode()).decode()}
        assert anonymous(mock, **both)("GET", "/ota/factories/").status_code == 200


def test_without_authentication_everybody_is_the_administrator(mock: Mock) -> None:
    app = operator_app(mock.store, authenticate=False, clock=mock.clock)
    assert Http(app)("POST", f"{FACTORY}/device-groups/", {"name": "lab"}).json()["change-meta"] == {
        "created-by": mock.user_id,
        "created-at": "2026-03-01T12:00:00",
        "updated-by": None,
        "updated-at": None,
    }


def test_factories_are_kept_apart(mock: Mock) -> None:
    new_factory.create(mock.directory, "other", now=START)
    other = anonymous(mock, **{"OSF-TOKEN": new_factory.token_file(mock.directory, "other").read_text()})
    mock.register(name="pump")
    assert [factory["name"] for factory in mock.admin("GET", "/ota/factories/").json()] == ["acme"]
    assert [factory["name"] for factory in other("GET", "/ota/factories/").json()] == ["other"]
    assert all(factory["reposerver-id"] for factory in other("GET", "/ota/factories/").json())
    assert other("GET", f"{FACTORY}/device-groups/").status_code == 404
    assert other("GET", "/ota/devices/pump/?factory=acme").status_code == 404
    assert other("GET", "/ota/devices/pump/?factory=other").status_code == 404
    assert other("GET", "/ota/devices/").json()["devices"] == []
    # The same group name is another group there.
    assert other("POST", "/ota/factories/other/device-groups/", {"name": "field"}).status_code == 201
    both = Http(operator_app(mock.store, authenticate=False, clock=mock.clock))
    assert [factory["name"] for factory in both("GET", "/ota/factories/").json()] == ["acme", "other"]
    assert both("GET", "/ota/devices/pump/").status_code == 400


def test_unknown_factory_path_and_method(mock: Mock) -> None:
    assert mock.admin("GET", "/ota/factories/nope/certs/").status_code == 404
    missing = mock.admin("GET", "/ota/nope/")
    assert (missing.status_code, missing.json()) == (404, {"msg": "this mock has no GET /ota/nope/"})
    # The API's paths end with a slash; nothing is redirected.
    assert mock.admin("GET", f"{FACTORY}/certs").status_code == 404
    wrong = mock.admin("PUT", f"{FACTORY}/certs/")
    assert wrong.status_code == 405
    assert wrong.json()["msg"] == f"this mock has no PUT {FACTORY}/certs/, only {wrong.headers['allow']}"


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"files": [{"name": "a", "value": 1}]}, "files[0].value", "str"),
        ({"files": [{"value": "x"}]}, "files[0]", "`name`"),
        ({"files": [{"name": "a", "on_changed": ["x"]}]}, "files[0]", "`on_changed`"),
        ({"reason": "r", "file": []}, "body", "`file`"),
        ([], "body", "array"),
    ],
)
def test_a_body_that_is_not_right_is_refused_field_by_field(
    mock: Mock, body: Any, field: str, message: str
) -> None:
    answer = mock.admin("PATCH", f"{FACTORY}/config/", body)
    assert answer.status_code == 400
    assert answer.json()["message"]
    ((named, told),) = answer.json()["errors"].items()
    assert named == field
    assert message in told


def test_a_body_that_is_not_json_is_refused_with_a_list_of_errors(mock: Mock) -> None:
    answer = mock.admin("PATCH", f"{FACTORY}/config/", content=b'{"reason": ')
    assert answer.status_code == 400
    assert answer.json()["msg"] == "the body is not JSON"
    assert isinstance(answer.json()["errors"], list)


def test_a_huge_body_is_not_read(mock: Mock) -> None:
    answer = mock.admin("PATCH", f"{FACTORY}/config/", content=b" " * (3 << 20))
    assert answer.status_code == 413


def test_users(mock: Mock) -> None:
    users = mock.admin("GET", f"{FACTORY}/users/").json()
    assert [sorted(user) for user in users] == [["name", "polis-id", "role"]] * 2
    assert users[0] == {"polis-id": mock.user_id, "name": "Mock Admin", "role": "admin"}
    me = mock.admin("GET", f"{FACTORY}/users/self/").json()
    assert me == mock.admin("GET", f"{FACTORY}/users/{mock.user_id}/").json()
    assert sorted(me) == ["effective-scopes", "name", "polis-id", "role", "teams-ext"]
    assert mock.admin("GET", f"{FACTORY}/users/nobody/").status_code == 404


def test_default_online_ca_is_public(mock: Mock) -> None:
    answer = anonymous(mock)("GET", "/ota/default-online-ca.pem")
    assert answer.status_code == 200
    assert answer.text.startswith("-----BEGIN CERTIFICATE-----\n")
    assert answer.text == anonymous(mock)("GET", "/ota/default-online-ca.pem").text


def test_times_are_the_clocks(mock: Mock) -> None:
    mock.clock.now = datetime.datetime(2030, 1, 2, 3, 4, 5, 678_000, tzinfo=datetime.UTC)
    group = mock.admin("POST", f"{FACTORY}/device-groups/", {"name": "late"}).json()
    assert group["change-meta"]["created-at"] == "2030-01-02T03:04:05"


def test_a_state_that_is_not_usable_is_answered_with_503(mock: Mock) -> None:
    """Clients try again after it."""
    device = mock.register()
    with mock.store.transaction() as db:
        db.execute("ALTER TABLE device RENAME TO gone")
    for answer in (mock.admin("GET", "/ota/devices/"), mock.gateway(device)("GET", "/config")):
        assert answer.status_code == 503
        assert "no such table" in answer.json()["msg"]
