"""Checks an EST server as a device would see it: TLS chain, name, expiry, the enrollment endpoint, the roots."""

import asyncio
import datetime
import ssl
from collections.abc import Sequence

from cryptography import x509

from fioctl_rotate.checks import Check, Status
from fioctl_rotate.errors import Error
from fioctl_rotate.est.client import (
    NoAnswer,
    ServerAddress,
    address_of,
    asks_for_certificate,
    decode_certificates,
    send,
)
from fioctl_rotate.pki.certificates import pem
from fioctl_rotate.pki.describe import expiry, fingerprint
from fioctl_rotate.pki.parsing import dns_names, load_certificate_der
from fioctl_rotate.rotation.entry import reenroll_url
from fioctl_rotate.tls import client_context

REACHABLE, CHAIN, NAME, EXPIRY, ENDPOINT, CACERTS = (
    "reachable",
    "chain",
    "name",
    "expiry",
    "endpoint",
    "cacerts",
)

# OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python does not name. Only the check EXPIRY is about dates.
_NO_CHECK_TIME = 0x200000

# How a server that offers re-enrollment answers a POST without a client certificate. RFC 7030 §3.2.3 says 401;
# nginx says 400, others 403.
_THERE = (400, 401, 403)
_NOT_THERE = (404, 405)


async def probe(
    url: str, roots: Sequence[x509.Certificate], *, now: datetime.datetime, timeout: float = 10.0
) -> list[Check]:
    """Check the EST server at `url` (ESTSERVER's value) as a device does that trusts `roots` alone.

    Each connection may take `timeout` seconds. The result holds REACHABLE alone where that failed, else one check
    for each of REACHABLE, CHAIN, NAME, EXPIRY, ENDPOINT and CACERTS. (With TLS 1.2, a server that requires a client
    certificate ends the handshake, so its own certificate cannot be read. Then there are only REACHABLE, CHAIN and
    ENDPOINT, and CHAIN covers name and expiry.) Raises nothing, whatever the server does.
    """
    try:
        server = address_of(url)
    except Error as error:
        return [Check(REACHABLE, Status.FAIL, error.message)]
    where = f"{server.host}:{server.port}"
    try:
        leaf = await _leaf(server, timeout)
    except NoAnswer as error:
        if asks_for_certificate(error) and await _shows_certificate(server, timeout):
            return [
                Check(REACHABLE, Status.PASS, f"{where} answers"),
                await _chain(server, client_context(pem(*roots)), timeout),
                Check(ENDPOINT, Status.PASS, "the server asks for a client certificate in the handshake"),
            ]
        return [Check(REACHABLE, Status.FAIL, f"{where} {error.message}")]
    any_name = client_context(pem(*roots))
    any_name.check_hostname = False
    any_name.verify_flags |= _NO_CHECK_TIME
    chain, name, endpoint, cacerts = await asyncio.gather(
        _chain(server, any_name, timeout),
        _name(server, leaf, timeout),
        _endpoint(url, timeout),
        _cacerts(url, roots, timeout),
    )
    return [
        Check(REACHABLE, Status.PASS, f"{where} answers"),
        chain,
        name,
        _expiry(leaf, now),
        endpoint,
        cacerts,
    ]


async def _leaf(server: ServerAddress, timeout: float) -> x509.Certificate:
    """The server's certificate, whoever signed it. Raises NoAnswer."""
    der = await _handshake(server, _trusting_anything(), timeout)
    try:
        return load_certificate_der(der, "it")
    except Error as error:
        raise NoAnswer(ValueError(f"shows no valid certificate: {error.message}")) from error


async def _shows_certificate(server: ServerAddress, timeout: float) -> bool:
    """Whether the server sends its certificate before it ends the handshake."""
    try:
        await _handshake(server, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), timeout)
    except NoAnswer as error:
        return isinstance(error.cause, ssl.SSLCertVerificationError)
    return True


async def _chain(server: ServerAddress, context: ssl.SSLContext, timeout: float) -> Check:
    try:
        await _handshake(server, context, timeout)
    except NoAnswer as error:
        # The server's alert comes only after we have verified its certificate.
        if not asks_for_certificate(error):
            return Check(
                CHAIN, Status.FAIL, f"devices do not trust the server's certificate: {error.message}"
            )
    return Check(CHAIN, Status.PASS, "the server's certificate leads to the Factory's root")


async def _name(server: ServerAddress, leaf: x509.Certificate, timeout: float) -> Check:
    # The certificate is its own trust anchor here, so only its name can be wrong.
    context = client_context(pem(leaf))
    context.verify_flags |= _NO_CHECK_TIME
    try:
        await _handshake(server, context, timeout)
    except NoAnswer as error:
        if not isinstance(error.cause, ssl.SSLCertVerificationError):
            return Check(NAME, Status.FAIL, error.message)
        names = dns_names(leaf)
        found = f"the server's certificate is for {', '.join(names)}" if names else _without_names(leaf)
        return Check(NAME, Status.FAIL, f"{found}, not {server.host} ({error.message})")
    return Check(NAME, Status.PASS, f"the server's certificate is for {server.host}")


def _without_names(leaf: x509.Certificate) -> str:
    subject = leaf.subject.rfc4514_string()
    return f"the server's certificate has no SAN, and devices do not read a name from the CN ({subject})"


def _expiry(leaf: x509.Certificate, now: datetime.datetime) -> Check:
    if now < leaf.not_valid_before_utc:
        return Check(EXPIRY, Status.FAIL, f"not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    if now > leaf.not_valid_after_utc:
        return Check(EXPIRY, Status.FAIL, f"expired on {leaf.not_valid_after_utc:%Y-%m-%d}")
    soon = expiry(leaf, now=now)
    if soon:
        return Check(EXPIRY, Status.WARN, soon)
    return Check(EXPIRY, Status.PASS, f"valid until {leaf.not_valid_after_utc:%Y-%m-%d}")


async def _endpoint(url: str, timeout: float) -> Check:
    """Ask for a re-enrollment without a client certificate: a server that offers it refuses."""
    path = address_of(reenroll_url(url)).path.decode()
    try:
        answer = await send("POST", reenroll_url(url), context=_trusting_anything(), deadline=timeout)
    except NoAnswer as error:
        # A server that closes while we send the request can reset the connection before we have read its alert.
        if asks_for_certificate(error) or await _alerts(address_of(url), timeout):
            return Check(ENDPOINT, Status.PASS, "the server asks for a client certificate in the handshake")
        return Check(ENDPOINT, Status.WARN, f"no answer to POST {path}: {error.message}")
    message = f"POST {path} is answered {answer.status}"
    if answer.status in _THERE:
        return Check(ENDPOINT, Status.PASS, f"{message}, as it should be without a client certificate")
    if answer.status in _NOT_THERE:
        return Check(ENDPOINT, Status.FAIL, f"{message}: devices would not find the re-enrollment there")
    return Check(ENDPOINT, Status.WARN, f"{message}; expected 401 without a client certificate")


async def _alerts(server: ServerAddress, timeout: float) -> bool:
    """Whether the server asks for a client certificate by an alert after the handshake, before anything is sent."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await _connect(server, _trusting_anything())
            try:
                await reader.read(1)
            finally:
                writer.transport.abort()
    except (OSError, ValueError) as error:
        return asks_for_certificate(error)
    return False


async def _cacerts(url: str, roots: Sequence[x509.Certificate], timeout: float) -> Check:
    """The roots that the server hands out. No device asks for them, so a fault is a warning."""
    try:
        answer = await send("GET", f"{url}/cacerts", context=_trusting_anything(), deadline=timeout)
        if answer.status != 200:
            return Check(
                CACERTS, Status.WARN, f"expected status 200, got {answer.status}: {answer.text}".rstrip(": ")
            )
        # Receivers should skip white space of any kind (RFC 8951 §3.1).
        handed_out = decode_certificates(b"".join(answer.body.split()))
    except Error as error:
        return Check(CACERTS, Status.WARN, error.message)
    missing = [root for root in roots if root not in handed_out]
    if missing:
        return Check(
            CACERTS,
            Status.WARN,
            f"does not hold the Factory's root (SHA-256 {fingerprint(missing[0])[:16]}…)",
        )
    more = len(handed_out) - len(roots)
    if more:
        return Check(CACERTS, Status.WARN, f"holds {more} certificate(s) besides the Factory's root")
    return Check(CACERTS, Status.PASS, "holds the Factory's root alone")


async def _handshake(server: ServerAddress, context: ssl.SSLContext, timeout: float) -> bytes:
    """The server's certificate, DER, after a handshake that `context` accepted. Raises NoAnswer."""
    try:
        async with asyncio.timeout(timeout):
            _, writer = await _connect(server, context)
    except (OSError, ValueError) as error:
        raise NoAnswer(error) from error
    connection: ssl.SSLObject = writer.get_extra_info("ssl_object")
    der = connection.getpeercert(binary_form=True)
    writer.transport.abort()
    if der is None:
        raise NoAnswer(ValueError("shows no certificate"))
    return der


async def _connect(
    server: ServerAddress, context: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(server.host, server.port, ssl=context, server_hostname=server.host)


def _trusting_anything() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
