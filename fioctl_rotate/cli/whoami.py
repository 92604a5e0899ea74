"""`whoami`: which Factory, user and server commands talk to, and why."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fioctl_rotate.cli import common
from fioctl_rotate.cli.common import Result
from fioctl_rotate.errors import printable
from fioctl_rotate.settings import Flags, Settings

if TYPE_CHECKING:
    from fioctl_rotate import wire


@common.connected
async def whoami(flags: Flags) -> Result:
    """Show which Factory, user and server commands talk to, and where each setting came from.

    The server is asked for the token's user, so this also shows whether the token works.
    """
    settings = common.settings_of(flags)
    async with common.open_api(settings) as api:
        from fioctl_rotate.ops.login import find_user

        user = await find_user(api)
    document = {
        "factory": settings.factory,
        "server": settings.destination,
        "login": _login(settings),
        "user": user,
        "settings-file": str(settings.config_file) if settings.config_file else None,
        "profile": settings.profile,
        "sources": dict(settings.sources),
    }
    notes = () if user else ("the token is valid, but may not read its own user",)
    return Result(document, _lines(settings, user), notes)


def _lines(settings: Settings, user: "wire.User | None") -> Iterator[str]:
    sources = settings.sources
    login = _login(settings)
    for label, value, source in (
        ("Factory", settings.factory, sources.get("factory")),
        ("Server", settings.destination, sources.get("mock" if settings.mock else "server")),
        ("User", f"{user.name}, {user.role} ({user.polis_id})" if user else None, None),
        ("Login", login, sources.get("oauth" if login == "OAuth" else "token")),
        ("CACERT", settings.cacert, sources.get("cacert")),
        ("Timeout", f"{settings.timeout:g} s", sources.get("timeout", "default")),
    ):
        if value is not None:
            yield f"{label + ':':<10}{printable(value)}" + (f"  [{source}]" if source else "")


def _login(settings: Settings) -> str | None:
    """The kind of credentials that the server gets; None for a mock, which needs none."""
    if settings.mock:
        return None
    return "API token" if settings.token else "OAuth"


app = common.single(whoami, "fioctl-rotate whoami --profile work")
