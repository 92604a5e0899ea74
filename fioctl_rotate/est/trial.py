"""Tries a re-enrollment as a device does it, to see which devices would succeed."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from fioctl_rotate.checks import Check, Status
from fioctl_rotate.errors import Error
from fioctl_rotate.est.client import Answer, accepted, build_csr, decode_certificates, send
from fioctl_rotate.pki.certificates import pem
from fioctl_rotate.pki.keys import generate_key
from fioctl_rotate.rotation.entry import reenroll_url
from fioctl_rotate.tls import client_context

REENROLL, NEW_DEVICES, OLD_DEVICES, ISSUER = "reenroll", "lmp-97", "lmp-90", "issuer"

_KINDS = (
    (NEW_DEVICES, "devices with LmP 97 and later", False),
    # fioconfig before 2026-02
    (OLD_DEVICES, "devices with LmP 90 to 96", True),
)


@dataclass(frozen=True)
class DevicePair:
    """A device's certificate and private key, each in a PEM file."""

    certificate: x509.Certificate
    certificate_file: Path
    key_file: Path


@dataclass(frozen=True)
class Trial:
    """How a re-enrollment ended; `issued` is the new certificate where one came."""

    checks: Sequence[Check]
    issued: x509.Certificate | None = None


async def try_reenrollment(
    url: str,
    roots: Sequence[x509.Certificate],
    identity: DevicePair,
    authorities: Sequence[x509.Certificate],
    *,
    timeout: float = 30.0,
) -> Trial:
    """Re-enroll at `url` (ESTSERVER's value) as `identity` with a new key, trusting `roots` alone: as fioconfig.

    The result has one check for each of REENROLL, NEW_DEVICES and OLD_DEVICES. With a new certificate and
    `authorities`, the Factory's device CAs, it also has ISSUER. Where no answer came in `timeout` seconds
    (fioconfig waits 30), it has only REENROLL. Raises Error where `identity` is not usable.
    """
    key = generate_key()
    context = client_context(pem(*roots), cert=identity.certificate_file, key=identity.key_file)
    body = build_csr(key, identity.certificate)
    try:
        answer = await send("POST", reenroll_url(url), context=context, content=body, deadline=timeout)
    except Error as error:
        return Trial([Check(REENROLL, Status.FAIL, f"no certificate: {error.message}")])
    issued = _issued(answer)
    checks = [_reenroll(answer, issued), *_devices(answer, identity.certificate)]
    if issued is not None:
        if issued.public_key() != key.public_key():
            checks.append(Check(ISSUER, Status.FAIL, "the new certificate has another key than the CSR"))
        elif authorities:
            checks.append(_issuer(issued, authorities))
    return Trial(checks, issued)


def _issued(answer: Answer) -> x509.Certificate | None:
    with contextlib.suppress(Error):
        if answer.status in (200, 201):
            return decode_certificates(b"".join(answer.body.split()))[0]
    return None


def _reenroll(answer: Answer, issued: x509.Certificate | None) -> Check:
    if issued is not None:
        return Check(
            REENROLL,
            Status.PASS,
            f"a certificate was issued: serial {issued.serial_number:x},"
            f" valid until {issued.not_valid_after_utc:%Y-%m-%d}",
        )
    message = f"no certificate: the EST server answers {answer.status}: {answer.text}".rstrip(": ")
    if 300 <= answer.status < 400:
        message += "; devices would follow the redirect, this check does not: check the URL that it leads to"
    return Check(REENROLL, Status.FAIL, message)


def _devices(answer: Answer, current: x509.Certificate) -> list[Check]:
    """A check for each kind of device: would it accept the answer? FAIL where no kind would, else WARN."""
    faults: dict[str, str | None] = {}
    for name, _, only_201 in _KINDS:
        try:
            accepted(answer, current, only_201=only_201)
            faults[name] = None
        except Error as error:
            faults[name] = error.message
    refused = Status.FAIL if all(faults.values()) else Status.WARN
    return [
        Check(name, Status.PASS, f"{devices} would rotate")
        if faults[name] is None
        else Check(name, refused, f"{devices} would not rotate: {faults[name]}")
        for name, devices, _ in _KINDS
    ]


def _issuer(issued: x509.Certificate, authorities: Sequence[x509.Certificate]) -> Check:
    for authority in authorities:
        with contextlib.suppress(ValueError, TypeError, InvalidSignature):  # another name, key or signature
            issued.verify_directly_issued_by(authority)
            return Check(ISSUER, Status.PASS, f"signed by {authority.subject.rfc4514_string()}")
    return Check(
        ISSUER,
        Status.FAIL,
        f"signed by {issued.issuer.rfc4514_string()}, which is not one of the Factory's device CAs:"
        " the gateway would refuse the device",
    )
