"""Pushing a rotation: make the plan from what the Factory has, send it, and read back what landed."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
from cryptography import x509

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.api.exchange import ApiError, Unreachable
from fioctl_rotate.errors import Error, Refused
from fioctl_rotate.rotation.entry import FILE_NAME, ascii_host, rotation_id_of
from fioctl_rotate.rotation.plan import CurrentEntry, Plan, RotationRequest, Target, digest_of, make_plan

Tell = Callable[[str], None]


async def plan_group(api: FactoryApi, group: str, wish: RotationRequest, *, unix_seconds: int) -> Plan:
    """The plan that rotates all devices of `group`.

    Raises UsageError for what is wrong with the wish, Refused for a used id, Error for an unknown group or a
    Factory without an EST server.
    """
    wish.check()
    await find_group(api, group)
    log = await api.group_config(group)
    target = Target("group", group, devices=await api.device_count(group))
    return await _plan(api, target, wish, current_entry_of(log), unix_seconds=unix_seconds)


async def plan_device(
    api: FactoryApi, name: str, wish: RotationRequest, *, by_uuid: bool = False, unix_seconds: int
) -> Plan:
    """The plan that rotates one device; `api` goes on with the factory that the device says it is in.

    Raises as `plan_group` does; Error for an unknown device.
    """
    wish.check()
    device = await find_device(api, name, by_uuid=by_uuid)
    if device.factory:
        api.factory = device.factory
    standing = current_entry_of(await api.device_config(device.uuid))
    target = Target("device", device.name or device.uuid, device.uuid, device.group_name, 1)
    # An id of its group's would be taken for that rotation by whoever reads the device's events.
    taken = current_entry_of(await api.group_config(target.group)).ids if target.group else frozenset()
    return await _plan(api, target, wish, standing, unix_seconds=unix_seconds, taken=taken)


async def push(api: FactoryApi, plan: Plan, *, tell: Tell) -> bool:
    """Send the plan's request and read back that it landed. False where it was there already: nothing is sent.

    Raises Refused where the target's entry has changed since the plan was made, Error where the push did not land,
    saying what is known; `tell` is told what happens on the way.
    """
    if not plan.already_there and plan.standing is not None:
        # Checks and a question may have taken minutes, in which somebody else may have pushed.
        plan = await refresh(api, plan, digest_of(plan.standing.file))
    if plan.already_there:
        return False
    try:
        await _send(api, plan.target, plan.request, tell)
        await _read_back(api, plan)
    except asyncio.CancelledError:
        tell(f"interrupted while {plan.rotation_id} was being sent to {plan.target}: it may have landed")
        tell(f"hint: `{plan.log_command()}` shows whether it did")
        raise
    return True


async def settle(api: FactoryApi, target: Target, rotation_id: str) -> None:
    """Send the target's present entry once more, unchanged, so that its devices store it.

    A device that has rotated still stores the configuration of before the push, with a time that hides the push
    (fioconfig: finalizeStep). At its next boot it would write the stored entry again and, the id being another,
    rotate as it says, against an EST server that may be gone. Any later change has it store the present one; this
    is the smallest: devices that are done see the same ROTATIONID and do nothing.

    Raises Refused where the target's present entry is not that of `rotation_id`.
    """
    file = (await _standing(api, target)).file
    present = rotation_id_of(str(file["value"])) if file else None
    if present != rotation_id:
        raise Refused(
            f"{target} has {f'rotation {present}' if present else f'no {FILE_NAME}'} now, not {rotation_id}",
            hint="settle the rotation that is there; a superseded one has nothing to settle",
        )
    await _patch(api, target, {"reason": f"settle rotation {rotation_id}", "files": [file]})


async def refresh(api: FactoryApi, plan: Plan, against: str) -> Plan:
    """A saved plan with what its target has now, ready to push, or already there.

    Raises Refused where the target's entry is no longer the one whose digest is `against`.
    """
    now = await _standing(api, plan.target)
    plan = replace(plan, standing=now)
    if plan.already_there:
        return plan
    if digest_of(now.file) != against:
        raise Refused(
            f"{plan.target} has another {FILE_NAME} than when the plan was made",
            hint="make a new plan and review it: somebody has pushed or deleted one since",
        )
    plan.check_id()
    return plan


async def find_group(api: FactoryApi, group: str) -> wire.DeviceGroup:
    """The group of that name; Error with the names that there are where there is none."""
    groups = await api.groups()
    for candidate in groups:
        if candidate.name == group:
            return candidate
    names = ", ".join(sorted(g.name for g in groups)) or "none"
    raise Error(f"factory {api.factory} has no device group `{group}`", hint=f"groups there: {names}")


async def find_device(api: FactoryApi, name: str, *, by_uuid: bool = False) -> wire.Device:
    """The device of that name or uuid; Error in words where there is none."""
    try:
        return await api.device(name, by_uuid=by_uuid)
    except ApiError as error:
        if error.status != 404:
            raise
        what = "uuid" if by_uuid else "name"
        hint = "`fioctl-rotate devices list` shows them" + ("" if by_uuid else "; -u takes a uuid")
        raise Error(f"factory {api.factory} has no device with the {what} `{name}`", hint=hint) from error


def current_entry_of(log: list[wire.Config]) -> CurrentEntry:
    """What a configuration log says of rotations: the newest entry's file, and every id in the log."""
    files = [[file for file in config.files or [] if file.name == FILE_NAME] for config in log]
    current = files[0][0] if files and files[0] else None
    ids = {rotation_id_of(file.value) for of_entry in files for file in of_entry}
    plain: dict[str, Any] | None = None if current is None else msgspec.to_builtins(current)
    return CurrentEntry(plain, frozenset(ids - {""}))


def est_host(certs: wire.Certs, factory: str) -> str:
    """The one DNS name in the SAN of the Factory's EST TLS certificate. Raises Error in words."""
    if not certs.root_crt:
        raise Error(
            f"factory {factory} has no PKI yet", hint="set it up with `fioctl-rotate keys ca create DIR`"
        )
    if not certs.est_tls_crt:
        raise Error(
            f"factory {factory} has authorized no EST server",
            hint="authorize the managed one with `fioctl-rotate est authorize DIR`, or name yours: --server-name",
        )
    try:
        certificate = x509.load_pem_x509_certificate(certs.est_tls_crt.encode())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        dns_names = names.value.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        dns_names = []
    except ValueError as error:
        raise Error(f"the EST TLS certificate of factory {factory} cannot be read: {error}") from error
    if len(dns_names) != 1:
        found = ", ".join(dns_names) or "none"
        raise Error(
            f"the EST TLS certificate of factory {factory} has {len(dns_names)} DNS names, not one: {found}",
            hint="name the EST server with --server-name",
        )
    return dns_names[0]


async def _plan(
    api: FactoryApi,
    target: Target,
    wish: RotationRequest,
    standing: CurrentEntry,
    *,
    unix_seconds: int,
    taken: frozenset[str] = frozenset(),
) -> Plan:
    host = wish.server_name or est_host(await api.certs(), api.factory)
    return make_plan(
        wish,
        factory=api.factory,
        server=api.server,
        target=target,
        standing=standing,
        est_host=ascii_host(host),
        unix_seconds=unix_seconds,
        taken=taken,
    )


async def _standing(api: FactoryApi, target: Target) -> CurrentEntry:
    if target.kind == "group":
        await find_group(api, target.name)
        return current_entry_of(await api.group_config(target.name))
    return current_entry_of(await api.device_config(str(target.uuid)))


async def _patch(api: FactoryApi, target: Target, request: Mapping[str, object]) -> None:
    if target.kind == "group":
        await api.patch_group_config(target.name, request)
    else:
        await api.patch_device_config(str(target.uuid), request)


async def _send(api: FactoryApi, target: Target, request: Mapping[str, object], tell: Tell) -> None:
    """Send; a failure that leaves open whether it landed is told, any other raised."""
    try:
        await _patch(api, target, request)
    except (Unreachable, ApiError) as error:
        # Only a server's own failure may come after it took the push.
        if not (error.sent if isinstance(error, Unreachable) else error.status >= 500):
            raise
        tell(f"{error.message}; looking whether the push landed")


async def _read_back(api: FactoryApi, plan: Plan) -> None:
    try:
        landed = await _standing(api, plan.target)
    except Error as error:
        raise Error(
            f"{plan.rotation_id} was sent to {plan.target}, but what landed cannot be read: {error.message}",
            hint=f"`{plan.log_command()}` shows whether it did",
        ) from error
    if not replace(plan, standing=landed).already_there:
        found = "no entry" if landed.value is None else f"rotation {rotation_id_of(landed.value)}"
        found += " with other content" if landed.value == plan.value else ""
        raise Error(
            f"{plan.rotation_id} did not land: {plan.target} has {found}",
            hint="somebody may have pushed at the same time; look at the log before you push again",
        )
