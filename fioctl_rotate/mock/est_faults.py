"""The mock's EST server, with or without a fault to rehearse."""

import datetime
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from fioctl_rotate.clock import Clock
from fioctl_rotate.est.enroll_policy import Enroll
from fioctl_rotate.est.server import EstApp, LogRecord
from fioctl_rotate.est.service import Authority
from fioctl_rotate.pki import certificates
from fioctl_rotate.pki.keys import generate_key

EstFault = Literal["stop", "foreign-ca", "404"]
"""`stop`: nothing listens; `foreign-ca`: it signs with a CA that no gateway trusts; `404`: no path exists."""


def est_with(
    fault: EstFault | None,
    authority: Callable[[], Authority | None],
    *,
    clock: Clock,
    log: Callable[[LogRecord], None],
    rfc7030: bool,
) -> ASGIApp | None:
    """The EST server's app with that fault; None where no server listens.

    With `rfc7030` it answers with the status and the media type of RFC 7030 instead of estserver's.
    """
    if fault == "stop":
        return None
    if fault == "404":
        return Starlette(routes=[Route("/{path:path}", _not_found, methods=["GET", "POST"])])
    if fault == "foreign-ca":
        authority = _ForeignCa(authority, clock())
    # The managed EST server runs estserver, which enrolls any subject.
    return EstApp(authority=authority, clock=clock, enroll=Enroll.ANY, rfc7030=rfc7030, log=log)


async def _not_found(_request: Request) -> Response:
    return PlainTextResponse("the mock's EST server answers 404 to everything (--est-fault 404)\n", 404)


class _ForeignCa:
    """Signs with a CA that has the name of the Factory's, but another root: no gateway trusts what it signs."""

    def __init__(self, authority: Callable[[], Authority | None], now: datetime.datetime) -> None:
        self._authority = authority
        self._now = now
        self._root_key, self._key = generate_key(), generate_key()

    def __call__(self) -> Authority | None:
        real = self._authority()
        if real is None:
            return None
        root = certificates.make_root(self._root_key, "foreign", now=self._now)
        ca = certificates.sign_device_ca(
            real.certificate.subject, self._key.public_key(), root, self._root_key, now=self._now
        )
        return replace(real, certificate=ca, key=self._key)
