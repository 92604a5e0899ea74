"""Who must rotate by when: against the truth of a mocked fleet with two years of history."""

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fioctl_rotate.api.failures import ApiError
from fioctl_rotate.mock.store import config_levels
from fioctl_rotate.mock.store.config_levels import Level
from fioctl_rotate.ops import at_once
from fioctl_rotate.ops.due import who_is_due
from fioctl_rotate.ops.due_report import page
from fioctl_rotate.rotation.due import Due, Source, Urgency, by_date, by_month, due, rotation_date
from fioctl_rotate.rotation.scope import Scope
from tests.commandline import Cli
from tests.rotation.fleets import outcomes, suite_in
from tests.world import START, World

YEAR, SOON = timedelta(days=365), timedelta(days=60)
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def read(world: World, **more: object) -> list[Due]:
    async def work() -> list[Due]:
        async with world.api() as api:
            scope = Scope.of_group("field")
            return await who_is_due(api, scope, lifetime=YEAR, within=SOON, now=world.now, **more)  # type: ignore[arg-type]  # a test gives what fits

    return asyncio.run(work())


def test_two_years_of_history_against_the_truth(tmp_path: Path) -> None:
    """Rotations of the group and of single devices, failures, wrong clocks; each last good one is known."""
    chance = random.Random(1)  # noqa: S311  the same history in each run
    world = World(tmp_path / "mock")
    names = [f"d{number:02}" for number in range(20)]
    world.add(*names)
    truth: dict[str, tuple[str, datetime, Source]] = {}
    for quarter in range(8):
        world.wait(days=90)
        rotation = f"certs-{quarter}"
        asyncio.run(world.push(rotation))
        pushed = world.now
        for name in chance.sample(names[:18], 6):
            world.wait(minutes=10)
            if chance.random() < 0.3:
                world.rotate(name, fail=3, rotation=rotation)
            elif chance.random() < 0.3:
                world.rotate(name, rotation=rotation, clock=timedelta(days=-4000))
                truth[name] = rotation, pushed, Source.PUSH
            else:
                world.rotate(name, rotation=rotation)
                truth[name] = rotation, world.now, Source.DEVICE
            world.come_back(name)
        own = f"own-{quarter}"
        asyncio.run(world.push(own, device="d18"))
        world.wait(minutes=3)
        with world.store.transaction() as db:
            config_levels.mark_applied(db, Level("device", "uuid-d18"), world.now)
        truth["d18"] = own, world.now, Source.SERVER
        world.rotate("d18", rotation=own)
    world.wait(days=30)
    found = {device.name: device for device in read(world)}
    assert set(found) == set(names)
    for name, device in found.items():
        if name not in truth:
            assert device.status is Urgency.UNKNOWN
            assert device.message == f"no rotation among its last ten updates; registered {START:%Y-%m-%d}"
            continue
        rotation, at, source = truth[name]
        assert (device.rotation, device.source) == (rotation, source), name
        assert device.rotated_at is not None
        assert abs(device.rotated_at - at) < timedelta(minutes=1), name
        left = at + YEAR - world.now
        assert device.days_left in (left // timedelta(days=1), left // timedelta(days=1) - 1)
        assert device.status is (
            Urgency.EXPIRED if left < timedelta() else Urgency.DUE if left <= SOON else Urgency.FINE
        )


def test_a_second_run_asks_only_those_that_were_seen_since(tmp_path: Path) -> None:
    world = World(tmp_path / "mock")
    world.add("a", "b", "c")
    asyncio.run(world.push())
    world.rotate("a", "b")
    first = read(world)
    world.requests.clear()
    assert read(world) == first
    assert world.requests == ["GET /ota/devices/"]
    world.wait(days=1)
    world.see("b")
    read(world)
    assert [request for request in world.requests if "updates/certs-1" in request] == []
    assert sum("/updates/" in request for request in world.requests) == 1


def test_a_rotation_under_way_in_the_first_run_is_read_again_in_the_second(tmp_path: Path) -> None:
    world = World(tmp_path / "mock")
    world.add("a")
    asyncio.run(world.push())
    world.rotate("a", upto=3)
    assert [device.status for device in read(world)] == [Urgency.UNKNOWN]
    world.wait(minutes=5)
    world.rotate("a")
    assert [(device.status, device.rotation) for device in read(world)] == [(Urgency.FINE, "certs-1")]


def test_a_run_that_was_cut_off_is_gone_on_with(tmp_path: Path) -> None:
    world = World(tmp_path / "mock")
    world.add(*(f"d{number:02}" for number in range(20)))
    world.broken["uuid-d19/updates"] = 403
    with pytest.raises(ApiError):
        read(world)
    world.broken.clear()
    world.requests.clear()
    assert len(read(world)) == 20
    assert sum("/updates/" in request for request in world.requests) <= at_once.START


def test_the_est_log_gives_the_exact_end(tmp_path: Path) -> None:
    world = World(tmp_path / "mock")
    world.add("a", "b")
    log = tmp_path / "est.log"
    records = [
        {
            "time": "2026-11-01T00:00:00Z",
            "device": "uuid-a",
            "key-sha256": "k1",
            "not-after": "2026-12-01T00:00:00Z",
        },
        {
            "time": "2026-11-20T00:00:00Z",
            "device": "uuid-a",
            "key-sha256": "k2",
            "not-after": "2029-11-20T00:00:00Z",
        },
    ]
    log.write_text("".join(json.dumps({"outcome": "issued", **record}) + "\n" for record in records))
    found = {device.name: device for device in read(world, est_log=log)}
    assert (found["a"].status, found["a"].source) == (Urgency.FINE, Source.EST_LOG)
    assert found["a"].ends_at == datetime(2029, 11, 20, tzinfo=UTC)
    assert found["b"].status is Urgency.UNKNOWN


@pytest.mark.parametrize(
    ("applied", "finalized", "source"),
    [
        (5, 4, Source.SERVER),
        (None, 4, Source.DEVICE),
        (None, -9, Source.PUSH),
        (None, 99, Source.PUSH),
        (None, None, Source.PUSH),
    ],
)
def test_the_servers_time_goes_before_a_device_clock_that_may_be_wrong(
    applied: int | None, finalized: int | None, source: Source
) -> None:
    def at(days: int | None) -> datetime | None:
        return None if days is None else NOW + timedelta(days=days)

    ended = rotation_date("r", finalized=at(finalized), applied=at(applied), pushed=NOW, last_seen=at(10))
    assert ended is not None
    assert ended.source is source
    assert rotation_date("r", finalized=None, applied=None, pushed=None, last_seen=None) is None


def test_those_that_end_first_come_first_and_months_are_counted() -> None:
    def device(name: str, days: int) -> Due:
        ended = rotation_date(
            "r", finalized=None, applied=NOW + timedelta(days=days) - YEAR, pushed=None, last_seen=None
        )
        return due("u", name, ended, registered=None, lifetime=YEAR, within=SOON, now=NOW)

    unknown = due("u", "unknown", None, registered=None, lifetime=YEAR, within=SOON, now=NOW)
    devices = by_date([device("fine", 200), unknown, device("due", 60), device("expired", -1)])
    assert [(d.name, str(d.status)) for d in devices] == [
        ("expired", "expired"), ("due", "due"), ("unknown", "unknown"), ("fine", "fine"),
    ]  # fmt: skip
    assert by_month(devices) == [
        ("2026-11", 1), ("2026-12", 0), ("2027-01", 1), ("2027-02", 0), ("2027-03", 0), ("2027-04", 0),
        ("2027-05", 0), ("2027-06", 1),
    ]  # fmt: skip
    assert by_month([unknown]) == []


def test_ends_that_are_far_apart_are_counted_by_year() -> None:
    def ends(year: int, month: int = NOW.month) -> Due:
        at = NOW.replace(year=year, month=month, day=1)
        return Due("u", "d", Urgency.FINE, "r", NOW, Source.EST_LOG, at, (at - NOW).days)

    # Up to 48 months are counted by month.
    assert by_month([ends(2027, 1), ends(2030, 12)])[-1] == ("2030-12", 1)
    assert by_month([ends(2027, 1), ends(2031, 1)]) == [("2027", 1), ("2031", 1)]
    assert by_month([ends(2027), ends(9999), ends(2027), ends(2031)]) == [
        ("2027", 2),
        ("2031", 1),
        ("9999", 1),
    ]


def test_the_page_of_a_large_fleet_stays_small_and_begins_with_who_must_rotate() -> None:
    at = NOW + timedelta(days=1)
    devices = [
        Due(f"u{n}", f"<i>{n}", status, "r", NOW, Source.SERVER, at, 1)
        for status in (Urgency.DUE, Urgency.FINE)
        for n in range(20_000)
    ]
    shown = page(devices, "group field", NOW)
    assert len(shown) < 300_000
    assert "<i>0" not in shown
    assert (
        shown.index(">Must rotate, or not known<")
        < shown.index(">How many end when<")
        < shown.index(">Fine<")
    )
    assert shown.count("<tr data-state=") == 500
    assert shown.count("19,750 more like these have no row here") == 2


def test_as_it_is_typed(cli: Cli, acme: Path, tmp_path: Path) -> None:
    html, junit = tmp_path / "due.html", tmp_path / "due.xml"
    result = cli("rotations", "due", "-g", "field", "--html", html, "--junit", junit)
    assert result.code == 3
    assert result.out.splitlines()[0] == "2 devices: 0 expired, 0 due, 2 unknown, 0 fine"
    assert "no rotation among its last ten updates; registered" in result.out
    assert "<h1>When the certificates of group field end</h1>" in html.read_text()
    assert outcomes(suite_in(junit)) == {"device-1": "failure", "device-2": "failure"}
    allowed = cli("rotations", "due", "--all", "--allow", "unknown", "--format", "json", "--junit", junit)
    assert (allowed.code, len(allowed.json["devices"])) == (0, 2)
    assert outcomes(suite_in(junit)) == {"device-1": "skipped", "device-2": "skipped"}
    assert cli("config", "device-group", "create", "empty").code == 0
    assert cli("rotations", "due", "-g", "empty", "--junit", junit).code == 3
    assert outcomes(suite_in(junit)) == {"devices": "failure"}
    assert cli("rotations", "due", "--all", "--html", html).code == 2  # it exists
    for wrong in ([], ["-g", "field", "--all"], ["--all", "--allow", "x"], ["--all", "--within", "soon"]):
        assert cli("rotations", "due", *wrong).code == 2
    assert cli("rotations", "due", "--all", "--est-log", tmp_path / "none").code == 1
