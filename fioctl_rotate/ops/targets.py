"""Find the group or device of a command, and read its configuration."""

from collections.abc import Sequence
from dataclasses import dataclass

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.api.failures import ApiError
from fioctl_rotate.errors import Error
from fioctl_rotate.ops.at_once import together
from fioctl_rotate.rotation.entry import rotation_id_of
from fioctl_rotate.rotation.outcome import entry_in
from fioctl_rotate.rotation.plan import CurrentEntry
from fioctl_rotate.rotation.scope import Scope


async def find(api: FactoryApi, scope: Scope, *, by_uuid: bool = False) -> tuple[Scope, wire.Device | None]:
    """The scope as the Factory knows it, and its device where it is one; with `by_uuid` its name is a uuid.

    From here on `api` uses the factory that the device names, as fioctl does. Raises Error where the Factory has no
    such group or device.
    """
    if scope.shared:
        if scope.name:
            await find_group(api, scope.name)
        return scope, None
    device = await find_device(api, scope.uuid or scope.name, by_uuid=by_uuid or scope.uuid is not None)
    if device.factory:
        api.factory = device.factory
    return Scope.of_device(device.name or device.uuid, device.uuid), device


@dataclass(frozen=True)
class Target:
    """What a push is for, as it was read once: plan, checks and push share it.

    `log` is the scope's configuration log, `devices` are those that follow it. For one device `group_log` is that
    of its group, `of_group`.
    """

    scope: Scope
    log: Sequence[wire.Config]
    devices: Sequence[wire.Device]
    certs: wire.Certs
    group_log: Sequence[wire.Config] = ()
    of_group: str | None = None


async def read_target(api: FactoryApi, scope: Scope, *, by_uuid: bool = False, certs: bool = True) -> Target:
    """All that is read before a push, except each device's own data. Requests run at the same time where they can.

    With `by_uuid` the scope's name is a device's uuid. Without `certs` the Factory's certificates are left out: a
    token may not be allowed to read them. Raises Error for an unknown group or device.
    """

    async def read_certs() -> wire.Certs:
        return await api.certs() if certs else wire.Certs()

    async def read_log(group: str | None) -> Sequence[wire.Config]:
        return await api.config(Scope.of_group(group)).log() if group else []

    if scope.shared:
        _, log, devices, found_certs = await together(
            find(api, scope), api.config(scope).log(), api.devices(scope.device_filters), read_certs()
        )
        return Target(scope, log, devices, found_certs)
    scope, device = await find(api, scope, by_uuid=by_uuid)
    of_group = device.group_name if device else None
    log, group_log, found_certs = await together(api.config(scope).log(), read_log(of_group), read_certs())
    return Target(scope, log, [device] if device else [], found_certs, group_log, of_group)


async def find_group(api: FactoryApi, group: str) -> wire.DeviceGroup:
    """The group of that name. Raises Error where there is none; its hint names the groups that there are."""
    groups = await api.groups()
    for candidate in groups:
        if candidate.name == group:
            return candidate
    names = ", ".join(sorted(g.name for g in groups)) or "none"
    raise Error(f"factory {api.factory} has no device group `{group}`", hint=f"groups there: {names}")


async def find_device(api: FactoryApi, name: str, *, by_uuid: bool = False) -> wire.Device:
    """The device of that name or uuid. Raises Error where there is none."""
    try:
        return await api.device(name, by_uuid=by_uuid)
    except ApiError as error:
        if error.status != 404:
            raise
        what = "uuid" if by_uuid else "name"
        hint = "`fioctl-rotate devices list` shows them" + ("" if by_uuid else "; -u takes a uuid")
        raise Error(f"factory {api.factory} has no device with the {what} `{name}`", hint=hint) from error


def current_entry_of(log: Sequence[wire.Config]) -> CurrentEntry:
    """What a configuration log says of rotations: the newest entry's file, and every id in the log."""
    entries = [entry_in(config) for config in log]
    ids = {rotation_id_of(str(entry.get("value", ""))) for entry in entries if entry is not None}
    return CurrentEntry(entries[0] if entries else None, frozenset(ids - {""}))
