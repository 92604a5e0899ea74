"""A plan made against the real Factory, rewritten for a copy of its clone: the same devices with other keys."""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.errors import Refused
from fioctl_rotate.mock.store.accounts import FactoryRecord
from fioctl_rotate.ops.at_once import Pace, for_each
from fioctl_rotate.ops.push import require_same_devices
from fioctl_rotate.ops.staging import read_known
from fioctl_rotate.ops.targets import current_entry_of, read_target
from fioctl_rotate.rotation.entry import DEFAULT_RESOURCE
from fioctl_rotate.rotation.plan import CurrentEntry, Plan
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.stages import StageDevice, Stages

SUFFIX = "-rehearsal"
_LONGEST_ID = 128
_AGAIN = "clone the Factory again; if the plan is older than that, make a new plan, too"


def rehearsed_id(rotation_id: str) -> str:
    """The ROTATIONID of the rehearsal. It cannot be mistaken for the real one."""
    return rotation_id[: _LONGEST_ID - len(SUFFIX)] + SUFFIX


async def plan_for_copy(
    api: FactoryApi, plan: Plan, factory: FactoryRecord, *, allow: Collection[str], now: datetime
) -> tuple[Plan, list[wire.Device]]:
    """`plan` rewritten for the copy behind `api`, with the EST server of `factory`; and the devices of the plan.

    Raises Refused where the copy has another entry or other devices than the plan was made for.
    """
    target = await read_target(api, plan.scope, certs=False)
    require_same_devices(plan, target, allow)
    current = current_entry_of(target.log)
    _require_same_entry(str(plan.scope), plan.current, current)
    fleet = current_entry_of(await api.config(Scope.fleet()).log())
    entry = plan.entry.replace(
        host=factory.est_name,
        port=factory.est_port,
        resource=DEFAULT_RESOURCE,
        rotation_id=rehearsed_id(plan.rotation_id),
    )
    rewritten = plan.replace(
        server=api.server, scope=target.scope, entry=entry, current=current, fleet_wide=fleet.value, checks=()
    )
    if plan.stages is not None:
        older = {entry.rotation_id for entry in (current, fleet) if entry.rotation_id}
        rewritten = rewritten.replace(stages=await _stages(api, plan.stages, older, now))
    return rewritten, list(target.devices)


def _require_same_entry(where: str, planned: CurrentEntry | None, found: CurrentEntry) -> None:
    before = planned.rotation_id if planned else None
    if found.rotation_id != before:
        raise Refused(
            f"{where} has {_named(found.rotation_id)} on the clone, but {_named(before)} in the plan",
            hint=_AGAIN,
        )


def _named(rotation_id: str | None) -> str:
    return f"rotation {rotation_id}" if rotation_id else "no rotation"


async def _stages(api: FactoryApi, stages: Stages, older: Collection[str], now: datetime) -> Stages:
    """The stages with the copy's keys, and what its devices have done up to now."""
    found: dict[str, StageDevice] = {}

    async def read(device: StageDevice) -> None:
        known = await read_known(api, device.name, device.uuid, older, now)
        if known.device is None:
            raise Refused(f"device {device.name} is {known.excluded} on the clone", hint=_AGAIN)
        found[device.uuid] = replace(known.device, why=device.why)

    await for_each(stages.devices, read, Pace())
    return replace(
        stages, early=tuple(tuple(found[device.uuid] for device in stage) for stage in stages.early)
    )
