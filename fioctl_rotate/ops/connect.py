"""Opening the operator API that the settings name: a server over HTTP, or a mocked Factory in this process."""

import asyncio
import base64
import contextlib
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from fioctl_rotate import files
from fioctl_rotate.api import oauth
from fioctl_rotate.api.client import Counted, FactoryApi
from fioctl_rotate.api.peer import Peer
from fioctl_rotate.api.proxies import proxy_for
from fioctl_rotate.armor import certificate_blocks
from fioctl_rotate.clock import Clock, utc_now
from fioctl_rotate.errors import Error, UsageError
from fioctl_rotate.http import httpx
from fioctl_rotate.ops.settings_file import changing
from fioctl_rotate.seen import remember
from fioctl_rotate.settings import Settings, load_file

Trace = Callable[[str], None]


@contextlib.asynccontextmanager
async def open_api(
    settings: Settings,
    *,
    trace: Trace | None = None,
    announce: Trace = lambda _: None,
    timeout: float | None = None,
    counted: Counted = lambda _read, _all: None,
    clock: Clock = utc_now,
    rehearsing: bool = False,
) -> AsyncIterator[FactoryApi]:
    """The operator API of the settings' factory, while the block runs.

    `trace` gets a line for each request, `announce` one for each wait of more than 5 seconds. `timeout` is how long
    the command may take, in seconds from now (None: no end); no wait that a server asks for goes beyond it.
    `counted` is called as the reading of many devices goes on (see `FactoryApi`). `clock` is the clock of a mock;
    it also decides whether an access token has expired. When `rehearsing`, the names that were seen are not kept
    for completion, and a mock answers in the event loop. Raises UsageError where no factory is named, or where the
    mock's directory or CACERT cannot be used.
    """
    factory = settings.require_factory()
    deadline = None if timeout is None else time.monotonic() + timeout
    async with _operator(settings, trace, clock, threads=not rehearsing) as peer:
        api = FactoryApi(peer, factory, announce=announce, deadline=deadline, counted=counted)
        yield api
        if not rehearsing:
            _remember(api, settings)


def _remember(api: FactoryApi, settings: Settings) -> None:
    """Keep the names that were seen, for completion."""
    path = settings.config_file
    profiles = load_file(path)["profiles"] if path is not None and path.exists() else ()
    remember(api.factory, api.server, api.seen, profiles)


async def renewed(
    settings: Settings, credentials: oauth.Credentials, clock: Clock, trace: Trace | None
) -> dict[str, Any]:
    """The OAuth credentials with a new access token; see `oauth.renew` for what it raises."""
    async with _server(settings, oauth.token_url(credentials), trace) as peer:
        return await oauth.renew(peer, credentials, clock())


@contextlib.asynccontextmanager
async def _operator(
    settings: Settings, trace: Trace | None, clock: Clock, *, threads: bool
) -> AsyncIterator[Peer]:
    """The operator API's server. We authenticate to it as fioctl does."""
    if settings.mock is not None:
        from fioctl_rotate.mock.operator import operator_app
        from fioctl_rotate.mock.store.database import Store

        with contextlib.closing(Store(settings.mock)) as store:
            app = operator_app(store, authenticate=False, clock=clock, threads=threads)

            def transport() -> httpx.AsyncBaseTransport:
                return httpx.ASGITransport(app=app, raise_app_exceptions=False)

            async with Peer("http://mock", transport, name=settings.destination, trace=trace) as peer:
                yield peer
        return
    credentials = _Credentials(settings, clock, trace)
    async with _server(settings, settings.server, trace, credentials) as peer:
        yield peer


def _server(
    settings: Settings, url: str, trace: Trace | None, credentials: "_Credentials | None" = None
) -> Peer:
    """The server at `url`, through the proxy that the environment names."""
    try:
        _ = httpx.URL(url).host  # httpx decodes the host only when it is read
    except (httpx.InvalidURL, ValueError) as error:
        raise UsageError(f"the server's URL {url} is not valid: {error}") from error
    proxy = proxy_for(url, os.environ)
    context = _trust(settings.cacert, system=url.startswith("https:"))

    # A proxy that is reached by https must show a certificate of the same CAs.
    to_proxy = context if proxy and proxy.url.startswith("https:") else None

    def transport() -> httpx.AsyncBaseTransport:
        via = httpx.Proxy(proxy.url, ssl_context=to_proxy) if proxy else None
        return httpx.AsyncHTTPTransport(verify=context, trust_env=False, proxy=via)

    try:
        transport()  # finds a fault in the proxy's URL before the first request
    except (httpx.InvalidURL, ValueError) as error:
        raise UsageError(f"{proxy} cannot be used: its URL is not valid") from error
    except ImportError as error:
        raise UsageError(
            f"{proxy} cannot be used: SOCKS needs another package",
            hint="install it: pip install 'httpx[socks]'",
        ) from error
    return Peer(url, transport, credentials=credentials, timeout=settings.timeout, proxy=proxy, trace=trace)


class _Credentials:
    """The headers that authenticate us: the API token and the OAuth access token, those that there are.

    Without an API token, an access token that has expired is renewed and stored. With one it is sent as it is:
    fioctl does the same.
    """

    def __init__(self, settings: Settings, clock: Clock, trace: Trace | None) -> None:
        self._settings, self._clock, self._trace = settings, clock, trace
        self._oauth: oauth.Credentials = settings.oauth or {}
        self._turn = asyncio.Lock()

    async def __call__(self) -> Mapping[str, str]:
        """The headers for a request now."""
        token = self._settings.token
        headers = {self._settings.token_header: token} if token else {}
        if self._settings.oauth:
            async with self._turn:
                if not token and not oauth.is_usable(self._oauth, self._clock()):
                    self._oauth = await self._renew()
            if access := str(self._oauth.get("access_token", "")):
                headers["Authorization"] = "Bearer " + base64.b64encode(access.encode()).decode()
        return headers

    async def _renew(self) -> oauth.Credentials:
        path = self._settings.config_file
        assert path is not None  # noqa: S101  nothing but the settings file holds OAuth credentials
        with changing(path, self._settings.profile) as values:
            # Another process may have renewed them since we read the file; a refresh token is good once.
            known: oauth.Credentials = values.get("oauth") or self._oauth
            if not oauth.is_usable(known, self._clock()):
                known = values["oauth"] = await renewed(self._settings, known, self._clock, self._trace)
        return known


def _trust(cacert: str | None, *, system: bool) -> ssl.SSLContext:
    """A context that trusts the CAs in the file `cacert`, and with `system` those of the system.

    The file may have text around its certificates. The system's CAs load slowly, and plain HTTP needs none.
    """
    context = ssl.create_default_context() if system else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if cacert:
        try:
            context.load_verify_locations(cadata=certificate_blocks(files.read(Path(cacert)), cacert))
        except (Error, ssl.SSLError, ValueError, TypeError) as error:  # the last two: none in it, not ASCII
            raise UsageError(f"CACERT={cacert}: expected a file of PEM certificates: {error}") from error
    return context
