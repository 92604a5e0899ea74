"""`whoami`: which Factory, user and server commands talk to, and why."""

from typing import TYPE_CHECKING

from fioctl_rotate.cli.common import (
    Format,
    FormatOption,
    connected,
    emit,
    emit_json,
    note,
    settings_of,
    single,
    with_api,
)
from fioctl_rotate.errors import printable
from fioctl_rotate.settings import Flags, Settings

if TYPE_CHECKING:
    from fioctl_rotate import wire
    from fioctl_rotate.api.client import FactoryApi


@connected
def whoami(flags: Flags, format: FormatOption = Format.TEXT) -> None:
    """Show which Factory, user and server commands talk to, and where each setting came from.

    The server is asked who the token is, so it shows too that the token works.
    """
    settings = settings_of(flags)

    async def ask(api: "FactoryApi") -> "wire.User | None":
        from fioctl_rotate.ops.login import find_user

        return await find_user(api)

    user = with_api(settings, ask)
    if format is Format.JSON:
        emit_json(
            {
                "factory": settings.factory,
                "server": settings.destination,
                "login": _login(settings),
                "user": user,
                "settings-file": str(settings.config_file) if settings.config_file else None,
                "profile": settings.profile,
                "sources": dict(settings.sources),
            }
        )
        return
    sources = settings.sources
    place = "mock" if settings.mock else "server"
    login = _login(settings)
    rows = [
        ("Factory", settings.factory, sources.get("factory")),
        ("Server", settings.destination, sources.get(place)),
        ("User", f"{user.name}, {user.role} ({user.polis_id})" if user else None, None),
        ("Login", login, sources.get("oauth" if login == "OAuth" else "token")),
        ("CACERT", settings.cacert, sources.get("cacert")),
        ("Timeout", f"{settings.timeout:g} s", sources.get("timeout", "default")),
    ]
    for label, value, source in rows:
        if value is not None:
            emit(f"{label + ':':<10}{printable(value)}" + (f"  [{source}]" if source else ""))
    if user is None:
        note("the token works, and may not tell whose it is")


def _login(settings: Settings) -> str | None:
    """How the server is told who we are; None for a mock, which does not ask."""
    if settings.mock:
        return None
    return "API token" if settings.token else "OAuth"


app = single(whoami, "fioctl-rotate whoami --profile work")
