"""Opening the operator API that the settings name: a server over HTTP, or a mocked Factory in this process."""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx

from fioctl_rotate import __version__, files
from fioctl_rotate.api import oauth
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.clock import Clock, utc_now
from fioctl_rotate.errors import Error, UsageError
from fioctl_rotate.ops.settings_file import changing
from fioctl_rotate.pki.armor import certificate_blocks
from fioctl_rotate.settings import Settings, is_loopback

Trace = Callable[[str], None]


@contextlib.asynccontextmanager
async def open_api(
    settings: Settings, *, trace: Trace | None = None, clock: Clock = utc_now
) -> AsyncIterator[FactoryApi]:
    """The operator API of the settings' factory, while the block runs.

    `trace` is told each request; `clock` tells when an access token has expired. Raises UsageError where no factory
    is named, the mock directory is none, or CACERT is not usable.
    """
    factory = settings.require_factory()
    async with _http_client(settings, trace, clock) as http:
        yield FactoryApi(http, factory, server=settings.destination, trace=trace)


async def renewed(
    settings: Settings, credentials: oauth.Credentials, clock: Clock, trace: Trace | None
) -> dict[str, Any]:
    """The OAuth credentials with a new access token; see `oauth.renew` for what it raises."""
    async with _client(settings, oauth.token_url(credentials)) as http:
        result = await oauth.renew(http, credentials, clock())
    if trace is not None:
        trace(f"POST {oauth.token_url(credentials)}: 200")
    return result


@contextlib.asynccontextmanager
async def _http_client(
    settings: Settings, trace: Trace | None, clock: Clock
) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client for the operator API, authenticated as fioctl does it."""
    if settings.mock is not None:
        from fioctl_rotate.mock.operator import operator_app
        from fioctl_rotate.mock.store.database import Store

        with contextlib.closing(Store(settings.mock)) as store:
            app = operator_app(store, authenticate=False, clock=utc_now)
            transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://mock") as client:
                yield client
        return
    async with _client(settings, settings.server) as client:
        if settings.token:
            client.headers[settings.token_header] = settings.token
        if settings.oauth:
            client.auth = _Bearer(settings, clock, trace)
        yield client


def _client(settings: Settings, url: str) -> httpx.AsyncClient:
    """An HTTP client for the server at `url`, which follows no redirect."""
    try:
        return httpx.AsyncClient(
            base_url=url,
            headers={"User-Agent": f"fioctl-rotate/{__version__}"},
            verify=_trust(settings.cacert),
            timeout=httpx.Timeout(settings.timeout, connect=min(10.0, settings.timeout)),
            follow_redirects=False,
            # A proxy set for the world must not get what is meant for this machine.
            trust_env=not is_loopback(httpx.URL(url).host),
        )
    except (httpx.InvalidURL, ValueError, ImportError) as error:
        # A SOCKS proxy needs a package that httpx imports when it is asked for one.
        raise UsageError(
            f"cannot talk to {url}: {error}", hint="look at its URL, and at HTTPS_PROXY and ALL_PROXY"
        ) from error


class _Bearer(httpx.Auth):
    """`Authorization: Bearer`, with an access token that is renewed, and kept, once it has expired.

    Beside an API token it goes along as it is: fioctl, too, renews it only where there is no other way in.
    """

    def __init__(self, settings: Settings, clock: Clock, trace: Trace | None) -> None:
        self._settings, self._clock, self._trace = settings, clock, trace
        self._credentials: oauth.Credentials = settings.oauth or {}
        self._turn = asyncio.Lock()

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Put the header on a request, after renewing the access token where that is due."""
        async with self._turn:
            if not self._settings.token and not oauth.is_usable(self._credentials, self._clock()):
                self._credentials = await self._renew()
        token = str(self._credentials.get("access_token", ""))
        if token:
            request.headers["Authorization"] = "Bearer " + base64.b64encode(token.encode()).decode()
        yield request

    async def _renew(self) -> oauth.Credentials:
        path = self._settings.config_file
        assert path is not None  # noqa: S101  nothing but the settings file holds OAuth credentials
        with changing(path, self._settings.profile) as values:
            # Another process may have renewed them since we read the file; a refresh token is good once.
            known: oauth.Credentials = values.get("oauth") or self._credentials
            if not oauth.is_usable(known, self._clock()):
                known = values["oauth"] = await renewed(self._settings, known, self._clock, self._trace)
        return known


def _trust(cacert: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if cacert:
        try:
            context.load_verify_locations(cadata=certificate_blocks(files.read(Path(cacert)), cacert))
        except (Error, ssl.SSLError, ValueError) as error:  # ValueError: no certificate in it
            raise UsageError(f"CACERT={cacert}: expected a file of PEM certificates: {error}") from error
    return context
