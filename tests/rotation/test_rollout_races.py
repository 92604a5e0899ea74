"""Somebody else changes something between a poll of a rollout and what the run then sends."""

import asyncio
from pathlib import Path

import pytest

from fioctl_rotate.errors import Refused
from fioctl_rotate.mock.store.config_levels import Level
from fioctl_rotate.rotation.picture import stop_reason
from fioctl_rotate.rotation.rollout import Do
from tests.rotation.rollout_factory import GROUP, Factory, before_sending, own


@pytest.mark.parametrize(
    ("do", "level", "time"),
    [
        (Do.CLEAR_GROUP, GROUP, 1),
        (Do.GIVE, own("d1"), 1),
        (Do.SETTLE, own("d1"), 1),
        # Before the whole group gets the entry, everything is read once more.
        (Do.GIVE_GROUP, GROUP, 2),
        (Do.SETTLE_GROUP, GROUP, 1),
        (Do.TAKE_BACK, GROUP, 1),
    ],
)
def test_a_push_right_before_a_write_is_seen_and_nothing_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, do: Do, level: Level, time: int
) -> None:
    factory = Factory(tmp_path, 3)
    if do is Do.CLEAR_GROUP:
        factory.rotate_all("r-1")
    decisions, requests_before = 0, 0

    def push() -> None:
        nonlocal decisions, requests_before
        decisions += 1
        if decisions == time:
            factory.write(level, "r-5", "by hand")
            requests_before = len(factory.requests)

    before_sending(monkeypatch, do, push)

    async def work() -> None:
        with pytest.raises(Refused, match="has rotation r-5"):
            await factory.run(await factory.plan("1", clear_older=do is Do.CLEAR_GROUP))

    asyncio.run(work())
    assert decisions == time
    assert {request.split()[0] for request in factory.requests[requests_before:]} == {"GET"}


@pytest.mark.parametrize(("do", "time"), [(Do.GIVE, 2), (Do.GIVE_GROUP, 2)])
def test_a_stop_right_before_an_entry_is_given_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, do: Do, time: int
) -> None:
    factory = Factory(tmp_path, 5)
    decisions = 0

    def stop() -> None:
        nonlocal decisions
        decisions += 1
        if decisions == time:
            factory.write(GROUP, None, stop_reason("r-9"))

    before_sending(monkeypatch, do, stop)

    async def work() -> list[str]:
        plan = await factory.plan("1,60%")
        with pytest.raises(Refused, match="rotation r-9 of group field was stopped"):
            await factory.run(plan)
        return factory.own_entries()

    # The devices of the first stage have theirs; those of the second only where that was given before.
    assert asyncio.run(work()) == (["d1"] if do is Do.GIVE else ["d1", "d2", "d3"])
    assert not factory.group_has_entry()


def test_a_change_that_a_device_missed_is_sent_again_after_twice_as_long_each_time(tmp_path: Path) -> None:
    factory = Factory(tmp_path, 3)
    # It takes what it stores for newer than anything it is given.
    factory.devices["d1"].stored_at = factory.now.replace(year=2027)
    # An hour; the device checks in every five minutes.
    asyncio.run(factory.begin(polls=12))
    # At once, and after 5, 15 and 35 minutes.
    assert factory.requests.count("PATCH /ota/devices/uuid-d1/config/") == 4
