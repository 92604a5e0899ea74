"""A Factory at a glance: its groups with their devices and their rotation."""

import asyncio
from dataclasses import dataclass

from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.clock import utc_now
from fioctl_rotate.ops.devices import is_online
from fioctl_rotate.ops.targets import current_entry_of
from fioctl_rotate.rotation.scope import Scope


@dataclass
class GroupStatus:
    """A group, or with the name None the devices without a group. `rotation` is the ROTATIONID that it has now."""

    name: str | None
    devices: int = 0
    online: int = 0
    rotation: str | None = None


async def read_status(api: FactoryApi, threshold_hours: int) -> list[GroupStatus]:
    """Each group by name, then the devices without a group, if any.

    A device is online if it was seen in the last `threshold_hours`.
    """
    groups, devices = await asyncio.gather(api.groups(), api.devices())
    found = {group.name: GroupStatus(group.name) for group in sorted(groups, key=lambda group: group.name)}
    alone, now = GroupStatus(None), utc_now()
    for device in devices:
        status = found.get(device.group_name or "", alone)
        status.devices += 1
        status.online += is_online(device, threshold_hours, now)
    for name, status in found.items():
        log = await api.config(Scope.of_group(name)).log(1)
        status.rotation = current_entry_of(log).rotation_id
    return [*found.values(), *([alone] if alone.devices else [])]
