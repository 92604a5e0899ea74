"""A mocked Factory with model devices, on which whole rollouts run in this process, are cut off or stopped."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fioctl_rotate.mock.store import config_levels, device_records
from fioctl_rotate.mock.store.config_levels import Level
from fioctl_rotate.ops.push import plan_push
from fioctl_rotate.ops.rollout import Step, roll_out
from fioctl_rotate.ops.staging import StageRequest, plan_stages
from fioctl_rotate.ops.stop import Stop, plan_stop, stop
from fioctl_rotate.rotation.entry import FILE_NAME, HANDLER
from fioctl_rotate.rotation.plan import Plan, RotationRequest
from fioctl_rotate.rotation.rollout import Decision, Do, decide
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.stages import parse_share, parse_sizes
from fioctl_rotate.wire import ConfigFile
from tests.rotation.model_device import BEGIN, ModelDevice, value_of
from tests.world import World

OTHER = ConfigFile(name="wifi", value="secret", unencrypted=True)
FLEET, GROUP = Level("fleet", "acme"), Level("group", "1")


class Factory(World):
    """The mocked Factory `acme`, its group `field` and devices `d1`, `d2` and so on; time passes in `minutes`."""

    def __init__(self, directory: Path, devices: int) -> None:
        super().__init__(directory, now=BEGIN)
        self.down: set[str] = set()
        self.devices = {f"d{n}": ModelDevice(f"d{n}", self) for n in range(1, devices + 1)}
        self.keys = dict.fromkeys(self.devices, 0)
        self.off: set[str] = set()
        self.add(*self.devices)
        for level in (GROUP, *map(own, self.devices)):
            self.write(level, None, "before")
        self.minutes()

    def minutes(self, minutes: int = 5) -> None:
        """Time passes, and every device that is not off checks in once."""
        self.now += timedelta(minutes=minutes)
        for name, device in self.devices.items():
            if name not in self.off:
                device.check_in()

    def check_ins(self) -> None:
        """Every device that is not off checks in often enough to do all that it will ever do."""
        for _ in range(3):
            self.minutes()

    def write(self, level: Level, rotation_id: str | None, reason: str, author: str = "me") -> None:
        """Somebody else writes the entry, or only the other file."""
        entry = [] if rotation_id is None else [_file(value_of(rotation_id))]
        with self.store.transaction() as db:
            config_levels.change(
                db, level, [OTHER, *entry], reason=reason, author=author, now=self.now, replace=False
            )

    def hand_over(self, plan: Plan) -> None:
        """Another run of the plan gives the entry to the group, and takes back those of the devices."""
        entry, holders = [OTHER, _file(plan.entry.render())], self.own_entries()
        with self.store.transaction() as db:
            config_levels.change(db, GROUP, entry, reason="all", author="me", now=self.now, replace=False)
        self.take_back(*holders)

    def take_back(self, *names: str) -> None:
        """Somebody else deletes the devices' own entries."""
        with self.store.transaction() as db:
            for name in names:
                config_levels.delete_file(db, own(name), FILE_NAME, author="me", now=self.now)

    def rotate_all(self, rotation_id: str) -> None:
        """Every device has completed the rotation by the group's entry, and stores it."""
        for reason in ("older", "settle"):
            self.write(GROUP, rotation_id, reason)
            self.check_ins()

    # --- What a device sees of it ---

    def connect(self, name: str, *, new_key: bool) -> bool:
        if new_key:
            self.keys[name] += 1
            with self.store.transaction() as db:
                device = device_records.find_device(db, "acme", name, by_uuid=False)
                device_records.take_new_key(db, device, f"key {self.keys[name]} of {name}", self.now)
        self.see(name)
        return True

    def fetch(self, name: str, since: datetime) -> tuple[str | None, datetime] | None:
        with self.store.transaction() as db:
            device = device_records.find_device(db, "acme", name, by_uuid=False)
            merged = config_levels.merged(db, device)
            if merged.files is None or merged.changed <= since:
                return None
            device_records.mark_fetched(db, device, merged.changed, self.now)
            entry = merged.files.get(FILE_NAME)
        return (None if entry is None else entry.value), merged.changed

    def post(self, name: str, rotation_id: str, kind: str, *, success: bool = True) -> None:
        self.tell(name, kind, success, None if success else "no", rotation=rotation_id)

    def announce(self, name: str) -> None:
        with self.store.transaction() as db:
            device = device_records.find_device(db, "acme", name, by_uuid=False)
            device_records.announce_key(db, device, f"key {self.keys[name] + 1} of {name}")

    def write_own(self, name: str) -> None:
        with self.store.transaction() as db:
            files = config_levels.latest(db, own(name))
            config_levels.change(
                db,
                own(name),
                (files.files or []) if files else [],
                reason="Rotating device client certificate",
                author=f"uuid-{name}",
                now=self.now,
                replace=False,
            )

    # --- A rollout ---

    async def plan(self, sizes: str = "1,40%", *, clear_older: bool = False, **more: Any) -> Plan:
        request = StageRequest(parse_sizes(sizes), (), 600, parse_share("0", "x"), 86400, clear_older, **more)
        async with self.api() as api:
            scope = Scope.of_group("field")
            plan, _ = await plan_push(
                api, scope, RotationRequest("yearly", "est.example.com", rotation_id="r-9"), unix_seconds=1
            )
            return (await plan_stages(api, plan, request, now=self.now)).plan

    async def run(self, plan: Plan, *, polls: int = 100) -> Step:
        """Apply the plan; time passes between two polls. Raises TimeoutError after so many polls."""

        async def sleep(_seconds: float) -> None:
            nonlocal polls
            polls -= 1
            if not polls:
                raise TimeoutError
            self.minutes()

        async with self.api() as api:
            return await roll_out(api, plan, interval=1, sleep=sleep, now=lambda: self.now)

    async def begin(self, *, polls: int) -> Plan:
        """A plan that was applied, and cut off after so many polls."""
        plan = await self.plan()
        with suppress(TimeoutError):
            await self.run(plan, polls=polls)
            raise AssertionError("the rollout came to its end")
        return plan

    async def stop(self) -> Stop:
        """Stop the rotation, as the operator does; what was done."""
        async with self.api() as api:
            return await stop(api, await plan_stop(api, "field", "r-9"))

    def cut_off_after(self, request: int, task: Callable[[], "asyncio.Task[Step]"]) -> None:
        """Have the run's task end right after that request was answered, counted from now."""
        end = len(self.requests) + request

        def answered() -> None:
            if len(self.requests) >= end:
                task().cancel()

        self.answered = answered

    async def run_cut_off(self, plan: Plan, request: int) -> bool:
        """Apply the plan until so many requests were answered; returns whether it was cut off."""
        running: list[asyncio.Task[Step]] = []
        self.cut_off_after(request, lambda: running[0])
        running.append(asyncio.get_running_loop().create_task(self.run(plan)))
        with suppress(asyncio.CancelledError):
            await running[0]
            self.answered = lambda: None
            return False
        self.answered = lambda: None
        return True

    # --- What came of it ---

    def own_entries(self) -> list[str]:
        """The devices that have an entry of their own."""
        with self.store.reading() as db:
            return [
                name
                for name in self.devices
                if FILE_NAME in (config_levels.own_level(db, f"uuid-{name}") or {})
            ]

    def group_has_entry(self) -> bool:
        """Whether the group has an entry."""
        with self.store.reading() as db:
            latest = config_levels.latest(db, GROUP)
        return any(file.name == FILE_NAME for file in (latest.files if latest else None) or [])

    def other_files(self) -> set[tuple[str, str]]:
        """Name and value of every other file that any entry of any log has."""
        with self.store.reading() as db:
            levels = [GROUP, *map(own, self.devices)]
            files = [
                f for level in levels for config in config_levels.log(db, level) for f in config.files or []
            ]
        return {(file.name, file.value) for file in files if file.name != FILE_NAME}

    def rotated(self) -> list[list[str]]:
        """What each device completed, in order."""
        return [device.rotated for device in self.devices.values()]


def before_sending(monkeypatch: pytest.MonkeyPatch, do: Do, happens: Callable[[], None]) -> None:
    """Have something happen each time that a run has decided to `do` this, before it is sent."""

    def decided(*about: Any) -> Decision:
        decision = decide(*about)
        if any(action.do is do for action in decision.actions):
            happens()
        return decision

    monkeypatch.setattr("fioctl_rotate.ops.rollout.decide", decided)


def own(name: str) -> Level:
    """Where the device's own configuration is."""
    return Level("device", f"uuid-{name}")


def _file(value: str) -> ConfigFile:
    return ConfigFile(name=FILE_NAME, value=value, unencrypted=True, on_changed=[HANDLER])
