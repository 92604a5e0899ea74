"""A rotation is stopped while somebody else pushes, or after a device has rotated by the older entry again."""

import asyncio
from contextlib import nullcontext
from pathlib import Path

import pytest
import stamina

from fioctl_rotate.api.failures import ApiError
from fioctl_rotate.errors import Error, Refused
from fioctl_rotate.ops.stop import finish, plan_stop, stop
from fioctl_rotate.rotation.rollout import Do
from tests.rotation.rollout_factory import FLEET, GROUP, OTHER, Factory, before_sending, own


@pytest.mark.parametrize("again", ["d1", "d2"])
def test_what_a_running_apply_writes_meanwhile_is_taken_back_too(tmp_path: Path, again: str) -> None:
    factory = Factory(tmp_path, 4)

    def apply_goes_on() -> None:
        """Right after the first device's entry was deleted."""
        if factory.requests[-1].startswith("DELETE"):
            factory.answered = lambda: None
            factory.write(own(again), "r-9", "yearly")
            factory.write(GROUP, "r-9", "yearly")

    async def work() -> None:
        await factory.begin(polls=1)
        async with factory.api() as api:
            planned = await plan_stop(api, "field", "r-9")
            factory.answered = apply_goes_on
            done = await stop(api, planned)
        assert [device.name for device in done.devices] == sorted({"d1", again})
        assert done.of_group

    asyncio.run(work())
    assert factory.own_entries() == []
    factory.check_ins()
    assert factory.rotated() == [[]] * 4


@pytest.mark.parametrize(("status", "goes_on"), [(400, True), (403, False), (500, False)])
def test_a_group_whose_log_cannot_say_that_it_is_stopped(tmp_path: Path, status: int, goes_on: bool) -> None:
    """A server may take no change without a file: then the devices' logs say it. Other failures end it."""
    factory = Factory(tmp_path, 4)

    async def refuse() -> None:
        is_mark = factory.requests[-1].startswith("PATCH") and "device-groups" in factory.requests[-1]
        factory.broken = {"device-groups": status} if is_mark else {}

    async def work() -> None:
        await factory.begin(polls=1)
        factory.pause = refuse
        with nullcontext() if goes_on else pytest.raises(ApiError):
            await factory.stop()

    with stamina.set_testing(True):
        asyncio.run(work())
    assert factory.own_entries() == ([] if goes_on else ["d1"])


def test_a_group_that_would_follow_a_fleet_wide_entry_is_not_stopped(tmp_path: Path) -> None:
    factory = Factory(tmp_path, 2)
    factory.write(FLEET, "r-5", "all")
    factory.write(GROUP, "r-9", "yearly")
    before = len(factory.requests)
    with pytest.raises(Refused, match="its devices would rotate by the fleet-wide r-5"):
        asyncio.run(factory.stop())
    assert {request.split()[0] for request in factory.requests[before:]} == {"GET"}
    assert factory.group_has_entry()
    factory.write(FLEET, "r-9", "all")
    asyncio.run(factory.stop())
    assert not factory.group_has_entry()


def test_an_entry_that_somebody_else_deletes_first_is_no_error(tmp_path: Path) -> None:
    factory = Factory(tmp_path, 4)

    async def delete_first() -> None:
        if factory.requests[-1].startswith("DELETE"):
            factory.take_back("d1")

    async def work() -> None:
        await factory.begin(polls=1)
        factory.pause = delete_first
        done = await factory.stop()
        assert [(device.name, device.fate) for device in done.devices] == [("d1", "delete")]

    asyncio.run(work())


def test_finishing_does_not_go_on_where_another_push_came_in_between(tmp_path: Path) -> None:
    factory = Factory(tmp_path, 4)

    def push() -> None:
        if factory.requests[-1].startswith("PATCH"):
            factory.write(GROUP, "r-5", "by hand")

    async def work() -> None:
        await factory.begin(polls=1)
        async with factory.api() as api:
            planned = await plan_stop(api, "field", "r-9")
            factory.answered = push
            with pytest.raises(Error, match="group field has r-5 now, not r-9"):
                await finish(api, "field", planned)

    asyncio.run(work())
    assert factory.own_entries() == ["d1"]


def test_a_rotation_is_stopped_also_where_its_only_device_is_locked(tmp_path: Path) -> None:
    """The group's log says so, whose configuration is never locked."""
    factory = Factory(tmp_path, 4)

    async def work() -> None:
        plan = await factory.begin(polls=2)
        done = await factory.stop()
        assert [(device.name, device.fate) for device in done.devices] == [("d1", "locked")]
        with pytest.raises(Refused, match="rotation r-9 of group field was stopped"):
            await factory.run(plan)

    asyncio.run(work())
    assert not factory.group_has_entry()
    assert factory.other_files() == {(OTHER.name, OTHER.value)}


def test_a_stop_right_before_the_whole_group_gets_the_entry_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = Factory(tmp_path, 4)

    before_sending(monkeypatch, Do.GIVE_GROUP, lambda: factory.take_back(*factory.own_entries()))

    async def work() -> None:
        with pytest.raises(Refused, match="device d1 had rotation r-9, and has no entry now: it was stopped"):
            await factory.run(await factory.plan())

    asyncio.run(work())
    assert not factory.group_has_entry()


def test_a_device_that_missed_its_entry_is_not_given_it_again_once_that_was_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = Factory(tmp_path, 4)
    given: list[str] = []

    def take_back() -> None:
        given.append("d1")
        factory.take_back(*factory.own_entries())

    before_sending(monkeypatch, Do.GIVE, take_back)
    # It takes what it stores for newer than anything it is given.
    factory.devices["d1"].stored_at = factory.now.replace(year=2027)

    async def work() -> None:
        with pytest.raises(Refused, match="it was stopped"):
            await factory.run(await factory.plan())

    asyncio.run(work())
    assert given == ["d1", "d1"]
    assert factory.own_entries() == []


def test_a_device_that_rotated_by_the_older_entry_again_stays_there_when_it_is_stopped(
    tmp_path: Path,
) -> None:
    factory = Factory(tmp_path, 4)
    factory.rotate_all("r-1")

    async def work() -> None:
        await factory.begin(polls=2)
        factory.minutes(1)
        factory.devices["d1"].reboot()
        factory.minutes(1)
        assert factory.devices["d1"].rotated == ["r-1", "r-9", "r-1"]
        done = await factory.stop()
        assert [(device.name, device.fate, device.message) for device in done.devices] == [
            ("d1", "delete", "it has rotated, and then again by r-1")
        ]

    asyncio.run(work())
    factory.check_ins()
    assert factory.devices["d1"].rotated == ["r-1", "r-9", "r-1"]


def test_stopping_a_group_says_what_those_do_that_have_begun(tmp_path: Path) -> None:
    factory = Factory(tmp_path, 3)
    factory.write(GROUP, "r-9", "yearly")
    factory.off, factory.down = {"d2", "d3"}, {"r-9"}
    factory.minutes()

    async def work() -> None:
        done = await factory.stop()
        assert [(device.name, device.fate, device.message) for device in done.devices] == [
            (
                "d1",
                "none",
                "it fetches nothing until its failed step works: bring the EST server of this id back",
            )
        ]

    asyncio.run(work())
    factory.off, factory.down = set(), set()
    factory.check_ins()
    assert factory.rotated() == [["r-9"], [], []]
