"""The operator API's configuration, on each of its three levels."""

from dataclasses import dataclass
from typing import Any

import pytest

from tests.mock.mocked import FACTORY, Mock


@dataclass
class Level:
    """One of the places where configuration lives."""

    path: str
    query: str
    device: bool = False

    def url(self, file: str = "") -> str:
        return f"{self.path}/config/{file}{self.query}"


LEVELS = {
    "factory": Level(FACTORY, ""),
    "group": Level(f"{FACTORY}/device-groups/field", ""),
    "device by name": Level("/ota/devices/pump", "?factory=acme", device=True),
    "device by uuid": Level("/ota/devices/uuid-1", "?factory=acme&by-uuid=1", device=True),
}


@pytest.fixture(params=list(LEVELS))
def level(request: pytest.FixtureRequest, mock: Mock) -> Level:
    mock.register(name="pump")
    return LEVELS[request.param]


def send(mock: Mock, method: str, level: Level, files: dict[str, str], reason: str = "because") -> Any:
    body = {
        "reason": reason,
        "files": [{"name": name, "value": value, "unencrypted": True} for name, value in files.items()],
    }
    answer = mock.admin(method, level.url(), body)
    assert answer.status_code == 201, answer.text
    return answer


def log(mock: Mock, level: Level) -> list[dict[str, Any]]:
    answer = mock.admin("GET", level.url())
    assert answer.status_code == 200
    return list(answer.json()["config"])


def values(entry: dict[str, Any]) -> dict[str, str]:
    return {file["name"]: file["value"] for file in entry["files"]}


def test_nothing_yet(mock: Mock, level: Level) -> None:
    assert mock.admin("GET", level.url()).json() == {"config": [], "total": 0, "next": None}


def test_an_entry_as_it_is_shown(mock: Mock, level: Level) -> None:
    file = {"name": "a", "value": "1\n", "unencrypted": True, "on-changed": ["/bin/true", "x"]}
    mock.admin("PATCH", level.url(), {"reason": "first", "files": [file]})
    shown = mock.admin("GET", level.url()).json()
    entry: dict[str, Any] = {
        "created-at": "2026-03-01T12:00:00",
        "created-by": mock.user_id,
        "reason": "first",
        "files": [file],
    }
    if level.device:
        entry["applied-at"] = None
    assert shown == {"config": [entry], "total": 1, "next": None}


def test_patch_merges_by_name_and_post_replaces(mock: Mock, level: Level) -> None:
    send(mock, "PATCH", level, {"a": "1", "b": "1"})
    send(mock, "PATCH", level, {"b": "2", "dir/c": "2"})
    assert values(log(mock, level)[0]) == {"a": "1", "b": "2", "dir/c": "2"}
    send(mock, "POST", level, {"d": "3"})
    assert values(log(mock, level)[0]) == {"d": "3"}
    assert [len(entry["files"]) for entry in log(mock, level)] == [1, 3, 2]


def test_newest_first_and_ten_are_kept(mock: Mock, level: Level) -> None:
    for number in range(12):
        send(mock, "PATCH", level, {"a": str(number)}, reason=f"change {number}")
        mock.clock.pass_seconds(1)
    shown = mock.admin("GET", level.url()).json()
    assert shown["total"] == 10
    assert [entry["reason"] for entry in shown["config"]] == [f"change {n}" for n in range(11, 1, -1)]


def test_a_page_past_the_end_is_empty(mock: Mock, level: Level) -> None:
    for number in range(10):
        send(mock, "PATCH", level, {"a": str(number)})
    joined = level.url() + ("&" if level.query else "?") + "limit=10"
    assert mock.admin("GET", joined).json()["next"] is None
    past = mock.admin("GET", joined + "&page=2").json()
    assert (past["config"], past["total"], past["next"]) == ([], 10, None)


def test_delete_a_file(mock: Mock, level: Level) -> None:
    send(mock, "PATCH", level, {"a": "1", "dir/b": "1"})
    assert mock.admin("DELETE", level.url("dir/b/")).status_code == 204
    assert values(log(mock, level)[0]) == {"a": "1"}
    assert mock.admin("DELETE", level.url("a/")).status_code == 204
    assert values(log(mock, level)[0]) == {}
    assert len(log(mock, level)) == 3
    assert mock.admin("DELETE", level.url("a/")).status_code == 404


def test_one_mebibyte_is_the_limit(mock: Mock, level: Level) -> None:
    send(mock, "PATCH", level, {"half": "x" * (1 << 19)})
    body = {"reason": "too much", "files": [{"name": "more", "value": "x" * (1 << 19)}]}
    refused = mock.admin("PATCH", level.url(), body)
    assert refused.status_code == 413
    assert refused.json()["msg"]
    assert list(values(log(mock, level)[0])) == ["half"]
    assert mock.admin("POST", level.url(), body).status_code == 201


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../up", "a//b", "a/", "a\nb"])
def test_a_file_name_that_is_not_valid(mock: Mock, level: Level, name: str) -> None:
    answer = mock.admin("PATCH", level.url(), {"reason": "r", "files": [{"name": name, "value": ""}]})
    assert answer.status_code == 400
    assert list(answer.json()["errors"]) == [name]


def test_a_file_given_twice(mock: Mock, level: Level) -> None:
    answer = mock.admin("PATCH", level.url(), {"reason": "r", "files": [{"name": "a"}, {"name": "a"}]})
    assert answer.status_code == 400
    assert answer.json()["errors"] == {"a": "given twice"}
    assert log(mock, level) == []


def test_force_is_taken(mock: Mock, level: Level) -> None:
    joined = level.url() + ("&" if level.query else "?") + "force="
    assert mock.admin("PATCH", joined + "1", {"reason": "r", "files": []}).status_code == 201
    assert mock.admin("PATCH", joined + "x", {"reason": "r", "files": []}).status_code == 400


def test_levels_are_apart(mock: Mock, level: Level) -> None:
    send(mock, "PATCH", level, {"a": "1"})
    others = [
        other
        for name, other in LEVELS.items()
        if other.path != level.path and not (other.device and level.device)
    ]
    for other in others:
        assert log(mock, other) == []


def test_unknown_group_or_device(mock: Mock) -> None:
    for path in (f"{FACTORY}/device-groups/nope/config/", "/ota/devices/nope/config/?factory=acme"):
        assert mock.admin("GET", path).status_code == 404
        assert mock.admin("PATCH", path, {"reason": "r", "files": []}).status_code == 404
