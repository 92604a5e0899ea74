"""Read configuration logs with the names of their authors, and delete files."""

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.api.failures import ApiError, Unreachable
from fioctl_rotate.errors import Error
from fioctl_rotate.ops.targets import find
from fioctl_rotate.rotation.scope import Scope


async def user_names(api: FactoryApi) -> dict[str, str]:
    """The names of the factory's users, by polis id. {} where they cannot be read: no command depends on them."""
    try:
        return {user.polis_id: user.name for user in await api.users() if user.name}
    except (ApiError, Unreachable):
        return {}


async def read_log(
    api: FactoryApi, scope: Scope, limit: int | None, *, by_uuid: bool = False
) -> tuple[list[wire.Config], dict[str, str]]:
    """The scope's configuration log, newest first, and the names of the factory's users by polis id."""
    found, _ = await find(api, scope, by_uuid=by_uuid)
    return await api.config(found).log(limit), await user_names(api)


async def delete_file(api: FactoryApi, scope: Scope, file: str, *, by_uuid: bool = False) -> Scope:
    """Delete `file` of the scope's configuration; returns the scope that was found.

    Raises Error where the scope or the file does not exist.
    """
    found, _ = await find(api, scope, by_uuid=by_uuid)
    config = api.config(found)
    names = [known.name for newest in await config.log(1) for known in newest.files or []]
    if file not in names:
        raise Error(
            f"{found} has no file `{file}`", hint=f"files there: {', '.join(sorted(names)) or 'none'}"
        )
    await config.delete(file)
    return found
