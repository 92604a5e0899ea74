"""Many requests at the same time: as many as the server takes, and no more."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeVar

from fioctl_rotate.api.client import Counted
from fioctl_rotate.errors import UsageError

T = TypeVar("T")

START = 8
MOST = 32


class Pace:
    """How many requests may be under way: from START up to `most`, halved each time the server is busy.

    The limit doubles after as many answers as it allows requests. Once the server was busy, it grows by one.
    A watch keeps one pace from start to end.
    """

    def __init__(self, most: int = MOST) -> None:
        if most < 1:
            raise UsageError(f"expected a concurrency of at least 1, got {most}")
        self.most = most
        self.limit = min(START, most)
        self._answers = 0
        self._sent_before_halving = 0
        self._was_busy = False

    def answered(self, *, busy: bool = False) -> None:
        """The server has answered a request; `busy` says that it did so with 429 or 503."""
        self._sent_before_halving = max(0, self._sent_before_halving - 1)
        if busy and not self._sent_before_halving:
            # The requests that are under way now may be answered "busy" too: halve once for all of them.
            self._sent_before_halving, self._was_busy = self.limit, True
            self.limit, self._answers = max(1, self.limit // 2), 0
        elif not busy:
            self._answers += 1
        if self._answers >= self.limit and self.limit < self.most:
            grown = self.limit + 1 if self._was_busy else 2 * self.limit
            self.limit, self._answers = min(grown, self.most), 0


async def for_each(
    items: Collection[T],
    work: Callable[[T], Awaitable[None]],
    pace: Pace,
    counted: Counted = lambda _done, _all: None,
) -> None:
    """Await `work(item)` for all items, `pace.limit` at a time. An error of one ends the others, and is raised.

    `counted` is called at the start and after each item, with how many are done and how many there are.
    """
    waiting = iter(items)
    running = done = 0
    counted(0, len(items))

    async def worker() -> None:
        nonlocal running, done
        try:
            for item in waiting:
                await work(item)
                done += 1
                counted(done, len(items))
                start()
                start()
                if running > pace.limit:
                    return
        finally:
            running -= 1

    def start() -> None:
        nonlocal running
        # After each item a worker starts up to two others, since a pace can double.
        if running < pace.limit:
            running += 1
            group.create_task(worker())

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(pace.limit):
                start()
    except BaseExceptionGroup as errors:
        raise first_of(errors) from None


async def together(*work: Awaitable[Any]) -> list[Any]:
    """Await all at once; returns what each gave. Where some fail, the error of the first in order is raised."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a task group, which is what ended the others."""
    error = errors.exceptions[0]
    return first_of(error) if isinstance(error, BaseExceptionGroup) else error
