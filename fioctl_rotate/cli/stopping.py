"""`rotations stop` and `rotations unshadow`: take entries back, and say what each device does then."""

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from fioctl_rotate.cli.apply import settings_for
from fioctl_rotate.cli.common import (
    GroupOption,
    OptionalGroup,
    Result,
    Table,
    YesOption,
    at,
    confirm,
    connect,
    connected,
    note,
    open_api,
    option,
)
from fioctl_rotate.cli.planning import IdOrPlan, plan_named
from fioctl_rotate.errors import InProgress, UsageError
from fioctl_rotate.rotation.entry import FILE_NAME
from fioctl_rotate.settings import Flags

if TYPE_CHECKING:
    from fioctl_rotate.ops.stop import EntryFate


def add_to(app: typer.Typer) -> None:
    """Add both commands to the group `rotations`."""
    app.command("stop", epilog="Example: fioctl-rotate rotations stop certs-1763989200 -g field")(stop)
    app.command("unshadow", epilog="Example: fioctl-rotate rotations unshadow -g field")(unshadow)


@connected
async def stop(
    flags: Flags,
    rotation_id: IdOrPlan,
    group: OptionalGroup = None,
    finish: Annotated[
        bool, option("--finish", "Give the entry to the whole group instead, skipping stages.")
    ] = False,
    yes: YesOption = False,
) -> Result:
    """Stop a rotation: delete its entry from a group, and from devices that have one of their own.

    ID needs -g; a plan names its group. A running `apply` of the rotation ends at its next poll. A device that has
    begun still finishes. A device's own entry is deleted only if that cannot make the device rotate by an older
    entry of its group or the fleet. Otherwise it is left, or replaced by an entry of the rotation that the device
    has completed. The result says for each device what it will do. Exit code 6 if a device is locked: run the
    command again.
    """
    from fioctl_rotate.ops import stop as ops
    from fioctl_rotate.rotation import commands
    from fioctl_rotate.rotation.scope import Scope

    if (plan := plan_named(rotation_id)) is not None:
        if not plan.scope.shared:
            delete = shlex.join([*plan.scope.config_command("delete"), FILE_NAME])
            raise UsageError(
                f"the plan is for {plan.scope}, and only a group's rotation is stopped",
                hint=f"`{delete}` takes the device's entry back, where it has not begun",
            )
        if group not in (None, plan.scope.name):
            raise UsageError(f"the plan is for {plan.scope}, not for group {group}")
        rotation_id, group = plan.rotation_id, plan.scope.name
    if group is None:
        raise UsageError("-g is missing", hint="name the group of the rotation, or a plan in place of ID")
    async with connect(flags) if plan is None else open_api(settings_for(flags, plan)) as api:
        planned = await ops.plan_stop(api, group, rotation_id)
        if finish:
            confirm(f"Give rotation {rotation_id} to the whole group {group}?", yes=yes)
            done = await ops.finish(api, group, planned)
            outcome = f"gave rotation {rotation_id} to group {group}"
        else:
            _announce(planned.devices)
            confirm(f"Stop rotation {rotation_id} of group {group}?", yes=yes)
            done = await ops.stop(api, planned)
            outcome = f"stopped rotation {rotation_id} of group {group}"
        document = {"factory": api.factory, "server": api.server, "rotation-id": rotation_id, "group": group}
        where = commands.factory_options(api.factory, api.server)
        settle = commands.rotations("settle", rotation_id, Scope.of_group(group), where)
        notes = [f"when all its devices are done: {settle}"] if finish else []
        return _result({**document, "finished": finish}, at(api, outcome), done.devices, notes)


@connected
async def unshadow(flags: Flags, group: GroupOption, yes: YesOption = False) -> Result:
    """Delete devices' own entries, so that they follow their group again.

    The rule is that of `rotations stop`: an entry is left, or replaced, if its deletion would make the device
    rotate.
    """
    from fioctl_rotate.ops import stop as ops

    async with connect(flags) as api:
        planned = await ops.plan_unshadow(api, group)
        document = {"factory": api.factory, "server": api.server, "group": group}
        if not planned:
            return _result(document, at(api, f"no device of group {group} has an entry of its own"), [])
        _announce(planned)
        confirm(f"Do this with the own entries of devices in group {group}?", yes=yes)
        done = await ops.take_back(api, group, planned)
        return _result(document, at(api, f"processed the own entries of devices in group {group}"), done)


def _announce(devices: "Sequence[EntryFate]") -> None:
    """Say what will be done with each own entry, before the question."""
    for device in devices:
        note(f"{device.name}: {device.fate} {device.rotation}: {device.message}")


def _result(
    document: Mapping[str, object], line: str, devices: "Sequence[EntryFate]", notes: Sequence[str] = ()
) -> Result:
    rows = [(device.name, device.rotation, device.fate, device.message) for device in devices]
    table = [Table(("DEVICE", "ROTATION", "OWN ENTRY", "WHAT IT DOES"), rows)] if rows else []
    locked = sum(device.fate == "locked" for device in devices)
    devices_are = "1 device is" if locked == 1 else f"{locked} devices are"
    error = InProgress(f"{devices_are} locked; run the command again") if locked else None
    return Result({**document, "devices": list(devices)}, [line, *table], notes=notes, error=error)
