"""The client's certificate where a proxy ends TLS: it is read from one header and verified here."""

import base64
import binascii
import datetime
from collections.abc import Callable, Sequence
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID
from starlette.requests import Request

from fioctl_rotate.errors import Error
from fioctl_rotate.est.server import ClientOf
from fioctl_rotate.est.service import EstError
from fioctl_rotate.pki.parsing import load_certificate, load_certificate_der

RFC9440_HEADER = "client-cert"


def client_from_header(
    header: str, authorities: Callable[[], Sequence[x509.Certificate]], clock: Callable[[], datetime.datetime]
) -> ClientOf:
    """A function that finds the client's certificate in `header`, and verifies it against `authorities`.

    The header `Client-Cert` has the form of RFC 9440, any other one PEM with percent escapes (nginx:
    `$ssl_client_escaped_cert`, Envoy: `%DOWNSTREAM_PEER_CERT%`). An empty header means that the client sent no
    certificate. The proxy must verify that the client has the key, and must overwrite this header in each request.
    """

    def client_of(request: Request) -> x509.Certificate | None:
        values = request.headers.getlist(header)
        if len(values) > 1:
            raise EstError(f"expected one header {header}, got {len(values)}")
        if not values or not values[0].strip():
            return None
        certificate = _certificate(values[0].strip(), header)
        _verify(certificate, authorities(), clock())
        return certificate

    return client_of


def _certificate(value: str, header: str) -> x509.Certificate:
    what = f"the client certificate in the header {header}"
    try:
        if header.lower() != RFC9440_HEADER:
            return load_certificate(unquote_to_bytes(value), what)
        # RFC 9440 §2.1: a byte sequence of RFC 8941 §3.3.5, base64 between colons.
        if len(value) < 2 or not value[0] == value[-1] == ":":
            raise Error(f"{what} is not base64 between colons (RFC 9440)")
        return load_certificate_der(base64.b64decode(value[1:-1], validate=True), what)
    except binascii.Error as error:
        raise EstError(f"{what} is not base64") from error
    except Error as error:
        raise EstError(error.message) from error


def _verify(
    certificate: x509.Certificate, authorities: Sequence[x509.Certificate], now: datetime.datetime
) -> None:
    """Raises EstError unless one of `authorities` issued the certificate for TLS clients, and it is valid `now`."""
    if certificate.not_valid_after_utc < now:
        raise EstError(
            f"the client certificate is refused: expired on {certificate.not_valid_after_utc:%Y-%m-%d}", 403
        )
    verifier = (
        verification.PolicyBuilder()
        .store(verification.Store(list(authorities)))
        .time(now)
        .extension_policies(
            # The authorities are chosen by hand, as `--client-cas`; the default policy wants a SAN in the leaf,
            # which devices do not have.
            ca_policy=verification.ExtensionPolicy.permit_all().require_present(
                x509.BasicConstraints, verification.Criticality.AGNOSTIC, None
            ),
            ee_policy=verification.ExtensionPolicy.permit_all().require_present(
                x509.ExtendedKeyUsage, verification.Criticality.AGNOSTIC, _for_clients
            ),
        )
        .build_client_verifier()
    )
    try:
        verifier.verify(certificate, [])
    except verification.VerificationError as error:
        reason = str(error).partition(" (encountered")[0]  # the rest repeats the certificate
        raise EstError(f"the client certificate is refused: {reason}", 403) from error


def _for_clients(
    _policy: verification.Policy, _certificate: x509.Certificate, usage: x509.ExtendedKeyUsage
) -> None:
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise ValueError("it is not for TLS clients")
