"""Devices that rotate twice because they start anew before they were settled: seen, counted, and settled again."""

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fioctl_rotate.folders import state_folder
from fioctl_rotate.ops.junit import render_rollout
from fioctl_rotate.ops.rollout import rollout_of
from fioctl_rotate.rotation.plan import Plan
from fioctl_rotate.rotation.rollout import Verdict
from fioctl_rotate.rotation.stages import parse_share
from tests.rotation.rollout_factory import Factory


async def back_after_the_end(factory: Factory) -> Plan:
    """The rollout ends without the last device, which is off; then that one comes back, and rotates."""
    factory.off = {"d4"}
    factory.minutes(5 * 60)
    plan = await factory.plan()
    assert (await factory.run(plan)).decision.verdict is Verdict.DONE
    factory.off = set()
    factory.minutes()
    assert factory.devices["d4"].rotated == ["r-1", "r-9"]
    return plan


def test_a_late_device_that_rotates_by_the_older_entry_again_is_named_and_settled(tmp_path: Path) -> None:
    factory = Factory(tmp_path, 4)
    factory.rotate_all("r-1")

    async def work() -> None:
        plan = await back_after_the_end(factory)
        factory.devices["d4"].reboot()
        step = await factory.run(plan)
        assert step.decision.verdict is Verdict.FAILED
        message = "1 of 4 devices failed (0 allowed): d4: it began another rotation, r-1"
        assert step.decision.message == message
        junit = ElementTree.fromstring(render_rollout(rollout_of(plan), step.decision, step.picture))  # noqa: S314  our own
        failed = [(case.get("name"), case[0].get("type")) for case in junit[-1] if len(case)]
        assert failed == [("d4", "another-rotation")]

    asyncio.run(work())
    factory.devices["d4"].reboot()
    factory.minutes()
    # It came back to this rotation, and stores its entry by now.
    assert factory.devices["d4"].rotated == ["r-1", "r-9", "r-1", "r-9"]
    assert factory.own_entries() == []


def test_a_late_device_that_is_settled_before_it_starts_anew_is_no_failure(tmp_path: Path) -> None:
    factory = Factory(tmp_path, 4)
    factory.rotate_all("r-1")

    async def work() -> None:
        plan = await back_after_the_end(factory)
        assert (await factory.run(plan)).decision.verdict is Verdict.DONE

    asyncio.run(work())
    factory.devices["d4"].reboot()
    factory.minutes()
    assert factory.devices["d4"].rotated == ["r-1", "r-9"]


@pytest.mark.parametrize("keeps_state", [True, False])
def test_an_early_device_that_was_harmed_is_settled_where_the_rollout_goes_on_knowingly(
    tmp_path: Path, keeps_state: bool
) -> None:
    factory = Factory(tmp_path, 4)
    factory.rotate_all("r-1")

    async def work() -> None:
        plan = await factory.plan("1,100%")
        with pytest.raises(TimeoutError):
            await factory.run(plan, polls=3)
        factory.devices["d1"].reboot()
        assert (await factory.run(plan)).decision.verdict is Verdict.FAILED
        assert plan.stages
        if not keeps_state:
            shutil.rmtree(state_folder())
        allowed = replace(plan.stages, max_failures=parse_share("1", "x"))
        assert (await factory.run(plan.replace(stages=allowed))).decision.verdict is Verdict.DONE

    asyncio.run(work())
    for device in factory.devices.values():
        device.reboot()
    factory.minutes()
    assert factory.rotated() == [["r-1", "r-9", "r-1", "r-9"], *[["r-1", "r-9"]] * 3]
