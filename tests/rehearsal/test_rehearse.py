"""`apply --rehearse`: what would come of a plan, and that nothing else changes."""

import asyncio
import contextlib
import datetime
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fioctl_rotate.errors import Refused
from fioctl_rotate.files import locked
from fioctl_rotate.folders import state_folder
from fioctl_rotate.mock.store import device_records
from fioctl_rotate.mock.store.database import Store
from fioctl_rotate.rotation.rollout import Decision, Verdict, decide
from tests.commandline import Cli
from tests.processes import FREE
from tests.rehearsal.conftest import DEVICES, Rehearsable, Rehearse, last_line
from tests.world import World


def counts(**more: int) -> dict[str, int]:
    return dict.fromkeys(("done", "running", "failed", "wedged", "untouched"), 0) | more


def dump(directory: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(directory / "mock.db")) as db:
        return list(db.iterdump())


def files_of(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def test_a_good_rollout_beside_a_plain_push(rehearse: Rehearse) -> None:
    result = rehearse("--format", "json")
    assert result.code == 0, result.err
    lines = result.lines
    assert all(line["rehearsal"] is True for line in lines)
    found = lines[-1]
    assert " ".join(found) == (
        "kind rehearsal rotation planned target factory directory faults simulated refused in-stages plain-push"
    )
    assert found["rotation"] == f"{found['planned']}-rehearsal"
    staged, plain = found["in-stages"], found["plain-push"]
    played = "began verdict message took last-back other-rotations counts stages devices"
    assert " ".join(staged) == " ".join(plain) == played
    assert " ".join(staged["stages"][0]) == "number of status began passed counts"
    device = "uuid name stage end why begun finalized back other-rotations"
    assert " ".join(staged["devices"][0]) == device
    assert (staged["verdict"], plain["verdict"]) == ("done", "done")
    assert staged["counts"] == plain["counts"] == counts(done=DEVICES)
    assert [stage["counts"]["done"] for stage in staged["stages"]] == [1, DEVICES - 1]
    first, last = staged["stages"]
    # A check-in, a rotation, the settling, and a soak of ten minutes.
    assert 600 < first["passed"] <= last["began"] < last["passed"] <= staged["took"] < 4 * 3600
    assert all(0 < d["begun"] <= d["finalized"] <= d["back"] for d in staged["devices"])
    assert found["refused"] == []


def test_a_foreign_ca_stops_after_the_canary_and_a_plain_push_cuts_all_off(rehearse: Rehearse) -> None:
    result = rehearse("--est-fault", "foreign-ca", "--format", "json")
    assert result.code == 3
    found = last_line(result)
    assert found["in-stages"]["counts"] == counts(wedged=1, untouched=DEVICES - 1)
    assert found["plain-push"]["counts"] == counts(wedged=DEVICES)
    assert found["faults"] == ["--est-fault foreign-ca"]
    assert "error: REHEARSAL: stage 1 of 2 failed on 1 of 1 devices" in result.err


def test_a_wrong_url_wedges_the_canary_alone_until_it_works(rehearse: Rehearse) -> None:
    found = last_line(rehearse("--est-fault", "404", "--format", "json"))
    assert found["in-stages"]["counts"] == counts(wedged=1, untouched=DEVICES - 1)
    assert found["plain-push"]["counts"] == counts(wedged=DEVICES)
    why = {device["why"] for device in found["plain-push"]["devices"]}
    assert len(why) == 1
    assert "the EST server answers 404" in why.pop()
    # Once it is back, all devices that were stuck finish.
    found = last_line(rehearse("--est-fault", "stop@0-90m", "--format", "json"))
    assert found["plain-push"]["counts"] == counts(done=DEVICES)


def test_a_gateway_that_fails_for_a_while_only_takes_time(rehearse: Rehearse, made: Rehearsable) -> None:
    result = rehearse("--gateway-fault", "10m-30m", "--format", "json", plan=made.plain)
    assert result.code == 0, result.err
    found = last_line(result)
    assert found["in-stages"] is None
    assert found["plain-push"]["counts"] == counts(done=DEVICES)
    assert max(device["back"] for device in found["plain-push"]["devices"]) > 30 * 60


def test_steps_that_fail_reboots_and_clocks(rehearse: Rehearse, made: Rehearsable) -> None:
    faults = ("--fail", "3:50", "--reboot", "20", "--clock-offset", "2d:25", "--check-in", "10m")
    found = last_line(rehearse(*faults, "--format", "json", plan=made.plain))
    assert found["plain-push"]["counts"] == counts(done=DEVICES // 2, failed=DEVICES // 2)
    assert found["faults"] == ["--fail 3:50", "--reboot 20", "--clock-offset 2d:25"]


def test_a_plain_push_is_settled_once_its_devices_are_done(
    cli: Cli, rehearse: Rehearse, made: Rehearsable
) -> None:
    assert rehearse(plan=made.plain).code == 0
    copy = made.clone / "rehearsal" / "plain-push"
    log = cli("config", "log", "-g", "field", "--mock", copy, "-f", "acme", "--format", "json").json["config"]
    assert [config["reason"].split()[0] for config in log] == ["settle", "yearly"]


def test_a_rotation_that_was_open_before_is_told_from_the_new_one(cli: Cli, tmp_path: Path) -> None:
    start = datetime.datetime.now(datetime.UTC).replace(microsecond=0) - datetime.timedelta(hours=9)
    world, clone, plan = World(tmp_path / "original", start), tmp_path / "clone", tmp_path / "plan.toml"
    world.add("closed", "open")
    asyncio.run(world.push("certs-0"))
    world.rotate("closed", rotation="certs-0")
    world.wait(hours=8)
    world.see("closed", "open")
    world.store.close()
    at = ("--mock", world.directory, "-f", "acme")
    rotate = ("config", "rotate-certs", "-g", "field", "-r", "yearly", "--server-name", "est.example.com")
    assert cli(*rotate, "--dryrun", "--no-checks", "--out", plan, *at).code == 0
    assert cli("mock", "clone", clone, *at, *FREE).code == 0
    played = last_line(cli("apply", plan, "--rehearse", clone, "--format", "json"))["plain-push"]
    assert {device["name"]: device["other-rotations"] for device in played["devices"]} == {
        "closed": 0,
        "open": 1,
    }
    # The devices have checked in before the push, by which `open` did the older rotation.
    assert all(device["begun"] > played["stages"][0]["began"] > 0 for device in played["devices"])


def test_the_simulated_clock_begins_when_the_factory_last_saw_a_device(
    cli: Cli, made: Rehearsable, tmp_path: Path
) -> None:
    """Its clock may be ahead of this machine's."""
    clone, ahead = tmp_path / "clone", datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    shutil.copytree(made.clone, clone)
    with contextlib.closing(Store(clone)) as store, store.transaction() as db:
        device = device_records.find_device(db, "acme", "device-1", by_uuid=False)
        device_records.see_device(db, device, ahead)
    result = cli("apply", made.plain, "--rehearse", clone, "--timeout", "1s", "--format", "json")
    began = datetime.datetime.fromisoformat(last_line(result)["plain-push"]["began"])
    assert began >= ahead.replace(microsecond=0)


def test_the_time_of_a_rehearsal_is_simulated(rehearse: Rehearse) -> None:
    result = rehearse("--timeout", "20m", "--format", "json")
    assert (result.code, "REHEARSAL: it had not ended when its time was over" in result.err) == (4, True)
    staged = last_line(result)["in-stages"]
    assert staged["verdict"] == "time over"
    # The last wait between two polls goes beyond it, and the clock stops at the next check-in.
    assert 1200 <= staged["took"] < 1200 + 30 + 300


def test_a_rollout_that_would_be_refused_is_shown_as_refused(
    rehearse: Rehearse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decided(*about: Any) -> Decision:
        return replace(decide(*about), verdict=Verdict.REFUSED, message="somebody else pushed")

    monkeypatch.setattr("fioctl_rotate.ops.rollout.decide", decided)
    result = rehearse("--format", "json")
    assert (result.code, "REHEARSAL: somebody else pushed; nothing more is sent" in result.err) == (5, True)
    found = last_line(result)
    assert (found["in-stages"]["verdict"], found["plain-push"]["verdict"]) == ("refused", "done")
    assert found["in-stages"]["counts"] == counts(untouched=DEVICES)


def test_one_rehearsal_at_a_time(rehearse: Rehearse, made: Rehearsable) -> None:
    place = made.clone / "rehearsal"
    place.mkdir(exist_ok=True)
    with locked(place / ".lock", Refused("not free")):
        result = rehearse()
    assert (result.code, f"another rehearsal runs in {made.clone}" in result.err) == (5, True)


def test_every_line_says_that_it_is_a_rehearsal(rehearse: Rehearse, tmp_path: Path) -> None:
    junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    result = rehearse("--junit", junit, "--summary", summary)
    assert result.code == 0, result.err
    going_on, _, end = result.out.partition("\n\n")
    assert all(line.startswith("REHEARSAL  ") for line in going_on.splitlines())
    assert end.startswith("REHEARSAL of rotation certs-")
    assert "nothing was sent to factory acme" in result.out
    assert "simulated: " in result.out
    assert junit.read_text().count('name="REHEARSAL: stage ') == 2
    assert summary.read_text().startswith("## REHEARSAL")


def test_the_page_shows_both_beside_each_other(rehearse: Rehearse, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = rehearse("--est-fault", "foreign-ca", "--html", page)
    assert result.code == 3
    text = page.read_text()
    assert '<span class="rehearsal">REHEARSAL</span>' in text
    assert "Nothing was sent to the Factory" in text
    assert "Faults: --est-fault foreign-ca" in text
    for legend in ("done in stages (0)", "harmed in stages (1)", "harmed with a plain push (4)"):
        assert legend in text
    assert len(re.findall(r' d="[^"]*V0\.00"', text)) == 1  # the plain push alone reaches all devices
    assert "the gateway refuses its new certificate" in text
    assert "What is simulated" in text


def test_nothing_else_changes(cli: Cli, rehearse: Rehearse, made: Rehearsable) -> None:
    """The original, the clone, and what this machine remembers of rotations and names."""
    before = dump(made.original), dump(made.clone), files_of(made.clone / "devices")
    state, cache = state_folder(), Path(os.environ["XDG_CACHE_HOME"])
    assert rehearse().code == 0
    assert (dump(made.original), dump(made.clone), files_of(made.clone / "devices")) == before
    assert not state.exists()
    assert not cache.exists()
    # A rotation of that id is not known to the Factory, nor is any device done.
    at = ("-g", "field", "--mock", made.original, "-f", "acme")
    for rotation in ("", "-rehearsal"):
        name = json.loads(cli("plan", "show", made.staged, "--format", "json").out)["request"]["files"][0]
        rotation_id = name["value"].split("ROTATIONID=")[1].strip() + rotation
        assert cli("rotations", "show", rotation_id, *at).code == 1


def test_devices_that_are_off_too_old_or_shadowed_over_an_older_rotation(cli: Cli, tmp_path: Path) -> None:
    """The plan's EST server is nowhere; on the clone it is the clone's. What lies beneath is cleared first."""
    start = datetime.datetime.now(datetime.UTC).replace(microsecond=0) - datetime.timedelta(hours=9)
    world, clone, plan = World(tmp_path / "original", start), tmp_path / "clone", tmp_path / "plan.toml"
    world.add("off", "one", "two", "shadowed", "behind")
    world.add("old", lmp="4.0.20-2-88.1")
    asyncio.run(world.push("certs-0"))
    world.wait(minutes=5)
    world.rotate("off", "one", "two", rotation="certs-0")
    asyncio.run(world.push("certs-own", device="shadowed"))
    world.rotate("shadowed", rotation="certs-own")
    world.wait(hours=9)
    world.see("one", "two", "shadowed", "old", "behind")
    world.store.close()
    at = ("--mock", world.directory, "-f", "acme")
    asked = ("--server-name", "est.example.com", "--canary", "one", "--clear-older", "--dryrun")
    rotate = ("config", "rotate-certs", "-g", "field", "-r", "yearly", *asked, "--no-checks", "--out", plan)
    assert cli(*rotate, *at).code == 0
    assert cli("mock", "clone", clone, *at, *FREE).code == 0
    result = cli("apply", plan, "--rehearse", clone, "--reboot", 20, "--format", "json")
    assert result.code == 0, result.err
    for played in (last_line(result)["in-stages"], last_line(result)["plain-push"]):
        ends = {device["name"]: (device["end"], device["why"]) for device in played["devices"]}
        assert ends.pop("behind")[0] == "done"
        assert ends == {
            "one": ("done", ""),
            "two": ("done", ""),
            "off": ("untouched", "offline"),
            "old": ("untouched", "unsupported"),
            "shadowed": ("untouched", "shadowed"),
        }


def test_twice_gives_the_same(rehearse: Rehearse) -> None:
    ends = [last_line(rehearse("--est-fault", "404", "--format", "json")) for _ in range(2)]
    assert ends[0]["plain-push"]["counts"] == ends[1]["plain-push"]["counts"]
    assert ends[0]["in-stages"]["stages"][0]["counts"] == ends[1]["in-stages"]["stages"][0]["counts"]


RECORDER = """
import json, sys
def hook(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname"):
        address = arguments[1] if event in ("socket.connect", "socket.bind", "socket.sendto") else arguments[0]
        print(json.dumps([event, str(address[0] if isinstance(address, tuple) else address)]), file=record)
record = open(sys.argv.pop(1), "w", 1)
sys.addaudithook(hook)
from fioctl_rotate.__main__ import main
main()
"""


def test_no_connection_leaves_loopback(made: Rehearsable, tmp_path: Path) -> None:
    """Each connection, listener and look-up of the process, with proxies and a server in the environment."""
    elsewhere = {
        "HTTPS_PROXY": "http://proxy.example.com:3128",
        "HTTP_PROXY": "http://proxy.example.com:3128",
        "FIOCTL_ROTATE_SERVER": "https://api.example.com",
        "FIOCTL_TOKEN": "canary-token",
    }
    record = tmp_path / "record"
    command = [sys.executable, "-c", RECORDER, record, "apply", made.staged, "--rehearse", made.clone]
    done = subprocess.run(list(map(str, command)), env=os.environ | elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen = [json.loads(line) for line in record.read_text().splitlines()]
    assert {address for _, address in seen} <= {"127.0.0.1", "::1", "localhost", "b'localhost'"}
    assert sum(event == "socket.connect" for event, _ in seen) > 10 * DEVICES


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--est-fault", "404"), "--est-fault needs --rehearse"),
        (("--check-in", "5m"), "--check-in needs --rehearse"),
        (("--rehearse", "nowhere"), "no mocked Factory in nowhere"),
    ],
)
def test_wrong_usage(cli: Cli, made: Rehearsable, argv: tuple[str, ...], message: str) -> None:
    result = cli("apply", made.staged, *argv)
    assert (result.code, message in result.err) == (2, True), result.err


def test_a_clone_that_is_not_the_plan_s(cli: Cli, made: Rehearsable, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert cli("mock", "init", other, "-f", "other", "--devices", 1).code == 0
    result = cli("apply", made.staged, "--rehearse", other)
    assert (result.code, "the plan is for factory acme" in result.err) == (5, True)
    same_name = tmp_path / "acme"
    assert cli("mock", "init", same_name, "-f", "acme", "-g", "field", "--devices", 1).code == 0
    result = cli("apply", made.staged, "--rehearse", same_name)
    assert (result.code, "had 4 device(s) when the plan was made" in result.err) == (5, True)


def test_a_clone_whose_group_has_another_entry_is_refused(
    cli: Cli, made: Rehearsable, tmp_path: Path
) -> None:
    other = tmp_path / "clone"
    shutil.copytree(made.clone, other)
    push = ("config", "rotate-certs", "-g", "field", "-r", "why", "--rotation-id", "r-5", "--no-checks")
    assert cli(*push, "--mock", other, "-f", "acme").code == 0
    result = cli("apply", made.staged, "--rehearse", other)
    message = "group field has rotation r-5 on the clone, but no rotation in the plan"
    assert (result.code, message in result.err) == (5, True)
