"""The simulated clock: it stands still while anybody is at work, and jumps when all sleep."""

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

from hypothesis import given
from hypothesis import strategies as st

from fioctl_rotate.simulated_clock import SimulatedClock

START = datetime(2026, 11, 24, 12, tzinfo=UTC)
T = TypeVar("T")


def run(work: Coroutine[Any, Any, T], steps: int = 10_000) -> T:
    """What `work` returns. A clock that stands still for ever fails after so many steps of the event loop."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = loop.create_task(work)
        while not task.done():
            assert steps, "the clock stands still"
            steps -= 1
            loop.call_soon(loop.stop)
            loop.run_forever()
        return task.result()


async def some_steps() -> None:
    """Real work: it takes the event loop some steps."""
    for _ in range(20):
        await asyncio.sleep(0)


async def all_of(clock: SimulatedClock, *work: Coroutine[Any, Any, Any]) -> None:
    await asyncio.gather(*(clock.taking_part(one) for one in work))


@given(st.lists(st.lists(st.integers(1, 10**6), max_size=5), max_size=6))
def test_everybody_wakes_at_their_time_and_in_its_order(sleeps: list[list[int]]) -> None:
    clock, woken = SimulatedClock(START), []

    async def one(mine: list[int]) -> None:
        expected = 0
        for seconds in mine:
            await clock.sleep(seconds)
            expected += seconds
            assert clock.elapsed == expected
            woken.append(clock())

    run(all_of(clock, *map(one, sleeps)))
    assert woken == sorted(woken)
    assert clock.elapsed == max(map(sum, sleeps), default=0)


def test_it_stands_still_while_somebody_works() -> None:
    clock = SimulatedClock(START)

    async def worker() -> None:
        await some_steps()
        assert clock() == START

    run(all_of(clock, worker(), clock.sleep(3600)))
    assert clock.elapsed == 3600


def test_parts_of_a_second_end_at_a_whole_one_and_nothing_is_no_wait() -> None:
    clock = SimulatedClock(START)

    async def one() -> None:
        await clock.sleep(0)
        assert clock.elapsed == 0
        await clock.sleep(0.2)
        assert clock.elapsed == 1

    run(all_of(clock, one()))


def test_who_is_cancelled_or_fails_holds_nobody_up() -> None:
    clock = SimulatedClock(START)

    async def fails() -> None:
        raise ValueError

    async def scenario() -> None:
        sleeping = asyncio.create_task(clock.taking_part(clock.sleep(10)))
        failing = asyncio.create_task(clock.taking_part(fails()))
        working = asyncio.create_task(clock.taking_part(asyncio.sleep(3600)))
        await asyncio.sleep(0)
        for task in (sleeping, working):
            task.cancel()
        await asyncio.gather(sleeping, failing, working, return_exceptions=True)
        await clock.taking_part(clock.sleep(20))

    run(scenario())
    assert clock.elapsed == 20


def test_one_that_is_cancelled_in_the_second_in_which_it_wakes_holds_nobody_up() -> None:
    clock = SimulatedClock(START)

    async def scenario() -> None:
        async def cancels() -> None:
            await clock.sleep(10)
            woken.cancel()

        woken = asyncio.create_task(clock.taking_part(clock.sleep(10)))
        cancelling = asyncio.create_task(clock.taking_part(cancels()))
        await asyncio.gather(cancelling, woken, return_exceptions=True)
        assert woken.cancelled()
        await clock.taking_part(clock.sleep(5))

    run(scenario())
    assert clock.elapsed == 15


def test_a_stop_waits_for_those_at_work() -> None:
    clock, ended, woken = SimulatedClock(START), [], asyncio.Event()

    async def one() -> None:
        await clock.sleep(1)
        woken.set()
        await some_steps()
        ended.append(clock.elapsed)
        await clock.sleep(1)
        ended.append(clock.elapsed)

    async def scenario() -> None:
        task = asyncio.create_task(clock.taking_part(one()))
        await woken.wait()
        await clock.stop()
        assert ended == [1]
        task.cancel()

    run(scenario())
