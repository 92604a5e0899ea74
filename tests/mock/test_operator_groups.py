"""The operator API's device groups."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.mock.mocked import FACTORY, Mock

GROUPS = f"{FACTORY}/device-groups/"


def test_a_group_as_it_is_shown(mock: Mock) -> None:
    mock.clock.pass_seconds(60)
    made = mock.admin("POST", GROUPS, {"name": "lab", "description": "tests"})
    assert made.status_code == 201
    group = made.json()
    assert isinstance(group.pop("id"), int)
    assert group == {
        "name": "lab",
        "description": "tests",
        "change-meta": {
            "created-by": mock.user_id,
            "created-at": "2026-03-01T12:01:00",
            "updated-by": None,
            "updated-at": None,
        },
    }
    listed = mock.admin("GET", GROUPS).json()
    assert [group["name"] for group in listed["groups"]] == ["field", "lab"]


def test_a_name_is_taken_once(mock: Mock) -> None:
    assert mock.admin("POST", GROUPS, {"name": "field"}).status_code == 409
    mock.admin("POST", GROUPS, {"name": "lab"})
    assert mock.admin("PATCH", GROUPS + "lab/", {"name": "field"}).status_code == 409
    assert len(mock.admin("GET", GROUPS).json()["groups"]) == 2


def test_rename_and_describe(mock: Mock) -> None:
    old = mock.admin("GET", GROUPS).json()["groups"][0]
    mock.clock.pass_seconds(60)
    named = mock.admin("PATCH", GROUPS + "field/", {"name": "far field"}).json()
    described = mock.admin("PATCH", GROUPS + "far field/", {"description": "out there"}).json()
    assert (described["id"], described["name"], described["description"]) == (
        old["id"],
        "far field",
        "out there",
    )
    assert named["change-meta"]["updated-at"] == "2026-03-01T12:01:00"
    assert named["change-meta"]["created-at"] == old["change-meta"]["created-at"]


def test_a_renamed_group_keeps_its_configuration(mock: Mock) -> None:
    mock.admin("PATCH", GROUPS + "field/config/", {"reason": "r", "files": [{"name": "a"}]})
    mock.admin("PATCH", GROUPS + "field/", {"name": "meadow"})
    assert mock.admin("GET", GROUPS + "meadow/config/").json()["total"] == 1


def test_a_group_with_devices_is_not_deleted(mock: Mock) -> None:
    mock.register(name="pump", group="field")
    assert mock.admin("DELETE", GROUPS + "field/").status_code == 409
    mock.admin("PATCH", "/ota/devices/pump/?factory=acme", {"group": ""})
    assert mock.admin("DELETE", GROUPS + "field/").status_code == 204
    assert mock.admin("GET", GROUPS).json() == {"groups": []}


def test_a_new_group_has_no_old_configuration(mock: Mock) -> None:
    mock.admin("PATCH", GROUPS + "field/config/", {"reason": "r", "files": [{"name": "a"}]})
    mock.admin("DELETE", GROUPS + "field/")
    mock.admin("POST", GROUPS, {"name": "field"})
    assert mock.admin("GET", GROUPS + "field/config/").json()["total"] == 0
    with mock.store.reading() as db:
        assert db.execute("SELECT count(*) FROM config").fetchone()[0] == 0


def test_unknown_group(mock: Mock) -> None:
    assert mock.admin("PATCH", GROUPS + "nope/", {"name": "x"}).status_code == 404
    assert mock.admin("DELETE", GROUPS + "nope/").status_code == 404


@pytest.mark.parametrize("name", ["a.", "...", "a b", "%2e", "ä", "-x", "x" * 255])
def test_a_name_that_is_taken_can_be_used_afterwards(mock: Mock, name: str) -> None:
    assert mock.admin("POST", GROUPS, {"name": name}).status_code == 201
    path = f"{GROUPS}{quote(name)}/"
    assert mock.admin("PATCH", path, {"description": "d"}).status_code == 200
    assert mock.admin("GET", f"{path}config/").status_code == 200
    assert mock.admin("DELETE", path).status_code == 204


@pytest.mark.parametrize(
    "body",
    [{}, *({"name": name} for name in ("", ".", "..", "a/b", "a\nb", "x" * 256, None))],
)
def test_a_name_that_is_not_valid(mock: Mock, body: Any) -> None:
    answer = mock.admin("POST", GROUPS, body)
    assert answer.status_code == 400
    assert answer.json()["errors"]
