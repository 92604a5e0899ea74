"""The rotations of a group or a device, as the configuration log and the updates know them."""

from collections.abc import Sequence
from dataclasses import replace

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.ops.push import find_device, find_group
from fioctl_rotate.rotation.entry import FILE_NAME, parse_value
from fioctl_rotate.rotation.plan import Target
from fioctl_rotate.rotation.progress import parse_time
from fioctl_rotate.rotation.state import Rotation

# The API keeps so many entries of a log: a rotation in the oldest of a full one may be older than the log.
LOG_LENGTH = 10


async def of_group(api: FactoryApi, group: str) -> list[Rotation]:
    """The rotations in the group's configuration log, newest first. Raises Error for an unknown group."""
    await find_group(api, group)
    return in_log(await api.group_config(group), Rotation("", group=group))


async def of_device(
    api: FactoryApi, name: str, *, by_uuid: bool = False
) -> tuple[wire.Device, list[Rotation]]:
    """The device, and the rotations it was told or has reported, newest first.

    From its own configuration log, its group's, and its updates, whose ids tell of rotations that no log has any
    more. A device with an entry of its own does not follow its group's: then none of the group's is current.
    """
    device = await find_device(api, name, by_uuid=by_uuid)
    target = Rotation("", device=device.name or device.uuid)
    own_log = await api.device_config(device.uuid)
    own = in_log(own_log, target)
    known = {rotation.id for rotation in own}
    shadowed = own_entry(own_log) is not None
    group_log = await api.group_config(device.group_name) if device.group_name else []
    for rotation in in_log(group_log, target):
        if rotation.id not in known:
            own.append(replace(rotation, current=rotation.current and not shadowed, own=False))
            known.add(rotation.id)
    for update in await api.device_updates(device.uuid):
        if update.correlation_id.startswith("certs-") and update.correlation_id not in known:
            own.append(replace(target, id=update.correlation_id, current=False))
    dated = [rotation for rotation in own if rotation.pushed_at is not None]
    dated.sort(key=lambda rotation: str(rotation.pushed_at), reverse=True)
    return device, dated + [rotation for rotation in own if rotation.pushed_at is None]


async def of_target(api: FactoryApi, target: Target) -> tuple[str | None, list[Rotation]]:
    """The uuid of the device where one is meant, and the target's rotations, newest first."""
    if target.kind == "group":
        return None, await of_group(api, target.name)
    device, rotations = await of_device(api, target.name)
    return device.uuid, rotations


async def find_rotation(api: FactoryApi, rotation_id: str, target: Target) -> tuple[Rotation, str | None]:
    """The rotation of that id, and the uuid of the device where only one is meant.

    An id that no log has any more is taken at its word: its events may still be there. Raises Error for an unknown
    group or device.
    """
    uuid, rotations = await of_target(api, target)
    known = next((rotation for rotation in rotations if rotation.id == rotation_id), None)
    group, device = (target.name, None) if target.kind == "group" else (None, target.name)
    return known or Rotation(rotation_id, group=group, device=device, current=False), uuid


def in_log(log: Sequence[wire.Config], target: Rotation) -> list[Rotation]:
    """The rotations in a configuration log (newest first), newest first, each as `target` with what the log says.

    A push merges into the configuration, so later entries carry the same file on: a rotation was pushed with the
    first entry that has it.
    """
    rotations: list[Rotation] = []
    before: str | None = None
    for age, config in enumerate(reversed(log)):
        file = next((file for file in config.files or [] if file.name == FILE_NAME), None)
        values = parse_value(file.value) if file else {}
        rotation_id = values.get("ROTATIONID") or None
        if rotation_id is not None and rotation_id != before:
            older_than_log = age == 0 and len(log) >= LOG_LENGTH
            rotations.insert(
                0,
                replace(
                    target,
                    id=rotation_id,
                    est_server=values["ESTSERVER"],
                    pushed_at=None if older_than_log else parse_time(config.created_at),
                    pushed_by=config.created_by,
                    reason="" if older_than_log else config.reason or "",
                    current=False,
                ),
            )
        before = rotation_id
    if before is not None:
        rotations[0] = replace(rotations[0], current=True)
    return rotations


def own_entry(log: Sequence[wire.Config]) -> str | None:
    """The ROTATIONID of the entry in the newest configuration of a log, "" if it has none; None without entry."""
    files = (log[0].files or []) if log else []
    file = next((file for file in files if file.name == FILE_NAME), None)
    return None if file is None else parse_value(file.value)["ROTATIONID"]
