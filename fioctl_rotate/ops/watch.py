"""Following a rotation: one poll of the Factory, and polls until nothing more is to be expected."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.api.exchange import ApiError, Unreachable
from fioctl_rotate.clock import Clock, utc_now
from fioctl_rotate.ops.rotations import own_entry
from fioctl_rotate.rotation.state import DeviceState, Rotation
from fioctl_rotate.rotation.tracker import Summary, Tracker, summarize

AT_ONCE = 8  # requests under way at the same time
BAD_POLLS = 5  # so many polls in a row that could not list the devices end a watch


@dataclass(frozen=True)
class Snapshot:
    """What is known after a poll. `problems` are, in words, what could not be asked; it is asked again."""

    rotation: Rotation
    at: datetime
    states: list[DeviceState]
    summary: Summary
    settled: bool
    problems: list[str]


async def look(
    api: FactoryApi,
    tracker: Tracker,
    *,
    only: str | None = None,
    asking: Callable[[int], None] = lambda _count: None,
    now: Clock = utc_now,
) -> Snapshot:
    """One poll: list the devices seen since the last one and ask those that are not done. `only` is a uuid.

    `asking` is told how many devices are about to be asked, which may take a while. Raises Error where the devices
    cannot be listed or the token is refused; what could not be asked of a single device is told in the snapshot and
    asked again in the next poll.
    """
    limit = tracker.begin()
    pages = api.device_pages(
        group=None if only else tracker.rotation.group,
        sortby="-last_seen",
        limit=limit,
        filters={"uuid": only} if only else None,
    )
    async for page in pages:
        if not tracker.take_page(page):
            break
    gate = asyncio.Semaphore(AT_ONCE)

    async def ask(uuid: str) -> ApiError | Unreachable | None:
        async with gate:
            try:
                await _ask(api, tracker, uuid)
            except (ApiError, Unreachable) as error:
                tracker.ask_again(uuid)
                return error
            return None

    to_ask = tracker.to_ask()
    asking(len(to_ask))
    errors = list(filter(None, await asyncio.gather(*(ask(uuid) for uuid in to_ask))))
    for error in errors:
        if isinstance(error, ApiError) and error.status in (401, 403):
            raise error
    problems = [f"{len(errors)} device(s) could not be asked: {errors[0].message}"] if errors else []
    return _snapshot(tracker, now(), problems)


async def wait_for(
    api: FactoryApi,
    tracker: Tracker,
    *,
    interval: float,
    only: str | None = None,
    asking: Callable[[int], None] = lambda _count: None,
    tell: Callable[[Snapshot], None] = lambda _snapshot: None,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    now: Clock = utc_now,
) -> Snapshot:
    """Poll every `interval` seconds until no device can be expected to move any more; returns the last snapshot.

    `tell` is given each snapshot, `asking` is for `look`. A poll that the server does not answer is told and tried
    again. Raises Error where the token is refused or the server stays away.
    """
    bad = 0
    while True:
        try:
            snapshot = await look(api, tracker, only=only, asking=asking, now=now)
            bad = 0
        except (ApiError, Unreachable) as error:
            bad += 1
            lasting = isinstance(error, ApiError) and error.status < 500 and error.status != 429
            if lasting or bad >= BAD_POLLS:
                raise
            snapshot = _snapshot(tracker, now(), [error.message])
        tell(snapshot)
        if snapshot.settled:
            return snapshot
        await sleep(interval)


def _snapshot(tracker: Tracker, now: datetime, problems: list[str]) -> Snapshot:
    states = tracker.states(now)
    # A poll with problems may have missed news.
    settled = not problems and all(tracker.settled(state) for state in states)
    return Snapshot(tracker.rotation, now, states, summarize(states), settled, problems)


async def _ask(api: FactoryApi, tracker: Tracker, uuid: str) -> None:
    try:
        first = tracker.wants_record(uuid)
        if first:
            tracker.take_record(uuid, await api.device(uuid, by_uuid=True))
        if tracker.wants_events(uuid):
            tracker.take_events(uuid, await events_of(api, uuid, tracker.rotation.id))
            # Where an old key is known already, a Finalize just read about may be proven at once.
            if not first and tracker.wants_record(uuid):
                tracker.take_record(uuid, await api.device(uuid, by_uuid=True))
        if tracker.wants_own_entry(uuid):
            tracker.take_own_entry(uuid, own_entry(await api.device_config(uuid, 1)))
    except ApiError as error:
        # A device that was deleted since it was listed; the next whole list misses it.
        if error.status != 404:
            raise


async def events_of(api: FactoryApi, uuid: str, rotation_id: str) -> list[wire.Event]:
    """A device's events of a rotation, in their order of arrival; [] where it has not begun."""
    try:
        return await api.device_events(uuid, rotation_id)
    except ApiError as error:
        # It has no such update.
        if error.status != 404:
            raise
        return []
