"""`devices` (also `device`): rotate one device's certificate; list, show and change devices."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fioctl_rotate.cli import common, devices_config
from fioctl_rotate.cli.common import LimitOption, Result, Table, YesOption, option
from fioctl_rotate.cli.completion import names
from fioctl_rotate.cli.configs import log_lines
from fioctl_rotate.cli.devices_config import ByUuidOption, DeviceArgument
from fioctl_rotate.errors import Error, UsageError, printable
from fioctl_rotate.settings import Flags
from fioctl_rotate.value import Value

if TYPE_CHECKING:
    from fioctl_rotate import wire
    from fioctl_rotate.ops.devices import DevicePage, DeviceQuery

app = common.group("Rotate a device's certificate; list, show and change devices.")
app.add_typer(devices_config.app, name="config")

DevicesArgument = Annotated[
    list[str],
    typer.Argument(metavar="DEVICE...", help="Names of the devices.", autocompletion=names("devices")),
]
UuidsArgument = Annotated[list[str], typer.Argument(metavar="UUID...", help="UUIDs on the deny list.")]
PageOption = Annotated[int | None, option("-p --page N", "Page to show.", min=1)]
PageSizeOption = Annotated[
    int | None, option("-n --limit N", "Devices a page: 10, 20, 30, 40, 50, 100, 200, 500 or 1000.", min=1)
]

SORT_FLAGS = ("--sort-by-name", "--sort-by-last-seen")
DEFAULT_COLUMNS = "name,device-group,last-seen,lmp,target"


class Selection(Value):
    """Which devices are listed, as typed."""

    group: str | None = None
    tag: str | None = None
    target: str | None = None
    uuid: str | None = None
    just_mine: bool = False
    only_prod: bool = False
    only_non_prod: bool = False
    sort_by_name: str | None = None
    sort_by_last_seen: str | None = None
    page: int | None = None
    limit: int | None = None

    def query(self, pattern: str | None) -> "DeviceQuery":
        """The query for the API. Raises UsageError for options that exclude each other, or an unknown order."""
        from fioctl_rotate.ops.devices import DeviceQuery

        if self.only_prod and self.only_non_prod:
            raise UsageError("--only-prod and --only-non-prod exclude each other")
        if self.sort_by_name and self.sort_by_last_seen:
            raise UsageError(f"{' and '.join(SORT_FLAGS)} exclude each other")
        sortby = "name"
        for flag, field, order in zip(
            SORT_FLAGS, ("name", "last_seen"), (self.sort_by_name, self.sort_by_last_seen), strict=True
        ):
            if order not in (None, "asc", "desc"):
                raise UsageError(f"{flag}: expected asc or desc, got `{order}`")
            if order:
                sortby = field if order == "asc" else f"-{field}"
        return DeviceQuery(
            name=pattern,
            group=self.group,
            tag=self.tag,
            target=self.target,
            uuid=self.uuid,
            mine=self.just_mine,
            production=self.only_prod if self.only_prod or self.only_non_prod else None,
            sortby=sortby,
            page=self.page,
            limit=self.limit,
        )


SELECTION_OPTIONS: common.Options = {
    "group": option("-g --group --by-group GROUP", "Devices of this group.", autocompletion=names("groups")),
    "tag": option("--by-tag TAG", "Devices that follow this tag."),
    "target": option("--by-target TARGET", "Devices that run this target."),
    "uuid": option("--uuid UUID", "The device with this uuid."),
    "just_mine": option("--just-mine", "Devices that you own."),
    "only_prod": option("--only-prod", "Production devices."),
    "only_non_prod": option("--only-non-prod", "Devices that are not for production."),
    "sort_by_name": option("--sort-by-name ORDER", "Sort by name; ORDER is =asc, =desc or left out."),
    "sort_by_last_seen": option("--sort-by-last-seen ORDER", "Sort by last-seen; ORDER as above."),
    "page": option("-p --page N", "Page to show; by default all devices are shown.", min=1),
    "limit": option("-n --limit N", "Devices a page: 10, 20, 30, 40, 50, 100, 200, 500 or 1000.", min=1),
}  # fmt: skip


class SortedList(common.Leaf):
    """A command whose sort flags may stand without a value, as in fioctl: that means `=asc`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a bare sort flag its value."""
        return super().parse_args(ctx, [f"{word}=asc" if word in SORT_FLAGS else word for word in args])


@app.command("list", cls=SortedList, epilog="Example: fioctl-rotate devices list 'pump-*' -g field")
@common.connected
@common.spread("selection", Selection, SELECTION_OPTIONS)
async def list_devices(
    flags: Flags,
    selection: Selection,
    pattern: Annotated[
        str | None, typer.Argument(metavar="[PATTERN]", help="Shell pattern of names, like 'pump-*'.")
    ] = None,
    columns: Annotated[str, option("--columns NAMES", "Columns to show.")] = DEFAULT_COLUMNS,
    offline_threshold: Annotated[
        int, option("--offline-threshold HOURS", "For the column status: hours until OFFLINE.", min=0)
    ] = 4,
) -> Result:
    """List devices, by name.

    Columns: apps, created-at, created-by, current-update, device-group, factory, is-prod, is-wave, last-seen, lmp,
    name, ostree-hash, owner, status, tag, target, up-to-date, updated-at, updated-by, uuid.
    """
    chosen = [name.strip() for name in columns.split(",") if name.strip()]
    known = _columns({}, offline_threshold)
    for name in chosen:
        if name not in known:
            raise UsageError(f"there is no column `{name}`", hint=f"columns: {', '.join(sorted(known))}")
    async with common.connect(flags) as api:
        from fioctl_rotate.ops.devices import list_devices

        found = await list_devices(api, selection.query(pattern), with_users="owner" in chosen)
    return _listed(found, chosen, offline_threshold, selection.page)


def _listed(found: "DevicePage", columns: Sequence[str], threshold: int, page: int | None) -> Result:
    cells = _columns(found.users, threshold)
    table = Table(
        [name.upper() for name in columns],
        ([cells[name](device) for name in columns] for device in found.devices),
    )
    notes = [f"there are more: --page {(page or 1) + 1} shows the next ones"] if found.more else []
    return Result({"devices": found.devices}, [table], notes)


def _columns(users: Mapping[str, str], threshold: int) -> "dict[str, Callable[[wire.Device], str | None]]":
    """The columns by fioctl's names: for each the function that makes its cell from a device."""

    def of_meta(name: str) -> "Callable[[wire.Device], str | None]":
        return lambda device: getattr(device.change_meta, name, None)

    def yes_no(value: bool | None) -> str:
        return "" if value is None else str(value).lower()

    def status(device: "wire.Device") -> str:
        from fioctl_rotate.ops.devices import is_online

        return (device.status or "OK") if is_online(device, threshold) else "OFFLINE"

    return {
        "name": lambda device: device.name,
        "uuid": lambda device: device.uuid,
        "factory": lambda device: device.factory,
        "owner": lambda device: users.get(device.owner or "", device.owner),
        "device-group": lambda device: device.group_name,
        "target": lambda device: device.target_name,
        "status": status,
        "apps": lambda device: ",".join(device.docker_apps or []),
        "up-to-date": lambda device: yes_no(device.up_to_date),
        "tag": lambda device: device.tag,
        "created-at": of_meta("created_at"),
        "created-by": of_meta("created_by"),
        "updated-at": of_meta("updated_at"),
        "updated-by": of_meta("updated_by"),
        "last-seen": lambda device: device.last_seen,
        "lmp": lambda device: device.lmp_ver,
        "ostree-hash": lambda device: device.ostree_hash or "",
        "current-update": lambda device: device.current_update or "",
        "is-prod": lambda device: yes_no(device.is_prod),
        "is-wave": lambda device: yes_no(device.is_wave),
    }


@app.command("show", epilog="Example: fioctl-rotate devices show pump-7")
@common.connected
async def show(
    flags: Flags,
    device: DeviceArgument,
    by_uuid: ByUuidOption = False,
    aktoml: Annotated[bool, option("--aktoml", "Show its aktualizr-lite settings, in TOML.")] = False,
) -> Result:
    """Show one device: its group, when it was seen, its public key, and the configuration in force."""
    async with common.connect(flags) as api:
        from fioctl_rotate.ops.targets import find_device

        found = await find_device(api, device, by_uuid=by_uuid)
    return Result(found, _device_lines(found, aktoml=aktoml))


def _device_lines(device: "wire.Device", *, aktoml: bool) -> Iterator[str]:
    for label, value in (
        ("Name", device.name),
        ("UUID", device.uuid),
        ("Factory", device.factory),
        ("Group", device.group_name),
        ("Owner", device.owner),
        ("Last seen", device.last_seen),
        ("LmP", device.lmp_ver),
        ("Target", device.target_name),
        ("Tag", device.tag),
        ("Status", device.status),
        ("Production", None if device.is_prod is None else str(device.is_prod).lower()),
    ):
        yield f"{label + ':':<12}{printable(value or '-')}"
    if device.public_key:
        yield from device.public_key.strip().splitlines()
    if aktoml:
        yield ""
        yield "aktualizr-lite settings:"
        yield from (
            f"\t| {printable(line)}" for line in (device.aktualizr_toml or "not reported").splitlines()
        )
    if device.active_config is not None:
        yield ""
        yield "Configuration in force:"
        yield from log_lines([device.active_config], {}, applied=True)


@app.command("updates", epilog="Example: fioctl-rotate devices updates pump-7 certs-1763989200")
@common.connected
async def updates(
    flags: Flags,
    device: DeviceArgument,
    update: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="ROTATIONID or another update's id: show its events."),
    ] = None,
    by_uuid: ByUuidOption = False,
    limit: LimitOption = None,
) -> Result:
    """List a device's updates, rotations included; with ID, the events of one."""
    async with common.connect(flags) as api:
        from fioctl_rotate.ops.targets import find_device

        found = await find_device(api, device, by_uuid=by_uuid)
        if update is None:
            known = (await api.device_updates(found.uuid))[:limit]
            rows = [(u.correlation_id, u.time, u.version, u.target) for u in known]
            return Result({"updates": known}, [Table(("ID", "TIME", "VERSION", "TARGET"), rows)])
        events = (await api.device_events(found.uuid, update))[:limit]
    outcome = {None: "", True: "ok", False: "failed"}
    rows = [(e.device_time, e.event_type.id, outcome[e.event.success], e.event.details or "") for e in events]
    return Result({"events": events}, [Table(("DEVICE TIME", "EVENT", "RESULT", "DETAILS"), rows)])


@app.command("rename", epilog="Example: fioctl-rotate devices rename pump-7 pump-north")
@common.connected
async def rename(
    flags: Flags,
    device: DeviceArgument,
    new_name: Annotated[str, typer.Argument(metavar="NAME", help="Its new name.")],
    by_uuid: ByUuidOption = False,
) -> Result:
    """Give a device another name."""
    async with common.connect(flags) as api:
        from fioctl_rotate.ops.devices import rename

        found = await rename(api, device, new_name, by_uuid=by_uuid)
        return common.done(api, f"device {found.name} is called {new_name}", device=new_name, uuid=found.uuid)


@app.command("chown", epilog="Example: fioctl-rotate devices chown pump-7 5e8f5b3c1a2d")
@common.connected
async def chown(
    flags: Flags,
    device: DeviceArgument,
    owner: Annotated[str, typer.Argument(metavar="USER", help="Id of its new owner; `users` lists them.")],
    by_uuid: ByUuidOption = False,
) -> Result:
    """Give a device to another owner."""
    async with common.connect(flags) as api:
        from fioctl_rotate.ops.targets import find_device

        found = await find_device(api, device, by_uuid=by_uuid)
        await api.update_device(found.uuid, owner=owner)
        outcome = f"device {found.name} belongs to {owner}"
        return common.done(api, outcome, device=found.name, uuid=found.uuid, owner=owner)


@app.command("delete", epilog="Example: fioctl-rotate devices delete pump-7")
@common.connected
async def delete(
    flags: Flags, devices: DevicesArgument, by_uuid: ByUuidOption = False, yes: YesOption = False
) -> Result:
    """Delete devices. They cannot come back until `devices delete-denied` takes them off the deny list."""
    async with common.connect(flags) as api:
        from fioctl_rotate.ops.targets import find_device

        common.confirm(f"Delete {', '.join(devices)} of factory {api.factory}?", yes=yes)

        async def delete_one(name: str) -> str:
            found = await find_device(api, name, by_uuid=by_uuid)
            await api.delete_device(found.uuid)
            return common.at(api, f"deleted device {found.name}")

        return await _each(devices, delete_one, "deleted")


@app.command("list-denied", epilog="Example: fioctl-rotate devices list-denied")
@common.connected
async def list_denied(flags: Flags, page: PageOption = None, limit: PageSizeOption = None) -> Result:
    """Show the deny list: devices that may not connect, because they were deleted or their key was replaced."""
    async with common.connect(flags) as api:
        from fioctl_rotate.ops.devices import check_page_size

        size = limit or 500
        check_page_size(size)
        denied = await api.denied_devices()
    if page is not None or limit is not None:
        start = ((page or 1) - 1) * size
        denied = denied[start : start + size]
    rows = [(device.uuid, device.name, device.owner) for device in denied]
    return Result({"devices": denied}, [Table(("UUID", "NAME", "OWNER"), rows)])


@app.command(
    "delete-denied",
    epilog="Example: fioctl-rotate devices delete-denied 6e6b6c1b-7d3e-4d0a-9c1c-0f4f0e8a2b11",
)
@common.connected
async def delete_denied(flags: Flags, uuids: UuidsArgument, yes: YesOption = False) -> Result:
    """Take uuids off the deny list, so that they may be registered again."""
    async with common.connect(flags) as api:
        from fioctl_rotate.ops.devices import allow

        common.confirm(f"Take {', '.join(uuids)} off the deny list of factory {api.factory}?", yes=yes)

        async def allow_one(uuid: str) -> str:
            await allow(api, uuid)
            return common.at(api, f"{uuid} is off the deny list")

        return await _each(uuids, allow_one, "allowed")


async def _each(names: Sequence[str], act: "Callable[[str], Any]", key: str) -> Result:
    """Call `act` for each name in order, until one fails. The result also has what was done before the error."""
    lines: list[str] = []
    error: Error | None = None
    for name in names:
        try:
            lines.append(await act(name))
        except Error as failed:
            error = failed
            break
    return Result({key: list(names[: len(lines)])}, lines, error=error)
