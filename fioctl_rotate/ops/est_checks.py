"""Checks before a push: the EST server as devices see it, and certificates that end too soon."""

import contextlib
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from cryptography import x509

from fioctl_rotate import files, wire
from fioctl_rotate.checks import Check, Status
from fioctl_rotate.errors import Error, Refused
from fioctl_rotate.est.probe import REACHABLE, probe
from fioctl_rotate.pki.certificates import years_later
from fioctl_rotate.pki.parsing import dns_names, load_bundle
from fioctl_rotate.rotation.plan import Plan

# How long a new device certificate lives: from the managed EST server, and from estserver by default.
_MANAGED_YEARS, _OWN_YEARS = 1, 3


async def est_checks(plan: Plan, certs: wire.Certs, now: datetime, timeout: float) -> list[Check]:
    """The EST server, asked as a device asks it; each attempt to connect may take `timeout` seconds.

    If it cannot be reached from here, the check fails: a device that cannot reach it is wedged.
    """
    roots = load_bundle(certs.root_crt, "the Factory's root")
    if not roots:
        return [Check("est", Status.FAIL, "cannot be checked: the Factory has no root certificate")]
    found = await probe(plan.entry.est_server, roots, now=now, timeout=timeout)
    idle = _mock_that_is_not_served(plan) if found[0].status is Status.FAIL else None
    if found[0].name == REACHABLE and idle:
        text = f"`fioctl-rotate mock serve {idle}` is not running: no device can fetch the entry either"
        found = [Check(REACHABLE, Status.WARN, text)]
    return [Check(f"est-{check.name}", check.status, check.message) for check in found]


def _mock_that_is_not_served(plan: Plan) -> Path | None:
    """The mock's directory, if the plan's EST server is the mock's own and nothing serves it."""
    mock = plan.server.removeprefix("mock ")
    if mock == plan.server:
        return None
    from fioctl_rotate.mock.mock_server import serving_lock
    from fioctl_rotate.mock.store import accounts
    from fioctl_rotate.mock.store.database import Store

    directory = Path(mock)
    try:
        with contextlib.closing(Store(directory)) as store, store.reading() as db:
            factory = accounts.choose_factory(db, plan.factory)
        if (factory.est_name, factory.est_port) != (plan.entry.host, plan.entry.port):
            return None
        with files.locked(serving_lock(directory, factory.name), Refused("served")):
            return directory
    except Error:
        return None


def lifetimes(plan: Plan, certs: wire.Certs, now: datetime) -> Iterable[Check]:
    """A check for certificates that end before the new device certificates would."""
    est = load_bundle(certs.est_tls_crt, "the EST TLS certificate")
    managed = any(plan.entry.host in dns_names(certificate) for certificate in est)
    years = _MANAGED_YEARS if managed else _OWN_YEARS
    until = years_later(now, years)
    short = [
        f"the EST server's on {c.not_valid_after_utc:%Y-%m-%d}" for c in est if managed and _ends(c, until)
    ]
    authorities = load_bundle(certs.ca_crt, "the Factory's device CAs")
    short += [
        f"device CA {c.subject.rfc4514_string()} on {c.not_valid_after_utc:%Y-%m-%d}"
        for c in authorities
        if _ends(c, until)
    ]
    term = f"{years} year{'s' if years > 1 else ''}"
    if not authorities:
        yield Check("lifetimes", Status.WARN, "not checked: the Factory has no device CAs on file")
    elif all(_ends(c, now) for c in authorities):
        yield Check(
            "lifetimes",
            Status.FAIL,
            "every device CA has expired: the gateway would accept no new certificate",
        )
    elif short:
        yield Check(
            "lifetimes",
            Status.WARN,
            f"a new device certificate is valid for {term}, but these end before it: {'; '.join(short)}",
        )
    else:
        yield Check("lifetimes", Status.PASS, f"EST and device CA certificates outlive a new one's {term}")


def _ends(certificate: x509.Certificate, until: datetime) -> bool:
    return certificate.not_valid_after_utc < until
