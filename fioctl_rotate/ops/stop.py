"""Stopping a rotation, and deleting devices' own entries, so that no device rotates because of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.api.failures import ApiError
from fioctl_rotate.errors import Error, Refused, UsageError
from fioctl_rotate.ops.at_once import Pace, for_each
from fioctl_rotate.ops.targets import current_entry_of, find_group
from fioctl_rotate.ops.watch import events_of
from fioctl_rotate.rotation.entry import FILE_NAME, Entry
from fioctl_rotate.rotation.picture import stop_reason
from fioctl_rotate.rotation.plan import CurrentEntry, request_body
from fioctl_rotate.rotation.progress import Phase, from_events
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.stopping import OwnEntry, OwnEntryFate, fate_of

# How many times entries are deleted and read again.
_PASSES = 5


class EntryFate(msgspec.Struct, frozen=True, rename="kebab"):
    """What is done with a device's own entry, and in a message what the device does then.

    `fate` is `delete`, `leave` or `replace`. It is `locked` where the configuration is locked while the device
    rotates, and `none` for a device that has begun by its group's entry.
    """

    uuid: str
    name: str
    rotation: str
    fate: str
    message: str
    replace_by: str | None = None


@dataclass(frozen=True)
class Stop:
    """What stopping a rotation does: whether the group's entry is deleted, and what happens on devices.

    `devices` are those with an entry of their own, and those that have begun by the group's.
    """

    group: str
    rotation_id: str
    of_group: bool
    devices: Sequence[EntryFate]


async def plan_stop(api: FactoryApi, group: str, rotation_id: str) -> Stop:
    """What `stop` would do.

    Raises Error where neither the group nor any of its devices has the rotation. Raises Refused where deleting the
    group's entry would make devices rotate by a fleet-wide one.
    """
    await find_group(api, group)
    found = await _find(api, group, rotation_id)
    if not found.of_group and not found.devices:
        raise Error(
            f"neither group {group} nor a device of it has rotation {rotation_id}",
            hint=f"`fioctl-rotate rotations list -g {group}` shows what is there",
        )
    return found


async def stop(api: FactoryApi, planned: Stop) -> Stop:
    """Delete the group's entry, then the devices' own, as planned; returns what was done.

    An `apply` that runs at the same time may still write entries before it sees the stop. So entries are read and
    deleted again until there is none that is new. Raises Refused where the group has another entry by now.
    """
    group, rotation_id = planned.group, planned.rotation_id
    if not planned.of_group:
        await _mark(api, group, rotation_id)
    done: dict[str, EntryFate] = {}
    of_group, found = planned.of_group, planned
    for _ in range(_PASSES):
        if found.of_group:
            of_group = True
            await _delete_of_group(api, found)
        # A device whose entry was left, or is locked, is found again; it is not new.
        new = [device for device in found.devices if _is_new(device, done.get(device.uuid))]
        if not new and not found.of_group:
            break
        for device in await take_back(api, group, new, leave_reason=stop_reason(rotation_id)):
            done[device.uuid] = device
        found = await _find(api, group, rotation_id)
    return Stop(group, rotation_id, of_group, sorted(done.values(), key=lambda device: device.name))


async def _mark(api: FactoryApi, group: str, rotation_id: str) -> None:
    """Write into the group's log that the rotation is stopped, without another change: `apply` reads it there.

    The devices' own logs cannot always say it: they are locked while a device rotates. If the server refuses a
    change without a file, that is not an error: the logs that are not locked say it, too.
    """
    config = api.config(Scope.of_group(group))
    current = current_entry_of(await config.log(1))
    if current.rotation_id != rotation_id:
        files = [] if current.value is None else [current.file]
        try:
            await config.merge({"reason": stop_reason(rotation_id), "files": files})
        except ApiError as error:
            if error.status in (401, 403) or error.status >= 500:
                raise


def _is_new(device: EntryFate, before: EntryFate | None) -> bool:
    return before is None or before.fate in (OwnEntryFate.DELETE, OwnEntryFate.REPLACE)


async def _find(api: FactoryApi, group: str, rotation_id: str) -> Stop:
    """Where the rotation is now. Raises Refused as `plan_stop` does."""
    current = current_entry_of(await api.config(Scope.of_group(group)).log())
    fleet = current_entry_of(await api.config(Scope.fleet()).log(1))
    of_group = current.rotation_id == rotation_id
    if of_group and fleet.rotation_id not in (None, rotation_id):
        raise Refused(
            f"without the entry of group {group} its devices would rotate by the fleet-wide {fleet.rotation_id}",
            hint="delete the fleet-wide entry first, or leave the group's",
        )
    beneath = fleet.rotation_id if of_group or current.value is None else current.rotation_id
    following = rotation_id if of_group else None
    devices = await own_entries(api, group, beneath, wanted=lambda id: id == rotation_id, following=following)
    return Stop(group, rotation_id, of_group, devices)


async def _delete_of_group(api: FactoryApi, planned: Stop) -> None:
    scope = Scope.of_group(planned.group)
    current = current_entry_of(await api.config(scope).log(1))
    if current.value is not None and current.rotation_id != planned.rotation_id:
        raise Refused(
            f"{scope} has rotation {current.rotation_id} now, not {planned.rotation_id}",
            hint="run the command again",
        )
    await _delete(api, scope)


async def finish(api: FactoryApi, group: str, planned: Stop) -> Stop:
    """Give the rotation's entry to the group, skipping stages, and delete the devices' own entries of it."""
    if not planned.of_group:
        scope = Scope.of_device(planned.devices[0].name, planned.devices[0].uuid)
        own = current_entry_of(await api.config(scope).log())
        if own.value is None or own.rotation_id != planned.rotation_id:
            raise Error(f"{scope} no longer has rotation {planned.rotation_id}", hint="run the command again")
        body = request_body(Entry.parse(own.value), f"finish {planned.rotation_id}")
        await api.config(Scope.of_group(group)).merge(body)
        landed = current_entry_of(await api.config(Scope.of_group(group)).log(1))
        if landed.value != own.value:
            raise Error(
                f"group {group} has {landed.rotation_id or 'no entry'} now, not {planned.rotation_id}"
            )
    # With the same id beneath, each of these is safe to delete.
    return Stop(group, planned.rotation_id, True, await take_back(api, group, planned.devices))


async def plan_unshadow(api: FactoryApi, group: str) -> Sequence[EntryFate]:
    """The devices of the group that have an entry of their own, and what each does without it."""
    await find_group(api, group)
    return await own_entries(api, group, await _beneath(api, group), wanted=lambda _id: True)


async def own_entries(
    api: FactoryApi,
    group: str,
    beneath: str | None,
    *,
    wanted: Callable[[str], bool],
    following: str | None = None,
) -> list[EntryFate]:
    """The devices of the group with an entry of their own whose id is `wanted`, by name.

    `following` is the id of the group's entry: devices that have begun by it and not ended are then listed, too.
    """
    found: list[EntryFate] = []
    devices: Mapping[str, wire.Device] = {
        device.uuid: device for device in await api.devices(Scope.of_group(group).device_filters)
    }

    async def read(uuid: str) -> None:
        name = devices[uuid].name or uuid
        fate = await _entry_fate(api, uuid, name, beneath, wanted)
        if fate is None and following is not None:
            fate = await _begun(api, uuid, name, following)
        if fate is not None:
            found.append(fate)

    await for_each(devices, read, Pace(), api.counted)
    return sorted(found, key=lambda device: device.name)


async def take_back(
    api: FactoryApi, group: str, devices: Sequence[EntryFate], *, leave_reason: str | None = None
) -> list[EntryFate]:
    """Delete or replace the entries; one whose configuration is locked comes back with the fate `locked`.

    Right before each write it decides again what to do: the device may have begun since, and deleting its entry
    could then make it rotate twice. An entry that somebody else has changed is left as it is. With `leave_reason`
    an entry that is left is sent once more, unchanged, with that reason: from it a later run of the same plan sees
    that the rotation was stopped.
    """
    done: dict[str, EntryFate] = {}
    beneath = await _beneath(api, group)

    async def send(device: EntryFate) -> None:
        scope = Scope.of_device(device.name, device.uuid)
        done[device.uuid] = device
        try:
            now = await _entry_fate(api, device.uuid, device.name, beneath, lambda _id: True)
            if now is None:
                return  # it is gone already
            if now.rotation != device.rotation:
                message = f"it has rotation {now.rotation} of its own now, which is left as it is"
                done[device.uuid] = msgspec.structs.replace(
                    device, fate=str(OwnEntryFate.LEAVE), message=message
                )
                return
            done[device.uuid] = now
            if now.fate == OwnEntryFate.DELETE:
                await _delete(api, scope)
            elif now.replace_by is not None:
                body = request_body(Entry.parse(now.replace_by), stop_reason(now.rotation))
                await api.config(scope).merge(body)
            elif leave_reason is not None:
                own = current_entry_of(await api.config(scope).log(1))
                if own.rotation_id == now.rotation:
                    await api.config(scope).merge({"reason": leave_reason, "files": [own.file]})
        except ApiError as error:
            if error.status in (401, 403) or error.status >= 500:
                raise
            done[device.uuid] = msgspec.structs.replace(
                device,
                fate="locked",
                message="its configuration is locked until it connects with its new key; run this again then",
            )

    await for_each(devices, send, Pace())
    return [done[device.uuid] for device in devices]


async def _beneath(api: FactoryApi, group: str) -> str | None:
    """The id of the entry that the group's devices follow without one of their own, None where there is none."""
    for scope in (Scope.of_group(group), Scope.fleet()):
        current = current_entry_of(await api.config(scope).log(1))
        if current.value is not None:
            return current.rotation_id
    return None


async def _entry_fate(
    api: FactoryApi, uuid: str, name: str, beneath: str | None, wanted: Callable[[str], bool]
) -> EntryFate | None:
    """What to do with the device's own entry, None where it has none whose id is `wanted`."""
    log = await api.config(Scope.of_device(name, uuid)).log()
    own = current_entry_of(log)
    if own.value is None or not wanted(own.rotation_id or ""):
        return None
    progress = (
        from_events(await events_of(api, uuid, own.rotation_id)) if own.rotation_id else from_events([])
    )
    completed = own.rotation_id if progress.finalized else await _completed(api, uuid)
    again = Phase.NONE
    if progress.finalized and beneath not in (None, own.rotation_id):
        older = from_events(await events_of(api, uuid, beneath))
        again = older.phase if older.began_again_after(progress.finals[-1]) else Phase.NONE
    fetched = bool(log[0].applied_at)
    entry = OwnEntry(own.rotation_id or "", beneath, completed, progress, fetched, again)
    fate, message = fate_of(entry)
    replace_by = _value(own, completed) if fate is OwnEntryFate.REPLACE and completed else None
    if fate is OwnEntryFate.REPLACE and replace_by is None:
        fate, message = (
            OwnEntryFate.LEAVE,
            f"its entry cannot be read; without it, it would rotate by {beneath}",
        )
    return EntryFate(uuid, name, own.rotation_id or "", str(fate), message, replace_by)


async def _begun(api: FactoryApi, uuid: str, name: str, rotation_id: str) -> EntryFate | None:
    """What the device does once its group's entry is deleted, None where it has not begun or has ended."""
    progress = from_events(await events_of(api, uuid, rotation_id))
    if progress.phase not in (Phase.RUNNING, Phase.FAILING):
        return None
    _, message = fate_of(OwnEntry(rotation_id, None, None, progress, fetched=True))
    return EntryFate(uuid, name, rotation_id, "none", message)


async def _completed(api: FactoryApi, uuid: str) -> str | None:
    """The id of the rotation that the device completed last, as far as its updates show."""
    for update in await api.device_updates(uuid):
        progress = from_events(await events_of(api, uuid, update.correlation_id))
        if progress.phase is not Phase.NONE and progress.finalized:
            return update.correlation_id
    return None


def _value(own: CurrentEntry, completed: str) -> str | None:
    """The device's own entry with the id that it completed: equal ids mean no rotation."""
    try:
        return Entry.parse(own.value or "").replace(rotation_id=completed).render()
    except UsageError:
        return None


async def _delete(api: FactoryApi, scope: Scope) -> None:
    try:
        await api.config(scope).delete(FILE_NAME)
    except ApiError as error:
        # It is gone already.
        if error.status != 404:
            raise
