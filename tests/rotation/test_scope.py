"""A scope: how people, commands, plans and the API name the place of a configuration."""

import pytest

from fioctl_rotate.rotation import commands
from fioctl_rotate.rotation.scope import Scope

FLEET, FIELD = Scope.fleet(), Scope.of_group("a b")
PUMP = Scope.of_device("pump", "uuid-1")


@pytest.mark.parametrize(
    ("scope", "text", "options", "filters", "log"),
    [
        (FLEET, "the whole fleet", "", {}, "fioctl-rotate config log"),
        (FIELD, "group a b", "-g 'a b'", {"group": "a b"}, "fioctl-rotate config log -g 'a b'"),
        (PUMP, "device pump", "--device pump", {"uuid": "uuid-1"}, "fioctl-rotate device config log pump"),
    ],
)  # fmt: skip
def test_each_is_named_in_its_way(
    scope: Scope, text: str, options: str, filters: dict[str, str], log: str
) -> None:
    assert (str(scope), scope.option_text, scope.device_filters) == (text, options, filters)
    assert commands.config_log(scope, ["-f", "acme"]) == f"{log} -n 1 -f acme"


@pytest.mark.parametrize("scope", [FIELD, PUMP, Scope.of_device("pump")], ids=str)
def test_a_document_gives_it_back(scope: Scope) -> None:
    assert Scope.from_document(scope.document()) == scope


def test_who_is_one_of_its_devices() -> None:
    assert FIELD.includes("a b")
    assert not FIELD.includes("lab")
    assert not FIELD.includes(None)
    assert FLEET.includes(None)
    assert PUMP.includes("anything")
    assert [scope.shared for scope in (FLEET, FIELD, PUMP)] == [True, True, False]
