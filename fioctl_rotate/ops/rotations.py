"""The rotations of a group or a device, from configuration logs and the updates of devices."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.errors import Error, UsageError
from fioctl_rotate.ops.at_once import Pace, for_each
from fioctl_rotate.ops.targets import current_entry_of, find
from fioctl_rotate.rotation.entry import FILE_NAME, parse_value, settle_reason
from fioctl_rotate.rotation.outcome import LOG_LENGTH
from fioctl_rotate.rotation.progress import parse_time
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.state import Rotation

_NAMED = 10


async def of_scope(api: FactoryApi, scope: Scope, *, by_uuid: bool = False) -> tuple[Scope, list[Rotation]]:
    """The scope as the Factory knows it, and its rotations, newest first.

    A group's are those in its configuration log. A device's are those that it was given or has reported. Raises
    Error for an unknown group or device.
    """
    found, device = await find(api, scope, by_uuid=by_uuid)
    log = await api.config(found).log()
    rotations = in_log(log, found)
    return found, rotations if device is None else await _with_reported(api, found, device, log, rotations)


@dataclass(frozen=True)
class Found:
    """A rotation that was looked for. `known` says whether a log has it; if not, `others` are the log's ids.

    An id that no log has may still be right: the devices can have its events.
    """

    rotation: Rotation
    known: bool = True
    others: Sequence[str] = ()


async def find_rotation(api: FactoryApi, rotation_id: str, scope: Scope | None = None) -> Found:
    """The rotation of that id; without a scope it is looked for in all groups.

    Raises Error for an unknown group or device, and without a scope where no group's log has the id; UsageError
    where more than one has it.
    """
    if scope is None:
        return Found(await _in_any_group(api, rotation_id))
    found, rotations = await of_scope(api, scope)
    for rotation in rotations:
        if rotation.id == rotation_id:
            return Found(rotation)
    return Found(Rotation(rotation_id, found, current=False), False, [rotation.id for rotation in rotations])


async def of_groups(api: FactoryApi) -> list[Rotation]:
    """The rotations in all groups' configuration logs: by group, newest first."""
    logs: dict[str, list[Rotation]] = {group.name: [] for group in await api.groups()}

    async def read(group: str) -> None:
        scope = Scope.of_group(group)
        logs[group] = in_log(await api.config(scope).log(), scope)

    await for_each(list(logs), read, Pace())
    return [rotation for group in sorted(logs) for rotation in logs[group]]


async def _in_any_group(api: FactoryApi, rotation_id: str) -> Rotation:
    rotations = await of_groups(api)
    found = [rotation for rotation in rotations if rotation.id == rotation_id]
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(str(rotation.scope) for rotation in found)
        raise UsageError(f"{rotation_id} is a rotation of {names}", hint="name one of them with -g GROUP")
    known = ", ".join(f"{rotation.id} ({rotation.scope})" for rotation in rotations[:_NAMED]) or "none"
    raise Error(
        f"no group of factory {api.factory} has a rotation {rotation_id}",
        hint=f"known: {known}; -g GROUP also finds an older one, and one that only early devices have begun; "
        "--device DEVICE finds a device's",
    )


async def _with_reported(
    api: FactoryApi, scope: Scope, device: wire.Device, log: Sequence[wire.Config], own: list[Rotation]
) -> list[Rotation]:
    """A device's `own` rotations (of its configuration log), its group's, and those of its updates, newest first.

    The ids of updates name rotations that no log has any more. A device with an entry of its own does not follow
    its group's: then none of the group's is current.
    """
    found = list(own)
    known = {rotation.id for rotation in found}
    shadowed = current_entry_of(log).file is not None
    group_log = await api.config(Scope.of_group(device.group_name)).log() if device.group_name else []
    for rotation in in_log(group_log, scope):
        if rotation.id not in known:
            found.append(replace(rotation, current=rotation.current and not shadowed, own=False))
            known.add(rotation.id)
    for update in await api.device_updates(device.uuid):
        if update.correlation_id.startswith("certs-") and update.correlation_id not in known:
            found.append(Rotation(update.correlation_id, scope, current=False))
    dated = [rotation for rotation in found if rotation.pushed_at is not None]
    dated.sort(key=lambda rotation: str(rotation.pushed_at), reverse=True)
    return dated + [rotation for rotation in found if rotation.pushed_at is None]


def in_log(log: Sequence[wire.Config], scope: Scope) -> list[Rotation]:
    """The rotations in the configuration log of `scope` (newest first), newest first.

    A push merges into the configuration, so later configurations have the same file: a rotation was pushed with the
    first configuration that has it.
    """
    rotations: list[Rotation] = []
    before: str | None = None
    for age, config in enumerate(reversed(log)):
        file = next((file for file in config.files or [] if file.name == FILE_NAME), None)
        values = parse_value(file.value) if file else {}
        rotation_id = values.get("ROTATIONID") or None
        if rotation_id is not None and rotation_id != before:
            # A rotation in the oldest configuration of a full log may be older than the log.
            older_than_log = age == 0 and len(log) >= LOG_LENGTH
            rotations.insert(
                0,
                Rotation(
                    rotation_id,
                    scope,
                    est_server=values["ESTSERVER"],
                    pushed_at=None if older_than_log else parse_time(config.created_at),
                    pushed_by=config.created_by,
                    reason="" if older_than_log else config.reason or "",
                    current=False,
                ),
            )
        elif rotation_id is not None and config.reason == settle_reason(rotation_id):
            rotations[0] = replace(rotations[0], settled=True)
        before = rotation_id
    if before is not None:
        rotations[0] = replace(rotations[0], current=True)
    return rotations
