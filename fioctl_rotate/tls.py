"""TLS contexts for clients and servers."""

import ssl
from collections.abc import Callable
from pathlib import Path


def client_context(
    roots_pem: str | None = None, *, cert: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """A client's context, TLS 1.2 and later.

    `roots_pem` (PEM, one or more certificates) is trusted alone; None trusts the system's store. `cert` and
    `key` are PEM files that the client presents. Raises ssl.SSLError or OSError where a file is not usable.
    """
    context = ssl.create_default_context(cadata=roots_pem)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A name that stands in the CN alone is none: Go, and so every device, sees it like that.
    context.hostname_checks_common_name = False
    if roots_pem is not None:
        # As in Go, each certificate is an anchor of its own, also one that a higher CA has signed, and a root made
        # by the manual's recipe (BC not critical) is good enough, which Python 3.13's default refuses.
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
    if cert is not None:
        context.load_cert_chain(cert, key)
    return context


def server_context(cert: Path, key: Path, client_cas_pem: str, *, required: bool) -> ssl.SSLContext:
    """A server's context for mutual TLS, TLS 1.2 and later.

    Clients are trusted by the CAs in `client_cas_pem` (PEM, may be empty: then nobody is), each an anchor of its
    own: device CAs are intermediates, so OpenSSL needs VERIFY_X509_PARTIAL_CHAIN to stop at them. `required`
    refuses a client without a certificate in the handshake.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    require_client_certificate(context, required=required)
    if client_cas_pem.strip():
        context.load_verify_locations(cadata=client_cas_pem)
    return context


def require_client_certificate(context: ssl.SSLContext, *, required: bool) -> None:
    """Ask clients for a certificate, and refuse those without one where `required`."""
    context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN


def reloading_context(current: Callable[[], ssl.SSLContext | None], *, required: bool) -> ssl.SSLContext:
    """A server's context that asks `current` for the one to use at each handshake.

    So certificates and client CAs change without a restart. While `current` returns None, handshakes fail.
    `required` must be what `current`'s contexts were made with: OpenSSL takes the mode from this one.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    require_client_certificate(context, required=required)

    def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> int | None:
        chosen = current()
        if chosen is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = chosen
        return None

    context.sni_callback = choose
    return context
