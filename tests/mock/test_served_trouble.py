"""A served mock in trouble: a second server, keys that are gone, a locked state, EST faults. Over real TLS."""

import asyncio
import contextlib
import datetime
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest

from fioctl_rotate import files, tls
from fioctl_rotate.device.device import Device, StartOutcome
from fioctl_rotate.device.renew_cert import RotationFailed
from fioctl_rotate.errors import Error, Refused
from fioctl_rotate.mock import new_factory
from fioctl_rotate.mock.mock_server import Ports, Serving
from fioctl_rotate.mock.store import database
from fioctl_rotate.mock.store.accounts import FactoryRecord
from fioctl_rotate.ops import mock as ops
from fioctl_rotate.ops.mock import Addresses, EstFault
from fioctl_rotate.rotation.progress import STEPS

ANY = Ports(0, 0, 0)
GROUP = "/ota/factories/acme/device-groups/field/config/"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A Factory ready to rotate, with one device."""
    asyncio.run(ops.init(tmp_path / "mock", "acme", addresses=Addresses(0, 0, 0), group="field", devices=1))
    return tmp_path / "mock"


def device_path(directory: Path) -> Path:
    (path,) = (directory / "devices").iterdir()
    return path


def operator(directory: Path, factory: FactoryRecord) -> httpx.AsyncClient:
    token = new_factory.token_file(directory, factory.name).read_text()
    return httpx.AsyncClient(
        base_url=factory.api_url, headers={"OSF-TOKEN": token}, trust_env=False, timeout=120
    )


async def push(directory: Path, factory: FactoryRecord) -> None:
    value = f"ESTSERVER=https://localhost:{factory.est_port}/.well-known/est\nPKEYIDS=01,07\nCERTIDS=03,09\n"
    file = {
        "name": "fio-rotate-certs",
        "value": f"{value}ROTATIONID=certs-1\n",
        "unencrypted": True,
        "on-changed": ["/usr/share/fioconfig/handlers/renew-client-cert"],
    }
    async with operator(directory, factory) as api:
        assert (await api.patch(GROUP, json={"reason": "r", "files": [file]})).status_code == 201


def test_a_second_server_is_refused_and_the_first_goes_on(directory: Path) -> None:
    async def work() -> None:
        async with ops.serve(directory, serving=Serving(ports=ANY)) as first:
            with pytest.raises(Refused, match="is already served"):
                async with ops.serve(directory, serving=Serving(ports=ANY)):
                    pass
            assert str(first.api_port) in (directory / "fioctl.yaml").read_text()
            async with operator(directory, first) as api:
                assert (await api.get("/ota/factories/")).status_code == 200
        async with ops.serve(directory, serving=Serving(ports=ANY)):
            pass

    asyncio.run(work())


@pytest.mark.parametrize("kind", ["tls", "est-tls", "ca"])
def test_a_key_that_is_gone_is_reported_at_the_start(directory: Path, kind: str) -> None:
    (key,) = (directory / "keys" / "acme").glob(f"{kind}-*.key")
    key.unlink()

    async def work() -> None:
        async with ops.serve(directory, serving=Serving(ports=ANY)):
            pass

    with pytest.raises(Error, match=str(key)):
        asyncio.run(work())


def test_a_key_that_is_deleted_while_it_runs_is_reported_once_and_the_old_one_serves(directory: Path) -> None:
    told: list[str] = []

    async def work() -> None:
        async with ops.serve(directory, serving=Serving(ports=ANY, complain=told.append)) as factory:
            (key,) = (directory / "keys" / "acme").glob("tls-*.key")
            key.unlink()
            async with operator(directory, factory) as api:
                # Nothing new, but the servers look at their keys again.
                root = (directory / "pki" / "factory_ca.pem").read_text()
                assert (await api.patch("/ota/factories/acme/certs/", json={"root-crt": root})).is_success
            device = Device(device_path(directory))
            assert await device.check_in() is StartOutcome.UNCHANGED
            assert await device.check_in() is StartOutcome.UNCHANGED
            assert [str(key) in text for text in told] == [True]

    asyncio.run(work())


def test_a_clock_before_the_certificates_is_reported_once(directory: Path) -> None:
    told: list[str] = []
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=400)

    async def work() -> None:
        async with ops.serve(directory, serving=Serving(ports=ANY, clock=lambda: past, complain=told.append)):
            pass

    asyncio.run(work())
    assert [text.split(" certificate is valid from ")[0] for text in told] == [
        "the mock's tls",
        "the mock's est-tls",
        "the mock's ca",
    ]


@pytest.mark.parametrize("door", ["operator API", "gateway"])
def test_a_state_that_cannot_be_used_is_503_and_reported_once(
    directory: Path, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    told: list[str] = []
    path = device_path(directory)
    root = (directory / "pki" / "factory_ca.pem").read_text()
    context = tls.client_context(root, cert=path / "client.pem", key=path / "pkey.pem")
    monkeypatch.setattr(database, "PATIENCE", 0.05)

    async def work() -> None:
        async with (
            ops.serve(directory, serving=Serving(ports=ANY, complain=told.append)) as factory,
            operator(directory, factory) as api,
            httpx.AsyncClient(
                base_url=factory.gateway_url, verify=context, trust_env=False, timeout=120
            ) as device,
        ):

            async def ask() -> httpx.Response:
                if door == "gateway":
                    return await device.get("/config-device")
                return await api.patch(GROUP, json={"reason": "r", "files": []})

            with contextlib.closing(sqlite3.connect(directory / "mock.db", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                for _ in range(3):
                    answer = await ask()
                    assert (answer.status_code, "database is locked" in answer.json()["msg"]) == (503, True)
            assert (await ask()).is_success

    asyncio.run(work())
    assert told == [f"the mock's state {directory / 'mock.db'} cannot be used: database is locked"]


async def rotated(directory: Path, fault: EstFault | None) -> tuple[Any, list[str | None]]:
    """What a device's check-in after a push ends in, and what it reports of its first step."""
    events: list[tuple[str, str | None]] = []
    async with ops.serve(directory, serving=Serving(ports=ANY, est_fault=fault)) as factory:
        await push(directory, factory)
        device = Device(
            device_path(directory), observe=lambda _uuid, event, error: events.append((event, error))
        )
        try:
            outcome: Any = await device.check_in()
        except RotationFailed as error:
            outcome = error
        return outcome, [error for event, error in events if event == STEPS[0]]


@pytest.mark.parametrize(("fault", "message"), [("stop", "refuses connections"), ("404", "404")])
def test_an_est_fault_stops_a_device_at_its_first_step_until_it_is_over(
    directory: Path, fault: EstFault, message: str
) -> None:
    outcome, (error,) = asyncio.run(rotated(directory, fault))
    assert isinstance(outcome, RotationFailed)
    assert message in (error or "")

    async def over() -> Any:
        # The device is wedged: it resumes against the URL that it had, so the port is the same as before.
        async with ops.serve(directory):
            return await Device(device_path(directory)).check_in()

    assert asyncio.run(over()) is StartOutcome.ROTATED


def test_rfc7030_rotates_new_devices_and_fails_old_ones(directory: Path) -> None:
    new = device_path(directory)
    made = asyncio.run(
        ops.add_devices(
            directory, None, group="field", devices=1, kinds=lambda _number: ops.Kind(strict_est=True)
        )
    )
    (old,) = made.devices

    async def work() -> None:
        async with ops.serve(directory, serving=Serving(ports=ANY, rfc7030=True)) as factory:
            await push(directory, factory)
            assert await Device(new).check_in() is StartOutcome.ROTATED
            with pytest.raises(RotationFailed, match="200"):
                await Device(directory / "devices" / old).check_in()

    asyncio.run(work())


def test_a_foreign_ca_lets_a_device_rotate_and_never_come_back(directory: Path) -> None:
    outcome, (error,) = asyncio.run(rotated(directory, "foreign-ca"))
    assert (outcome, error) == (StartOutcome.ROTATED, None)
    path = device_path(directory)
    refused: list[tuple[str, str, str]] = []

    async def comes_back() -> None:
        async def no_sleep(_seconds: float) -> None:
            return None

        async with ops.serve(
            directory, serving=Serving(refused=lambda *told: refused.append(told))
        ) as factory:
            with pytest.raises(Error):
                await Device(path, sleep=no_sleep).check_in()
            async with operator(directory, factory) as api:
                record = (await api.get(f"/ota/devices/{path.name}/?factory=acme&by-uuid=1")).json()
                config = f"/ota/devices/{path.name}/config/?factory=acme&by-uuid=1"
                locked = await api.patch(config, json={"reason": "r", "files": []})
            client = next(path.glob("client.*.pem"))
            assert record["public-key"] not in files.read_text(client)
            assert locked.status_code == 409

    asyncio.run(comes_back())
    assert {server for server, _, _ in refused} == {"gateway"}
    assert all("certificate" in reason for _, _, reason in refused)
