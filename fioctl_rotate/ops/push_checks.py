"""Checks before a push: what would go wrong on devices, found while nothing has been sent."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.checks import Check, Status
from fioctl_rotate.est.probe import REACHABLE, probe
from fioctl_rotate.ops import baselines
from fioctl_rotate.ops.at_once import Pace, for_each
from fioctl_rotate.ops.rotations import of_scope
from fioctl_rotate.ops.targets import current_entry_of
from fioctl_rotate.ops.watch import events_of
from fioctl_rotate.pki.certificates import years_later
from fioctl_rotate.pki.parsing import dns_names, load_bundle
from fioctl_rotate.rotation import commands
from fioctl_rotate.rotation.entry import slot_warnings
from fioctl_rotate.rotation.plan import Plan
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
# How long a new device certificate lives: from the managed EST server, and from estserver unless told otherwise.
_MANAGED_YEARS, _OWN_YEARS = 1, 3
_NAMED = 5


@dataclass(frozen=True)
class Findings:
    """The checks. `baselines` are the devices, and their keys where they were read, before the push."""

    checks: Sequence[Check]
    baselines: Readings

    @property
    def failed(self) -> bool:
        """Whether something would go wrong for certain."""
        return any(check.status is Status.FAIL for check in self.checks)


async def check_push(
    api: FactoryApi, plan: Plan, *, now: datetime, each_device: bool = False, timeout: float = EST_TIMEOUT
) -> Findings:
    """Everything that can be looked at before `plan` is pushed.

    Up to 200 devices are asked one by one, more where `each_device` wants it: for entries of their own, and for an
    earlier rotation under way. Each attempt to connect to the EST server may take `timeout` seconds; one that
    cannot be reached from here is a warning, since devices may be elsewhere.
    """
    certs = await api.certs()
    devices = await api.devices(plan.scope.device_filters)
    checks = [
        *await _est(plan, load_bundle(certs.root_crt, "the Factory's root"), now, timeout),
        *_lifetimes(plan, certs, now),
        _slots(plan),
        *_followers(devices, now),
    ]
    if len(devices) > SMALL_FLEET and not each_device:
        words = f"{len(devices)} devices were not asked one by one for entries of their own or an earlier rotation"
        hint = f"`fioctl-rotate rotations check {plan.scope.option_text} --each-device` does"
        return Findings(
            [*checks, Check("each-device", Status.WARN, f"{words}; {hint}")], before_push(devices, [])
        )
    earlier = next((rotation for rotation in (await of_scope(api, plan.scope))[1] if rotation.current), None)
    asked = await _ask_each(api, devices, earlier or Rotation("", plan.scope), now)
    if plan.scope.shared:
        checks.append(_shadowed(devices, asked.own_entries))
    if earlier is not None and earlier.id != plan.rotation_id:
        checks.append(_earlier(earlier, asked.tracker.states()))
    return Findings(checks, before_push(devices, asked.records))


def keep_baselines(api: FactoryApi, plan: Plan, findings: Findings) -> None:
    """Keep the devices and their keys of before the push, so that a watch sees which changed and who left."""
    baselines.save(api, Rotation(plan.rotation_id, plan.scope), findings.baselines)


# --- The EST server and the certificates ---


async def _est(plan: Plan, roots: Sequence[x509.Certificate], now: datetime, timeout: float) -> list[Check]:
    if not roots:
        return [
            Check("est", Status.WARN, "not looked at: the Factory has no root certificate to compare with")
        ]
    checks = []
    for check in await probe(plan.entry.est_server, roots, now=now, timeout=timeout):
        status, words = check.status, check.message
        if check.name == REACHABLE and status is Status.FAIL:
            status, words = Status.WARN, f"{words}, from here; devices must reach it"
        checks.append(Check(f"est-{check.name}", status, words))
    return checks


def _lifetimes(plan: Plan, certs: wire.Certs, now: datetime) -> Iterable[Check]:
    """Certificates that end before the new device certificates would, and cut them short."""
    est = load_bundle(certs.est_tls_crt, "the EST TLS certificate")
    managed = any(plan.entry.host in dns_names(certificate) for certificate in est)
    years = _MANAGED_YEARS if managed else _OWN_YEARS
    until = years_later(now, years)
    short = [
        f"the EST server's on {c.not_valid_after_utc:%Y-%m-%d}" for c in est if managed and _ends(c, until)
    ]
    authorities = load_bundle(certs.ca_crt, "the Factory's device CAs")
    short += [
        f"device CA {c.subject.rfc4514_string()} on {c.not_valid_after_utc:%Y-%m-%d}"
        for c in authorities
        if _ends(c, until)
    ]
    term = f"{years} year{'s' if years > 1 else ''}"
    if not authorities:
        yield Check("lifetimes", Status.WARN, "not looked at: the Factory has no device CAs on file")
    elif all(_ends(c, now) for c in authorities):
        yield Check(
            "lifetimes", Status.FAIL, "every device CA has expired: the gateway would take no new certificate"
        )
    elif short:
        yield Check(
            "lifetimes",
            Status.WARN,
            f"end before a new device certificate's {term} are over: {'; '.join(short)}",
        )
    else:
        yield Check("lifetimes", Status.PASS, f"EST and device CA certificates outlive a new one's {term}")


def _ends(certificate: x509.Certificate, until: datetime) -> bool:
    return certificate.not_valid_after_utc < until


def _slots(plan: Plan) -> Check:
    entry = plan.entry
    warnings = slot_warnings(entry)
    if warnings:
        return Check("slots", Status.WARN, "; ".join(warnings))
    keys, certificates = ",".join(entry.pkey_ids), ",".join(entry.cert_ids)
    return Check("slots", Status.PASS, f"keys {keys}, certificates {certificates}")


# --- The devices ---


def _followers(devices: Sequence[wire.Device], now: datetime) -> Iterable[Check]:
    if not devices:
        yield Check("devices", Status.WARN, "there is no device: nobody would rotate now")
        return
    old = [d for d in devices if (lmp_release(d.lmp_ver) or OLDEST_LMP) < OLDEST_LMP]
    offline = [d for d in devices if is_offline(parse_time(d.last_seen), now)]
    if old:
        yield Check(
            "lmp", Status.WARN, f"{_count(old, 'runs', 'run')} LmP before {OLDEST_LMP}, and would not follow"
        )
    else:
        yield Check("lmp", Status.PASS, f"no device is known to run LmP before {OLDEST_LMP}")
    if offline:
        hours = OFFLINE_AFTER // timedelta(hours=1)
        words = (
            f"{_count(offline, 'was', 'were')} not seen for {hours} hours, and would follow only when back"
        )
        yield Check("online", Status.WARN, words)
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
    """Each device's record and own configuration, and what the earlier rotation came to on it."""
    tracker = Tracker(earlier, baselines.load(api, earlier) if earlier.id else None)
    tracker.begin(now)
    tracker.take_page(wire.DeviceList(devices=list(devices), total=len(devices)))
    tracker.to_ask()
    asked = _Asked([], {}, tracker)

    async def ask(device: wire.Device) -> None:
        uuid = device.uuid
        record = await api.device(uuid, by_uuid=True)
        asked.records.append(record)
        log = await api.config(Scope.of_device(device.name, uuid)).log(1)
        asked.own_entries[uuid] = current_entry_of(log).rotation_id
        tracker.take_own_entry(uuid, asked.own_entries[uuid])
        tracker.take_record(uuid, record)
        if earlier.id and tracker.wants_events(uuid):
            tracker.take_events(uuid, await events_of(api, uuid, earlier.id))

    await for_each(devices, ask, Pace())
    tracker.refresh(now)
    return asked


def _shadowed(devices: Sequence[wire.Device], own_entries: Mapping[str, str | None]) -> Check:
    shadowed = [device for device in devices if own_entries.get(device.uuid) is not None]
    if not shadowed:
        return Check("shadowed", Status.PASS, "no device has an entry of its own")
    who = _count(shadowed, "has an entry of its", "have an entry of their")
    return Check("shadowed", Status.WARN, f"{who} own, and would not follow the group")


def _earlier(earlier: Rotation, states: Sequence[DeviceState]) -> Check:
    """Under way is reason to wait; what did not end well is reason to find out why before more devices follow."""
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
            f"failed on {counts[State.FAILING]} device(s), which fetch nothing new before they get over it"
        )
    if counts[State.FINALIZED]:
        left.append(f"is finalized on {counts[State.FINALIZED]} device(s) that were not seen to come back")
    if left:
        return Check("earlier", Status.WARN, f"rotation {earlier.id} {', and '.join(left)}")
    return Check("earlier", Status.PASS, f"rotation {earlier.id} is under way on no device")


def _count(devices: Sequence[wire.Device], one: str, many: str) -> str:
    """`3 devices (a, b, c) run`, with the first few names."""
    names = [device.name or device.uuid for device in devices]
    shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    return f"{len(names)} device{'s' if len(names) > 1 else ''} ({shown}) {one if len(names) == 1 else many}"
