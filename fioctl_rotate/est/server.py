"""The EST server as an ASGI app (RFC 7030, RFC 8951); it does not know where its keys come from.

The web server that runs the app does mutual TLS. The app reads the client's certificate from the ASGI TLS
extension, or from a header where a proxy ends TLS. Whatever put it there must have verified the handshake.
"""

import datetime
import email.utils
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID, ObjectIdentifier
from msgspec import Struct
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from fioctl_rotate.errors import Error
from fioctl_rotate.est import service
from fioctl_rotate.est.enroll_policy import Enroll
from fioctl_rotate.est.service import Authority, EstError
from fioctl_rotate.pki import certificates
from fioctl_rotate.pki.parsing import load_certificate

PATH = "/.well-known/est"
# A CSR with an EC key takes about 600 bytes of base64; one with a long subject stays well under this.
MAX_BODY = 16 * 1024

OPERATIONS = {"cacerts": "GET", "csrattrs": "GET", "simpleenroll": "POST", "simplereenroll": "POST"}
"""The operations of this EST server, and the method of each."""
CONNECTION = "connection"
"""What the log shows as operation where a connection was refused before a request came."""

ClientOf = Callable[[Request], x509.Certificate | None]
"""Finds the client's certificate, None where there is not exactly one. Raises EstError where it is not accepted."""


class LogRecord(Struct, frozen=True, kw_only=True, rename="kebab"):
    """One request: who asked for what (CN and OU of the client certificate), and how it ended.

    Also a connection that was refused before a request came: `operation` is then CONNECTION, `status` 0.
    `time` is RFC 3339, UTC; `peer` an address and port; `outcome` is `issued`, `sent`, or why the request was
    refused; `seconds` how long the answer took. A new certificate has `serial` (hexadecimal) and `not-after` (RFC
    3339, UTC). `key-sha256` is the SHA-256 of its public key (SubjectPublicKeyInfo in DER, hexadecimal).
    `issuer-key-id` is its authority key identifier (hexadecimal), which identifies the CA.
    """

    time: str
    operation: str
    peer: str
    device: str = ""
    factory: str = ""
    status: int = 0
    outcome: str
    serial: str = ""
    not_after: str = ""
    key_sha256: str = ""
    issuer_key_id: str = ""
    seconds: float = 0.0


def client_from_tls(request: Request) -> x509.Certificate | None:
    """The certificate in the ASGI TLS extension."""
    chain = request.scope.get("extensions", {}).get("tls", {}).get("client_cert_chain", [])
    if len(chain) != 1:
        return None
    try:
        return load_certificate(chain[0], "the client certificate")
    except Error as error:
        # OpenSSL, which did the handshake, takes some encodings that are not DER.
        raise EstError(error.message) from error


def _not_denied(_certificate: x509.Certificate) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class EstApp:
    """The ASGI app: cacerts, csrattrs, simpleenroll, simplereenroll below `PATH`.

    `authority` returns the CA that signs, or None while there is none. `clock` returns aware UTC time. `denied`
    returns why a certificate is on the deny list, or None; it is called for the client's and for the new one.
    An enrollment is answered as estserver does, with 201 and the bare type `application/pkcs7-mime`, because
    fioconfig before 2026-02 takes nothing else. With `rfc7030` it has the status and the type of RFC 7030 §4.2.3,
    and base64 in lines, which older clients need. `log` is called once a request.
    """

    authority: Callable[[], Authority | None]
    clock: Callable[[], datetime.datetime]
    enroll: Enroll = Enroll.OWN
    denied: Callable[[x509.Certificate], str | None] = _not_denied
    client_of: ClientOf = client_from_tls
    rfc7030: bool = False
    log: Callable[[LogRecord], None] = lambda _record: None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        began = time.perf_counter()
        request = Request(scope, receive)
        client = issued = None
        try:
            client = self.client_of(request)
            body, media_type, issued = await self._answer(request, client)
            response = self._response(body, media_type, created=issued is not None)
            outcome = "issued" if issued else "sent"
        except Error as error:
            response = _refusal(error, request)
            outcome = error.message
        response.headers["Date"] = email.utils.format_datetime(self.clock(), usegmt=True)
        peer = scope.get("client")
        self.log(
            LogRecord(
                time=_rfc3339(self.clock()),
                operation=request.url.path.removeprefix(f"{PATH}/"),
                peer=f"{peer[0]}:{peer[1]}" if peer else "",
                device=_subject_part(client, NameOID.COMMON_NAME),
                factory=_subject_part(client, NameOID.ORGANIZATIONAL_UNIT_NAME),
                status=response.status_code,
                outcome=outcome,
                serial=f"{issued.serial_number:x}" if issued else "",
                not_after=_rfc3339(issued.not_valid_after_utc) if issued else "",
                key_sha256=service.key_digest(issued.public_key()) if issued else "",
                issuer_key_id=certificates.issuer_key_id(issued) if issued else "",
                seconds=round(time.perf_counter() - began, 6),
            )
        )
        await response(scope, receive, send)

    async def _answer(
        self, request: Request, client: x509.Certificate | None
    ) -> tuple[bytes, str, x509.Certificate | None]:
        """The body, its media type, and the new certificate or None. Raises Error."""
        if request.scope["http_version"] == "1.1" and len(request.headers.getlist("host")) != 1:
            raise EstError("expected one Host header")  # RFC 9110 §7.2
        operation = request.url.path.removeprefix(f"{PATH}/")
        method = OPERATIONS.get(operation) if request.url.path.startswith(f"{PATH}/") else None
        if method is None:
            raise EstError("this EST server has no such operation", 404)
        if request.method != method:
            raise EstError(f"{operation} takes {method}", 405)
        if operation == "csrattrs":
            return service.csrattrs(), "application/csrattrs", None
        if operation == "cacerts":
            return service.cacerts(self._authority()), "application/pkcs7-mime", None
        issued = await self._enroll(operation, request, client)
        return service.certificate_answer(issued), "application/pkcs7-mime", issued

    async def _enroll(
        self, operation: str, request: Request, client: x509.Certificate | None
    ) -> x509.Certificate:
        if client is None:
            raise EstError("exactly one client certificate is needed", 401)
        self._refuse_denied(client)
        media_type = request.headers.get("content-type", "")
        if media_type.partition(";")[0].strip().lower() != "application/pkcs10":
            raise EstError("the Content-Type must be application/pkcs10")
        authority, body = self._authority(), await _body(request)
        if operation == "simplereenroll":
            issued = service.reenroll(authority, body, client, now=self.clock())
        else:
            issued = service.enroll(authority, body, client, policy=self.enroll, now=self.clock())
        # A denied certificate is never sent.
        self._refuse_denied(issued)
        return issued

    def _refuse_denied(self, certificate: x509.Certificate) -> None:
        reason = self.denied(certificate)
        if reason is not None:
            raise EstError(f"on the deny list: {reason}", 403)

    def _authority(self) -> Authority:
        authority = self.authority()
        if authority is None:
            raise EstError("this server has no device CA to sign with", 500)
        return authority

    def _response(self, body: bytes, media_type: str, *, created: bool) -> Response:
        headers = {"Content-Type": media_type}
        if self.rfc7030:
            # Clients older than RFC 8951 look for the encoding that RFC 7030 §4.1.3 names, and read base64 in
            # lines only (libest).
            headers["Content-Transfer-Encoding"] = "base64"
            body = "\n".join([*textwrap.wrap(body.decode(), 64), ""]).encode()
            if media_type == "application/pkcs7-mime":
                headers["Content-Type"] += "; smime-type=certs-only"
        return Response(body, 201 if created and not self.rfc7030 else 200, headers=headers)


def _refusal(error: Error, request: Request) -> Response:
    """The answer to a request that is refused: one plain line, and the headers that RFC 9110 asks for."""
    status = error.status if isinstance(error, EstError) else 500
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    if status == 405:
        headers["Allow"] = OPERATIONS[request.url.path.removeprefix(f"{PATH}/")]
    if status == 401:
        # RFC 9110 §11.6.1 wants a challenge; no scheme of HTTP stands for a TLS client certificate.
        headers["WWW-Authenticate"] = 'ClientCertificate realm="EST"'
    return Response(error.message.encode() + b"\n", status, headers=headers)


async def _body(request: Request) -> bytes:
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise EstError(f"the body is longer than {MAX_BODY} bytes", 413)
    except ClientDisconnect as error:
        raise EstError("the client left before its body was complete") from error
    return body


def _subject_part(certificate: x509.Certificate | None, oid: ObjectIdentifier) -> str:
    attributes = certificate.subject.get_attributes_for_oid(oid) if certificate else []
    return str(attributes[0].value) if attributes else ""


def _rfc3339(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
