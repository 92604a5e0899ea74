"""A device's check-in, seen by a gateway (the facts: CONTRIBUTING, "The device")."""

import asyncio
import json

import pytest

from fioctl_rotate import ecies
from fioctl_rotate.device.device import Device, StartOutcome
from fioctl_rotate.device.new_device import Kind
from fioctl_rotate.errors import Error
from fioctl_rotate.pki.certificates import pem
from fioctl_rotate.pki.parsing import load_private_key
from tests.making import Pki


def plain(value):
    return {"Value": value, "OnChanged": None, "Unencrypted": True}


def for_device(bench, value):
    key = load_private_key((bench.directory / "uuid-1/pkey.pem").read_bytes(), name="pkey.pem")
    return {"Value": ecies.encrypt(key.public_key(), value), "OnChanged": None, "Unencrypted": False}


def secrets(bench):
    base = bench.directory / "uuid-1/secrets"
    return {str(path.relative_to(base)): path.read_text() for path in base.rglob("*") if path.is_file()}


def test_check_ins_write_what_changed_and_ask_with_the_stored_time(bench):
    gateway = bench.gateway

    async def scenario():
        device = bench.device()
        assert await device.check_in() is StartOutcome.UNCHANGED  # 204: never configured
        gateway.config = {"a": plain("1"), "dir/b": plain("2")}
        assert await device.check_in() is StartOutcome.CHANGED
        assert secrets(bench) == {"a": "1", "dir/b": "2"}
        assert await device.check_in() is StartOutcome.UNCHANGED
        gateway.change({"a": plain("3")})
        assert await device.check_in() is StartOutcome.CHANGED
        assert secrets(bench) == {"a": "3"}
        assert not (bench.directory / "uuid-1/secrets/dir").exists()
        gateway.change({})
        assert await device.check_in() is StartOutcome.CHANGED
        assert secrets(bench) == {}

    bench.run(scenario)
    asked = [request.headers.get("if-modified-since") for request in gateway.requests]
    assert asked[:2] == [None, None]
    assert asked[2].endswith(" UTC"), "Go's RFC 1123 says UTC, not GMT"
    assert asked[2] == asked[3]


def test_the_stored_configuration_is_what_came_with_the_gateways_time(bench):
    async def scenario():
        device = bench.device()
        bench.gateway.config = {"a": for_device(bench, "secret")}
        await device.check_in()

    bench.run(scenario)
    stored = bench.directory / "uuid-1/config.encrypted"
    assert json.loads(stored.read_text()) == bench.gateway.config
    assert stored.stat().st_mtime == bench.gateway.changed.timestamp()
    assert stored.stat().st_mode & 0o777 == 0o640
    assert secrets(bench) == {"a": "secret"}


def test_a_value_for_another_key_fails_the_whole_check_in(bench):
    async def scenario():
        device = bench.device()
        bench.gateway.config = {"a": plain("1"), "b": {**plain("in clear"), "Unencrypted": False}}
        with pytest.raises(Error, match=r"b: .*decrypted"):
            await device.check_in()

    bench.run(scenario)
    assert secrets(bench) == {}
    assert not (bench.directory / "uuid-1/config.encrypted").exists()


@pytest.mark.parametrize("name", ["../escaped", "a/../../escaped", "/escaped", "."])
def test_a_file_name_cannot_lead_out_of_the_secrets(bench, name):
    async def scenario():
        device = bench.device()
        bench.gateway.config = {name: plain("1")}
        with pytest.raises(Error, match="leads out"):
            await device.check_in()

    bench.run(scenario)


def test_each_request_has_a_connection_of_its_own(bench):
    async def scenario():
        device = bench.device()
        for _ in range(3):
            await device.check_in()

    bench.run(scenario)
    clients = [request.scope["client"] for request in bench.gateway.requests]
    assert len(set(clients)) == 3
    assert all(request.headers["connection"] == "close" for request in bench.gateway.requests)


def test_server_errors_are_retried_with_growing_pauses(bench):
    async def scenario():
        device = bench.device()
        bench.gateway.statuses = [500, 503, 0]
        assert await device.check_in() is StartOutcome.UNCHANGED
        assert bench.slept == [1, 2]
        bench.slept.clear()
        bench.gateway.statuses = [500] * 6
        with pytest.raises(Error, match="500"):
            await device.check_in()

    bench.run(scenario)
    assert bench.slept == [1, 2, 5, 13, 30]


def test_refusals_are_not_retried(bench):
    async def scenario():
        device = bench.device()
        bench.gateway.statuses = [403]
        with pytest.raises(Error, match="403"):
            await device.check_in()

    bench.run(scenario)
    assert bench.slept == []


def test_a_gateway_that_is_down_is_retried_too(bench):
    async def make():
        return bench.device()

    device = bench.run(make)
    with pytest.raises(Error, match="GET https://localhost"):
        asyncio.run(device.check_in())
    assert bench.slept == [1, 2, 5, 13, 30]


@pytest.mark.parametrize(("lmp", "agent"), [(96, "fioconfig-client/2"), (97, "fioconfig-client/3")])
def test_the_user_agent_names_the_lmp_release(bench, lmp, agent):
    async def scenario():
        await bench.device(kind=Kind(lmp=lmp)).check_in()

    bench.run(scenario)
    assert bench.gateway.requests[0].headers["user-agent"] == agent


def test_only_the_roots_of_sota_toml_are_trusted(bench):
    other = Pki.make()

    async def scenario():
        device = bench.device()
        (device.directory / "root.crt").write_text(pem(other.root))
        with pytest.raises(Error, match="unable to get local issuer certificate"):
            await device.check_in()

    bench.run(scenario)
    assert bench.gateway.requests == []


def test_a_directory_that_is_not_a_device_is_named(tmp_path):
    with pytest.raises(Error, match=r"sota\.toml: No such file"):
        asyncio.run(Device(tmp_path).check_in())
