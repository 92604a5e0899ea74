"""Read with few requests, poll after poll, what the decisions of a rollout in stages need.

A device of an early stage is read again when it was seen since, or when something was sent to it. The answers prove
something only in this order of requests: first the device's own log, then its events, then its record.
"""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.api.failures import ApiError, Unreachable
from fioctl_rotate.clock import Clock
from fioctl_rotate.ops import baselines
from fioctl_rotate.ops.at_once import Pace, for_each
from fioctl_rotate.ops.watch import Snapshot, Watch, events_of
from fioctl_rotate.rotation.entry import FILE_NAME, rotation_id_of
from fioctl_rotate.rotation.picture import BeganAgain, EntryLog, Memory, Picture, Reading, entry_log
from fioctl_rotate.rotation.progress import STARTED, Progress, from_events, parse_time
from fioctl_rotate.rotation.rollout import CHECK_IN
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.stage_states import Rollout
from fioctl_rotate.rotation.stages import StageDevice
from fioctl_rotate.rotation.state import DeviceState, Facts, Rotation, State
from fioctl_rotate.rotation.tracker import Tracker, key_digest


class StageReader:
    """Reads one rollout.

    After each `read`, `reasons` has the reason of each write that gave the entry to a stage device, from its log.
    `problems` says what could not be read; the next `read` tries it again.
    """

    def __init__(self, api: FactoryApi, rollout: Rollout, memory: Memory) -> None:
        self._api, self._rollout, self._memory = api, rollout, memory
        self._scope = Scope.of_group(rollout.group)
        self._known: dict[str, tuple[datetime | None, Reading]] = {}
        self._watch: Watch | None = None
        self._not_again: set[str] = set()
        self._pace = Pace()
        self.reasons: set[str] = set()
        self.problems: list[str] = []

    def forget(self, uuids: Iterable[str]) -> None:
        """Read these devices anew in the next poll: something was sent to them."""
        for uuid in uuids:
            self._known.pop(uuid, None)

    async def read(self, now: Clock) -> Picture:
        """One poll. Raises Error where a log or the group's devices cannot be read."""
        self.problems = []
        group, fleet = await asyncio.gather(self._log(self._scope), self._log(Scope.fleet()))
        members = await self._members()
        given = group.value == self._rollout.value
        if given and self._watch is None:
            # From now on a device may begin by the group's entry: events matter even where the own log has nothing.
            self._known.clear()
        devices = await self._devices(members, given=given)
        if not given:
            return Picture(group, fleet, devices)
        snapshot = await self._whole_group(group, now)
        again, unread = await self._again(snapshot.states, group.settled_at, devices)
        resting = snapshot.resting and not unread
        return Picture(group, fleet, devices, snapshot.states, snapshot.summary, resting, again)

    async def _log(self, scope: Scope) -> EntryLog:
        return entry_log(await self._api.config(scope).log(), self._rollout.id)

    async def _members(self) -> dict[str, datetime | None]:
        """The last-seen of each stage device that is in the group, by uuid."""
        wanted = {device.uuid for device in self._rollout.stages.devices}
        found: dict[str, datetime | None] = {}
        async for page in self._api.device_pages(filters=self._scope.device_filters, sortby="name"):
            found |= {d.uuid: parse_time(d.last_seen) for d in page.devices if d.uuid in wanted}
        return found

    async def _devices(
        self, members: Mapping[str, datetime | None], *, given: bool
    ) -> dict[str, Reading | None]:
        readings: dict[str, Reading | None] = {}

        async def read(device: StageDevice) -> None:
            last_seen, known = self._known.get(device.uuid, (None, None))
            readings[device.uuid] = known
            if known is not None and device.uuid in members and members[device.uuid] == last_seen:
                return
            try:
                reading = await self._device(device, members, given=given)
            except (ApiError, Unreachable) as error:
                if isinstance(error, ApiError) and error.status == 404:
                    readings[device.uuid] = None
                    return
                if known is None or (isinstance(error, ApiError) and error.status in (401, 403)):
                    raise
                self.problems.append(f"device {device.name} could not be read: {error.message}")
                return
            self._known[device.uuid] = (members.get(device.uuid), reading)
            readings[device.uuid] = reading

        await for_each(self._rollout.stages.devices, read, self._pace, self._api.counted)
        return readings

    async def _device(
        self, device: StageDevice, members: Mapping[str, datetime | None], *, given: bool
    ) -> Reading:
        log = await self._api.config(Scope.of_device(device.name, device.uuid)).log()
        own = entry_log(log, self._rollout.id)
        self.reasons |= _reasons(log, self._rollout.id)
        progress, other = Progress(), None
        if own.ever or given:
            progress = from_events(await events_of(self._api, device.uuid, self._rollout.id))
            other = await self._other(device)
        # The key is read after the events: a new one then proves that the gateway took it.
        record = await self._api.device(device.uuid, by_uuid=True)
        # Its last-seen is read after its log, too: a later one is then surely of a later check-in.
        return Reading(
            own,
            progress,
            key_digest(record.public_key),
            parse_time(record.last_seen),
            member=device.uuid in members,
            other=other,
        )

    async def _other(self, device: StageDevice) -> str | None:
        """Another rotation that the device began since the plan was made, None where there is none."""
        new = [
            update.correlation_id
            for update in await self._api.device_updates(device.uuid)
            if update.correlation_id not in (self._rollout.id, *device.updates)
        ]
        for rotation_id in [*device.attempts, *new]:
            begun = attempts_in(await events_of(self._api, device.uuid, rotation_id))
            if begun > device.attempts.get(rotation_id, 0):
                return rotation_id
        return None

    async def _whole_group(self, group: EntryLog, now: Clock) -> Snapshot:
        if self._watch is None:
            rotation = Rotation(
                self._rollout.id, self._scope, pushed_at=self._memory.given_at or group.given_at
            )
            readings = baselines.load(self._api, rotation)
            for device in self._rollout.stages.devices:
                facts = readings.devices.setdefault(device.uuid, Facts(device.uuid, name=device.name))
                facts.first_key, facts.first_key_is_old = device.key, True
            self._watch = Watch(
                self._api, rotation, tracker=Tracker(rotation, readings), pace=self._pace, now=now
            )
        snapshot = await self._watch.poll()
        self._watch.keep()
        self.problems += snapshot.problems
        return snapshot

    async def _again(
        self,
        states: Iterable[DeviceState],
        settled_at: datetime | None,
        early: Mapping[str, Reading | None],
    ) -> tuple[dict[str, BeganAgain], bool]:
        """The devices that have begun an older rotation once more; and whether some could not be read.

        One request for each device and older rotation, once the device was seen after the settling: until then it
        may still begin. Of early devices it may be known already.
        """
        found: dict[str, BeganAgain] = {}
        unread = False

        def may_have(state: DeviceState) -> bool:
            reading = early.get(state.uuid)
            if reading is not None and reading.other is not None:
                return True
            seen = state.last_seen
            return settled_at is not None and seen is not None and seen > settled_at + CHECK_IN

        wanted = {
            state.uuid: state
            for state in states
            if state.state is State.DONE and state.uuid not in self._not_again and may_have(state)
        }

        async def read(uuid: str) -> None:
            nonlocal unread
            try:
                again = await self._began_again(wanted[uuid])
            except (ApiError, Unreachable) as error:
                if isinstance(error, ApiError) and error.status in (401, 403):
                    raise
                unread = True
                self.problems.append(f"device {wanted[uuid].name} could not be read: {error.message}")
                return
            if again is None:
                self._not_again.add(uuid)
            else:
                found[uuid] = again

        if self._rollout.older_ids:
            await for_each(wanted, read, self._pace, self._api.counted)
        return found, unread

    async def _began_again(self, state: DeviceState) -> BeganAgain | None:
        first = next(iter(state.progress.finals), None)
        for rotation_id in sorted(self._rollout.older_ids):
            older = from_events(await events_of(self._api, state.uuid, rotation_id))
            if not older.began_again_after(first):
                continue
            present = from_events(await events_of(self._api, state.uuid, self._rollout.id))
            # Its last-seen is read after its events: a settling after that is surely later than they are.
            seen = parse_time((await self._api.device(state.uuid, by_uuid=True)).last_seen)
            count = len(older.finals) + len(present.finals)
            known, since = self._memory.again.get(state.uuid, (0, seen))
            if seen is not None and known != count:
                self._memory.again[state.uuid], since = (count, seen), seen
            return None if since is None else BeganAgain(rotation_id, since)
        return None


def attempts_in(events: Iterable[wire.Event]) -> int:
    """How often the events say that a device began the rotation."""
    return sum(event.event_type.id == STARTED for event in events)


def _reasons(log: Iterable[wire.Config], rotation_id: str) -> set[str]:
    return {
        config.reason
        for config in log
        if config.reason
        and any(
            file.name == FILE_NAME and rotation_id_of(file.value) == rotation_id
            for file in config.files or []
        )
    }
