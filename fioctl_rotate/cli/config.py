"""`config`: rotate a group's certificates, and the configuration of groups."""

from typing import TYPE_CHECKING, Annotated

import typer

from fioctl_rotate.cli.common import (
    Format,
    FormatOption,
    YesOption,
    confirm,
    connected,
    console,
    emit,
    emit_json,
    group,
    settings_of,
    table,
    with_api,
)
from fioctl_rotate.cli.configlog import LimitOption, show_log
from fioctl_rotate.cli.planning import Modes, with_modes, with_wish
from fioctl_rotate.cli.pushing import rotate
from fioctl_rotate.errors import UsageError
from fioctl_rotate.rotation.plan import RotationRequest, Target
from fioctl_rotate.settings import Flags

if TYPE_CHECKING:
    from fioctl_rotate import wire
    from fioctl_rotate.api.client import FactoryApi

app = group("Rotate a group's certificates; the configuration of groups.")
groups_app = group("Device groups.")
app.add_typer(groups_app, name="device-group")

GroupOption = Annotated[str, typer.Option("-g", "--group", metavar="GROUP", help="Device group.")]
OptionalGroup = Annotated[
    str | None,
    typer.Option("-g", "--group", metavar="GROUP", help="Device group; without it, the whole fleet's."),
]


@app.command(
    "rotate-certs",
    epilog="Example: fioctl-rotate config rotate-certs -g field -r 'yearly rotation' --dryrun",
)
@connected
@with_modes
@with_wish
def rotate_certs(
    flags: Flags,
    group: GroupOption,
    wish: RotationRequest,
    modes: Modes,
) -> None:
    """Have every device of a group get a new client certificate from the EST server.

    Sends the entry fio-rotate-certs to the group's configuration; each device takes it at its next check-in (LmP 90
    or later), re-enrolls at the EST server and reports its steps under the ROTATIONID. Devices that join the group
    later will rotate too. With --dryrun, shows what would be sent and sends nothing.
    """
    rotate(flags, Target("group", group), wish, modes)


@app.command("log", epilog="Example: fioctl-rotate config log -g field -n 2")
@connected
def log(
    flags: Flags,
    group: OptionalGroup = None,
    limit: LimitOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Show what was configured, newest first, for a group or for the whole fleet."""

    async def fetch(api: "FactoryApi") -> "tuple[list[wire.Config], dict[str, str]]":
        from fioctl_rotate.ops.configs import user_names
        from fioctl_rotate.ops.push import find_group

        if group is not None:
            await find_group(api, group)
        log = await (api.factory_config(limit) if group is None else api.group_config(group, limit))
        return log, await user_names(api)

    show_log(*with_api(settings_of(flags), fetch), format=format)


@app.command("delete", epilog="Example: fioctl-rotate config delete -g field fio-rotate-certs")
@connected
def delete(
    flags: Flags,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Name of the configuration file.")],
    group: GroupOption,
    yes: YesOption = False,
) -> None:
    """Delete a file of a group's configuration.

    Deleting fio-rotate-certs makes devices run the handler once more, which does no harm, and keeps devices that
    join later from rotating.
    """
    settings = settings_of(flags)
    confirm(f"Delete {file} of group {group} in factory {settings.factory}?", yes=yes)

    async def work(api: "FactoryApi") -> None:
        from fioctl_rotate.ops.configs import delete_group_file

        await delete_group_file(api, group, file)

    with_api(settings, work)
    emit(f"deleted {file} of group {group} in factory {settings.factory} at {settings.destination}")


@groups_app.command("list", epilog="Example: fioctl-rotate config device-group list --format json")
@connected
def list_groups(flags: Flags, format: FormatOption = Format.TEXT) -> None:
    """List the factory's device groups."""

    async def fetch(api: "FactoryApi") -> "list[wire.DeviceGroup]":
        return await api.groups()

    groups = with_api(settings_of(flags), fetch)
    if format is Format.JSON:
        emit_json({"groups": groups})
        return
    rows = [
        (
            g.name,
            g.description,
            g.change_meta.created_at if g.change_meta else None,
            g.change_meta.updated_at if g.change_meta else None,
        )
        for g in groups
    ]
    console().print(table(("NAME", "DESCRIPTION", "CREATED AT", "UPDATED AT"), rows))


@groups_app.command("create", epilog="Example: fioctl-rotate config device-group create field 'In the field'")
@connected
def create_group(
    flags: Flags,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new group.")],
    description: Annotated[
        str | None, typer.Argument(metavar="[DESCRIPTION]", help="What the group is.")
    ] = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Make a device group."""

    async def work(api: "FactoryApi") -> "wire.DeviceGroup":
        return await api.create_group(name, description)

    settings = settings_of(flags)
    created = with_api(settings, work)
    if format is Format.JSON:
        emit_json(created)
    else:
        emit(f"created group {created.name} in factory {settings.factory} at {settings.destination}")


@groups_app.command("update", epilog="Example: fioctl-rotate config device-group update field -n fielded")
@connected
def update_group(
    flags: Flags,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the group.")],
    new_name: Annotated[
        str | None, typer.Option("-n", "--name", metavar="NAME", help="New name of the group.")
    ] = None,
    description: Annotated[
        str | None, typer.Option("-d", "--description", metavar="TEXT", help="New description.")
    ] = None,
) -> None:
    """Rename or describe a device group."""
    if new_name is None and description is None:
        raise UsageError("nothing to change", hint="give --name, --description or both")

    async def work(api: "FactoryApi") -> None:
        await api.update_group(name, new_name=new_name, description=description)

    settings = settings_of(flags)
    with_api(settings, work)
    emit(f"updated group {new_name or name} in factory {settings.factory} at {settings.destination}")


@groups_app.command("delete", epilog="Example: fioctl-rotate config device-group delete field")
@connected
def delete_group(
    flags: Flags,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the group.")],
    yes: YesOption = False,
) -> None:
    """Delete a device group that has no devices."""
    settings = settings_of(flags)
    confirm(f"Delete group {name} of factory {settings.factory}?", yes=yes)

    async def work(api: "FactoryApi") -> None:
        await api.delete_group(name)

    with_api(settings, work)
    emit(f"deleted group {name} of factory {settings.factory} at {settings.destination}")
