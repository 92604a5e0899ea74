"""TLS contexts for clients and servers."""

import ssl
from collections.abc import Callable
from pathlib import Path

from fioctl_rotate.armor import certificate_blocks
from fioctl_rotate.errors import Error
from fioctl_rotate.files import read


def client_context(
    roots_pem: str | None = None,
    *,
    roots_name: str = "the CA certificates",
    cert: Path | None = None,
    key: Path | None = None,
) -> ssl.SSLContext:
    """A client's context, TLS 1.2 and later.

    `roots_pem` (PEM, one or more certificates) is trusted alone; None trusts the system's store. `roots_name` is
    its name in errors. `cert` and `key` are PEM files that the client presents. Raises Error if one of these cannot
    be used.
    """
    if roots_pem is None:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _trust(context, roots_pem, roots_name)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Go, and so every device, takes no host name from the CN.
    context.hostname_checks_common_name = False
    if roots_pem is not None:
        # As in Go, each certificate is an anchor of its own, also one that a higher CA has signed. A root made by
        # the manual's recipe (BC not critical) is accepted, too; Python 3.13 refuses it by default.
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
    if cert is not None:
        _present(context, cert, key or cert)
    return context


def server_context(cert: Path, key: Path, client_cas_pem: str, *, required: bool) -> ssl.SSLContext:
    """A server's context for mutual TLS, TLS 1.2 and later.

    Clients are trusted by the CAs in `client_cas_pem` (PEM, may be empty: then nobody is), each an anchor of its
    own: device CAs are intermediates, so OpenSSL needs VERIFY_X509_PARTIAL_CHAIN to stop at them. With `required`
    the handshake fails for a client without a certificate. Raises Error if a file cannot be used.
    """
    context = _mutual_tls(required=required)
    _present(context, cert, key)
    if client_cas_pem.strip():
        _trust(context, client_cas_pem, "the CA certificates")
    return context


def _mutual_tls(*, required: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    # Devices open one connection a request and never resume a session; a ticket costs 0.8 ms of CPU.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    return context


def _trust(context: ssl.SSLContext, certificates_pem: str, what: str) -> None:
    """Have `context` trust the certificates in the text, which may have comments of any kind around them."""
    try:
        context.load_verify_locations(cadata=certificate_blocks(certificates_pem, what))
    except (ValueError, OSError) as error:  # no block; a block that is not a certificate
        raise Error(f"{what}: expected certificates in PEM") from error


def _present(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Have `context` present the certificate, with its key. Raises Error."""
    for path in (cert, key):
        read(path)  # its error names the file, OpenSSL's would not
    try:
        # Without a password OpenSSL would ask the terminal for one.
        context.load_cert_chain(cert, key, password="")
    except (ValueError, OSError) as error:
        reason = getattr(error, "reason", None)
        if reason == "KEY_VALUES_MISMATCH":
            raise Error(f"{key} is not the key of {cert}") from error
        detail = f": {reason.replace('_', ' ').lower()}" if reason else ""
        raise Error(
            f"expected a certificate in PEM in {cert} and its unencrypted key in {key}{detail}"
        ) from error


def reloading_context(current: Callable[[], ssl.SSLContext | None], *, required: bool) -> ssl.SSLContext:
    """A server's context that asks `current` for the one to use at each handshake.

    So certificates and client CAs change without a restart. While `current` returns None, handshakes fail.
    `required` must be the same as for the contexts of `current`: OpenSSL takes the mode from this context.
    """
    context = _mutual_tls(required=required)

    def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> int | None:
        chosen = current()
        if chosen is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = chosen
        return None

    context.sni_callback = choose
    return context
