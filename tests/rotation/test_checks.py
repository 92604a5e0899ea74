"""Checks before a push, alone (`rotations check`) and as part of it."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from fioctl_rotate import serving, tls
from fioctl_rotate.mock.mock_server import Ports, Serving
from fioctl_rotate.mock.new_factory import Addresses
from fioctl_rotate.ops import mock
from fioctl_rotate.ops.connect import open_api
from fioctl_rotate.ops.device_cas import add_device_ca
from fioctl_rotate.ops.push import plan_push
from fioctl_rotate.ops.push_checks import CHECKS, check_push
from fioctl_rotate.pki.directory import PkiDirectory
from fioctl_rotate.rotation.plan import RotationRequest
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.tracker import SMALL_FLEET
from fioctl_rotate.settings import Flags, resolve
from tests.making import Pki, write_pair

YEAR = timedelta(days=365)


def told(findings):
    return {check.name: str(check.status) for check in findings.checks}


@pytest.fixture
def factory(tmp_path):
    """A Factory with its PKI and three devices; `check(...)` serves it and checks a push to their group."""
    directory = tmp_path / "mock"
    made = asyncio.run(mock.init(directory, "acme", addresses=Addresses(0, 0, 0), group="field", devices=3))
    settings = resolve(Flags(factory="acme", mock=str(directory)), {})

    async def look(later, serve, device, wish):
        async with open_api(settings) as api:
            scope = Scope.of_device("device-1") if device else Scope.of_group("field")
            plan, target = await plan_push(api, scope, RotationRequest("test", **wish), unix_seconds=1)
            now = datetime.now(UTC) + later
            if not serve:
                return await check_push(api, plan, target, now=now)
            async with mock.serve(
                directory, serving=Serving(ports=Ports(0, made.factory.gateway_port, made.factory.est_port))
            ):
                return await check_push(api, plan, target, now=now)

    def check(later=timedelta(), *, serve=True, device=False, **wish):
        wish.setdefault("port", made.factory.est_port)
        return asyncio.run(look(later, serve, device, wish))

    return check


def test_all_well(factory):
    findings = factory()
    assert set(told(findings).values()) == {"pass"}, findings.checks
    assert set(told(findings)) == {
        "est-reachable", "est-chain", "est-name", "est-expiry", "est-endpoint", "est-cacerts",
        "lifetimes", "slots", "lmp", "online", "shadowed",
    }  # fmt: skip
    assert len(findings.baselines.devices) == 3


def test_one_device(factory):
    findings = factory(device=True)
    assert set(told(findings).values()) == {"pass"}
    assert len(findings.baselines.devices) == 1


def test_est_server_that_cannot_be_reached_from_here_fails(factory):
    findings = factory(serve=False, port=1)
    assert told(findings)["est-reachable"] == "fail"
    assert set(told(findings)) <= set(CHECKS)


def test_mock_that_is_not_served_is_a_warning(factory):
    findings = factory(serve=False)
    assert told(findings)["est-reachable"] == "warn"
    assert "mock serve" in findings.checks[0].message


def test_est_server_of_another_root_fails(factory, tmp_path):
    files = write_pair(tmp_path, "other", Pki.make().server())

    async def anything(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def look():
        with serving.listen("127.0.0.1", 0) as sock:
            context = tls.server_context(*files, "", required=False)
            async with serving.running(anything, sock, context) as port:
                return await asyncio.to_thread(factory, serve=False, port=port)

    findings = asyncio.run(look())
    assert told(findings)["est-chain"] == "fail"
    assert told(findings)["est-name"] == "pass"


@pytest.mark.parametrize(("later", "status"), [(8 * YEAR, "pass"), (9.5 * YEAR, "warn"), (11 * YEAR, "fail")])
def test_certificates_that_end_before_new_ones_would(factory, later, status):
    assert told(factory(later, serve=False))["lifetimes"] == status


def test_one_device_ca_that_has_expired_does_not_stop_a_push_while_another_one_is_valid(factory, tmp_path):
    def five_years_later():
        return datetime.now(UTC) + 5 * YEAR

    async def add():
        settings = resolve(Flags(factory="acme", mock=str(tmp_path / "mock")), {})
        async with open_api(settings, clock=five_years_later) as api:
            pki = PkiDirectory(tmp_path / "mock" / "pki")
            await add_device_ca(
                api, pki, online_ca=False, local_ca=True, local_ca_filename="newer.pem", now=five_years_later
            )

    asyncio.run(add())
    assert told(factory(11 * YEAR, serve=False))["lifetimes"] == "warn"


def test_own_est_server_signs_for_longer(factory):
    """estserver's three years; whatever the name, the managed server's certificate does not matter then."""
    findings = factory(8 * YEAR, serve=False, server_name="est.example.invalid")
    assert told(findings)["lifetimes"] == "warn"
    assert "3 years" in next(check.message for check in findings.checks if check.name == "lifetimes")


def test_slot_ids_that_devices_read_differently(factory):
    assert told(factory(serve=False, pkey_ids="01,10"))["slots"] == "warn"


def test_devices_that_were_not_seen_lately(factory):
    assert told(factory(timedelta(hours=5), serve=False))["online"] == "warn"


OWN_EST = ["--server-name", "est.example.invalid"]
# This Factory has no PKI, so its EST server cannot be checked.
PUSH = ["config", "rotate-certs", "-g", "field", "-r", "yearly", *OWN_EST]


@pytest.fixture
def commands(cli, recent):
    def call(*args):
        return cli(*args, "--mock", recent.directory, "-f", "acme")

    return call


def test_earlier_rotation_under_way_is_refused_and_nothing_is_sent(commands, recent):
    recent.add("a", "b")
    recent.wait(minutes=1)
    asyncio.run(recent.push())
    recent.rotate("a", upto=2)
    checked = commands("rotations", "check", "-g", "field", *OWN_EST)
    assert checked.code == 5
    assert "fail  earlier    rotation certs-1 is under way on 1 device(s)" in checked.out
    push = [*PUSH, "--rotation-id", "certs-2", "--allow", "est"]
    refused = commands(*push)
    assert (refused.code, refused.out) == (5, "")
    assert "nothing was sent because of earlier" in refused.err
    assert "certs-2" not in commands("config", "log", "-g", "field").out
    assert commands(*PUSH, "--rotation-id", "certs-2", "--no-checks").code == 0
    assert "certs-2" in commands("config", "log", "-g", "field").out


def test_earlier_rotation_that_failed_is_a_warning(commands, recent):
    recent.add("failed", "lost", "fine")
    recent.wait(minutes=1)
    asyncio.run(recent.push())
    recent.rotate("failed", fail=1)
    recent.rotate("lost")
    result = commands("rotations", "check", "-g", "field", *OWN_EST)
    earlier = next(line for line in result.out.splitlines() if "earlier" in line)
    assert earlier.startswith("warn")
    assert "failed on 1 device(s)" in earlier
    assert "finalized on 1 device(s)" in earlier


def test_devices_that_will_not_follow_are_named(commands, recent):
    recent.add("own", "fine")
    recent.add("old", lmp="4.0.1-3-89")
    recent.add("never", seen=False)
    asyncio.run(recent.push("certs-0", device="own"))
    checks = commands("rotations", "check", "-g", "field", *OWN_EST, "--format", "json").json
    assert list(checks) == ["ok", "checks", "allow"]
    words = {check["name"]: check["message"] for check in checks["checks"] if check["status"] == "warn"}
    assert words["shadowed"] == "1 device (own) has an entry of its own, and would not follow the group"
    assert words["lmp"] == "1 device (old) runs LmP before 90, and would not follow"
    assert words["online"].startswith("1 device (never) was not seen for 4 hours")


def test_empty_group_is_warned_about(commands, recent):
    result = commands("rotations", "check", "-g", "field", *OWN_EST)
    assert "there are no devices: no device would rotate now" in result.out


def test_large_fleet_is_asked_one_by_one_where_that_is_wanted(commands, recent):
    recent.add(*(f"d{number:03}" for number in range(SMALL_FLEET + 1)))
    asyncio.run(recent.push("certs-0", device="d007"))
    check = ["rotations", "check", "-g", "field", *OWN_EST]
    assert "201 devices were not asked one by one" in commands(*check).out
    asked = commands(*check, "--each-device").out
    assert "not asked" not in asked
    assert "1 device (d007) has an entry of its own" in asked


def test_push_remembers_the_keys_of_before(commands, recent):
    """So that the first poll after it proves a changed key, however fast the device was."""
    recent.add("a")
    assert commands(*PUSH, "--rotation-id", "certs-1", "--allow", "est").code == 0
    recent.wait(hours=1)
    recent.rotate("a")
    recent.come_back("a")
    shown = commands("rotations", "show", "certs-1", "-g", "field", "--format", "json").json
    assert [(d["state"], d["proof"]) for d in shown["devices"]] == [("done", "public-key")]


def test_keys_of_before_are_known_by_whatever_name_the_server_goes(commands, cli, recent, monkeypatch):
    recent.add("a")
    assert commands(*PUSH, "--rotation-id", "certs-1", "--allow", "est").code == 0
    recent.wait(hours=1)
    recent.rotate("a")
    recent.come_back("a")
    monkeypatch.chdir(recent.directory.parent)
    shown = cli("rotations", "show", "certs-1", "-g", "field", "--mock", recent.directory.name, "-f", "acme")
    assert "1 of 1 done" in shown.out
