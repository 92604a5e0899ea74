"""An EST server seen as a device would see it: TLS chain, name, expiry, and the roots it hands out."""

import asyncio
import datetime
import ssl
from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx
from cryptography import x509

from fioctl_rotate.checks import Check, Status
from fioctl_rotate.errors import Error, printable
from fioctl_rotate.est.client import decode_certificates
from fioctl_rotate.pki.certificates import pem
from fioctl_rotate.pki.describe import expiry, fingerprint
from fioctl_rotate.pki.pem import dns_names
from fioctl_rotate.tls import client_context

REACHABLE, CHAIN, NAME, EXPIRY, CACERTS = "reachable", "chain", "name", "expiry", "cacerts"

# OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python does not name: each check tells of one thing alone.
_NO_CHECK_TIME = 0x200000


async def probe(
    url: str, roots: Sequence[x509.Certificate], *, now: datetime.datetime, timeout: float = 10.0
) -> list[Check]:
    """Look at the EST server at `url` (ESTSERVER's value) as a device does that trusts `roots` alone.

    Each attempt to connect may take `timeout` seconds. The result holds `reachable` alone where that failed, else
    one check for each of REACHABLE, CHAIN, NAME, EXPIRY, CACERTS. Raises nothing for what a server may do.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 443
    except ValueError:
        host, port = "", 0
    if not host or parts.scheme != "https":
        return [Check(REACHABLE, Status.FAIL, f"{url} is no URL of the form https://HOST:PORT/PATH")]
    try:
        leaf = await _leaf(host, port, timeout)
    except (OSError, TimeoutError, ValueError) as error:
        return [Check(REACHABLE, Status.FAIL, f"{host}:{port} {_words(error)}")]
    return [
        Check(REACHABLE, Status.PASS, f"{host}:{port} answers"),
        await _chain(host, port, roots, timeout),
        await _name(host, port, leaf, timeout),
        _expiry(leaf, now),
        await _cacerts(url, roots, timeout),
    ]


async def _leaf(host: str, port: int, timeout: float) -> x509.Certificate:
    """The server's certificate, whatever it is worth."""
    return x509.load_der_x509_certificate(await _handshake(host, port, _trusting_anything(), timeout))


async def _chain(host: str, port: int, roots: Sequence[x509.Certificate], timeout: float) -> Check:
    context = client_context(pem(*roots))
    context.check_hostname = False
    context.verify_flags |= _NO_CHECK_TIME
    try:
        await _handshake(host, port, context, timeout)
    except (OSError, TimeoutError) as error:
        return Check(CHAIN, Status.FAIL, f"devices do not trust its certificate: {_words(error)}")
    return Check(CHAIN, Status.PASS, "its certificate leads to the Factory's root")


async def _name(host: str, port: int, leaf: x509.Certificate, timeout: float) -> Check:
    # With the certificate as its own anchor, its name is all that is left to be wrong.
    context = client_context(pem(leaf))
    context.verify_flags |= _NO_CHECK_TIME
    try:
        await _handshake(host, port, context, timeout)
    except ssl.SSLCertVerificationError as error:
        names = dns_names(leaf)
        found = f"its certificate is for {', '.join(names)}" if names else _without_names(leaf)
        return Check(NAME, Status.FAIL, f"{found}, not {host} ({error.verify_message})")
    except (OSError, TimeoutError) as error:
        return Check(NAME, Status.FAIL, _words(error))
    return Check(NAME, Status.PASS, f"its certificate is for {host}")


def _without_names(leaf: x509.Certificate) -> str:
    return f"its certificate has no SAN, and a name in the CN ({leaf.subject.rfc4514_string()}) is none to devices"


def _expiry(leaf: x509.Certificate, now: datetime.datetime) -> Check:
    if now < leaf.not_valid_before_utc:
        return Check(EXPIRY, Status.FAIL, f"not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    if now > leaf.not_valid_after_utc:
        return Check(EXPIRY, Status.FAIL, f"expired on {leaf.not_valid_after_utc:%Y-%m-%d}")
    soon = expiry(leaf, now=now)
    if soon:
        return Check(EXPIRY, Status.WARN, soon)
    return Check(EXPIRY, Status.PASS, f"valid until {leaf.not_valid_after_utc:%Y-%m-%d}")


async def _cacerts(url: str, roots: Sequence[x509.Certificate], timeout: float) -> Check:
    try:
        async with httpx.AsyncClient(verify=_trusting_anything(), timeout=timeout, trust_env=False) as client:
            response = await client.get(f"{url.rstrip('/')}/cacerts")
        if response.status_code != 200:
            words = f"the server answers {response.status_code}, not 200: {response.text.strip()[:200]}"
            return Check(CACERTS, Status.FAIL, printable(words.rstrip(": ")))
        handed_out = decode_certificates(response.content)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Check(CACERTS, Status.FAIL, _words(error))
    except Error as error:
        return Check(CACERTS, Status.FAIL, error.message)
    missing = [root for root in roots if root not in handed_out]
    if missing:
        return Check(
            CACERTS, Status.FAIL, f"the Factory's root is not in it (SHA-256 {fingerprint(missing[0])[:16]}…)"
        )
    more = len(handed_out) - len(roots)
    if more:
        return Check(CACERTS, Status.WARN, f"has {more} certificate(s) beside the Factory's root")
    return Check(CACERTS, Status.PASS, "holds the Factory's root alone")


async def _handshake(host: str, port: int, context: ssl.SSLContext, timeout: float) -> bytes:
    """The server's certificate, DER, after a handshake that `context` was content with."""
    async with asyncio.timeout(timeout):
        _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return bytes(der)


def _trusting_anything() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, TimeoutError):
        return "does not answer in time"
    if isinstance(error, ssl.SSLError):
        return f"does not speak TLS as a device does ({error.reason or error})"
    if isinstance(error, ConnectionRefusedError):
        return "refuses connections"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(text or type(error).__name__)
