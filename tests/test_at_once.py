"""Many requests at the same time: as many as the server takes."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fioctl_rotate.errors import Error
from fioctl_rotate.ops.at_once import MOST, START, Pace, for_each


def most_at_once(count, pace, *, each=lambda: None):
    """Run `count` items; returns how many were under way at most, and the order of their ends."""
    running = most = 0
    ended = []

    async def work(item):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        each()
        running -= 1
        ended.append(item)

    asyncio.run(for_each(range(count), work, pace))
    return most, ended


@given(st.integers(0, 100), st.integers(1, 40))
def test_each_item_is_done_once_and_never_more_at_once_than_allowed(count, most):
    reached, ended = most_at_once(count, Pace(most))
    assert sorted(ended) == list(range(count))
    assert reached <= min(most, START, max(count, 0))


def test_pace_grows_while_the_server_answers():
    pace = Pace()
    reached, _ = most_at_once(2000, pace, each=pace.answered)
    assert reached == pace.limit == MOST


def test_pace_is_halved_once_for_the_requests_that_were_under_way_when_the_server_was_busy():
    pace = Pace()
    while pace.limit < MOST:
        pace.answered()
    for _ in range(MOST):
        pace.answered(busy=True)
    assert pace.limit == MOST // 2
    for _ in range(3 * MOST):
        pace.answered(busy=True)
    assert pace.limit == 1
    for _ in range(2000):
        pace.answered()
    assert pace.limit == MOST


def test_fewer_are_under_way_after_the_server_was_busy():
    pace = Pace(8)
    calls = 0
    counts = []

    async def run():
        nonlocal calls
        running = 0

        async def work(_item):
            nonlocal calls, running
            running += 1
            counts.append(running)
            await asyncio.sleep(0)
            calls += 1
            pace.answered(busy=calls == 8)
            running -= 1

        await for_each(range(100), work, pace)

    asyncio.run(run())
    assert max(counts[:8]) == 8
    assert max(counts[20:30]) < 8


def test_error_of_one_ends_the_others_and_is_raised_itself():
    async def work(item):
        await asyncio.sleep(0)
        if item == 3:
            raise Error("three")

    with pytest.raises(Error, match="three"):
        asyncio.run(for_each(range(10**9), work, Pace()))


def test_concurrency_of_nothing_is_refused():
    with pytest.raises(Error, match="at least 1"):
        Pace(0)
