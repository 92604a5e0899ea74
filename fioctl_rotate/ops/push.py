"""Pushing a rotation: make the plan from what the Factory has, send it, and read back what landed."""

import asyncio
from collections.abc import Callable

from cryptography import x509

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.api.failures import ApiError, Unreachable
from fioctl_rotate.errors import Error, Refused
from fioctl_rotate.ops.targets import current_entry_of, find, read_current
from fioctl_rotate.rotation import commands
from fioctl_rotate.rotation.entry import FILE_NAME
from fioctl_rotate.rotation.plan import Plan, RotationRequest, make_plan
from fioctl_rotate.rotation.scope import Scope

Tell = Callable[[str], None]


async def plan_push(
    api: FactoryApi, scope: Scope, request: RotationRequest, *, by_uuid: bool = False, unix_seconds: int
) -> Plan:
    """The plan that rotates the devices of `scope`; `by_uuid` has its name be a device's uuid.

    Raises UsageError for what is wrong with the request, Refused for a used id, Error for an unknown group or
    device, or a Factory without an EST server.
    """
    request.check()
    scope, device = await find(api, scope, by_uuid=by_uuid)
    of_group = device.group_name if device else None
    # An id of its group's would be taken for that rotation by whoever reads the device's events.
    group_log = await api.config(Scope.of_group(of_group)).log() if of_group else []
    current = current_entry_of(await api.config(scope).log())
    devices = 1 if device else await api.device_count(scope.device_filters)
    return make_plan(
        request,
        factory=api.factory,
        server=api.server,
        scope=scope,
        est_host=request.server_name or est_host(await api.certs(), api.factory),
        unix_seconds=unix_seconds,
        current=current,
        taken=current_entry_of(group_log).ids,
        devices=devices,
        of_group=of_group,
    )


async def push(api: FactoryApi, plan: Plan, *, tell: Tell) -> bool:
    """Send the plan's body and read back that it landed. False where it was there already: nothing is sent.

    Raises Refused where the scope's entry has changed since the plan was made, Error where the push did not land,
    saying what is known; `tell` is told what happens on the way.
    """
    if not plan.already_there:
        # Checks and a question may have taken minutes, in which somebody else may have pushed.
        plan = await refresh(api, plan)
    if plan.already_there:
        return False
    try:
        await _send(api, plan, tell)
        await _read_back(api, plan)
    except asyncio.CancelledError:
        tell(f"interrupted while {plan.rotation_id} was being sent to {plan.scope}: it may have landed")
        tell(f"hint: `{_log_command(plan)}` shows whether it did")
        raise
    return True


async def settle(api: FactoryApi, scope: Scope, rotation_id: str) -> None:
    """Send the scope's present entry once more, unchanged, so that its devices store it.

    A device that has rotated still stores the configuration of before the push, with a time that hides the push
    (fioconfig: finalizeStep). At its next boot it would write the stored entry again and, the id being another,
    rotate as it says, against an EST server that may be gone. Any later change has it store the present one; this
    is the smallest: devices that are done see the same ROTATIONID and do nothing.

    Raises Refused where the scope's present entry is not that of `rotation_id`.
    """
    scope, _ = await find(api, scope)
    current = await read_current(api, scope)
    if current.rotation_id != rotation_id:
        found = f"rotation {current.rotation_id}" if current.rotation_id else f"no {FILE_NAME}"
        raise Refused(
            f"{scope} has {found} now, not {rotation_id}",
            hint="settle the rotation that is there; a superseded one has nothing to settle",
        )
    await api.config(scope).merge({"reason": f"settle rotation {rotation_id}", "files": [current.file]})


async def refresh(api: FactoryApi, plan: Plan) -> Plan:
    """The plan with what its scope has now, ready to push, or already there.

    Raises Refused where that is no longer the entry that the plan was made against.
    """
    before = plan.current.file if plan.current else None
    plan = plan.replace(current=await read_current(api, plan.scope))
    if plan.already_there:
        return plan
    if plan.current is None or plan.current.file != before:
        raise Refused(
            f"{plan.scope} has another {FILE_NAME} than when the plan was made",
            hint="make a new plan and review it: somebody has pushed or deleted one since",
        )
    plan.check_id()
    return plan


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


async def _send(api: FactoryApi, plan: Plan, tell: Tell) -> None:
    """Send; a failure that leaves open whether it landed is told, any other raised."""
    try:
        await api.config(plan.scope).merge(plan.body)
    except (Unreachable, ApiError) as error:
        # Only a server's own failure may come after it took the push.
        if not (error.sent if isinstance(error, Unreachable) else error.status >= 500):
            raise
        tell(f"{error.message}; looking whether the push landed")


async def _read_back(api: FactoryApi, plan: Plan) -> None:
    try:
        landed = await read_current(api, plan.scope)
    except Error as error:
        raise Error(
            f"{plan.rotation_id} was sent to {plan.scope}, but what landed cannot be read: {error.message}",
            hint=f"`{_log_command(plan)}` shows whether it did",
        ) from error
    if not plan.replace(current=landed).already_there:
        found = "no entry" if landed.value is None else f"rotation {landed.rotation_id}"
        found += " with other content" if landed.value == plan.entry.render() else ""
        raise Error(
            f"{plan.rotation_id} did not land: {plan.scope} has {found}",
            hint="somebody may have pushed at the same time; look at the log before you push again",
        )


def _log_command(plan: Plan) -> str:
    return commands.config_log(plan.scope, plan.factory_options)
