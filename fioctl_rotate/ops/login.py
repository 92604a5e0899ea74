"""Log in: try credentials before they are stored, and find out whose they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fioctl_rotate import wire
from fioctl_rotate.api import oauth
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.api.failures import ApiError
from fioctl_rotate.clock import Clock, utc_now
from fioctl_rotate.errors import Error
from fioctl_rotate.ops.connect import Trace, open_api, renewed
from fioctl_rotate.ops.settings_file import changing
from fioctl_rotate.settings import TOKENS_PAGE, Flags, load_file, merge

# What a login replaces; the rest of a profile stays.
_REPLACED = ("factory", "token", "server", "mock", "oauth")
# The variables that say how to reach the server, not who we are.
_REACH = ("CACERT", "TOKEN_HEADER", "FIOCTL_ROTATE_TIMEOUT")


async def log_in(
    values: Mapping[str, Any],
    path: Path,
    profile: str | None,
    *,
    environ: Mapping[str, str],
    trace: Trace | None = None,
    clock: Clock = utc_now,
) -> wire.User | None:
    """Try `values` (factory, token or oauth, server), and store them as a profile of the settings file `path`.

    Returns the user, None where the token may not read its own user. Raises Error or UsageError. Then nothing is
    stored, except an access token that had to be renewed: the old refresh token may not work any more.
    """
    document = load_file(path)
    stored = document if profile is None else document.get("profiles", {}).get(profile, {})
    others = {name: stored[name] for name in ("cacert", "timeout") if name in stored}
    reach = {name: environ[name] for name in _REACH if name in environ}
    settings = merge(Flags(profile=profile), reach, {**others, **values}, path)
    if not settings.token and settings.oauth and not oauth.is_usable(settings.oauth, clock()):
        values = {**values, "oauth": await renewed(settings, settings.oauth, clock, trace)}
        _keep(values, path, profile)
        settings = settings.replace(oauth=values["oauth"])
    async with open_api(settings, trace=trace, clock=clock) as api:
        try:
            user = await find_user(api)
        except ApiError as error:
            if error.status != 401 or not settings.token:
                raise
            raise Error(
                error.message, hint=f"give a token that is valid; make one at {TOKENS_PAGE}"
            ) from error
    _keep(values, path, profile)
    return user


async def find_user(api: FactoryApi) -> wire.User | None:
    """The user of the token; None where the token is valid, but may not read its own user.

    Raises Error where no call works: a token that gets 403 for everything is not valid here.
    """
    try:
        return await api.user()
    except ApiError as error:
        if error.status == 404:
            names = ", ".join(sorted(factory.name for factory in await api.factories())) or "none"
            raise Error(
                f"the token sees no factory {api.factory}", hint=f"factories that it sees: {names}"
            ) from error
        if error.status != 403:
            raise
        for call in (api.groups, api.device_count, api.certs):
            try:
                await call()
            except ApiError as refused:
                if refused.status != 403:
                    raise
            else:
                return None
        raise


def _keep(values: Mapping[str, Any], path: Path, profile: str | None) -> None:
    with changing(path, profile) as kept:
        for name in _REPLACED:
            kept.pop(name, None)
        kept.update(values)
