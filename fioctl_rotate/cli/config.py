"""`config`: rotate a group's certificates; show and change groups and their configuration."""

from typing import Annotated

import typer

from fioctl_rotate.cli import common
from fioctl_rotate.cli.common import GroupOption, LimitOption, OptionalGroup, Result, Table, YesOption
from fioctl_rotate.cli.completion import names
from fioctl_rotate.cli.configs import (
    AppsOption,
    Change,
    FileArgument,
    FilesArgument,
    TagOption,
    log_lines,
    set_files,
    show_overrides,
    with_change,
)
from fioctl_rotate.cli.planning import Modes, with_modes, with_request
from fioctl_rotate.cli.pushing import rotate
from fioctl_rotate.cli.stages import StageOptions, with_stages
from fioctl_rotate.errors import UsageError
from fioctl_rotate.rotation.plan import RotationRequest
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.settings import Flags

app = common.group("Rotate a group's certificates; show and change groups.")
groups_app = common.group("Device groups.")
app.add_typer(groups_app, name="device-group")

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the group.", autocompletion=names("groups"))
]


@app.command(
    "rotate-certs",
    epilog="Example: fioctl-rotate config rotate-certs -g field -r 'yearly rotation' --dryrun",
)
@common.connected
@with_modes
@with_stages
@with_request
def rotate_certs(
    flags: Flags,
    group: GroupOption,
    request: RotationRequest,
    modes: Modes,
    staging: StageOptions,
) -> Result | None:
    """Rotate the client certificate of every device in a group.

    Sends the entry fio-rotate-certs to the group's configuration. Each device (LmP 90 or later) fetches it at its
    next check-in, gets a new certificate from the EST server, and reports its steps under the ROTATIONID. Devices
    that join the group later will rotate too. With --dryrun, shows what would be sent and sends nothing.

    With --stages or --canary a few devices get the entry first. The others get it once these are done and still
    check in.
    """
    return rotate(flags, Scope.of_group(group), request, modes, staging=staging)


@app.command("log", epilog="Example: fioctl-rotate config log -g field -n 2")
@common.connected
async def log(flags: Flags, group: OptionalGroup = None, limit: LimitOption = None) -> Result:
    """Show the configuration log of a group, newest first; without -g, of the whole fleet."""
    async with common.connect(flags) as api:
        from fioctl_rotate.ops.configs import read_log

        found, users = await read_log(api, Scope.group_or_fleet(group), limit)
        return Result({"config": found}, log_lines(found, users))


@app.command("delete", epilog="Example: fioctl-rotate config delete -g field fio-rotate-certs")
@common.connected
async def delete(
    flags: Flags, file: FileArgument, group: OptionalGroup = None, yes: YesOption = False
) -> Result:
    """Delete a file of a group's configuration; without -g, of the whole fleet's.

    When fio-rotate-certs is deleted, devices run its handler once more, which does no harm. Devices that join later
    do not rotate then.
    """
    async with common.connect(flags) as api:
        from fioctl_rotate.ops.configs import delete_file

        scope = Scope.group_or_fleet(group)
        common.confirm(f"Delete {file} of {scope} in factory {api.factory}?", yes=yes)
        await delete_file(api, scope, file)
        return common.done(api, f"deleted {file} of {scope}", file=file, group=group)


@app.command("set", epilog="Example: fioctl-rotate config set -g field motd=hello -m greeting")
@common.connected
@with_change
async def set_config(
    flags: Flags, files: FilesArgument, change: Change, group: OptionalGroup = None
) -> Result:
    """Set files of a group's configuration; without -g, of the whole fleet's.

    The other files stay. Values are sent unencrypted, as fioctl sends them: everyone with access can read them.
    """
    return await set_files(flags, Scope.group_or_fleet(group), files, change)


@app.command("updates", epilog="Example: fioctl-rotate config updates -g field")
@common.connected
async def updates(
    flags: Flags,
    group: OptionalGroup = None,
    tag: TagOption = None,
    apps: AppsOption = None,
) -> Result:
    """Show which tag and apps a group's configuration sets; without -g, the whole fleet's."""
    return await show_overrides(flags, Scope.group_or_fleet(group), bool(tag or apps))


@groups_app.command("list", epilog="Example: fioctl-rotate config device-group list --format json")
@common.connected
async def list_groups(flags: Flags) -> Result:
    """List the factory's device groups."""
    async with common.connect(flags) as api:
        groups = await api.groups()
    rows = []
    for group in groups:
        meta = group.change_meta
        rows.append(
            (
                group.name,
                group.description,
                meta.created_at if meta else None,
                meta.updated_at if meta else None,
            )
        )
    return Result({"groups": groups}, [Table(("NAME", "DESCRIPTION", "CREATED AT", "UPDATED AT"), rows)])


@groups_app.command(
    "create", epilog="Example: fioctl-rotate config device-group create canaries 'First to rotate'"
)
@common.connected
async def create_group(
    flags: Flags,
    name: NameArgument,
    description: Annotated[
        str | None, typer.Argument(metavar="[DESCRIPTION]", help="What the group is for.")
    ] = None,
) -> Result:
    """Make a device group."""
    async with common.connect(flags) as api:
        created = await api.create_group(name, description)
        return Result(created, [common.at(api, f"created group {created.name}")])


@groups_app.command("update", epilog="Example: fioctl-rotate config device-group update field -n fielded")
@common.connected
async def update_group(
    flags: Flags,
    name: NameArgument,
    new_name: Annotated[str | None, common.option("-n --name NAME", "New name of the group.")] = None,
    description: Annotated[str | None, common.option("-d --description TEXT", "New description.")] = None,
) -> Result:
    """Rename or describe a device group."""
    if new_name is None and description is None:
        raise UsageError("nothing to change", hint="give --name, --description or both")
    async with common.connect(flags) as api:
        await api.update_group(name, new_name=new_name, description=description)
        return common.done(api, f"updated group {new_name or name}", group=new_name or name)


@groups_app.command("delete", epilog="Example: fioctl-rotate config device-group delete lab")
@common.connected
async def delete_group(flags: Flags, name: NameArgument, yes: YesOption = False) -> Result:
    """Delete a device group that has no devices."""
    async with common.connect(flags) as api:
        common.confirm(f"Delete group {name} of factory {api.factory}?", yes=yes)
        await api.delete_group(name)
        return common.done(api, f"deleted group {name}", group=name)
