"""Configuration logs with the names of those who made them; deleting files, with words for what is not there."""

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.api.exchange import ApiError
from fioctl_rotate.errors import Error
from fioctl_rotate.ops.push import find_device, find_group


async def user_names(api: FactoryApi) -> dict[str, str]:
    """The factory's users, name by polis id; {} for a token that may not see them, since names are only an aid."""
    try:
        return {user.polis_id: user.name for user in await api.users()}
    except ApiError as error:
        if error.status not in (403, 404):
            raise
        return {}


async def delete_group_file(api: FactoryApi, group: str, file: str) -> None:
    """Delete `file` of the group's configuration. Raises Error where group or file are not there."""
    await find_group(api, group)
    _check_there(await api.group_config(group, 1), file, f"group {group}")
    await api.delete_group_config(group, file)


async def delete_device_file(api: FactoryApi, name: str, file: str, *, by_uuid: bool = False) -> wire.Device:
    """Delete `file` of the device's own configuration. Raises Error where device or file are not there."""
    device = await find_device(api, name, by_uuid=by_uuid)
    _check_there(await api.device_config(device.uuid, 1), file, f"device {device.name}")
    await api.delete_device_config(device.uuid, file)
    return device


def _check_there(log: list[wire.Config], file: str, owner: str) -> None:
    names = [known.name for config in log for known in config.files or []]
    if file not in names:
        raise Error(
            f"{owner} has no file `{file}`", hint=f"files there: {', '.join(sorted(names)) or 'none'}"
        )
