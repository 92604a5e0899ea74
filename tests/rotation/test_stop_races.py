"""A rotation is stopped while an `apply` of it runs, or after a device has rotated by the older entry again."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fioctl_rotate.errors import Refused
from fioctl_rotate.mock.store import config_levels
from fioctl_rotate.mock.store.config_levels import Level
from fioctl_rotate.ops.stop import plan_stop, stop
from fioctl_rotate.rotation.entry import FILE_NAME
from fioctl_rotate.rotation.rollout import Decision, Do, decide
from tests.rotation.rollout_factory import OTHER, Factory

GROUP = Level("group", "1")


def take_back(factory: Factory, *names: str) -> None:
    with factory.store.transaction() as db:
        for name in names:
            level = Level("device", f"uuid-{name}")
            config_levels.delete_file(db, level, FILE_NAME, author="me", now=factory.now)


def of_group(factory: Factory) -> bool:
    with factory.store.reading() as db:
        latest = config_levels.latest(db, GROUP)
        return any(file.name == FILE_NAME for file in (latest.files if latest else None) or [])


def test_what_a_running_apply_writes_meanwhile_is_taken_back_too(tmp_path: Path) -> None:
    factory = Factory(tmp_path, 4)

    def apply_goes_on() -> None:
        """Right after the first device's entry was deleted."""
        if factory.requests[-1].startswith("DELETE"):
            factory.answered = lambda: None
            factory.write(Level("device", "uuid-d2"), "r-9", "yearly")
            factory.write(GROUP, "r-9", "yearly")

    async def work() -> None:
        plan = await factory.plan()
        with pytest.raises(TimeoutError):
            await factory.run(plan, polls=1)
        async with factory.api() as api:
            planned = await plan_stop(api, "field", "r-9")
            factory.answered = apply_goes_on
            done = await stop(api, planned)
        assert [device.name for device in done.devices] == ["d1", "d2"]
        assert done.of_group

    asyncio.run(work())
    assert factory.own_entries() == []
    for _ in range(3):
        factory.minutes()
    assert factory.rotated() == [[]] * 4


def test_a_rotation_is_stopped_also_where_its_only_device_is_locked(tmp_path: Path) -> None:
    """The group's log says so, whose configuration is never locked."""
    factory = Factory(tmp_path, 4)

    async def work() -> None:
        plan = await factory.plan()
        with pytest.raises(TimeoutError):
            await factory.run(plan, polls=2)
        async with factory.api() as api:
            done = await stop(api, await plan_stop(api, "field", "r-9"))
        assert [(device.name, device.fate) for device in done.devices] == [("d1", "locked")]
        with pytest.raises(Refused, match="rotation r-9 of group field was stopped"):
            await factory.run(plan)

    asyncio.run(work())
    assert not of_group(factory)
    assert factory.other_files() == {(OTHER.name, OTHER.value)}


def test_a_stop_right_before_the_whole_group_gets_the_entry_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = Factory(tmp_path, 4)

    def decided(*about: Any) -> Decision:
        decision = decide(*about)
        if any(action.do is Do.GIVE_GROUP for action in decision.actions) and factory.own_entries():
            take_back(factory, *factory.own_entries())
        return decision

    monkeypatch.setattr("fioctl_rotate.ops.rollout.decide", decided)

    async def work() -> None:
        with pytest.raises(Refused, match="device d1 had rotation r-9, and has no entry now: it was stopped"):
            await factory.run(await factory.plan())

    asyncio.run(work())
    assert not of_group(factory)


def test_a_device_that_missed_its_entry_is_not_given_it_again_once_that_was_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = Factory(tmp_path, 4)
    given: list[str] = []

    def decided(*about: Any) -> Decision:
        decision = decide(*about)
        if any(action.do is Do.GIVE for action in decision.actions):
            given.append("d1")
            take_back(factory, *factory.own_entries())
        return decision

    monkeypatch.setattr("fioctl_rotate.ops.rollout.decide", decided)
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
        plan = await factory.plan()
        with pytest.raises(TimeoutError):
            await factory.run(plan, polls=2)
        factory.minutes(1)
        factory.devices["d1"].reboot()
        factory.minutes(1)
        assert factory.devices["d1"].rotated == ["r-1", "r-9", "r-1"]
        async with factory.api() as api:
            done = await stop(api, await plan_stop(api, "field", "r-9"))
        assert [(device.name, device.fate, device.message) for device in done.devices] == [
            ("d1", "delete", "it has rotated, and then by r-1 again")
        ]

    asyncio.run(work())
    for _ in range(3):
        factory.minutes()
    assert factory.devices["d1"].rotated == ["r-1", "r-9", "r-1"]


def test_stopping_a_group_says_what_those_do_that_have_begun(tmp_path: Path) -> None:
    factory = Factory(tmp_path, 3)
    factory.write(GROUP, "r-9", "yearly")
    factory.off, factory.down = {"d2", "d3"}, {"r-9"}
    factory.minutes()

    async def work() -> None:
        async with factory.api() as api:
            done = await stop(api, await plan_stop(api, "field", "r-9"))
        assert [(device.name, device.fate, device.message) for device in done.devices] == [
            (
                "d1",
                "none",
                "it hears nothing before its failed step works: bring the EST server of this id back",
            )
        ]

    asyncio.run(work())
    factory.off, factory.down = set(), set()
    for _ in range(3):
        factory.minutes()
    assert factory.rotated() == [["r-9"], [], []]
