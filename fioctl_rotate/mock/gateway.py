"""The device gateway as an ASGI app: it recognizes the device and answers the requests of fioconfig.

A device is known by its client certificate: the CN is its uuid, the public key its identity. The TLS handshake has
checked that the certificate chains to a device CA. Source: fioconfig's app.go and rotate_*.go, the manual.
"""

import asyncio
import datetime
import email.utils
import functools
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from fioctl_rotate.clock import Clock
from fioctl_rotate.errors import Error
from fioctl_rotate.http_date import parse_http_date
from fioctl_rotate.mock import authority
from fioctl_rotate.mock.body import read_body
from fioctl_rotate.mock.operation import BODY_LIMIT, decode
from fioctl_rotate.mock.problem import Problem
from fioctl_rotate.mock.refusals import HANDLED, problem_of
from fioctl_rotate.mock.requests import DeviceConfigRequest, KeyAnnouncement
from fioctl_rotate.mock.store import accounts, config_levels, device_records, updates
from fioctl_rotate.mock.store.accounts import FactoryRecord
from fioctl_rotate.mock.store.config_levels import Level
from fioctl_rotate.mock.store.database import DeviceRecord, Store
from fioctl_rotate.pki import keys
from fioctl_rotate.pki.parsing import load_certificate, load_public_key


@dataclass(frozen=True)
class _Call:
    """One request of a device that was admitted."""

    db: sqlite3.Connection
    device: DeviceRecord
    headers: Headers
    body: bytes
    now: datetime.datetime


@dataclass(frozen=True)
class _Answer:
    """`content` is JSON (None: no body); `date` is the Date header's time (None: now)."""

    status: int
    content: Any = None
    date: datetime.datetime | None = None


def gateway_app(
    store: Store,
    factory: str,
    *,
    clock: Clock,
    complain: Callable[[str], None] = lambda _text: None,
    threads: bool = True,
) -> Starlette:
    """The gateway of `factory`. The caller closes `store` after it.

    `complain` is called with the reason where the state cannot be used. Without `threads` it answers in the event
    loop. That is quicker, but only right where all clients run in this loop and nothing else uses the state.
    """

    def endpoint(function: Callable[[_Call], _Answer]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            body = await read_body(request, BODY_LIMIT)
            if not threads:
                return _answer(function, request, body)
            # SQLite and cryptography block, so they run beside the event loop.
            return await asyncio.to_thread(_answer, function, request, body)

        return answer

    def _answer(function: Callable[[_Call], _Answer], request: Request, body: bytes) -> Response:
        now = clock()
        certificate = _client_certificate(request)
        with store.transaction() as db:
            device = device_records.see_device(db, admit(db, factory, certificate, now), now)
        # Two transactions: a request that is refused must not undo the key change or last-seen.
        with store.transaction() as db:
            answer = function(_Call(db, device, request.headers, body, now))
        return _response(answer, now)

    def refused(request: Request, error: Exception) -> Response:
        problem = problem_of(request, error, complain)
        return _response(_Answer(problem.status, problem.body()), clock())

    app = Starlette(
        routes=[
            Route("/config", endpoint(_get_config), methods=["GET"]),
            Route("/config", endpoint(_patch_config), methods=["PATCH"]),
            Route("/config-device", endpoint(_get_own_config), methods=["GET"]),
            Route("/device", endpoint(_get_device), methods=["GET"]),
            Route("/device", endpoint(_announce_key), methods=["PATCH"]),
            Route("/events", endpoint(_post_events), methods=["POST"]),
        ],
        exception_handlers=dict.fromkeys(HANDLED, refused),
    )
    app.router.redirect_slashes = False
    return app


def failing_while(fails: Callable[[], bool], app: ASGIApp) -> ASGIApp:
    """`app`, but each request is answered 500 while `fails` returns True."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        failing = PlainTextResponse("the gateway fails, for the rehearsal\n", 500)
        await (failing if fails() else app)(scope, receive, send)

    return answer


def admit(
    db: sqlite3.Connection, factory_name: str, certificate: x509.Certificate, now: datetime.datetime
) -> DeviceRecord:
    """The device that has this certificate; an unknown one is registered.

    Where the certificate has the key that the device announced, that becomes its key, and the old one is denied.
    Raises Problem (403): a revoked CA, a denied or deleted device, a third key, a new device of a disabled CA.
    """
    factory = accounts.choose_factory(db, factory_name)
    # The handshake has checked the chain, but a connection may be older than the CRL that revoked its CA.
    issuer = _issuer(factory.ca_crt, certificate)
    if issuer is None:
        raise Problem(403, "the certificate is not signed by a device CA of this Factory")
    uuid = _common_name(certificate)
    public_key = authority.public_key_of(certificate)
    device = device_records.known_device(db, factory.name, uuid)
    if device is None:
        return _register(db, factory, uuid, certificate, issuer, now)
    if public_key == device.public_key:
        return device
    if public_key != device.next_public_key:
        raise Problem(403, f"this is neither the current nor the announced key of device {uuid}")
    return device_records.take_new_key(db, device, public_key, now)


@functools.lru_cache(maxsize=10_000)
def _issuer(ca_crt: str | None, certificate: x509.Certificate) -> x509.Certificate | None:
    return authority.issuer_of(ca_crt, certificate)


def _register(
    db: sqlite3.Connection,
    factory: FactoryRecord,
    uuid: str,
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    now: datetime.datetime,
) -> DeviceRecord:
    """Register a new device. Its owner is the user in the CN of its CA (`fio-<polis-id>`), else the factory's."""
    if authority.is_disabled(factory, issuer):
        raise Problem(403, "the device CA is disabled, so it registers no new devices")
    owner = _common_name(issuer).removeprefix("fio-")
    if owner not in {user.polis_id for user in accounts.users(db, factory.name)}:
        owner = factory.created_by
    try:
        return device_records.register(
            db,
            factory.name,
            uuid,
            authority.public_key_of(certificate),
            owner=owner,
            author=owner,
            now=now,
            production=authority.is_production(certificate),
        )
    except Problem as problem:
        raise Problem(403, problem.message) from None


def _get_config(call: _Call) -> _Answer:
    merged = config_levels.merged(call.db, call.device)
    if merged.files is None:
        return _Answer(204)
    since = parse_http_date(call.headers.get("if-modified-since", ""))
    if since is not None and since >= merged.changed:
        return _Answer(304, date=merged.changed)
    device_records.mark_fetched(call.db, call.device, merged.changed, call.now)
    return _Answer(200, merged.files, merged.changed)


def _get_own_config(call: _Call) -> _Answer:
    files = config_levels.own_level(call.db, call.device.uuid)
    return _Answer(204) if files is None else _Answer(200, files)


def _patch_config(call: _Call) -> _Answer:
    """Change the device's own configuration. Always 201: a new device accepts nothing else."""
    request: DeviceConfigRequest = decode(call.body, DeviceConfigRequest)
    config_levels.change(
        call.db,
        Level("device", call.device.uuid),
        request.files or [],
        reason=request.reason,
        author=call.device.uuid,
        now=call.now,
        replace=False,
    )
    return _Answer(201, {})


def _get_device(call: _Call) -> _Answer:
    return _Answer(200, device_records.record(call.db, call.device))


def _announce_key(call: _Call) -> _Answer:
    announced = _public_key(decode(call.body, KeyAnnouncement).next_pubkey)
    device_records.announce_key(call.db, call.device, announced)
    return _Answer(200, {})


def _post_events(call: _Call) -> _Answer:
    updates.keep(call.db, call.device.uuid, decode(call.body, list[Any]), call.now)
    return _Answer(200, {})


def _response(answer: _Answer, now: datetime.datetime) -> Response:
    response = Response(
        b"" if answer.content is None else msgspec.json.encode(answer.content),
        status_code=answer.status,
        media_type=None if answer.content is None else "application/json",
    )
    response.headers["date"] = email.utils.format_datetime(answer.date or now, usegmt=True)
    return response


def _client_certificate(request: Request) -> x509.Certificate:
    chain = request.scope.get("extensions", {}).get("tls", {}).get("client_cert_chain") or []
    if not chain:
        raise Problem(403, "a device needs its client certificate")
    try:
        return load_certificate(chain[0], "the client certificate")
    except Error as error:
        raise Problem(403, error.message) from None


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1:
        raise Problem(403, f"expected one common name in the certificate, got {len(names)}")
    return str(names[0].value)


def _public_key(pem: str) -> str:
    try:
        return keys.public_key_pem(load_public_key(pem, "next_pubkey"))
    except Error as error:
        raise Problem(400, "the key is not valid", {"next_pubkey": error.message}) from None
