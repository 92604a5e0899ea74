"""The EST server as an ASGI app (RFC 7030, RFC 8951); it knows nothing of where its keys come from.

Mutual TLS is the server's that runs it: the app reads the client's certificate from the ASGI TLS extension and
relies on the handshake to have verified it.
"""

import datetime
import email.utils
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID, ObjectIdentifier
from msgspec import Struct
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

from fioctl_rotate.errors import Error
from fioctl_rotate.est import service
from fioctl_rotate.est.service import Authority, EstError

PATH = "/.well-known/est"
# A CSR with an EC key takes about 600 bytes of base64; one with a long subject stays well under this.
MAX_BODY = 16 * 1024

_OPERATIONS = {"cacerts": "GET", "csrattrs": "GET", "simpleenroll": "POST", "simplereenroll": "POST"}

Provider = Callable[[x509.Certificate | None], Authority | None]


class LogRecord(Struct, frozen=True, kw_only=True):
    """One request: who asked (CN and OU of the client certificate), what for, and what came of it.

    `time` is RFC 3339, UTC; `serial` the new certificate's in hexadecimal; `outcome` is `issued`, `sent`, or why
    the request was refused.
    """

    time: str
    operation: str
    device: str
    factory: str
    status: int
    outcome: str
    serial: str


def est_app(
    provider: Provider,
    *,
    clock: Callable[[], datetime.datetime],
    rfc7030: bool = False,
    log: Callable[[LogRecord], None] = lambda _record: None,
) -> Callable[..., Any]:
    """The ASGI app: cacerts, csrattrs, simpleenroll, simplereenroll below `PATH`.

    `provider` gives the authority that answers the holder of a client certificate (None: it sent none), or None
    while there is none to sign with. `clock` gives aware UTC time. An enrollment is answered as estserver does,
    with 201 and the bare type `application/pkcs7-mime`, because fioconfig before 2026-02 takes nothing else;
    `rfc7030` answers with the 200 and the type of RFC 7030 §4.2.3. `log` is called once a request.
    """
    return _EstApp(provider, clock, rfc7030, log)


class _EstApp:
    def __init__(
        self,
        provider: Provider,
        clock: Callable[[], datetime.datetime],
        rfc7030: bool,
        log: Callable[[LogRecord], None],
    ) -> None:
        self._provider = provider
        self._clock = clock
        self._rfc7030 = rfc7030
        self._log = log

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        client, serial = None, ""
        try:
            client = _client(request)
            body, media_type, issued = await self._answer(request, client)
            response = self._response(body, media_type, created=issued is not None)
            outcome = "issued" if issued else "sent"
            serial = f"{issued.serial_number:x}" if issued else ""
        except Error as error:
            status = error.status if isinstance(error, EstError) else 500
            response = PlainTextResponse(error.message + "\n", status)
            outcome = error.message
        self._log(
            LogRecord(
                time=self._clock().strftime("%Y-%m-%dT%H:%M:%SZ"),
                operation=request.url.path.removeprefix(f"{PATH}/"),
                device=_subject_part(client, NameOID.COMMON_NAME),
                factory=_subject_part(client, NameOID.ORGANIZATIONAL_UNIT_NAME),
                status=response.status_code,
                outcome=outcome,
                serial=serial,
            )
        )
        response.headers["Date"] = email.utils.format_datetime(self._clock(), usegmt=True)
        await response(scope, receive, send)

    async def _answer(
        self, request: Request, client: x509.Certificate | None
    ) -> tuple[bytes, str, x509.Certificate | None]:
        """The body, its media type and, where one was issued, the new certificate."""
        operation = request.url.path.removeprefix(f"{PATH}/")
        method = _OPERATIONS.get(operation) if request.url.path.startswith(f"{PATH}/") else None
        if method is None:
            raise EstError("no such EST operation here", 404)
        if request.method != method:
            raise EstError(f"{operation} takes {method}", 405)
        if operation == "csrattrs":
            return service.csrattrs(), "application/csrattrs", None
        if operation == "cacerts":
            return service.cacerts(self._authority(client)), "application/pkcs7-mime", None
        if client is None:
            raise EstError("exactly one client certificate is needed", 401)
        media_type = request.headers.get("content-type", "")
        if media_type.partition(";")[0].strip().lower() != "application/pkcs10":
            raise EstError("the Content-Type must be application/pkcs10")
        authority, body = self._authority(client), await _body(request)
        if operation == "simplereenroll":
            issued = service.reenroll(authority, body, client, now=self._clock())
        else:
            issued = service.enroll(authority, body, now=self._clock())
        return service.certificate_answer(issued), "application/pkcs7-mime", issued

    def _authority(self, client: x509.Certificate | None) -> Authority:
        authority = self._provider(client)
        if authority is None:
            raise EstError("this server has no device CA to sign with", 500)
        return authority

    def _response(self, body: bytes, media_type: str, *, created: bool) -> Response:
        headers = {"Content-Type": media_type}
        if self._rfc7030:
            # Clients older than RFC 8951 look for the encoding that RFC 7030 §4.1.3 names.
            headers["Content-Transfer-Encoding"] = "base64"
            if media_type == "application/pkcs7-mime":
                headers["Content-Type"] += "; smime-type=certs-only"
        return Response(body, 201 if created and not self._rfc7030 else 200, headers=headers)


async def _body(request: Request) -> bytes:
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise EstError(f"the body is longer than {MAX_BODY} bytes", 413)
    except ClientDisconnect as error:
        raise EstError("the client left before its body was whole") from error
    return body


def _client(request: Request) -> x509.Certificate | None:
    chain = request.scope.get("extensions", {}).get("tls", {}).get("client_cert_chain", [])
    if len(chain) != 1:
        return None
    try:
        return x509.load_pem_x509_certificate(chain[0].encode())
    except ValueError as error:
        # OpenSSL, which did the handshake, takes some encodings that are not DER.
        raise EstError("the client certificate is not valid DER") from error


def _subject_part(certificate: x509.Certificate | None, oid: ObjectIdentifier) -> str:
    attributes = certificate.subject.get_attributes_for_oid(oid) if certificate else []
    return str(attributes[0].value) if attributes else ""
