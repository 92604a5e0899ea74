"""`rotations settle`: what it sends, and what it keeps a device from."""

import asyncio
import shutil
import sys
import time
from pathlib import Path

import pytest

from fioctl_rotate.device.device import Device, StartOutcome
from fioctl_rotate.mock.mock_server import Ports, Serving
from fioctl_rotate.mock.new_factory import Addresses
from fioctl_rotate.ops import mock
from fioctl_rotate.ops.push import plan_push, settle
from fioctl_rotate.ops.push import push as push_plan
from fioctl_rotate.rotation.plan import RotationRequest
from fioctl_rotate.rotation.scope import Scope
from tests.commandline import Cli
from tests.later import later, operator

PLACE = ("-f", "acme", "--mock")


@pytest.fixture
def place(tmp_path: Path, cli: Cli) -> Path:
    directory = tmp_path / "mock"
    made = cli(
        "mock", "init", directory, "--factory", "acme", "--group", "field", "--devices", 1, "--est-port", 0
    )
    assert made.code == 0
    return directory


def push(cli: Cli, place: Path, rotation_id: str, *options: object, port: int = 8443) -> None:
    argv = ("config", "rotate-certs", "-g", "field", "-r", "x", "--server-name", "localhost", "-p", port)
    done = cli(*argv, "--rotation-id", rotation_id, "--no-checks", *options, *PLACE, place)
    assert done.code == 0, done.err


def test_the_entry_is_sent_again_as_it_is_and_stays_one_rotation(cli: Cli, place: Path) -> None:
    push(cli, place, "certs-1")
    before = cli("config", "log", "-g", "field", "--format", "json", *PLACE, place).json["config"]
    done = cli("rotations", "settle", "certs-1", "-g", "field", "--allow", "not-done", *PLACE, place)
    assert (done.code, done.out) == (
        0,
        f"settled rotation certs-1 of group field in factory acme at mock {place}\n",
    )
    after = cli("config", "log", "-g", "field", "--format", "json", *PLACE, place).json["config"]
    assert len(after) == len(before) + 1
    assert after[0]["files"] == before[0]["files"]
    assert after[0]["reason"] == "settle rotation certs-1"
    known = cli("rotations", "list", "-g", "field", "--format", "json", *PLACE, place).json["rotations"]
    assert [rotation["id"] for rotation in known] == ["certs-1"]


def test_a_device_with_an_entry_of_its_own_is_settled_alone(cli: Cli, place: Path) -> None:
    argv = (
        "device",
        "config",
        "rotate-certs",
        "device-1",
        "-r",
        "x",
        "--rotation-id",
        "certs-9",
        "--no-checks",
    )
    assert cli(*argv, *PLACE, place).code == 0
    assert (
        cli(
            "rotations", "settle", "certs-9", "--device", "device-1", "--allow", "not-done", *PLACE, place
        ).code
        == 0
    )
    log = cli("device", "config", "log", "device-1", "--format", "json", *PLACE, place).json["config"]
    assert log[0]["files"] == log[1]["files"]
    assert cli("config", "log", "-g", "field", "--format", "json", *PLACE, place).json["config"] == []


@pytest.mark.parametrize("target", [("-g", "field"), ("--device", "device-1")])
def test_a_rotation_that_is_not_there_is_refused_and_nothing_sent(
    cli: Cli, place: Path, target: tuple[str, str]
) -> None:
    push(cli, place, "certs-1")
    push(cli, place, "certs-2")
    done = cli("rotations", "settle", "certs-1", *target, *PLACE, place)
    assert done.code == 5
    log = cli("config", "log", "-g", "field", "--format", "json", *PLACE, place).json["config"]
    assert [config["reason"] for config in log] == ["x", "x"]


@pytest.mark.parametrize("settled", [True, False])
def test_a_settled_device_does_not_rotate_back_at_its_next_boot(tmp_path: Path, settled: bool) -> None:
    """As seen on the real fioconfig: the secrets are gone at boot, and come back from what is stored."""
    directory = tmp_path / "mock"

    async def scenario() -> str:
        await mock.init(directory, "acme", addresses=Addresses(0, 0, 0), group="field", devices=1)
        async with mock.serve(directory, serving=Serving(ports=Ports(0, 0, 0))) as factory:
            # Finalize comes well after the push, by the device's clock, which dates what it stores.
            device = Device(next((directory / "devices").iterdir()), clock=later(1))
            for rotation_id in ("certs-1", "certs-2"):
                wish = RotationRequest("x", port=factory.est_port, rotation_id=rotation_id)
                async with operator(directory, later(0)) as api:
                    plan, _ = await plan_push(api, Scope.of_group("field"), wish, unix_seconds=0)
                    await push_plan(api, plan, tell=print)
                assert await device.check_in() is StartOutcome.ROTATED
                await device.check_in()
            if settled:
                async with operator(directory, later(2)) as api:
                    await settle(api, plan.scope, "certs-2")
            assert await device.check_in() is (StartOutcome.CHANGED if settled else StartOutcome.UNCHANGED)
            shutil.rmtree(device.directory / "secrets")
            await device.extract()
        return (directory / "devices" / device.uuid / "cert-rotation.state.completed").read_text()

    assert f'"RotationId":"certs-{2 if settled else 1}"' in asyncio.run(scenario())


def test_a_device_that_took_its_last_step_in_this_second_is_settled_too(tmp_path: Path) -> None:
    """What a device stores at its last step is as old as that step, in whole seconds: it misses older changes."""
    directory = tmp_path / "mock"

    async def types(*words: object) -> None:
        command = (sys.executable, "-m", "fioctl_rotate", *map(str, words), *PLACE, str(directory))
        running = await asyncio.create_subprocess_exec(*command)
        assert await running.wait() == 0

    async def scenario() -> StartOutcome:
        await mock.init(directory, "acme", addresses=Addresses(0, 0, 0), group="field", devices=1)
        async with mock.serve(directory, serving=Serving(ports=Ports(0, 0, 0))) as factory:
            device = Device(next((directory / "devices").iterdir()))
            wish = ("-r", "x", "-p", factory.est_port, "--rotation-id", "certs-1", "--no-checks")
            await types("config", "set", "-g", "field", "-r", "x", "motd=hello")
            assert (
                await device.check_in() is StartOutcome.CHANGED
            )  # a device that stores nothing misses nothing
            await types("config", "rotate-certs", "-g", "field", *wish)
            await types("rotations", "show", "certs-1", "-g", "field")  # from now on its old key is known
            await asyncio.sleep(1 - time.time() % 1)  # so that a second begins
            assert await device.check_in() is StartOutcome.ROTATED
            await device.check_in()
            await types("rotations", "settle", "certs-1", "-g", "field")
            return await device.check_in()

    assert asyncio.run(scenario()) is StartOutcome.CHANGED
