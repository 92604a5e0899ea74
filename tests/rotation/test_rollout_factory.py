"""Whole rollouts in stages against the mocked operator API: cut off anywhere, run twice, stopped, disturbed."""

import asyncio
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from platformdirs import user_state_path

from fioctl_rotate.errors import Refused
from fioctl_rotate.ops.rollout import Step
from fioctl_rotate.ops.stop import finish, plan_stop, stop
from fioctl_rotate.rotation.rollout import Verdict
from tests.rotation.rollout_factory import GROUP, OTHER, Factory, own


def forget_everything() -> None:
    """The state folder of this machine is gone."""
    shutil.rmtree(user_state_path("fioctl-rotate", appauthor=False), ignore_errors=True)


def assert_finished(factory: Factory, verdict: Verdict, *, older: str | None = None) -> None:
    assert verdict is Verdict.DONE
    assert factory.rotated() == [[older, "r-9"] if older else ["r-9"]] * len(factory.devices)
    assert factory.own_entries() == []
    assert factory.other_files() == {(OTHER.name, OTHER.value)}


@pytest.mark.parametrize("older", [None, "r-1"])
def test_a_rollout_ends_with_every_device_done_and_settled(tmp_path: Path, older: str | None) -> None:
    factory = Factory(tmp_path, 5)
    if older:
        factory.rotate_all(older)

    async def work() -> Verdict:
        plan = await factory.plan(clear_older=older is not None)
        return (await factory.run(plan)).decision.verdict

    assert_finished(factory, asyncio.run(work()), older=older)
    # A reboot of each brings nothing back: what it stores is this rotation's entry.
    for device in factory.devices.values():
        device.reboot()
    factory.minutes()
    assert all(device.rotated[-1] == "r-9" for device in factory.devices.values())


@pytest.mark.parametrize("keep_state", [True, False])
def test_cut_off_after_any_write_it_ends_just_the_same(tmp_path: Path, keep_state: bool) -> None:
    async def requests(directory: Path) -> list[str]:
        factory = Factory(directory, 4)
        plan = await factory.plan()
        before = len(factory.requests)
        await factory.run(plan)
        return factory.requests[before:]

    async def cut_off(directory: Path, request: int) -> None:
        factory = Factory(directory, 4)
        plan = await factory.plan()
        assert await factory.run_cut_off(plan, request)
        if not keep_state:
            forget_everything()
        assert_finished(factory, (await factory.run(plan)).decision.verdict)

    told = asyncio.run(requests(tmp_path / "whole"))
    writes = [n for n, request in enumerate(told, 1) if request.split()[0] in ("PATCH", "DELETE")]
    assert len(writes) >= 8
    # With everything forgotten, right before each write: what was decided must be decided again.
    for request in writes if keep_state else (n - 1 for n in writes):
        asyncio.run(cut_off(tmp_path / str(request), request))
        forget_everything()


def test_two_who_run_the_same_plan_at_once_do_no_harm(tmp_path: Path) -> None:
    factory = Factory(tmp_path, 5)

    async def work() -> list[Verdict]:
        plan = await factory.plan()
        steps = await asyncio.gather(factory.run(plan, polls=200), factory.run(plan, polls=200))
        return [step.decision.verdict for step in steps]

    for verdict in asyncio.run(work()):
        assert_finished(factory, verdict)


def test_another_run_that_goes_on_between_two_requests_is_no_stop(tmp_path: Path) -> None:
    factory = Factory(tmp_path, 5)

    async def work() -> Step:
        plan = await factory.plan()
        while len(factory.own_entries()) < 2:
            with suppress(TimeoutError):
                await factory.run(plan, polls=2)

        def the_other_one_goes_on() -> None:
            """Right after this one has read the group's log, which has no entry yet."""
            factory.answered = lambda: None
            factory.hand_over(plan)

        factory.answered = the_other_one_goes_on
        return await factory.run(plan)

    assert_finished(factory, asyncio.run(work()).decision.verdict)


def test_a_push_by_hand_in_between_is_named_and_nothing_more_is_sent(tmp_path: Path) -> None:
    factory = Factory(tmp_path, 5)

    async def work() -> None:
        plan = await factory.begin(polls=3)
        factory.write(GROUP, "r-5", "by hand")
        before = len(factory.requests)
        with pytest.raises(Refused, match="group field has rotation r-5 now, which is not from this plan"):
            await factory.run(plan)
        assert {request.split()[0] for request in factory.requests[before:]} == {"GET"}

    asyncio.run(work())


@pytest.mark.parametrize("older", [None, "r-1"])
def test_what_was_stopped_is_not_pushed_again_by_the_next_scheduled_run(
    tmp_path: Path, older: str | None
) -> None:
    factory = Factory(tmp_path, 5)
    if older:
        factory.rotate_all(older)

    async def work() -> None:
        plan = await factory.begin(polls=4)
        done = await factory.stop()
        assert [(device.name, device.fate) for device in done.devices] == [
            ("d1", "leave" if older else "delete")
        ]
        with pytest.raises(Refused, match="rotation r-9 of group field was stopped"):
            await factory.run(plan)

    asyncio.run(work())
    factory.check_ins()
    # The first device had rotated, and nobody rotates again because of the stop.
    first = [*([older] if older else []), "r-9"]
    assert factory.rotated() == [first, *[[older] if older else []] * 4]


def test_stopping_a_device_that_has_begun_does_not_make_it_rotate_again(tmp_path: Path) -> None:
    factory = Factory(tmp_path, 3)
    factory.rotate_all("r-1")
    factory.down = {"r-9"}

    async def work() -> None:
        await factory.begin(polls=2)
        done = await factory.stop()
        assert [(device.name, device.fate) for device in done.devices] == [("d1", "leave")]

    asyncio.run(work())
    factory.down = set()
    factory.minutes()
    # Any later change has it fetch what is there now.
    factory.write(GROUP, None, "another file")
    factory.check_ins()
    assert factory.devices["d1"].rotated == ["r-1", "r-9"]


def test_a_device_that_begins_while_stop_asks_keeps_its_entry(tmp_path: Path) -> None:
    factory = Factory(tmp_path, 3)
    factory.rotate_all("r-1")
    factory.down = {"r-9"}

    async def work() -> None:
        await factory.begin(polls=1)
        async with factory.api() as api:
            planned = await plan_stop(api, "field", "r-9")
            assert [device.fate for device in planned.devices] == ["delete"]
            factory.minutes()
            assert [device.fate for device in (await stop(api, planned)).devices] == ["leave"]

    asyncio.run(work())
    assert factory.own_entries() == ["d1"]


def test_finishing_gives_the_entry_to_the_group_and_says_what_each_device_does(tmp_path: Path) -> None:
    factory = Factory(tmp_path, 3)
    factory.rotate_all("r-1")

    async def work() -> list[str]:
        await factory.begin(polls=1)
        async with factory.api() as api:
            done = await finish(api, "field", await plan_stop(api, "field", "r-9"))
        return [f"{device.name}: {device.fate}: {device.message}" for device in done.devices]

    assert asyncio.run(work()) == [
        "d1: delete: it has not fetched the entry; "
        "it will rotate by the group's or fleet-wide entry, which has the same id"
    ]
    factory.check_ins()
    assert factory.rotated() == [["r-1", "r-9"]] * 3
    assert factory.own_entries() == []


def test_stop_deletes_nothing_that_somebody_else_has_pushed_meanwhile(tmp_path: Path) -> None:
    factory = Factory(tmp_path, 2)

    async def work() -> None:
        factory.write(own("d1"), "r-9", "one")
        async with factory.api() as api:
            of_device = await plan_stop(api, "field", "r-9")
            factory.write(own("d1"), "r-5", "by hand")
            done = await stop(api, of_device)
            assert [(device.fate, device.message) for device in done.devices] == [
                ("leave", "it has rotation r-5 of its own now, which is left as it is")
            ]
            assert factory.own_entries() == ["d1"]
            factory.write(GROUP, "r-9", "all")
            of_group = await plan_stop(api, "field", "r-9")
            factory.write(GROUP, "r-5", "by hand")
            before = len(factory.requests)
            with pytest.raises(Refused, match="group field has rotation r-5 now, not r-9"):
                await stop(api, of_group)
            assert {request.split()[0] for request in factory.requests[before:]} == {"GET"}

    asyncio.run(work())


def test_a_reason_that_speaks_of_another_plan_is_only_a_reason(tmp_path: Path) -> None:
    factory = Factory(tmp_path, 3)

    async def work() -> Step:
        plan = (await factory.plan("1")).replace(reason="as in plan 0123456789ab (see there)")
        return await factory.run(plan)

    assert_finished(factory, asyncio.run(work()).decision.verdict)


def test_a_plan_of_other_devices_is_refused_once_it_was_started(tmp_path: Path) -> None:
    factory = Factory(tmp_path, 5)

    async def work() -> None:
        plan = await factory.plan("1,60%")
        with pytest.raises(TimeoutError):
            await factory.run(plan, polls=2)
        assert plan.stages
        sooner = replace(plan.stages, soak=0)
        for edited in (
            {"stages": replace(plan.stages, early=plan.stages.early[:1])},
            {"stages": replace(plan.stages, clear_group=True)},
            {"reason": "another"},
            {"fleet_wide": "another"},
        ):
            with pytest.raises(Refused, match="was started from another plan"):
                await factory.run(plan.replace(**edited))
        assert_finished(factory, (await factory.run(plan.replace(stages=sooner))).decision.verdict)

    asyncio.run(work())
