"""A rotation that was cut off or failed, and what the device does at its next start."""

import asyncio
import datetime
import shutil
import signal
import sys

import pytest

from fioctl_rotate import ecies
from fioctl_rotate.device.device import StartOutcome
from fioctl_rotate.device.new_device import Kind
from fioctl_rotate.device.renew_cert import RotationFailed
from fioctl_rotate.rotation.progress import STEPS
from tests.device.bench import ALL_WELL, certificate, private_key, state


def test_killed_between_upload_and_save_the_configuration_is_not_uploaded_again(bench, cut_off):
    gateway = bench.gateway

    async def scenario():
        device = bench.device()
        secret = ecies.encrypt(private_key(device).public_key(), "s3cret")
        gateway.device_config = {"own": {"Value": secret, "OnChanged": None, "Unencrypted": False}}
        gateway.push("certs-1")
        assert await cut_off(device, gateway, 9, "after")
        assert state(device)["DeviceConfigUpdated"] is False
        assert await device.check_in() is StartOutcome.ROTATED
        (upload,) = gateway.uploads
        assert ecies.decrypt(private_key(device), upload["files"][0]["value"]) == "s3cret"

    bench.run(scenario)


def test_a_token_that_lost_the_new_key_fails_the_step(bench):
    async def scenario():
        device = bench.device(kind=Kind(slots=True), fail=STEPS[1])
        bench.gateway.push("certs-1")
        with pytest.raises(RotationFailed):
            await device.check_in()
        device.fail = None
        (device.directory / "token/pkey-07.pem").unlink()
        assert state(device)["NewKey"] == "07"
        with pytest.raises(RotationFailed, match="no key in slot 07"):
            await device.check_in()

    bench.run(scenario)


def test_a_wrong_est_url_wedges_a_device(bench):
    gateway = bench.gateway
    wrong = "https://localhost:1/.well-known/est"

    async def scenario():
        device = bench.device()
        gateway.push("certs-1", wrong)
        with pytest.raises(RotationFailed, match=STEPS[0]):
            await device.check_in()
        assert bench.slept == [], "the EST request is not retried"
        gateway.push("certs-2")
        for _ in range(3):
            with pytest.raises(RotationFailed, match="localhost:1"):
                await device.check_in()
        return device

    device = bench.run(scenario)
    assert gateway.paths().count("GET /config") == 1, "the corrected push is never fetched"
    assert (state(device)["RotationId"], state(device)["StepIdx"], state(device)["EstServer"]) == (
        "certs-1",
        0,
        wrong,
    )
    assert gateway.posted() == [*ALL_WELL[:1], (STEPS[0], False), ("CertRotationCompleted", True)] * 4
    assert not (device.directory / "config.encrypted").exists(), "exit 123 comes before the config is stored"


def test_est_down_then_up(bench):
    gateway = bench.gateway
    gateway.est_up = False

    async def scenario():
        device = bench.device()
        gateway.push("certs-1")
        with pytest.raises(RotationFailed, match="503"):
            await device.check_in()
        gateway.est_up = True
        assert await device.check_in() is StartOutcome.ROTATED
        assert await device.check_in() is StartOutcome.CHANGED

    bench.run(scenario)
    assert gateway.posted()[-6:] == ALL_WELL
    failed = next(event["event"] for event in gateway.events if not event["event"]["success"])
    assert "503" in failed["details"]
    assert "down" in failed["details"]


def test_a_gateway_that_answers_500_for_a_while(bench):
    gateway = bench.gateway

    async def scenario():
        device = bench.device()
        gateway.push("certs-1")
        gateway.statuses = [0, 500, 502, 0, 0, 500]
        assert await device.check_in() is StartOutcome.ROTATED

    bench.run(scenario)
    assert gateway.posted() == ALL_WELL
    assert bench.slept == [1, 2, 1]


@pytest.mark.parametrize("index", range(5))
def test_a_step_that_fails_and_is_resumed(bench, index):
    gateway = bench.gateway

    async def scenario():
        device = bench.device(fail=STEPS[index])
        gateway.push("certs-1")
        with pytest.raises(RotationFailed, match=STEPS[index]):
            await device.check_in()
        assert state(device)["StepIdx"] == index
        device.fail = None
        assert await device.check_in() is StartOutcome.ROTATED
        assert await device.check_in() is StartOutcome.CHANGED

    bench.run(scenario)
    done = ALL_WELL[: index + 1]
    assert gateway.posted() == [
        *done,
        (STEPS[index], False),
        ("CertRotationCompleted", True),
        ALL_WELL[0],
        *ALL_WELL[index + 1 :],
    ]


@pytest.mark.parametrize(("when", "slots"), [("before", False), ("after", False), ("after", True)])
def test_killed_at_any_request_a_device_finishes_at_its_next_start(bench, cut_off, slots, when):
    """kill -9 when a request has come, or has been answered but the answer not seen."""
    gateway = bench.gateway
    gateway.device_config = {"own": {"Value": "x", "OnChanged": None, "Unencrypted": True}}

    async def scenario():
        killed = []
        for number in range(1, 13):
            device = bench.device(f"uuid-{number}", Kind(slots=slots))
            gateway.push(f"certs-{number}")
            if await cut_off(device, gateway, number, when):
                killed.append(number)
            if number == LOST:
                assert await device.check_in() is StartOutcome.CHANGED
                gateway.push("certs-again")
            while await device.check_in() is not StartOutcome.CHANGED:
                pass
            assert state(device, ".completed")["RotationId"] == (
                "certs-again" if number == LOST else f"certs-{number}"
            )
            assert not (device.directory / "cert-rotation.state").exists()
            assert device.uuid == f"uuid-{number}"
        return killed

    # The third request is the EST server's, which only has a moment before its answer.
    assert bench.run(scenario) == [n for n in range(1, 12) if (n, when) != (3, "after")]


# At its CertRotationStarted a device has written the entry, but not yet a state. Killed there, it finds the entry
# unchanged at its next check-in and does not rotate: fioconfig loses a rotation in this moment too.
LOST = 2


def test_a_steps_event_goes_out_before_the_step_is_saved(bench, cut_off):
    gateway = bench.gateway

    async def scenario():
        device = bench.device()
        gateway.push("certs-1")
        assert await cut_off(device, gateway, 4, "after")
        assert gateway.posted() == ALL_WELL[:2]
        assert (state(device)["StepIdx"], state(device)["NewKey"]) == (0, "")
        assert await device.check_in() is StartOutcome.ROTATED

    bench.run(scenario)
    assert gateway.posted() == [*ALL_WELL[:2], *ALL_WELL], "so a step can be posted twice"


def test_killed_with_kill_9_a_device_finishes_at_its_next_start(bench):
    """The same with a process and SIGKILL, where no code of the device gets to run any more."""
    gateway = bench.gateway
    gateway.device_config = {"own": {"Value": "x", "OnChanged": None, "Unencrypted": True}}
    program = (
        "import asyncio, pathlib, sys; from fioctl_rotate.device.device import Device;"
        "asyncio.run(Device(pathlib.Path(sys.argv[1])).check_in())"
    )

    async def scenario():
        for number in (3, 5, 9, 11):
            device = bench.device(f"uuid-{number}")
            gateway.push(f"certs-{number}")
            started = len(gateway.requests)
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, device.directory)

            async def reached(count, moment, process=process, last=started + number):
                if count == last and moment == "before":
                    process.kill()
                    await process.wait()

            gateway.reached = reached
            assert await process.wait() == -signal.SIGKILL
            gateway.reached = None
            assert state(device)["RotationId"] == f"certs-{number}"
            while await device.check_in() is not StartOutcome.CHANGED:
                pass
            assert state(device, ".completed")["RotationId"] == f"certs-{number}"

    bench.run(scenario)


def test_early_at_boot_only_a_finalize_under_way_is_finished(bench):
    gateway = bench.gateway

    async def scenario():
        device = bench.device(fail=STEPS[4])
        old = certificate(device)
        gateway.change({"a": {"Value": "1", "OnChanged": None, "Unencrypted": True}})
        await device.check_in()
        gateway.push("certs-1")
        with pytest.raises(RotationFailed):
            await device.check_in()
        asked = len(gateway.requests)
        (device.directory / "secrets/a").unlink()
        await device.extract()
        assert len(gateway.requests) == asked, "offline"
        assert certificate(device) != old
        assert state(device)["Finalized"] is True
        assert (device.directory / "secrets/a").read_text() == "1"
        device.fail = None
        assert await device.check_in() is StartOutcome.ROTATED

        other = bench.device("uuid-2", fail=STEPS[1])
        old = certificate(other)
        with pytest.raises(RotationFailed):
            await other.check_in()
        await other.extract()
        assert certificate(other) == old
        assert state(other)["StepIdx"] == 1

    bench.run(scenario)


def test_a_reboot_after_a_second_rotation_does_the_first_one_again(bench):
    """As the real one: Finalize stores the configuration from before the push, with a time that hides the push.

    LmP keeps the secrets in memory, so the entry of the first rotation comes back at boot, and counts as new.
    """
    gateway = bench.gateway

    async def scenario():
        device = bench.device()
        for rotation_id in ("certs-1", "certs-2"):
            gateway.config = {"fio-rotate-certs": gateway.entry(rotation_id)}
            gateway.changed += datetime.timedelta(seconds=1)
            assert await device.check_in() is StartOutcome.ROTATED
            await device.check_in()
        assert state(device, ".completed")["RotationId"] == "certs-2"
        shutil.rmtree(device.directory / "secrets")
        await device.extract()
        assert state(device, ".completed")["RotationId"] == "certs-1"

        # Any change after the rotation is stored together with the right entry.
        other = bench.device("uuid-2")
        await other.check_in()
        await other.check_in()
        gateway.push("certs-3")
        assert await other.check_in() is StartOutcome.ROTATED
        gateway.change({**gateway.config, "touch": {"Value": "1", "OnChanged": None, "Unencrypted": True}})
        assert await other.check_in() is StartOutcome.CHANGED
        shutil.rmtree(other.directory / "secrets")
        await other.extract()
        assert state(other, ".completed")["RotationId"] == "certs-3"

    bench.run(scenario)


@pytest.mark.parametrize(
    "text", ['{"RotationId":"certs-7"', "", '{"RotationId":7}'], ids=["cut short", "empty", "wrong type"]
)
def test_a_broken_state_file_is_taken_as_an_empty_one(bench, text):
    async def scenario():
        device = bench.device()
        (device.directory / "cert-rotation.state").write_text(text)
        with pytest.raises(RotationFailed, match=STEPS[0]):
            await device.check_in()

    bench.run(scenario)
    assert bench.gateway.paths()[0] == "POST /events"


def test_what_fioconfig_left_is_resumed(bench):
    """A state as Go writes it: null for a list that was never set, `<>&` escaped."""
    gateway = bench.gateway

    async def scenario():
        device = bench.device()
        (device.directory / "cert-rotation.state").write_text(
            '{"RotationId":"a\\u0026b","StepIdx":0,"EstServer":"' + gateway.est_url + '","PkeySlotIds":null,'
            '"CertSlotIds":null,"NewKey":"","NewCert":"","FullConfigEncrypted":"","DeviceConfigUpdated":false,'
            '"Finalized":false}'
        )
        assert await device.check_in() is StartOutcome.ROTATED
        return device

    device = bench.run(scenario)
    assert gateway.events[0]["event"]["correlationId"] == "a&b"
    assert '"RotationId":"a\\u0026b"' in (device.directory / "cert-rotation.state.completed").read_text()
