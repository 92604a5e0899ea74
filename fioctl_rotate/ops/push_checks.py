"""Checks before a push, to find what would go wrong on devices before anything is sent."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.checks import Check, Status
from fioctl_rotate.errors import UsageError
from fioctl_rotate.ops import baselines
from fioctl_rotate.ops.at_once import Pace, for_each
from fioctl_rotate.ops.est_checks import est_checks, lifetimes
from fioctl_rotate.ops.rotations import in_log
from fioctl_rotate.ops.targets import Target, current_entry_of
from fioctl_rotate.ops.watch import events_of
from fioctl_rotate.rotation import commands
from fioctl_rotate.rotation.entry import slot_warnings
from fioctl_rotate.rotation.messages import some
from fioctl_rotate.rotation.plan import NotFollowing, Plan
from fioctl_rotate.rotation.progress import parse_time
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.state import (
    OFFLINE_AFTER,
    OLDEST_LMP,
    DeviceState,
    Rotation,
    State,
    is_offline,
    lmp_release,
)
from fioctl_rotate.rotation.tracker import SMALL_FLEET, Readings, Tracker, before_push

EST_TIMEOUT = 5.0

_LISTED = 100  # devices that a plan names for a reason why they will not follow


CHECKS = (
    *("est", "est-reachable", "est-chain", "est-name", "est-expiry", "est-endpoint", "est-cacerts"),
    *("older-est", "lifetimes", "slots", "devices", "lmp", "online", "each-device", "shadowed", "earlier"),
)
"""The names of all checks before a push, by which --allow waives them."""


@dataclass(frozen=True)
class Findings:
    """The checks, and the devices that are known not to follow.

    `baselines` are the devices before the push, with those keys that were read.
    """

    checks: Sequence[Check]
    not_following: Sequence[NotFollowing]
    baselines: Readings

    def added_to(self, plan: Plan) -> Plan:
        """The plan with these findings; checks of its stages stay."""
        return plan.replace(checks=(*plan.checks, *self.checks), not_following=tuple(self.not_following))


def check_names(names: Iterable[str], known: Collection[str] = CHECKS) -> tuple[str, ...]:
    """The names of checks, if each is one of `known`. Raises UsageError."""
    for name in (result := tuple(dict.fromkeys(names))):
        if name not in known:
            raise UsageError(f"there is no check `{name}` to allow", hint=f"checks: {', '.join(known)}")
    return result


async def check_push(
    api: FactoryApi,
    plan: Plan,
    target: Target,
    *,
    now: datetime,
    each_device: bool = False,
    timeout: float = EST_TIMEOUT,
) -> Findings:
    """Everything that can be checked before `plan` is pushed to `target`.

    Up to 200 devices, or all with `each_device`, are asked one by one: for entries of their own, and for an earlier
    rotation under way. Each attempt to connect to the EST server may take `timeout` seconds.
    """
    devices = target.devices
    old = [d for d in devices if (lmp_release(d.lmp_ver) or OLDEST_LMP) < OLDEST_LMP]
    offline = [d for d in devices if is_offline(parse_time(d.last_seen), now)]
    checks = [
        *await est_checks(plan, target.certs, now, timeout),
        *lifetimes(plan, target.certs, now),
        _slots(plan),
        *_followers(devices, old, offline),
    ]
    not_following = {"unsupported": old, "offline": offline}
    if len(devices) > SMALL_FLEET and not each_device:
        text = f"{len(devices)} devices were not asked one by one for entries of their own or an earlier rotation"
        hint = f"`fioctl-rotate rotations check {plan.scope.option_text} --each-device` does"
        checks.append(Check("each-device", Status.WARN, f"{text}; {hint}"))
        return Findings(checks, _reasons(not_following), before_push(devices, []))
    earlier = next((rotation for rotation in _rotations(target) if rotation.current), None)
    asked = await _ask_each(api, devices, earlier or Rotation("", plan.scope), now)
    if plan.scope.shared:
        shadowed = [device for device in devices if asked.own_entries.get(device.uuid) is not None]
        checks.append(_shadowed(shadowed))
        not_following["shadowed"] = shadowed
    if earlier is not None and earlier.id != plan.rotation_id:
        checks.append(_earlier(earlier, asked.tracker.states()))
    return Findings(checks, _reasons(not_following), before_push(devices, asked.records))


def _rotations(target: Target) -> list[Rotation]:
    """The rotations in the logs of the target: a device without an entry of its own follows its group's."""
    own = in_log(target.log, target.scope)
    return own if current_entry_of(target.log).file else [*own, *in_log(target.group_log, target.scope)]


def _reasons(devices: Mapping[str, Sequence[wire.Device]]) -> list[NotFollowing]:
    return [
        NotFollowing(reason, len(of), tuple(d.name or d.uuid for d in of[:_LISTED]))
        for reason, of in devices.items()
        if of
    ]


def keep_baselines(api: FactoryApi, plan: Plan, findings: Findings) -> None:
    """Store the devices and keys from before the push. A watch then sees which keys changed, and who left."""
    baselines.save(api, Rotation(plan.rotation_id, plan.scope), findings.baselines)


def _slots(plan: Plan) -> Check:
    entry = plan.entry
    warnings = slot_warnings(entry)
    if warnings:
        return Check("slots", Status.WARN, "; ".join(warnings))
    keys, certificates = ",".join(entry.pkey_ids), ",".join(entry.cert_ids)
    return Check("slots", Status.PASS, f"keys {keys}, certificates {certificates}")


# --- The devices ---


def _followers(
    devices: Sequence[wire.Device], old: Sequence[wire.Device], offline: Sequence[wire.Device]
) -> Iterable[Check]:
    if not devices:
        yield Check("devices", Status.WARN, "there are no devices: no device would rotate now")
        return
    if old:
        yield Check(
            "lmp", Status.WARN, f"{_count(old, 'runs', 'run')} LmP before {OLDEST_LMP}, and would not follow"
        )
    else:
        yield Check("lmp", Status.PASS, f"no device is known to run LmP before {OLDEST_LMP}")
    if offline:
        hours = OFFLINE_AFTER // timedelta(hours=1)
        text = f"{_count(offline, 'was', 'were')} not seen for {hours} hours, and would follow only when back"
        yield Check("online", Status.WARN, text)
    else:
        yield Check("online", Status.PASS, f"{len(devices)} of {len(devices)} devices were seen lately")


@dataclass(frozen=True)
class _Asked:
    records: list[wire.Device]
    own_entries: dict[str, str | None]
    tracker: Tracker


async def _ask_each(
    api: FactoryApi, devices: Sequence[wire.Device], earlier: Rotation, now: datetime
) -> _Asked:
    """Read of each device its record, its own entry, and the state of the earlier rotation."""
    tracker = Tracker(earlier, baselines.load(api, earlier) if earlier.id else None)
    tracker.begin(now)
    tracker.take_page(wire.DeviceList(devices=list(devices), total=len(devices)))
    tracker.to_ask()
    asked = _Asked([], {}, tracker)

    async def ask(device: wire.Device) -> None:
        uuid = device.uuid
        record = await api.device(uuid, by_uuid=True)
        asked.records.append(record)
        # If its active configuration has no entry, the device has none of its own. If it has one, that may be the
        # group's.
        if record.active_config is not None and current_entry_of([record.active_config]).file is not None:
            log = await api.config(Scope.of_device(device.name, uuid)).log(1)
            asked.own_entries[uuid] = current_entry_of(log).rotation_id
        else:
            asked.own_entries[uuid] = None
        tracker.take_own_entry(uuid, asked.own_entries[uuid])
        tracker.take_record(uuid, record)
        if earlier.id and tracker.wants_events(uuid):
            tracker.take_events(uuid, await events_of(api, uuid, earlier.id))

    await for_each(devices, ask, Pace(), api.counted)
    tracker.refresh(now)
    return asked


def _shadowed(shadowed: Sequence[wire.Device]) -> Check:
    if not shadowed:
        return Check("shadowed", Status.PASS, "no device has an entry of its own")
    who = _count(shadowed, "has an entry of its", "have an entry of their")
    return Check("shadowed", Status.WARN, f"{who} own, and would not follow the group")


def _earlier(earlier: Rotation, states: Sequence[DeviceState]) -> Check:
    """Fails while the earlier rotation is under way on a device; warns where it failed or is not proven."""
    counts = Counter(state.state for state in states)
    running = [state for state in states if state.state == State.RUNNING and state.reason is None]
    if running:
        return Check(
            "earlier",
            Status.FAIL,
            f"rotation {earlier.id} is under way on {len(running)} device(s); see "
            f"`{commands.rotations('show', earlier.id, earlier.scope)}`",
        )
    left = []
    if counts[State.FAILING]:
        left.append(
            f"failed on {counts[State.FAILING]} device(s), which fetch nothing new until the failed step works"
        )
    if counts[State.FINALIZED]:
        left.append(f"is finalized on {counts[State.FINALIZED]} device(s) that have not come back yet")
    if left:
        return Check("earlier", Status.WARN, f"rotation {earlier.id} {', and '.join(left)}")
    return Check("earlier", Status.PASS, f"rotation {earlier.id} is under way on no device")


def _count(devices: Sequence[wire.Device], one: str, many: str) -> str:
    """`3 devices (a, b, c) run`, with the first few names."""
    names = [device.name or device.uuid for device in devices]
    devices_text = f"{len(names)} device{'s' if len(names) > 1 else ''} ({some(names)})"
    return f"{devices_text} {one if len(names) == 1 else many}"
