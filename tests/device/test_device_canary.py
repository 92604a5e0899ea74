"""A device rotates by an entry of its own, and its group takes over. The real fioconfig ended each of these so."""

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.device.device import Device, StartOutcome
from fioctl_rotate.device.handler import completed_id
from fioctl_rotate.mock.mock_server import Ports, Serving
from fioctl_rotate.mock.new_factory import Addresses
from fioctl_rotate.ops import mock
from fioctl_rotate.rotation.entry import FILE_NAME, HANDLER
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.wire import Config, ConfigFile, ConfigRequest
from tests.later import later, operator


class Canary:
    """A device with a group, an operator, and their clock, which goes on by a minute at each change.

    `rotated` has the ROTATIONID of each rotation that the device has completed, in order.
    """

    def __init__(self, directory: Path, est_url: str) -> None:
        self.directory = directory
        self.rotated: list[str | None] = []
        self._est_url = est_url
        self._minutes = 0
        path = next((directory / "devices").glob("*-*"))
        self.device = Device(path, clock=self._now)
        self.own, self.group = Scope.of_device("device-1", path.name), Scope.of_group("field")

    def _now(self) -> datetime.datetime:
        return later(self._minutes)()

    async def push(self, scope: Scope, rotation_id: str) -> None:
        value = f"ESTSERVER={self._est_url}\nPKEYIDS=01,07\nCERTIDS=03,09\nROTATIONID={rotation_id}\n"
        file = ConfigFile(name=FILE_NAME, value=value, unencrypted=True, on_changed=[HANDLER])
        await self._change(lambda api: api.config(scope).merge(ConfigRequest(reason="x", files=[file])))

    async def delete(self, scope: Scope) -> None:
        await self._change(lambda api: api.config(scope).delete(FILE_NAME))

    async def own_log(self) -> list[Config]:
        async with operator(self.directory, later(self._minutes)) as api:
            return await api.config(self.own).log()

    async def _change(self, change: Callable[[FactoryApi], Awaitable[object]]) -> None:
        # Neither in the second of the last Finalize, nor in that of the next: it would be missed.
        self._minutes += 1
        async with operator(self.directory, later(self._minutes)) as api:
            await change(api)
        self._minutes += 1

    async def check_in(self) -> StartOutcome:
        return await self._until_up(await self.device.check_in())

    async def reboot(self) -> StartOutcome:
        await self._until_up(await self.device.reboot())
        return await self.check_in()

    async def _until_up(self, outcome: StartOutcome) -> StartOutcome:
        """After a rotation fioconfig starts anew and checks in."""
        while outcome is StartOutcome.ROTATED:
            self.rotated.append(completed_id(self.device.directory))
            outcome = await self.device.check_in()
        return outcome


def play(directory: Path, scene: Callable[[Canary], Awaitable[None]]) -> Canary:
    async def main() -> Canary:
        await mock.init(directory, "acme", addresses=Addresses(0, 0, 0), group="field", devices=1)
        async with mock.serve(directory, serving=Serving(ports=Ports(0, 0, 0))) as factory:
            canary = Canary(directory, f"https://localhost:{factory.est_port}/.well-known/est")
            await scene(canary)
            return canary

    return asyncio.run(main())


@pytest.mark.parametrize("reboots", [True, False])
@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("older", [True, False])
def test_the_groups_entry_takes_over(tmp_path: Path, older: bool, settled: bool, reboots: bool) -> None:
    """An own entry, the same in the group, the own one deleted: one rotation, unless an older entry comes back.

    Where the device still stores an older rotation's entry, which settling cures, a reboot makes it rotate by that.
    """

    async def scene(canary: Canary) -> None:
        if older:
            await canary.push(canary.group, "certs-0")
            await canary.check_in()
            await canary.push(canary.group, "certs-0")
            assert await canary.check_in() is StartOutcome.CHANGED
        await canary.push(canary.own, "certs-1")
        await canary.check_in()
        if settled:
            await canary.push(canary.own, "certs-1")
            assert await canary.check_in() is StartOutcome.CHANGED
        if reboots:
            await canary.reboot()
        for change in (canary.push(canary.group, "certs-1"), canary.delete(canary.own)):
            await change
            await canary.check_in()
        if reboots:
            await canary.reboot()

    rotated = play(tmp_path / "mock", scene).rotated
    if older and reboots and not settled:
        assert rotated[:3] == ["certs-0", "certs-1", "certs-0"]
    else:
        assert rotated == (["certs-0"] if older else []) + ["certs-1"]


def test_an_own_entry_deleted_above_another_id_makes_the_device_rotate_by_that(tmp_path: Path) -> None:
    async def scene(canary: Canary) -> None:
        for scope, rotation_id in ((canary.own, "certs-1"), (canary.group, "certs-2")):
            await canary.push(scope, rotation_id)
            await canary.check_in()
        assert canary.rotated == ["certs-1"]
        await canary.delete(canary.own)
        await canary.check_in()

    assert play(tmp_path / "mock", scene).rotated == ["certs-1", "certs-2"]


def test_in_step_4_the_device_writes_its_own_entry_again(tmp_path: Path) -> None:
    """So the newest entry in its log is by the device itself, with the operator's value."""

    async def scene(canary: Canary) -> None:
        await canary.push(canary.own, "certs-1")
        await canary.check_in()
        again, pushed = await canary.own_log()
        assert again.reason == "Rotating device client certificate"
        assert again.created_by == canary.own.uuid
        assert again.files == pushed.files

    play(tmp_path / "mock", scene)


@pytest.mark.parametrize("cleared", [True, False])
def test_a_reboot_right_after_the_last_step_brings_back_what_was_stored(
    tmp_path: Path, cleared: bool
) -> None:
    """Even before it has connected with its new key; harmless once it stored that the older entry is gone."""

    async def scene(canary: Canary) -> None:
        await canary.push(canary.group, "certs-0")
        await canary.check_in()
        await canary.push(canary.group, "certs-0")
        await canary.check_in()
        if cleared:
            await canary.delete(canary.group)
            await canary.check_in()
        await canary.push(canary.own, "certs-1")
        await canary.device.check_in()
        canary.rotated.append(completed_id(canary.device.directory))
        await canary.reboot()

    again = [] if cleared else ["certs-0"]
    assert play(tmp_path / "mock", scene).rotated == ["certs-0", "certs-1", *again]
