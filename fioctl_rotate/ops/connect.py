"""Opening the operator API that the settings name: a server over HTTP, or a mocked Factory in this process."""

import base64
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from fioctl_rotate import __version__
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.errors import UsageError
from fioctl_rotate.settings import Settings, is_loopback


@contextlib.asynccontextmanager
async def open_api(
    settings: Settings, *, trace: Callable[[str], None] | None = None
) -> AsyncIterator[FactoryApi]:
    """The operator API of the settings' factory, while the block runs.

    `trace` is told each request. Raises UsageError where no factory is named, the mock directory is none, or
    CACERT is not usable.
    """
    factory = settings.require_factory()
    async with http_client(settings) as http:
        yield FactoryApi(http, factory, server=settings.destination, trace=trace)


@contextlib.asynccontextmanager
async def http_client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client for the operator API, authenticated as fioctl does it. It follows no redirect."""
    if settings.mock is not None:
        from fioctl_rotate.mock.operator import operator_app_of
        from fioctl_rotate.mock.store import Store, utc_now

        with contextlib.closing(Store(settings.mock)) as store:
            app = operator_app_of(store, authenticate=False, clock=utc_now)
            transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://mock") as client:
                yield client
        return
    headers = {"User-Agent": f"fioctl-rotate/{__version__}"}
    if settings.token:
        headers[settings.token_header] = settings.token
    if settings.oauth:
        token = str(settings.oauth.get("access_token", ""))
        headers["Authorization"] = "Bearer " + base64.b64encode(token.encode()).decode()
    host = urlsplit(settings.server).hostname or ""
    async with httpx.AsyncClient(
        base_url=settings.server,
        headers=headers,
        verify=_trust(settings.cacert),
        timeout=httpx.Timeout(settings.timeout, connect=min(10.0, settings.timeout)),
        follow_redirects=False,
        # A proxy set for the world must not get what is meant for this machine.
        trust_env=not is_loopback(host),
    ) as client:
        yield client


def _trust(cacert: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if cacert:
        try:
            context.load_verify_locations(cadata=Path(cacert).read_text("ascii"))
        except (OSError, UnicodeDecodeError, ssl.SSLError) as error:
            raise UsageError(
                f"CACERT names {cacert}, which is no file of PEM certificates: {error}"
            ) from error
    return context
