"""A device's rotation, seen by gateway and EST server (the facts: CONTRIBUTING, "The device")."""

import asyncio
import datetime
import json
import shutil
import signal
import sys
import tomllib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from starlette.responses import Response

from fioctl_rotate.device import ecies
from fioctl_rotate.device.device import Outcome
from fioctl_rotate.device.new_device import Kind
from fioctl_rotate.device.renew_cert import RotationFailed
from fioctl_rotate.errors import Error
from fioctl_rotate.pki.keys import public_key_pem
from fioctl_rotate.pki.subject import raw_subject
from fioctl_rotate.rotation.progress import STEPS

ALL_WELL = [("CertRotationStarted", True), *((step, True) for step in STEPS)]


def sota(device):
    return tomllib.loads((device.directory / "sota.toml").read_text())


def certificate(device):
    return x509.load_pem_x509_certificate(Path(sota(device)["import"]["tls_clientcert_path"]).read_bytes())


def private_key(device):
    return load_pem_private_key(Path(sota(device)["import"]["tls_pkey_path"]).read_bytes(), None)


def state(device, suffix=""):
    return json.loads((device.directory / f"cert-rotation.state{suffix}").read_text())


def test_a_rotation_from_push_to_the_first_check_in_with_the_new_certificate(bench):
    gateway = bench.gateway

    async def scenario():
        device = bench.device()
        old = certificate(device)
        gateway.push("certs-1")
        assert await device.check_in() is Outcome.ROTATED
        assert await device.check_in() is Outcome.CHANGED
        assert await device.check_in() is Outcome.UNCHANGED
        return device, old

    device, old = bench.run(scenario)
    new = certificate(device)
    assert raw_subject(new) == raw_subject(old)
    assert new.public_key() != old.public_key()
    assert gateway.announced == [public_key_pem(new.public_key())]
    assert gateway.told() == ALL_WELL
    assert {event["event"]["correlationId"] for event in gateway.events} == {"certs-1"}
    assert len({event["id"] for event in gateway.events}) == len(gateway.events)
    assert all("details" not in event["event"] for event in gateway.events)
    assert gateway.paths() == [
        "GET /config",
        "POST /events",
        "POST /.well-known/est/simplereenroll",
        "POST /events",
        "PATCH /device",
        "POST /events",
        "POST /events",
        "GET /config-device",
        "POST /events",
        "POST /events",
        "GET /config",
        "GET /config",
    ]
    # Everything went out over the old certificate; the new one first connects at the next start.
    assert gateway.keys == [f"{old.serial_number:x}"] * 10 + [f"{new.serial_number:x}"] * 2


def test_the_state_file_is_fioconfigs(bench):
    async def scenario():
        device = bench.device()
        bench.gateway.push("certs-1", other={"Value": "<&>", "OnChanged": None, "Unencrypted": True})
        await device.check_in()
        return device

    device = bench.run(scenario)
    path = device.directory / "cert-rotation.state.completed"
    assert path.stat().st_mode & 0o777 == 0o640
    assert not (device.directory / "cert-rotation.state").exists()
    completed = state(device, ".completed")
    assert list(completed) == [
        "RotationId",
        "StepIdx",
        "EstServer",
        "PkeySlotIds",
        "CertSlotIds",
        "NewKey",
        "NewCert",
        "FullConfigEncrypted",
        "DeviceConfigUpdated",
        "Finalized",
    ]
    assert path.read_text().startswith(
        f'{{"RotationId":"certs-1","StepIdx":5,"EstServer":"{bench.gateway.est_url}",'
        '"PkeySlotIds":["01","07"],"CertSlotIds":["03","09"],"NewKey":"-----BEGIN EC PRIVATE KEY-----\\n'
    )
    assert completed["NewCert"].startswith("-----BEGIN CERTIFICATE-----\n")
    assert (completed["DeviceConfigUpdated"], completed["Finalized"]) == (True, True)


def test_new_files_have_new_names_and_modes(bench):
    async def scenario():
        device = bench.device()
        bench.gateway.push("certs-1")
        await device.check_in()
        return device

    device = bench.run(scenario)
    for pattern in ("pkey.*.pem", "client.*.pem"):
        (path,) = (path for path in device.directory.glob(pattern))
        assert path.stat().st_mode & 0o777 == 0o600
    assert (device.directory / "sota.toml").stat().st_mode & 0o777 == 0o640
    assert private_key(device).public_key() == certificate(device).public_key()


def test_values_are_encrypted_anew_on_the_device_and_on_the_gateway(bench):
    gateway = bench.gateway

    async def scenario():
        device = bench.device()
        old = private_key(device)
        secret = {
            "Value": ecies.encrypt(old.public_key(), "s3cret"),
            "OnChanged": ["/bin/x"],
            "Unencrypted": False,
        }
        clear = {"Value": "<clear>", "OnChanged": None, "Unencrypted": True}
        gateway.change({"secret": secret, "clear": clear})
        gateway.device_config = {"secret": secret}
        await device.check_in()
        gateway.push("certs-1")
        assert await device.check_in() is Outcome.ROTATED
        return device, old

    device, old = bench.run(scenario)
    new = private_key(device)
    text = (device.directory / "config.encrypted").read_text()
    assert text.startswith(
        '{"clear":{"Value":"\\u003cclear\\u003e","OnChanged":null,"Unencrypted":true},"secret":'
    )
    stored = json.loads(text)
    assert ecies.decrypt(new, stored["secret"]["Value"]) == "s3cret"
    with pytest.raises(Error, match="decrypted"):
        ecies.decrypt(old, stored["secret"]["Value"])
    (upload,) = gateway.uploads
    assert upload["reason"] == "Rotating device client certificate"
    assert upload["public-key"] == public_key_pem(new.public_key())
    (file,) = upload["files"]
    assert (file["name"], file["unencrypted"], file["on-changed"]) == ("secret", False, ["/bin/x"])
    assert ecies.decrypt(new, file["value"]) == "s3cret"


def test_a_change_made_during_a_rotation_is_missed_until_the_next(bench):
    """Finalize gives the stored configuration the device's own time, which hides what is older."""
    gateway = bench.gateway
    file = {"Value": "1", "OnChanged": None, "Unencrypted": True}

    async def during(_number, _moment):
        if "late" not in gateway.config and gateway.events:
            gateway.config["late"] = file
            gateway.changed += datetime.timedelta(seconds=1)

    async def scenario():
        device = bench.device()
        gateway.config = {"a": file}
        await device.check_in()
        gateway.config["fio-rotate-certs"] = gateway.entry("certs-1")
        gateway.changed += datetime.timedelta(seconds=1)
        gateway.reached = during
        assert await device.check_in() is Outcome.ROTATED
        assert "late" in gateway.config
        assert await device.check_in() is Outcome.UNCHANGED
        gateway.change({**gateway.config, "later": file})
        assert await device.check_in() is Outcome.CHANGED
        assert {path.name for path in (device.directory / "secrets").iterdir()} >= {"late", "later"}

    bench.run(scenario)


def test_a_device_with_slots_swaps_them(bench):
    gateway = bench.gateway

    async def scenario():
        device = bench.device(kind=Kind(slots=True))
        slots = []
        for number in range(3):
            gateway.push(f"certs-{number}")
            assert await device.check_in() is Outcome.ROTATED
            await device.check_in()
            slots.append((sota(device)["p11"]["tls_pkey_id"], sota(device)["p11"]["tls_clientcert_id"]))
        return device, slots

    device, slots = bench.run(scenario)
    assert slots == [("07", "09"), ("01", "03"), ("07", "09")]
    assert state(device, ".completed")["NewKey"] == "07"
    assert state(device, ".completed")["NewCert"] == "09"
    assert len(gateway.announced) == len(set(gateway.announced)) == 3


@pytest.mark.parametrize("strict", [True, False])
def test_older_devices_take_201_and_the_bare_type_alone(bench, strict):
    gateway = bench.gateway
    gateway.rfc7030 = True

    async def scenario():
        device = bench.device(kind=Kind(strict_est=strict))
        gateway.push("certs-1")
        if not strict:
            assert await device.check_in() is Outcome.ROTATED
            return
        with pytest.raises(RotationFailed, match="answers 200"):
            await device.check_in()
        gateway.rfc7030 = False
        assert await device.check_in() is Outcome.ROTATED

    bench.run(scenario)


PKCS7 = "application/pkcs7-mime"


@pytest.mark.parametrize(
    ("status", "media_type", "strict", "words"),
    [
        (200, PKCS7, True, "answers 200"),
        (201, f"{PKCS7}; smime-type=certs-only", True, "media type"),
        (202, PKCS7, False, "answers 202"),
        (400, "text/plain", False, "answers 400: made for a test"),
        (201, "text/html", False, "media type `text/html`"),
        (201, PKCS7, False, "base64"),
        (201, f"{PKCS7}; smime-type=certs-only", False, "base64"),
    ],
)
def test_an_est_answer_that_a_device_does_not_take(bench, status, media_type, strict, words):
    gateway = bench.gateway
    gateway.est_answer = Response("made for a test", status, {"Content-Type": media_type})

    async def scenario():
        device = bench.device(kind=Kind(strict_est=strict))
        gateway.push("certs-1")
        with pytest.raises(RotationFailed, match=f"{STEPS[0]}: .*{words}"):
            await device.check_in()

    bench.run(scenario)
    assert words.split(":")[0] in gateway.events[1]["event"]["details"]


@pytest.mark.parametrize("status", [201, 204, 404, 409])
@pytest.mark.parametrize(
    ("what", "step"), [("PATCH /device", 1), ("GET /config-device", 3), ("PATCH /config", 3)]
)
def test_a_gateway_that_refuses_a_step(bench, what, step, status):
    gateway = bench.gateway
    gateway.device_config = {"own": {"Value": "x", "OnChanged": None, "Unencrypted": True}}
    gateway.refuse = {what: status}
    # Only 200 will do for the announcement, and 204 means that there is no configuration of its own.
    taken = {"PATCH /device": [], "GET /config-device": [204], "PATCH /config": [201, 204]}[what]

    async def scenario():
        device = bench.device()
        gateway.push("certs-1")
        if status in taken:
            assert await device.check_in() is Outcome.ROTATED
            return
        with pytest.raises(RotationFailed, match=f"{STEPS[step]}: the gateway answers {status}"):
            await device.check_in()
        gateway.refuse = {}
        assert await device.check_in() is Outcome.ROTATED

    bench.run(scenario)


def test_killed_between_upload_and_save_the_configuration_is_not_uploaded_again(bench, cut_off):
    gateway = bench.gateway

    async def scenario():
        device = bench.device()
        secret = ecies.encrypt(private_key(device).public_key(), "s3cret")
        gateway.device_config = {"own": {"Value": secret, "OnChanged": None, "Unencrypted": False}}
        gateway.push("certs-1")
        assert await cut_off(device, gateway, 9, "after")
        assert state(device)["DeviceConfigUpdated"] is False
        assert await device.check_in() is Outcome.ROTATED
        (upload,) = gateway.uploads
        assert ecies.decrypt(private_key(device), upload["files"][0]["value"]) == "s3cret"

    bench.run(scenario)


def test_a_configuration_for_neither_key_fails_the_step(bench):
    gateway = bench.gateway
    gateway.device_config = {"own": {"Value": "AAAA", "OnChanged": None, "Unencrypted": False}}

    async def scenario():
        gateway.push("certs-1")
        with pytest.raises(RotationFailed, match="own: the value cannot be decrypted"):
            await bench.device().check_in()

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


@pytest.mark.parametrize(
    ("ids", "names"), [("01,02", ("02", "02")), ("10,11", ("10", "10")), ("01,0a", ("0a", "0a"))]
)
def test_slot_ids_are_read_digit_by_digit(bench, ids, names):
    """`10` is the bytes 01 00, `0a` is 31: fioconfig takes characters, not numbers."""
    gateway = bench.gateway
    files = {"02": "02", "10": "0100", "0a": "31"}

    async def scenario():
        device = bench.device(kind=Kind(slots=True))
        gateway.push("certs-1")
        gateway.config["fio-rotate-certs"]["Value"] = (
            f"ESTSERVER={gateway.est_url}\nPKEYIDS={ids}\nCERTIDS={ids}\nROTATIONID=certs-1\n"
        )
        # The certificate is in slot 03, so the first id of the list will do for the new one.
        assert await device.check_in() is Outcome.ROTATED
        p11 = sota(device)["p11"]
        assert p11["tls_pkey_id"] == names[0]
        assert p11["tls_clientcert_id"] == ids.split(",")[0]
        assert (device.directory / f"token/pkey-{files[names[0]]}.pem").exists()
        await device.check_in()

    bench.run(scenario)


def test_slot_00_fails_the_step(bench):
    gateway = bench.gateway

    async def scenario():
        device = bench.device(kind=Kind(slots=True))
        gateway.push("certs-1")
        value = gateway.config["fio-rotate-certs"]["Value"]
        gateway.config["fio-rotate-certs"]["Value"] = value.replace("01,07", "00,07")
        with pytest.raises(RotationFailed, match="'00' means no slot"):
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
    assert gateway.told() == [*ALL_WELL[:1], (STEPS[0], False), ("CertRotationCompleted", True)] * 4
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
        assert await device.check_in() is Outcome.ROTATED
        assert await device.check_in() is Outcome.CHANGED

    bench.run(scenario)
    assert gateway.told()[-6:] == ALL_WELL
    failed = next(event["event"] for event in gateway.events if not event["event"]["success"])
    assert "503" in failed["details"]
    assert "down" in failed["details"]


def test_a_gateway_that_answers_500_for_a_while(bench):
    gateway = bench.gateway

    async def scenario():
        device = bench.device()
        gateway.push("certs-1")
        gateway.statuses = [0, 500, 502, 0, 0, 500]
        assert await device.check_in() is Outcome.ROTATED

    bench.run(scenario)
    assert gateway.told() == ALL_WELL
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
        assert await device.check_in() is Outcome.ROTATED
        assert await device.check_in() is Outcome.CHANGED

    bench.run(scenario)
    done = ALL_WELL[: index + 1]
    assert gateway.told() == [
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
                assert await device.check_in() is Outcome.CHANGED
                gateway.push("certs-again")
            while await device.check_in() is not Outcome.CHANGED:
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
        assert gateway.told() == ALL_WELL[:2]
        assert (state(device)["StepIdx"], state(device)["NewKey"]) == (0, "")
        assert await device.check_in() is Outcome.ROTATED

    bench.run(scenario)
    assert gateway.told() == [*ALL_WELL[:2], *ALL_WELL], "so a step can be told of twice"


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
            while await device.check_in() is not Outcome.CHANGED:
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
        assert await device.check_in() is Outcome.ROTATED

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
            assert await device.check_in() is Outcome.ROTATED
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
        assert await other.check_in() is Outcome.ROTATED
        gateway.change({**gateway.config, "touch": {"Value": "1", "OnChanged": None, "Unencrypted": True}})
        assert await other.check_in() is Outcome.CHANGED
        shutil.rmtree(other.directory / "secrets")
        await other.extract()
        assert state(other, ".completed")["RotationId"] == "certs-3"

    bench.run(scenario)


def test_a_rotation_that_is_completed_is_not_done_again(bench):
    gateway = bench.gateway

    async def scenario():
        device = bench.device()
        gateway.push("certs-1")
        assert await device.check_in() is Outcome.ROTATED
        gateway.config["fio-rotate-certs"]["Value"] += "# touched\n"
        gateway.change(gateway.config)
        assert await device.check_in() is Outcome.CHANGED
        gateway.push("certs-2")
        assert await device.check_in() is Outcome.ROTATED
        gateway.change({})
        assert await device.check_in() is Outcome.CHANGED
        assert await device.check_in() is Outcome.UNCHANGED

    bench.run(scenario)
    assert [event["event"]["correlationId"] for event in gateway.events] == ["certs-1"] * 6 + ["certs-2"] * 6


def test_an_entry_without_an_id_is_skipped_and_stored(bench):
    async def scenario():
        device = bench.device()
        bench.gateway.push("certs-1")
        bench.gateway.config["fio-rotate-certs"]["Value"] = "ESTSERVER=https://localhost:1/\n"
        assert await device.check_in() is Outcome.CHANGED

    bench.run(scenario)
    assert bench.gateway.events == []


def test_an_lmp_without_the_handler_never_rotates(bench):
    async def scenario():
        device = bench.device(kind=Kind(lmp=89))
        bench.gateway.push("certs-1")
        assert await device.check_in() is Outcome.CHANGED

    bench.run(scenario)
    assert bench.gateway.events == []


def test_event_times_are_the_devices_own(bench):
    moment = datetime.datetime(2020, 2, 3, 4, 5, 6, 789, tzinfo=datetime.UTC)

    async def scenario():
        device = bench.device(kind=Kind(clock_offset=-3600), clock=lambda: moment)
        (device.directory / "current-target").write_text(
            'TARGET_NAME="raspberrypi4-64-lmp-42"\nCUSTOM_VERSION="42"\n'
        )
        bench.gateway.change({"a": {"Value": "1", "OnChanged": None, "Unencrypted": True}})
        await device.check_in()
        bench.gateway.push("certs-1")
        assert await device.check_in() is Outcome.ROTATED
        return device

    device = bench.run(scenario)
    assert {event["deviceTime"] for event in bench.gateway.events} == {"2020-02-03T03:05:06Z"}
    assert {event["event"]["targetName"] for event in bench.gateway.events} == {"raspberrypi4-64-lmp-42"}
    assert {event["event"]["version"] for event in bench.gateway.events} == {"42"}
    assert (device.directory / "config.encrypted").stat().st_mtime == moment.timestamp() - 3600


def test_without_a_current_target_events_carry_an_empty_one(bench):
    async def scenario():
        bench.gateway.push("certs-1")
        await bench.device().check_in()

    bench.run(scenario)
    assert {(e["event"]["targetName"], e["event"]["version"]) for e in bench.gateway.events} == {("", "0")}


def test_events_that_are_lost_do_not_stop_a_rotation(bench):
    async def scenario():
        bench.gateway.push("certs-1")
        bench.gateway.statuses = [0, 400, 403]
        assert await bench.device().check_in() is Outcome.ROTATED

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
        assert await device.check_in() is Outcome.ROTATED
        return device

    device = bench.run(scenario)
    assert gateway.events[0]["event"]["correlationId"] == "a&b"
    assert '"RotationId":"a\\u0026b"' in (device.directory / "cert-rotation.state.completed").read_text()


def test_progress_is_told_step_by_step(bench):
    seen = []

    async def scenario():
        device = bench.device(observe=lambda *event: seen.append(event), fail=STEPS[1])
        bench.gateway.push("certs-1")
        with pytest.raises(RotationFailed):
            await device.check_in()

    bench.run(scenario)
    assert [event[:2] for event in seen] == [
        ("uuid-1", "CertRotationStarted"),
        ("uuid-1", STEPS[0]),
        ("uuid-1", STEPS[1]),
        ("uuid-1", "CertRotationCompleted"),
    ]
    assert [event[2] is None for event in seen] == [True, True, False, True]
