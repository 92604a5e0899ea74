"""A device's rotation, seen by gateway and EST server (the facts: CONTRIBUTING, "The device")."""

import datetime
import json

import pytest
from starlette.responses import Response

from fioctl_rotate import ecies
from fioctl_rotate.device.device import StartOutcome
from fioctl_rotate.device.new_device import Kind
from fioctl_rotate.device.renew_cert import RotationFailed
from fioctl_rotate.errors import Error
from fioctl_rotate.pki.keys import public_key_pem
from fioctl_rotate.pki.subject import raw_subject
from fioctl_rotate.rotation.progress import STEPS
from tests.device.bench import ALL_WELL, certificate, private_key, sota, state


def test_a_rotation_from_push_to_the_first_check_in_with_the_new_certificate(bench):
    gateway = bench.gateway

    async def scenario():
        device = bench.device()
        old = certificate(device)
        gateway.push("certs-1")
        assert await device.check_in() is StartOutcome.ROTATED
        assert await device.check_in() is StartOutcome.CHANGED
        assert await device.check_in() is StartOutcome.UNCHANGED
        return device, old

    device, old = bench.run(scenario)
    new = certificate(device)
    assert raw_subject(new) == raw_subject(old)
    assert new.public_key() != old.public_key()
    assert gateway.announced == [public_key_pem(new.public_key())]
    assert gateway.posted() == ALL_WELL
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
        assert await device.check_in() is StartOutcome.ROTATED
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
        assert await device.check_in() is StartOutcome.ROTATED
        assert "late" in gateway.config
        assert await device.check_in() is StartOutcome.UNCHANGED
        gateway.change({**gateway.config, "later": file})
        assert await device.check_in() is StartOutcome.CHANGED
        assert {path.name for path in (device.directory / "secrets").iterdir()} >= {"late", "later"}

    bench.run(scenario)


def test_a_device_with_slots_swaps_them(bench):
    gateway = bench.gateway

    async def scenario():
        device = bench.device(kind=Kind(slots=True))
        slots = []
        for number in range(3):
            gateway.push(f"certs-{number}")
            assert await device.check_in() is StartOutcome.ROTATED
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
            assert await device.check_in() is StartOutcome.ROTATED
            return
        with pytest.raises(RotationFailed, match="answers 200"):
            await device.check_in()
        gateway.rfc7030 = False
        assert await device.check_in() is StartOutcome.ROTATED

    bench.run(scenario)


PKCS7 = "application/pkcs7-mime"


@pytest.mark.parametrize(
    ("status", "media_type", "strict", "message"),
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
def test_an_est_answer_that_a_device_does_not_take(bench, status, media_type, strict, message):
    gateway = bench.gateway
    gateway.est_answer = Response("made for a test", status, {"Content-Type": media_type})

    async def scenario():
        device = bench.device(kind=Kind(strict_est=strict))
        gateway.push("certs-1")
        with pytest.raises(RotationFailed, match=f"{STEPS[0]}: .*{message}"):
            await device.check_in()

    bench.run(scenario)
    assert message.split(":")[0] in gateway.events[1]["event"]["details"]


@pytest.mark.parametrize("status", [201, 204, 404, 409])
@pytest.mark.parametrize(
    ("what", "step"), [("PATCH /device", 1), ("GET /config-device", 3), ("PATCH /config", 3)]
)
def test_a_gateway_that_refuses_a_step(bench, what, step, status):
    gateway = bench.gateway
    gateway.device_config = {"own": {"Value": "x", "OnChanged": None, "Unencrypted": True}}
    gateway.refuse = {what: status}
    # Only 200 is accepted for the announcement, and 204 means that there is no configuration of its own.
    taken = {"PATCH /device": [], "GET /config-device": [204], "PATCH /config": [201, 204]}[what]

    async def scenario():
        device = bench.device()
        gateway.push("certs-1")
        if status in taken:
            assert await device.check_in() is StartOutcome.ROTATED
            return
        with pytest.raises(RotationFailed, match=f"{STEPS[step]}: the gateway answers {status}"):
            await device.check_in()
        gateway.refuse = {}
        assert await device.check_in() is StartOutcome.ROTATED

    bench.run(scenario)


def test_a_configuration_for_neither_key_fails_the_step(bench):
    gateway = bench.gateway
    gateway.device_config = {"own": {"Value": "AAAA", "OnChanged": None, "Unencrypted": False}}

    async def scenario():
        gateway.push("certs-1")
        with pytest.raises(RotationFailed, match="own: the value cannot be decrypted"):
            await bench.device().check_in()

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
        assert await device.check_in() is StartOutcome.ROTATED
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


def test_a_rotation_that_is_completed_is_not_done_again(bench):
    gateway = bench.gateway

    async def scenario():
        device = bench.device()
        gateway.push("certs-1")
        assert await device.check_in() is StartOutcome.ROTATED
        gateway.config["fio-rotate-certs"]["Value"] += "# touched\n"
        gateway.change(gateway.config)
        assert await device.check_in() is StartOutcome.CHANGED
        gateway.push("certs-2")
        assert await device.check_in() is StartOutcome.ROTATED
        gateway.change({})
        assert await device.check_in() is StartOutcome.CHANGED
        assert await device.check_in() is StartOutcome.UNCHANGED

    bench.run(scenario)
    assert [event["event"]["correlationId"] for event in gateway.events] == ["certs-1"] * 6 + ["certs-2"] * 6


def test_an_entry_without_an_id_is_skipped_and_stored(bench):
    async def scenario():
        device = bench.device()
        bench.gateway.push("certs-1")
        bench.gateway.config["fio-rotate-certs"]["Value"] = "ESTSERVER=https://localhost:1/\n"
        assert await device.check_in() is StartOutcome.CHANGED

    bench.run(scenario)
    assert bench.gateway.events == []


def test_an_old_lmp_without_the_handler_never_rotates(bench):
    async def scenario():
        device = bench.device(kind=Kind(lmp=89))
        bench.gateway.push("certs-1")
        assert await device.check_in() is StartOutcome.CHANGED

    bench.run(scenario)
    assert bench.gateway.events == []
