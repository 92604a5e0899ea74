"""Watch a rotation: one poll of the Factory, and polls until no device can get any further.

`Watch(api, rotation)` loads what earlier polls stored. Each `poll()` reads the Factory once and returns a
`Snapshot`. `known()` returns a snapshot without a request, and `keep()` stores what was read.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.api.failures import ApiError, Unreachable
from fioctl_rotate.clock import Clock, utc_now
from fioctl_rotate.errors import Error
from fioctl_rotate.ops import baselines
from fioctl_rotate.ops.at_once import Pace, for_each
from fioctl_rotate.ops.rotations import find_rotation
from fioctl_rotate.ops.targets import current_entry_of
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.state import DeviceState, Rotation
from fioctl_rotate.rotation.summary import Summary
from fioctl_rotate.rotation.tracker import Tracker

BAD_POLLS = 5  # a watch ends after this many polls in a row that could not list the devices
KEEP_EVERY = 60.0  # seconds between two writes of what was read


@dataclass(frozen=True)
class Snapshot:
    """What is known after a poll.

    `states` are all devices' by name, `changed` those that changed since the snapshot before. `resting` says
    whether no device is expected to get any further. `problems` say what could not be read; it is asked for again.
    """

    rotation: Rotation
    at: datetime
    states: list[DeviceState]
    summary: Summary
    resting: bool = False
    problems: list[str] = field(default_factory=list)
    changed: list[DeviceState] = field(default_factory=list)

    @property
    def message(self) -> str:
        """The counts in one line, or why there is nothing to count."""
        if self.states:
            return self.summary.message
        return self.problems[0] if self.problems else f"{self.rotation.scope} has no devices"


class BadPolls:
    """Counts polls in a row that failed: the first few are tried again."""

    def __init__(self) -> None:
        self._count = 0

    def end(self) -> None:
        """The server has answered."""
        self._count = 0

    def add(self, error: ApiError | Unreachable) -> None:
        """One more failed with `error`. Raises it if a retry cannot help, or after BAD_POLLS of them."""
        self._count += 1
        lasting = isinstance(error, ApiError) and error.status < 500 and error.status != 429
        if lasting or self._count >= BAD_POLLS:
            raise error


class Watch:
    """One rotation, watched through `api`.

    Args:
        tracker: an existing one to use; by default a new one, with what is kept on this machine.
        pace: how many requests may be under way.
        now: the clock.
    """

    def __init__(
        self,
        api: FactoryApi,
        rotation: Rotation,
        *,
        tracker: Tracker | None = None,
        pace: Pace | None = None,
        now: Clock = utc_now,
    ) -> None:
        self.rotation = rotation
        self.tracker = tracker or Tracker(rotation, baselines.load(api, rotation))
        self._api, self._now = api, now
        self._pace = pace or Pace()
        self._busy_answers = api.busy_answers
        self._kept_at: float | None = None

    async def poll(self) -> Snapshot:
        """List the devices seen since the last poll, and ask those that are not done.

        Raises Error where the devices cannot be listed or the token is refused; a device that could not be asked is
        a problem in the snapshot, and is asked again in the next poll.
        """
        api = self._api
        await self._list()
        to_ask = self.tracker.to_ask()
        errors: list[ApiError | Unreachable] = []

        async def ask(uuid: str) -> None:
            try:
                await self._ask(uuid)
            except (ApiError, Unreachable) as error:
                if isinstance(error, ApiError) and error.status in (401, 403):
                    raise
                errors.append(error)
            busy, self._busy_answers = self._busy_answers < api.busy_answers, api.busy_answers
            self._pace.answered(busy=busy)

        await for_each(to_ask, ask, self._pace, api.counted)
        return self._snapshot(
            [f"{len(errors)} device(s) could not be asked: {errors[0].message}"] if errors else []
        )

    async def until_resting(
        self,
        *,
        interval: float,
        tell: Callable[[Snapshot], None],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> Snapshot:
        """Poll every `interval` seconds until no device is expected to get any further; the last snapshot.

        `tell` gets each snapshot. A poll that the server does not answer is a problem in it, and is tried again.
        Raises Error where the token is refused or the server stays away.
        """
        bad_polls = BadPolls()
        while True:
            try:
                snapshot = await self.poll()
                bad_polls.end()
            except (ApiError, Unreachable) as error:
                bad_polls.add(error)
                snapshot = self._snapshot([error.message])
            tell(snapshot)
            self.keep(every=KEEP_EVERY)
            if snapshot.resting:
                return snapshot
            await sleep(interval)

    def known(self) -> Snapshot:
        """What is known now, without a request; also in the middle of a poll that was interrupted."""
        return self._snapshot(["not read yet"])

    def keep(self, *, every: float = 0.0) -> None:
        """Store what was read for a later watch, unless that was done less than `every` seconds ago."""
        now = asyncio.get_running_loop().time()
        if self.tracker.unsaved and (self._kept_at is None or now - self._kept_at >= every):
            baselines.save(self._api, self.rotation, self.tracker.readings())
            self.tracker.unsaved, self._kept_at = False, now

    async def _list(self) -> None:
        filters = self.rotation.scope.device_filters
        limit = self.tracker.begin(self._now())
        while limit:
            pages = self._api.device_pages(filters=filters, sortby="-last_seen", limit=limit)
            async for page in pages:
                if not self.tracker.take_page(page):
                    break
            limit = self.tracker.listed()

    async def _ask(self, uuid: str) -> None:
        tracker = self.tracker
        try:
            first = tracker.wants_record(uuid)
            if first:
                tracker.take_record(uuid, await self._api.device(uuid, by_uuid=True))
            if tracker.wants_events(uuid):
                tracker.take_events(uuid, await events_of(self._api, uuid, self.rotation.id))
                # If the old key is known already, the record can prove the Finalize that was just read.
                if not first and tracker.wants_record(uuid):
                    tracker.take_record(uuid, await self._api.device(uuid, by_uuid=True))
            if tracker.wants_own_entry(uuid):
                log = await self._api.config(Scope.of_device("", uuid)).log(1)
                tracker.take_own_entry(uuid, current_entry_of(log).rotation_id)
        except ApiError as error:
            if error.status != 404:
                raise
            # The device was deleted: since it was listed, or before, so that it is not listed any more.
            tracker.take_record(uuid, None)
        tracker.asked(uuid)

    def _snapshot(self, problems: list[str]) -> Snapshot:
        tracker, now = self.tracker, self._now()
        changed = tracker.refresh(now)
        # A poll with problems may have missed news.
        resting = not problems and tracker.resting()
        return Snapshot(self.rotation, now, tracker.states(), tracker.summary(), resting, problems, changed)


async def open_watch(
    api: FactoryApi,
    rotation_id: str,
    scope: Scope | None = None,
    *,
    pace: Pace | None = None,
) -> Watch:
    """A watch of the rotation of that id, which is looked for in all groups if no scope is given.

    Raises Error as `find_rotation` does, and where no log has the id and no device any event of it.
    """
    found = await find_rotation(api, rotation_id, scope)
    watch = Watch(api, found.rotation, pace=pace)
    if not found.known:
        await watch.poll()
        if not watch.tracker.begun():
            raise Error(
                f"{found.rotation.scope} has no rotation {rotation_id}",
                hint=f"rotations there: {', '.join(found.others) or 'none'}",
            )
    return watch


async def events_of(api: FactoryApi, uuid: str, rotation_id: str) -> list[wire.Event]:
    """A device's events of a rotation, in their order of arrival; [] where it has not begun."""
    try:
        return await api.device_events(uuid, rotation_id)
    except ApiError as error:
        # It has no such update.
        if error.status != 404:
            raise
        return []
