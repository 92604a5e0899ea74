"""List, move and rename devices of a Factory, and take them off its deny list."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.api.failures import ApiError
from fioctl_rotate.clock import utc_now
from fioctl_rotate.errors import Error, UsageError
from fioctl_rotate.ops.configs import user_names
from fioctl_rotate.ops.targets import find_device, find_group
from fioctl_rotate.rotation.progress import parse_time

PAGE_SIZES = (10, 20, 30, 40, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class DeviceQuery:
    """Which devices are listed, and how; None means any. `name` is a shell pattern, `sortby` as the API takes it.

    `page` and `limit` ask for one page; without them all devices are listed.
    """

    name: str | None = None
    group: str | None = None
    tag: str | None = None
    target: str | None = None
    uuid: str | None = None
    mine: bool = False
    production: bool | None = None
    sortby: str = "name"
    page: int | None = None
    limit: int | None = None

    def filters(self) -> dict[str, str]:
        """The query as the API takes it."""
        values = {
            "name": self.name,
            "group": self.group,
            "match_tag": self.tag,
            "target_name": self.target,
            "uuid": self.uuid,
            "mine": "1" if self.mine else None,
            "prod": None if self.production is None else str(int(self.production)),
        }
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class DevicePage:
    """Listed devices; `more` says whether a later page has others; `users` has names by polis id."""

    devices: Sequence[wire.Device]
    more: bool
    users: Mapping[str, str]


async def list_devices(api: FactoryApi, query: DeviceQuery, *, with_users: bool = False) -> DevicePage:
    """The devices that `query` asks for. Raises Error if there is no such group, UsageError for the page size."""
    if query.group is not None:
        await find_group(api, query.group)
    users = await user_names(api) if with_users else {}
    if query.page is None and query.limit is None:
        pages = api.device_pages(filters=query.filters(), sortby=query.sortby)
        return DevicePage([device async for page in pages for device in page.devices], False, users)
    limit = query.limit or 500
    check_page_size(limit)
    found = await api.device_page(query.filters(), sortby=query.sortby, page=query.page or 1, limit=limit)
    return DevicePage(found.devices, found.next is not None, users)


def check_page_size(limit: int) -> None:
    """Raise UsageError if the API has no pages of this size."""
    if limit not in PAGE_SIZES:
        raise UsageError(f"--limit {limit}: expected one of {', '.join(map(str, PAGE_SIZES))}")


def is_online(device: wire.Device, threshold_hours: int, now: datetime | None = None) -> bool:
    """Whether the device was seen in the last `threshold_hours` hours. Not if its time cannot be read."""
    seen = parse_time(device.last_seen)
    return seen is not None and (now or utc_now()) - seen <= timedelta(hours=threshold_hours)


async def set_group(api: FactoryApi, name: str, group: str, *, by_uuid: bool) -> tuple[wire.Device, bool]:
    """Put a device into `group`, or with "" out of its group; returns it, and whether that was a change.

    Raises Error where there is no such device or group.
    """
    device = await find_device(api, name, by_uuid=by_uuid)
    if group:
        await find_group(api, group)
    if (device.group_name or "") == group:
        return device, False
    await api.update_device(device.uuid, group=group)
    return device, True


async def rename(api: FactoryApi, name: str, new_name: str, *, by_uuid: bool) -> wire.Device:
    """Give a device another name. Raises Error where there is no such device, or another one has the name."""
    device = await find_device(api, name, by_uuid=by_uuid)
    if device.name != new_name:
        await api.update_device(device.uuid, name=new_name)
    return device


async def allow(api: FactoryApi, uuid: str) -> None:
    """Take a uuid off the deny list. Raises Error where the list does not have it."""
    try:
        await api.allow_denied(uuid)
    except ApiError as error:
        if error.status != 404:
            raise
        raise Error(
            f"the deny list of {api.factory} has no uuid `{uuid}`",
            hint="`fioctl-rotate devices list-denied` shows them",
        ) from error
