"""A Factory and its devices as far as a rollout in stages goes, in memory."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fioctl_rotate import wire
from fioctl_rotate.ops.stage_reader import attempts_in
from fioctl_rotate.rotation.entry import FILE_NAME, settle_reason
from fioctl_rotate.rotation.picture import Memory, Picture, Reading, entry_log
from fioctl_rotate.rotation.progress import from_events
from fioctl_rotate.rotation.rollout import Action, Decision, Do, Verdict, decide
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.stage_states import Rollout
from fioctl_rotate.rotation.stages import StageDevice, Stages
from fioctl_rotate.rotation.state import Facts, Reason, Rotation, State, device_state
from tests.rotation.model_device import BEGIN, ModelDevice, value_of

OTHER_FILE = wire.ConfigFile(name="wifi", value="secret", unencrypted=True)


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


class Record:
    """What the Factory knows of a device: its own configuration, its key by number, its events by rotation."""

    def __init__(self) -> None:
        self.own = Config()
        self.key = 0
        self.locked = False
        self.last_seen = BEGIN
        self.events: dict[str, list[wire.Event]] = {}


class World:
    """A group of devices, its configuration and the fleet's. The certificates of `untrusted` ids are refused.

    Devices in `deleted` are no longer known, those in `moved` are in another group.
    """

    def __init__(self, names: list[str]) -> None:
        self.now = BEGIN
        self.down: set[str] = set()
        self.untrusted: set[str] = set()
        self.deleted: set[str] = set()
        self.moved: set[str] = set()
        self.group, self.fleet = Config(), Config()
        self.devices = {name: ModelDevice(name, self) for name in names}
        self.records = {name: Record() for name in names}
        self.sent: list[Action] = []
        self.done_by: dict[str, datetime] = {}

    # --- What a device sees of it ---

    def connect(self, name: str, *, new_key: bool) -> bool:
        record = self.records[name]
        if new_key and self.devices[name].completed in self.untrusted:
            return False
        record.last_seen = self.now
        if new_key:
            record.locked, record.key = False, record.key + 1
        return True

    def fetch(self, name: str, since: datetime) -> tuple[str | None, datetime] | None:
        own = self.records[name].own
        configs = [config for config in (own, self.group, self.fleet) if config.log]
        changed = max((_changed(config) for config in configs), default=BEGIN - timedelta(days=2))
        if changed <= since:
            return None
        if own.log:
            own.log[0].applied_at = "some time"
        return next((config.entry for config in configs if config.entry is not None), None), changed

    def post(self, name: str, rotation_id: str, kind: str, *, success: bool = True) -> None:
        events = self.records[name].events.setdefault(rotation_id, [])
        detail = wire.EventDetail(success=success, **({} if success else {"details": "no"}))
        events.append(wire.Event(id=f"{len(events)}", event_type=wire.EventType(id=kind), event=detail))

    def announce(self, name: str) -> None:
        self.records[name].locked = True

    def write_own(self, name: str) -> None:
        own = self.records[name].own
        if own.log:
            own.change(own.entry, "Rotating device client certificate", self.now, name)

    # --- What a rollout reads and sends ---

    def plan(self, sizes: list[int], rotation_id: str = "certs-9", **options: Any) -> Rollout:
        names, early, begin = list(self.devices), [], 0
        for size in sizes:
            early.append(tuple(self._stage_device(name) for name in names[begin : begin + size]))
            begin += size
        stages = Stages(tuple(early), **options)
        return Rollout("field", value_of(rotation_id), self.group.entry, self.fleet.entry, stages)

    def _stage_device(self, name: str) -> StageDevice:
        record = self.records[name]
        attempts = {id: attempts_in(events) for id, events in record.events.items()}
        return StageDevice(name, name, f"key {record.key}", updates=tuple(attempts), attempts=attempts)

    def picture(self, rollout: Rollout) -> Picture:
        group, fleet = entry_log(self.group.log, rollout.id), entry_log(self.fleet.log, rollout.id)
        readings = {device.uuid: self._reading(rollout, device) for device in rollout.stages.devices}
        if group.value != rollout.value:
            return Picture(group, fleet, readings)
        rotation = Rotation(rollout.id, Scope.of_group("field"), pushed_at=group.given_at)
        states = [device_state(rotation, self._facts(rollout, name), self.now) for name in self.devices]
        for state in states:
            if state.state is State.DONE and state.last_seen:
                self.done_by.setdefault(state.uuid, state.last_seen)
        # A failing device rests only while its EST server does not work.
        ended = (State.DONE, State.LEFT, *((State.FAILING,) if rollout.id in self.down else ()))
        resting = all(state.state in ended or state.reason is Reason.OFFLINE for state in states)
        return Picture(group, fleet, readings, states, resting=resting)

    def _facts(self, rollout: Rollout, name: str) -> Facts:
        record, device = self.records[name], self.devices[name]
        # Its key is another one than before once it has come back with the key of this rotation.
        back = rollout.id in device.rotated and not record.locked
        return Facts(
            name,
            name,
            last_seen=record.last_seen,
            lmp_ver="95",
            progress=from_events(record.events.get(rollout.id, [])),
            key="after" if back else "before",
            first_key="before",
            first_key_is_old=True,
            done_by=self.done_by.get(name),
            left="deleted" if name in self.deleted else "moved" if name in self.moved else None,
        )

    def _reading(self, rollout: Rollout, planned: StageDevice) -> Reading | None:
        if planned.uuid in self.deleted:
            return None
        record = self.records[planned.uuid]
        begun = {id: attempts_in(events) for id, events in record.events.items() if id != rollout.id}
        return Reading(
            entry_log(record.own.log, rollout.id),
            from_events(record.events.get(rollout.id, [])),
            f"key {record.key}",
            record.last_seen,
            member=planned.uuid not in self.moved,
            other=next((id for id, count in begun.items() if count > planned.attempts.get(id, 0)), None),
        )

    def send(self, rollout: Rollout, action: Action) -> None:
        self.sent.append(action)
        settle = settle_reason(rollout.id)
        if action.do is Do.CLEAR_GROUP:
            self.group.change(None, "Remove", self.now)
        elif action.do is Do.CLEAR_FLEET:
            self.fleet.change(None, "Remove", self.now)
        elif action.do in (Do.GIVE_GROUP, Do.SETTLE_GROUP):
            self.group.change(rollout.value, "r" if action.do is Do.GIVE_GROUP else settle, self.now)
        else:
            assert action.device
            record = self.records[action.device.uuid]
            if record.locked:
                return
            value = None if action.do is Do.TAKE_BACK else rollout.value
            record.own.change(value, settle if action.do is Do.SETTLE else "r", self.now)


def _changed(config: Config) -> datetime:
    return datetime.fromisoformat(str(config.log[0].created_at)).replace(tzinfo=UTC)


@dataclass
class Run:
    """A rollout of a world, poll after poll; `poll` sends what is decided, at most `limit` actions of it."""

    world: World
    rollout: Rollout
    memory: Memory

    def poll(self, limit: int = 100) -> Decision:
        decision = decide(self.rollout, self.world.picture(self.rollout), self.memory, self.world.now)
        for action in decision.actions[:limit]:
            self.world.send(self.rollout, action)
        return decision

    def pass_time(self, minutes: int = 5, *, reboot: Collection[str] = (), off: Collection[str] = ()) -> None:
        """Every device checks in once; those in `reboot` start anew before."""
        self.world.now += timedelta(minutes=minutes)
        for name, device in self.world.devices.items():
            if name in off:
                continue
            if name in reboot:
                device.reboot()
            device.check_in()

    def to_end(self, rounds: int = 80, **how: Any) -> Decision:
        for _ in range(rounds):
            decision = self.poll()
            if decision.verdict is not Verdict.GO_ON:
                return decision
            self.pass_time(**how)
        raise AssertionError(f"no end: stage {decision.stage}, {decision.stages}, {decision.actions}")


def rotate_all(world: World, config: Config, rotation_id: str) -> None:
    """Every device has completed the rotation, and stores its entry: a later change made it do so."""
    run = Run(world, world.plan([]), Memory())
    for reason in ("older", "settle"):
        config.change(value_of(rotation_id), reason, world.now)
        for _ in range(3):
            run.pass_time()
    assert {(d.completed, d.stored, d.locked) for d in world.devices.values()} == {
        (rotation_id, value_of(rotation_id), False)
    }
