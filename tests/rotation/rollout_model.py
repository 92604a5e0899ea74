"""A Factory and its devices as far as a rollout in stages goes, in memory: what fioconfig was seen to do.

A device fetches when something changed after the time of modification of what it stores. It runs the handler for a
changed entry, and rotates when the entry's id is not the one that it completed last. It stores what it fetched only
where it did not rotate: after a rotation it still stores the configuration of before. A reboot writes again what is
stored, as if it had changed.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from fioctl_rotate import wire
from fioctl_rotate.rotation.entry import FILE_NAME, make_entry
from fioctl_rotate.rotation.picture import Picture, Reading, entry_log
from fioctl_rotate.rotation.progress import STARTED, STEPS, from_events
from fioctl_rotate.rotation.rollout import Action, Do, Rollout
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.stages import StageDevice, Stages
from fioctl_rotate.rotation.state import Facts, Reason, Rotation, State, device_state

BEGIN = datetime(2026, 11, 24, 12, tzinfo=UTC)
OTHER_FILE = wire.ConfigFile(name="wifi", value="secret", unencrypted=True)


def value_of(rotation_id: str) -> str:
    return make_entry(
        server_name=f"{rotation_id}.example.com", port=8443, resource="/.well-known/est",
        pkey_ids="01,07", cert_ids="03,09", rotation_id=rotation_id,
    ).render()  # fmt: skip


class Config:
    """A configuration and its log, newest first, at most ten entries."""

    def __init__(self) -> None:
        self.log: list[wire.Config] = []

    @property
    def entry(self) -> str | None:
        files = self.log[0].files or [] if self.log else []
        return next((file.value for file in files if file.name == FILE_NAME), None)

    def change(self, entry: str | None, reason: str, now: datetime, author: str = "me") -> None:
        files = [f for f in (self.log[0].files or [] if self.log else [OTHER_FILE]) if f.name != FILE_NAME]
        if entry is not None:
            files = [*files, wire.ConfigFile(name=FILE_NAME, value=entry, unencrypted=True)]
        created = now.strftime("%Y-%m-%dT%H:%M:%S")
        self.log.insert(0, wire.Config(created_at=created, created_by=author, reason=reason, files=files))
        del self.log[10:]


@dataclass
class ModelDevice:
    """A device; `ahead` is by how much its clock is ahead."""

    name: str
    own: Config = field(default_factory=Config)
    ahead: timedelta = timedelta()
    completed: str | None = None
    stored: str | None = None
    stored_at: datetime = BEGIN - timedelta(days=1)
    file: str | None = None
    resuming: str | None = None
    locked: bool = False
    key: int = 0
    last_seen: datetime = BEGIN
    events: dict[str, list[wire.Event]] = field(default_factory=dict)
    rotated: list[str] = field(default_factory=list)

    def tell(self, rotation_id: str, kind: str, success: bool = True) -> None:
        detail = (
            wire.EventDetail(success=success) if success else wire.EventDetail(success=False, details="no")
        )
        events = self.events.setdefault(rotation_id, [])
        events.append(wire.Event(id=f"{len(events)}", event_type=wire.EventType(id=kind), event=detail))


class World:
    """A group of devices, its configuration and the fleet's. `down` are ids whose EST server does not work."""

    def __init__(self, names: list[str]) -> None:
        self.now = BEGIN
        self.group, self.fleet = Config(), Config()
        self.devices = {name: ModelDevice(name) for name in names}
        self.down: set[str] = set()
        self.sent: list[Action] = []
        self.done_by: dict[str, datetime] = {}

    def id_in(self, value: str | None) -> str | None:
        return None if value is None else value.rsplit("ROTATIONID=", 1)[1].strip()

    # --- What a device does ---

    def check_in(self, device: ModelDevice) -> None:
        """One start of fioconfig and its check-in; after a rotation it starts anew at the next one."""
        if device.resuming is not None:
            self._rotate(device, device.resuming)
            return
        if device.locked:
            # The first connection with the new key.
            device.locked, device.key = False, device.key + 1
        self._see(device)
        configs = [config for config in (device.own, self.group, self.fleet) if config.log]
        changed = max((self._changed(config) for config in configs), default=BEGIN - timedelta(days=2))
        if changed <= device.stored_at:
            return
        if device.own.log:
            device.own.log[0].applied_at = "some time"
        entry = next((config.entry for config in configs if config.entry is not None), None)
        if self._handle(device, entry):
            return
        device.stored, device.stored_at = entry, changed

    def reboot(self, device: ModelDevice) -> None:
        """`extract`, early at boot: the stored files are written anew, and count as changed."""
        if device.resuming is None:
            device.file = None
            self._handle(device, device.stored)

    def _handle(self, device: ModelDevice, entry: str | None) -> bool:
        changed, device.file = entry != device.file, entry
        rotation_id = self.id_in(entry)
        if not changed or rotation_id is None or rotation_id == device.completed:
            return False
        self._rotate(device, rotation_id)
        return True

    def _rotate(self, device: ModelDevice, rotation_id: str) -> None:
        if device.locked:
            device.locked, device.key = False, device.key + 1
        self._see(device)
        device.tell(rotation_id, STARTED)
        if rotation_id in self.down:
            device.tell(rotation_id, STEPS[0], success=False)
            device.resuming = rotation_id
            return
        for step in STEPS:
            device.tell(rotation_id, step)
        if device.own.entry is not None:
            device.own.change(device.own.entry, "Rotating device client certificate", self.now, device.name)
        device.resuming, device.completed, device.locked = None, rotation_id, True
        device.rotated.append(rotation_id)
        # It still stores what it had before, and takes it for the newest by its own clock.
        device.stored_at = self.now + device.ahead

    def _see(self, device: ModelDevice) -> None:
        device.last_seen = self.now

    def _changed(self, config: Config) -> datetime:
        return datetime.fromisoformat(str(config.log[0].created_at)).replace(tzinfo=UTC)

    # --- What a rollout reads and sends ---

    def plan(self, sizes: list[int], rotation_id: str = "certs-9", **options: Any) -> Rollout:
        names, early, begin = list(self.devices), [], 0
        for size in sizes:
            early.append(tuple(self._stage_device(name) for name in names[begin : begin + size]))
            begin += size
        stages = Stages(tuple(early), **options)
        return Rollout("field", value_of(rotation_id), self.group.entry, self.fleet.entry, stages)

    def _stage_device(self, name: str) -> StageDevice:
        device = self.devices[name]
        attempts = {id: sum(e.event_type.id == STARTED for e in told) for id, told in device.events.items()}
        return StageDevice(name, name, f"key {device.key}", updates=tuple(attempts), attempts=attempts)

    def picture(self, rollout: Rollout) -> Picture:
        group = entry_log(self.group.log, rollout.id)
        readings = {d.uuid: self._reading(self.devices[d.uuid], rollout, d) for d in rollout.stages.devices}
        if group.value != rollout.value:
            return Picture(group, entry_log(self.fleet.log, rollout.id), readings)
        rotation = Rotation(rollout.id, Scope.of_group("field"), pushed_at=group.given_at)
        states = [
            device_state(
                rotation,
                Facts(
                    device.name, device.name, last_seen=device.last_seen, lmp_ver="95", key=f"key {device.key}",
                    progress=from_events(device.events.get(rollout.id, [])), first_key="before",
                    first_key_is_old=True, done_by=self.done_by.get(device.name),
                ) if device.rotated and not device.locked else
                Facts(
                    device.name, device.name, last_seen=device.last_seen, lmp_ver="95",
                    progress=from_events(device.events.get(rollout.id, [])), first_key_is_old=True,
                ),
                self.now,
            )
            for device in self.devices.values()
        ]  # fmt: skip
        for state in states:
            if state.state is State.DONE and state.last_seen:
                self.done_by.setdefault(state.uuid, state.last_seen)
        # A failing device rests only while its EST server does not work.
        ended = (State.DONE, *((State.FAILING,) if rollout.id in self.down else ()))
        resting = all(state.state in ended or state.reason is Reason.OFFLINE for state in states)
        return Picture(group, entry_log(self.fleet.log, rollout.id), readings, states, resting=resting)

    def _reading(self, device: ModelDevice, rollout: Rollout, planned: StageDevice) -> Reading:
        other = next(
            (
                id
                for id, told in device.events.items()
                if id != rollout.id
                and sum(e.event_type.id == STARTED for e in told) > planned.attempts.get(id, 0)
            ),
            None,
        )
        progress = from_events(device.events.get(rollout.id, []))
        own = entry_log(device.own.log, rollout.id)
        return Reading(own, progress, f"key {device.key}", device.last_seen, other=other)

    def send(self, rollout: Rollout, action: Action) -> None:
        self.sent.append(action)
        settle = f"settle {rollout.id}"
        if action.do is Do.CLEAR_GROUP:
            self.group.change(None, "Remove", self.now)
        elif action.do is Do.CLEAR_FLEET:
            self.fleet.change(None, "Remove", self.now)
        elif action.do in (Do.GIVE_GROUP, Do.SETTLE_GROUP):
            self.group.change(rollout.value, "r" if action.do is Do.GIVE_GROUP else settle, self.now)
        else:
            assert action.device
            device = self.devices[action.device.uuid]
            if device.locked:
                return
            value = None if action.do is Do.TAKE_BACK else rollout.value
            device.own.change(value, settle if action.do is Do.SETTLE else "r", self.now)
