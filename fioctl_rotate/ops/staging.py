"""Plan the stages of a group's rotation: choose the devices of early stages, and find older entries beneath."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.checks import Check, Status
from fioctl_rotate.errors import Refused
from fioctl_rotate.est.probe import probe
from fioctl_rotate.ops.at_once import Pace, for_each
from fioctl_rotate.ops.stage_reader import attempts_in
from fioctl_rotate.ops.targets import current_entry_of
from fioctl_rotate.ops.watch import events_of
from fioctl_rotate.pki.parsing import load_bundle
from fioctl_rotate.rotation.entry import parse_value
from fioctl_rotate.rotation.messages import some
from fioctl_rotate.rotation.plan import CurrentEntry, Plan
from fioctl_rotate.rotation.progress import LAST, from_events, parse_time
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.stages import Candidate, Share, StageDevice, Stages, choose
from fioctl_rotate.rotation.state import OLDEST_LMP, is_offline, lmp_release
from fioctl_rotate.rotation.tracker import SMALL_FLEET, key_digest

EST_TIMEOUT = 5.0
# With a clock this far ahead a device misses changes: fioconfig asks only for changes since it last stored one.
_CLOCK_AHEAD = timedelta(minutes=5)


@dataclass(frozen=True)
class StageRequest:
    """How an operator asks for stages; see `rotation.stages.Stages`. `canaries` are an extra first stage."""

    sizes: Sequence[Share]
    canaries: Sequence[str]
    soak: int
    max_failures: Share
    stage_timeout: int
    clear_older: bool = False
    clear_fleet_wide: bool = False


@dataclass(frozen=True)
class Staged:
    """A plan with stages, what a reviewer should know of it, and the checks of what lies beneath."""

    plan: Plan
    notes: Sequence[str]
    checks: Sequence[Check]


@dataclass(frozen=True)
class Known:
    """What was read of one device for the plan; `excluded` is why it may not be in an early stage.

    `own` is the ROTATIONID of its own entry, if it has one.
    """

    device: StageDevice | None
    excluded: str | None
    completed: frozenset[str] = frozenset()
    own: str | None = None


async def plan_stages(api: FactoryApi, plan: Plan, request: StageRequest, *, now: datetime) -> Staged:
    """`plan` with stages. Raises Refused where no early stage can be made, or a canary cannot follow."""
    fleet = current_entry_of(await api.config(Scope.fleet()).log())
    beneath = {"group": plan.current or CurrentEntry(None), "fleet": fleet}
    older = {
        current.rotation_id: parse_value(current.value)["ESTSERVER"]
        for current in beneath.values()
        if current.value is not None and current.rotation_id
    }
    _check_clearing(request, beneath)
    devices = {device.uuid: device for device in await api.devices(plan.scope.device_filters)}
    known: dict[str, Known] = {}
    if len(devices) <= SMALL_FLEET:
        await _read(api, devices, list(devices), older, known, now)
    while True:
        chosen = choose(_candidates(devices, known, now), request.sizes, request.canaries)
        unread = [candidate.uuid for stage in chosen for candidate in stage if candidate.uuid not in known]
        if not unread:
            break
        await _read(api, devices, unread, older, known, now)
    if begun := [devices[uuid].name or uuid for uuid, read in known.items() if read.own == plan.rotation_id]:
        # This plan may have other devices in its early stages. It would then never look after these.
        raise Refused(
            f"rotation {plan.rotation_id} was begun already: {some(sorted(begun))}",
            hint="go on with the plan that began it, or push with another --rotation-id",
        )
    if not chosen:
        raise Refused(
            f"no device of {plan.scope} can be in an early stage: {_left_out(_candidates(devices, known, now))}",
            hint="push without --stages, or wait until some devices are back",
        )
    early = tuple(
        tuple(
            replace(device, why=candidate.why)
            for candidate in stage
            if (device := known[candidate.uuid].device) is not None
        )
        for stage in chosen
    )
    stages = Stages(
        early,
        request.soak,
        request.max_failures,
        request.stage_timeout,
        clear_group=request.clear_older and beneath["group"].value is not None,
        clear_fleet=request.clear_fleet_wide and fleet.value is not None,
    )
    plan = plan.replace(stages=stages, fleet_wide=fleet.value, devices=len(devices))
    notes = [
        *_beneath(stages, older, known),
        *await _touched(api, stages),
        *_of_sizes(request, chosen),
        *(
            [f"left out of the early stages: {text}"]
            if (text := _left_out(_candidates(devices, known, now)))
            else []
        ),
    ]
    return Staged(plan, notes, await _older_checks(api, plan, older, now))


def _check_clearing(request: StageRequest, beneath: Mapping[str, CurrentEntry]) -> None:
    if request.clear_older and beneath["fleet"].value is not None and not request.clear_fleet_wide:
        raise Refused(
            "without the group's older entry, devices could rotate by the fleet-wide entry"
            if beneath["group"].value is not None
            else "the older entry is fleet-wide, but --clear-older deletes only the group's",
            hint="--clear-fleet-wide deletes it for all groups",
        )


def _candidates(
    devices: Mapping[str, wire.Device], known: Mapping[str, Known], now: datetime
) -> list[Candidate]:
    return [
        Candidate(
            device.uuid,
            device.name or device.uuid,
            parse_time(device.last_seen),
            device.lmp_ver,
            device.target_name,
            _excluded(device, known.get(device.uuid), now),
        )
        for device in devices.values()
    ]


def _excluded(device: wire.Device, known: Known | None, now: datetime) -> str | None:
    if is_offline(parse_time(device.last_seen), now):
        return "offline"
    if (lmp_release(device.lmp_ver) or OLDEST_LMP) < OLDEST_LMP:
        return "unsupported"
    return known.excluded if known else None


async def _read(
    api: FactoryApi,
    devices: Mapping[str, wire.Device],
    uuids: Sequence[str],
    older: Mapping[str, str],
    known: dict[str, Known],
    now: datetime,
) -> None:
    """Read into `known` whether these devices may be in an early stage, and what a plan needs of them."""

    async def read(uuid: str) -> None:
        known[uuid] = await read_known(api, devices[uuid].name or uuid, uuid, older, now)

    await for_each(uuids, read, Pace(), api.counted)


async def read_known(api: FactoryApi, name: str, uuid: str, older: Collection[str], now: datetime) -> Known:
    """What the plan needs of one device; `older` are the ids of the rotations that lie beneath."""
    own = current_entry_of(await api.config(Scope.of_device(name, uuid)).log(1))
    if own.value is not None:
        return Known(None, "shadowed", own=own.rotation_id)
    key = key_digest((await api.device(uuid, by_uuid=True)).public_key)
    if key is None:
        return Known(None, "without a public key")
    updates = tuple(update.correlation_id for update in await api.device_updates(uuid))
    attempts, completed, ahead = {}, set(), False
    for rotation_id in older:
        events = await events_of(api, uuid, rotation_id)
        progress = from_events(events)
        attempts[rotation_id] = attempts_in(events)
        completed |= {rotation_id} if progress.finalized else set()
        times = [event.time for event in progress.events if event.time and event.step == LAST]
        ahead = ahead or any(time - now > _CLOCK_AHEAD for time in times)
    device = StageDevice(uuid, name, key, "", updates, {id: n for id, n in attempts.items() if n})
    return Known(device, "with a clock that is ahead" if ahead else None, frozenset(completed))


def _left_out(candidates: Sequence[Candidate]) -> str:
    """`3 offline (a, b, c), 1 shadowed (d)`, "" where none is left out."""
    reasons: dict[str, list[str]] = {}
    for candidate in candidates:
        if candidate.excluded is not None:
            reasons.setdefault(candidate.excluded, []).append(candidate.name)
    return ", ".join(
        f"{len(names)} {reason} ({some(sorted(names))})" for reason, names in sorted(reasons.items())
    )


def _of_sizes(request: StageRequest, chosen: Sequence[Sequence[Candidate]]) -> list[str]:
    """How many of the typed sizes make no stage, because stages before them have those devices already."""
    left = len(request.sizes) + bool(request.canaries) - len(chosen)
    if not left:
        return []
    sizes = "1 size adds" if left == 1 else f"{left} sizes add"
    return [f"--stages: {sizes} no device, so there is no stage for that"]


def _beneath(stages: Stages, older: Mapping[str, str], known: Mapping[str, Known]) -> list[str]:
    """What lies beneath the devices' own entries."""
    notes = []
    total = len(stages.devices)
    for rotation_id, url in older.items():
        completed = sum(rotation_id in known[device.uuid].completed for device in stages.devices)
        notes.append(
            f"rotation {rotation_id} at {url} lies beneath; {completed} of {total} early devices completed it"
        )
    return notes


async def _touched(api: FactoryApi, stages: Stages) -> list[str]:
    if not stages.clear_fleet:
        return []
    groups = sorted(group.name for group in await api.groups())
    return [f"stage 0 deletes the fleet-wide older entry, for all groups: {', '.join(groups)}"]


async def _older_checks(
    api: FactoryApi, plan: Plan, older: Mapping[str, str], now: datetime
) -> Sequence[Check]:
    """Whether the EST servers of the rotations beneath work: a device that reboots in the soak needs them."""
    stages = plan.stages
    urls = {url for url in older.values() if url and url != plan.entry.est_server}
    if not urls or stages is None or stages.clear_group or stages.clear_fleet:
        return []
    roots = load_bundle((await api.certs()).root_crt, "the Factory's root")
    checks = []
    for url in sorted(urls):
        failed = [c for c in await probe(url, roots, now=now, timeout=EST_TIMEOUT) if c.status is Status.FAIL]
        if failed:
            message = (
                f"{url} of the rotation beneath: {failed[0].message}; an early reboot would wedge a device"
            )
            checks.append(Check("older-est", Status.WARN, message))
        else:
            checks.append(Check("older-est", Status.PASS, f"{url} of the rotation beneath works"))
    return checks
