"""A device changes its key: announced, locked, taken, and the old one denied."""

import pytest

from tests.mock.mocked import (
    FACTORY,
    GROUP,
    OWN,
    RECORD,
    START,
    DeviceKey,
    Mock,
    file,
    go_time,
    push,
    queue,
    served,
)


def announce(mock: Mock, device: DeviceKey, key: str) -> int:
    return mock.gateway(device)("PATCH", "/device", {"next_pubkey": key}).status_code


def test_a_key_change(mock: Mock) -> None:
    old = mock.register(group="field")
    new, third = mock.device(), mock.device()
    assert mock.gateway(new)("GET", "/device").status_code == 403
    assert announce(mock, old, third.public_key) == 200
    assert announce(mock, old, new.public_key) == 200  # announced again, with another key
    assert mock.gateway(third)("GET", "/device").status_code == 403
    assert mock.admin("GET", RECORD).json()["public-key"] == old.public_key
    assert mock.gateway(old)("GET", "/device").status_code == 200  # not replaced before it comes

    mock.clock.pass_seconds(60)
    assert mock.gateway(new)("GET", "/config").status_code == 204
    assert mock.admin("GET", RECORD).json()["public-key"] == new.public_key
    assert mock.gateway(old)("GET", "/device").status_code == 403
    assert mock.gateway(new)("GET", "/device").status_code == 200
    group_id = mock.admin("GET", f"{FACTORY}/device-groups/").json()["groups"][0]["id"]
    assert queue(mock, "DEVICE_PUBKEY_CHANGE") == [
        {
            "Uuid": "uuid-1",
            "DeviceGroupId": group_id,
            "Time": int(START.timestamp()) + 60,
            "NewPubKey": new.public_key,
            "OldPubKey": old.public_key,
        }
    ]


def test_a_refused_request_does_not_undo_the_key_change(mock: Mock) -> None:
    old, new = mock.register(), mock.device()
    announce(mock, old, new.public_key)
    assert mock.gateway(new)("POST", "/events", {"not": "a list"}).status_code == 400
    assert mock.admin("GET", RECORD).json()["public-key"] == new.public_key
    assert mock.gateway(old)("GET", "/device").status_code == 403


def test_the_configuration_is_locked_while_a_key_is_announced(mock: Mock) -> None:
    old, new = mock.register(group="field"), mock.device()
    push(mock, OWN, file("1"))
    announce(mock, old, new.public_key)
    body = {"reason": "r", "files": [file("2")]}
    for method in ("PATCH", "POST"):
        refused = mock.admin(method, OWN, body)
        assert refused.status_code == 409
        assert "uuid-1" in refused.json()["msg"]
    assert mock.admin("DELETE", "/ota/devices/uuid-1/config/a/?factory=acme").status_code == 409
    push(mock, GROUP, file("2", "g"))  # its group's is not
    written = mock.gateway(old)("PATCH", "/config", body | {"public-key": new.public_key})
    assert written.status_code == 201
    assert served(mock.gateway(old)("GET", "/config-device")) == {"a": "2"}
    mock.gateway(new)("GET", "/config")
    push(mock, OWN, file("3"))
    assert served(mock.gateway(new)("GET", "/config-device")) == {"a": "3"}


def test_the_lock_is_for_its_own_configuration_alone(mock: Mock) -> None:
    """Groups and membership stay free, so a rollout can go on beside a device that is changing its key."""
    old, new = mock.register(group="field"), mock.device()
    other = mock.register("uuid-2")
    announce(mock, old, new.public_key)
    push(mock, GROUP, file("group"))
    push(mock, f"{FACTORY}/config/", file("fleet", "f"))
    push(mock, "/ota/devices/uuid-2/config/?factory=acme", file("own"))
    for group in ("", "field"):
        assert mock.admin("PATCH", RECORD, {"group": group}).status_code == 200
    assert served(mock.gateway(old)("GET", "/config")) == {"a": "group", "f": "fleet"}
    assert served(mock.gateway(other)("GET", "/config")) == {"a": "own", "f": "fleet"}
    assert mock.admin("GET", OWN).json()["config"] == []


def test_the_lock_holds_through_a_new_announcement_until_that_key_connects(mock: Mock) -> None:
    old, first, second = mock.register(), mock.device(), mock.device()
    announce(mock, old, first.public_key)
    announce(mock, old, second.public_key)
    assert mock.gateway(first)("GET", "/config").status_code == 403
    assert mock.admin("PATCH", OWN, {"reason": "r", "files": []}).status_code == 409
    assert mock.gateway(old)("GET", "/config").status_code == 204  # the old key does not end it either
    assert mock.admin("PATCH", OWN, {"reason": "r", "files": []}).status_code == 409
    assert mock.gateway(second)("GET", "/config").status_code == 204
    assert mock.admin("PATCH", OWN, {"reason": "r", "files": []}).status_code == 201


def test_what_the_device_writes_under_the_lock_has_its_uuid_as_author(mock: Mock) -> None:
    old, new = mock.register(), mock.device()
    push(mock, OWN, file("1"))
    announce(mock, old, new.public_key)
    body = {
        "reason": "Rotating device client certificate",
        "files": [file("2")],
        "public-key": new.public_key,
    }
    assert mock.gateway(old)("PATCH", "/config", body).status_code == 201
    newest, before = mock.admin("GET", OWN).json()["config"]
    assert (newest["created-by"], newest["reason"]) == ("uuid-1", "Rotating device client certificate")
    assert before["created-by"] == mock.user_id
    assert newest["applied-at"] is None


def test_an_own_entry_is_applied_exactly_when_the_device_fetched_it(mock: Mock) -> None:
    device = mock.register(group="field")
    gateway = mock.gateway(device)

    def applied() -> list[bool]:
        return [entry["applied-at"] is not None for entry in mock.admin("GET", OWN).json()["config"]]

    push(mock, OWN, file("1"))
    assert gateway("GET", "/config-device").status_code == 200
    assert applied() == [False]
    mock.clock.pass_seconds(5)
    push(mock, OWN, file("2"))  # the first one was never fetched
    ahead = go_time(mock.clock.now.replace(year=2030))
    assert gateway("GET", "/config", headers={"If-Modified-Since": ahead}).status_code == 304
    assert applied() == [False, False]
    assert gateway("GET", "/config").status_code == 200
    assert applied() == [True, False]
    push(mock, GROUP, file("group"))
    mock.clock.pass_seconds(5)
    assert gateway("GET", "/config").status_code == 200
    assert applied() == [True, False]
    push(mock, OWN, file("3"))
    assert applied() == [False, True, False]


def test_a_change_in_the_second_of_the_stored_date_is_missed_until_the_next(mock: Mock) -> None:
    """After Finalize a device asks with its own time: a change of that second is answered 304 for good."""
    device = mock.register(group="field")
    gateway = mock.gateway(device)
    mock.clock.pass_seconds(30)
    push(mock, GROUP, file("1"))
    asked = {"If-Modified-Since": go_time(mock.clock.now)}
    mock.clock.pass_seconds(600)
    assert gateway("GET", "/config", headers=asked).status_code == 304
    push(mock, GROUP, file("2"))
    assert served(gateway("GET", "/config", headers=asked)) == {"a": "2"}


def test_an_old_certificate_stays_denied(mock: Mock) -> None:
    old, new = mock.register(), mock.device()
    announce(mock, old, new.public_key)
    mock.gateway(new)("GET", "/device")
    assert announce(mock, new, old.public_key) == 400
    # Not even a device that was deleted and allowed again comes back with it.
    mock.admin("DELETE", RECORD)
    mock.admin("DELETE", f"{FACTORY}/denied-devices/uuid-1/")
    assert mock.gateway(old)("GET", "/device").status_code == 403
    assert mock.admin("PUT", "/ota/devices/", {"client.pem": old.pem}).status_code == 409
    assert mock.gateway(new)("GET", "/device").status_code == 200


@pytest.mark.parametrize("body", [{}, {"next_pubkey": ""}, {"next_pubkey": "x"}, {"next-pubkey": "x"}])
def test_an_announcement_that_is_not_valid(mock: Mock, body: dict[str, str]) -> None:
    device = mock.register()
    assert mock.gateway(device)("PATCH", "/device", body).status_code == 400
    push(mock, OWN, file("not locked"))


def test_announcing_the_present_key_changes_nothing(mock: Mock) -> None:
    device = mock.register()
    assert announce(mock, device, device.public_key) == 400
    push(mock, OWN, file("not locked"))
