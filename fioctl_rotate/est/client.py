"""The EST client: the CSR, the request as a device sends it, the answer's certificates, and the device's checks."""

import asyncio
import base64
import binascii
import re
import ssl
import zlib
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from fioctl_rotate.errors import Error, printable
from fioctl_rotate.http import httpx
from fioctl_rotate.pki.certificates import DIGITAL_SIGNATURE
from fioctl_rotate.pki.parsing import extension, load_pkcs7
from fioctl_rotate.pki.subject import copied_subject, raw_subject

CLIENT_AUTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
MAX_ANSWER = 256 * 1024
"""Bytes of an answer after decompression. A certificate takes 2 KB, a Factory's roots not much more."""

# What Go sends in a path as it stands; any other character makes it decode the path and encode it again
# (net/url: URL.EscapedPath).
_GO_KEEPS = re.compile(r"(?:[A-Za-z0-9._~$&+,/:;=@!'()*\[\]-]|%[0-9A-Fa-f]{2})*\Z")
_GO_KEEPS_DECODED = "$&+,/:;=@"
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class NoAnswer(Error):
    """The server gave no answer. `cause` is what stopped it; `message` says so."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(reason(cause))
        self.cause = cause


@dataclass(frozen=True)
class Answer:
    """An answer: its status, Content-Type and Location ("" where missing) and body, decompressed."""

    status: int
    media_type: str
    body: bytes
    location: str = ""

    @property
    def text(self) -> str:
        """The beginning of the body, to quote in a message."""
        return printable(self.body[:200].decode("utf-8", "replace"))


@dataclass(frozen=True)
class ServerAddress:
    """Where a URL leads: the host (without brackets) and port to connect to, and what the request line holds."""

    host: str
    port: int
    path: bytes


def address_of(url: str) -> ServerAddress:
    """Where a device's request for `url` goes. The path is not tidied: `//` and dot segments stay (Go: net/url).

    Raises Error where it is not a URL of the form https://HOST:PORT/PATH.
    """
    wrong = Error(f"`{url}` is not a URL of the form https://HOST:PORT/PATH")
    if any(c <= " " or c == "\x7f" for c in url):
        raise wrong
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise wrong from error
    path = parts.path
    if not host or parts.scheme != "https" or port == 0 or _BAD_ESCAPE.search(path):
        raise wrong
    if not _GO_KEEPS.match(path):
        path = quote(unquote(path, errors="surrogateescape"), _GO_KEEPS_DECODED, errors="surrogateescape")
    query = f"?{parts.query}" if parts.query else ""
    return ServerAddress(host, port or 443, f"{path or '/'}{query}".encode("utf-8", "replace"))


async def send(
    method: str, url: str, *, context: ssl.SSLContext, content: bytes = b"", deadline: float = 30.0
) -> Answer:
    """The answer to one request over a connection of its own, sent as a device sends it.

    The path goes out as it stands in `url`, redirects are not followed, no proxy is used. The whole exchange may
    take `deadline` seconds, and the answer has at most MAX_ANSWER bytes. Raises NoAnswer where it does not come in
    these limits, Error where `url` is not valid.
    """
    server = address_of(url)
    headers = {
        "User-Agent": "Go-http-client/1.1",
        "Accept-Encoding": "gzip",
        "Connection": "close",
        **({"Content-Type": "application/pkcs10"} if method == "POST" else {}),
    }
    try:
        async with (
            asyncio.timeout(deadline),
            httpx.AsyncClient(verify=context, timeout=None, trust_env=False) as client,
            client.stream(
                method,
                httpx.URL(scheme="https", host=server.host, port=server.port),
                content=content,
                headers=headers,
                extensions={"target": server.path},
            ) as response,
        ):
            body = b""
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_ANSWER:
                    raise ValueError(f"the answer is longer than {MAX_ANSWER} bytes")
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
        raise NoAnswer(error) from error
    if response.headers.get("content-encoding", "").lower() == "gzip":
        body = _decompressed(body)
    got = response.headers
    return Answer(response.status_code, got.get("content-type", ""), body, got.get("location", ""))


def _decompressed(body: bytes) -> bytes:
    try:
        # 16 + MAX_WBITS: gzip, the only encoding that a device asks for; its first member alone.
        plain = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(body, MAX_ANSWER + 1)
    except zlib.error as error:
        raise NoAnswer(error) from error
    if len(plain) > MAX_ANSWER:
        raise NoAnswer(ValueError(f"the answer is longer than {MAX_ANSWER} bytes"))
    return plain


def asks_for_certificate(error: BaseException | None) -> bool:
    """Whether `error`, or what caused it, is a TLS alert that a server sends for a missing client certificate."""
    while error is not None:
        if isinstance(error, ssl.SSLError) and error.reason in _CERTIFICATE_ALERTS:
            return True
        error = error.__cause__ or error.__context__
    return False


# RFC 8446 §6.2 certificate_required; before TLS 1.3 a server sends handshake_failure (RFC 5246 §7.4.6) or
# bad_certificate.
_CERTIFICATE_ALERTS = (
    "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    "SSLV3_ALERT_HANDSHAKE_FAILURE",
    "SSLV3_ALERT_BAD_CERTIFICATE",
)


def reason(error: BaseException) -> str:
    """Why no answer came, to follow the name of the server."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return str(cause.verify_message)
        if isinstance(cause, (TimeoutError, httpx.TimeoutException)):
            return "does not answer in time"
        if isinstance(cause, ssl.SSLError):
            return f"does not speak TLS as a device does ({cause.reason or cause})"
        if isinstance(cause, ConnectionRefusedError):
            return "refuses connections"
        if isinstance(cause, OSError) and cause.strerror:
            return printable(cause.strerror)
        cause = cause.__cause__ or cause.__context__
    return printable(str(error) or type(error).__name__)


def build_csr(key: ec.EllipticCurvePrivateKey, current: x509.Certificate) -> bytes:
    """The body of a re-enrollment: base64 DER of a CSR for `key` with the subject of `current`, byte for byte.

    It asks for KU digitalSignature and EKU clientAuth, both critical, as fioconfig does. Raises Error where the
    subject cannot be copied byte for byte.
    """
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(copied_subject(current))
        .add_extension(DIGITAL_SIGNATURE, critical=True)
        .add_extension(CLIENT_AUTH, critical=True)
        .sign(key, hashes.SHA256())
    )
    return base64.b64encode(csr.public_bytes(Encoding.DER))


def decode_certificates(body: bytes) -> list[x509.Certificate]:
    """The certificates in an EST answer: base64 of a certs-only PKCS#7, line breaks allowed. RFC 7030 §4.2.3.

    As strict as a device: other white space in the base64 is not skipped (Go: encoding/base64). Raises Error where
    it is something else, or holds none.
    """
    try:
        der = base64.b64decode(body.translate(None, b"\r\n"), validate=True)
    except binascii.Error as error:
        raise Error("the EST server's answer is not base64") from error
    return load_pkcs7(der, "the EST server's answer")


def accepted(answer: Answer, current: x509.Certificate, *, only_201: bool) -> x509.Certificate:
    """The new certificate in the answer to a re-enrollment, checked as fioconfig checks it.

    With `only_201` it is checked as fioconfig before 2026-02 does, which takes only status 201 and the bare type
    `application/pkcs7-mime`; later versions also take 200, and parameters after the type. `current` is the present
    certificate. Raises Error that says what the device would not accept.
    """
    if answer.status not in ((201,) if only_201 else (200, 201)):
        raise Error(f"the EST server answers {answer.status}: {answer.text}".rstrip(": "))
    bare = "application/pkcs7-mime"
    if answer.media_type != bare and (only_201 or not answer.media_type.startswith(bare)):
        raise Error(f"the EST server answers with the media type `{printable(answer.media_type)}`")
    certificate = decode_certificates(answer.body)[0]
    check_new_certificate(current, certificate)
    return certificate


def check_new_certificate(current: x509.Certificate, new: x509.Certificate) -> None:
    """What a device checks before it uses a new certificate: the subject, KU and EKU (fioconfig: verifyNewCert).

    Raises Error that says which is wrong. The CA is not checked: only the gateway knows which CAs it trusts.
    """
    if raw_subject(new) != raw_subject(current):
        raise Error("the new certificate has another subject than the current one")
    usages: tuple[tuple[type[x509.KeyUsage | x509.ExtendedKeyUsage], x509.ExtensionType, str], ...] = (
        (x509.KeyUsage, DIGITAL_SIGNATURE, "KeyUsage digitalSignature"),
        (x509.ExtendedKeyUsage, CLIENT_AUTH, "ExtendedKeyUsage clientAuth"),
    )
    for kind, wanted, usage in usages:
        if extension(new, kind) != wanted:
            raise Error(f"the new certificate must have {usage} and no other")
