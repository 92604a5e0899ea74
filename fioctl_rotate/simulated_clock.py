"""A clock for simulations: when all tasks that take part sleep, it jumps to the next wake-up.

Each of these tasks is either at work, while the clock stands still, or asleep on the clock.
"""

import asyncio
import datetime
import heapq
import itertools
import math
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class SimulatedClock:
    """A `fioctl_rotate.clock.Clock` in whole seconds, from `start` (aware) on.

    It belongs to one event loop. Real waits, such as for an answer, count as work.
    """

    def __init__(self, start: datetime.datetime) -> None:
        self.start = start.replace(microsecond=0)
        self._seconds = 0
        self._now = self.start
        self._working = 0
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._stopped: asyncio.Event | None = None

    def __call__(self) -> datetime.datetime:
        """The simulated time now."""
        return self._now

    @property
    def elapsed(self) -> int:
        """Seconds since the start."""
        return self._seconds

    def taking_part(self, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        """Have `work` take part: from now until its end it is at work, or asleep here. Await what this returns."""
        self._working += 1

        async def counted() -> T:
            try:
                return await work
            finally:
                self._working -= 1
                self._go_on()

        return counted()

    async def sleep(self, seconds: float) -> None:
        """Sleep so many seconds, rounded up. Only for a task that takes part and is at work."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        wake_up = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._seconds + math.ceil(seconds), next(self._numbers), wake_up))
        self._working -= 1
        self._go_on()
        try:
            await wake_up
        except asyncio.CancelledError:
            # A task that was woken before it was cancelled counts as at work already.
            self._working += wake_up.cancelled()
            raise

    async def stop(self) -> None:
        """Stand still from now on; returns once no task is at work. Only for a task that does not take part."""
        self._stopped = asyncio.Event()
        self._go_on()
        await self._stopped.wait()

    def _go_on(self) -> None:
        """If no task is at work, jump to the next wake-up and wake the tasks that sleep until then."""
        if self._stopped is not None:
            if not self._working:
                self._stopped.set()
            return
        while self._sleepers and not self._working:
            at = self._sleepers[0][0]
            while self._sleepers and self._sleepers[0][0] == at:
                _, _, sleeper = heapq.heappop(self._sleepers)
                if not sleeper.done():
                    self._working += 1
                    sleeper.set_result(None)
            if self._working:
                self._seconds = at
                self._now = self.start + datetime.timedelta(seconds=at)
