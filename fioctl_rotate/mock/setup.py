"""A new mocked Factory, with nothing set up in it."""

import datetime
import re
import secrets
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fioctl_rotate import files
from fioctl_rotate.errors import UsageError
from fioctl_rotate.mock.accounts import ADMIN, READ_ONLY, Factory, choose_factory, find_factory
from fioctl_rotate.mock.store import Store, initialize, stamp
from fioctl_rotate.pki import certificates, keys

_NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?")
# RFC 1123 §2.1; a last label with a letter in it tells a name from an address.
_HOST = re.compile(rf"({_NAME.pattern}\.)*(?=[0-9-]*[a-zA-Z])({_NAME.pattern})")
_DEFAULT_ONLINE_CA = "default-online-ca"


@dataclass(frozen=True)
class Place:
    """Where a mocked Factory is reached: ports, and the names in the certificates of EST server and gateway."""

    api_port: int = 8442
    gateway_port: int = 8444
    est_port: int = 8443
    gateway_name: str = "localhost"
    est_name: str = "localhost"


def create(
    directory: Path,
    factory: str,
    *,
    now: datetime.datetime,
    place: Place | None = None,
    random: Callable[[int], str] = secrets.token_hex,
) -> Factory:
    """Make `factory` in `directory`, which may hold others, with two users and a token file for each.

    `random` gives that many random bytes in hexadecimal. Raises UsageError: the name is none or is taken, a
    host's is no DNS name.
    """
    if not _NAME.fullmatch(factory):
        raise UsageError(
            f"{factory!r} is no name for a factory", hint="letters, digits and inner hyphens, at most 63"
        )
    place = place or Place()
    for host in (place.gateway_name, place.est_name):
        # The name is its certificate's CN too, which has at most 64 characters (RFC 5280, ub-common-name).
        if not _HOST.fullmatch(host) or len(host) > 64:
            raise UsageError(
                f"{host!r} is no DNS name", hint="certificates name servers by DNS names, not by addresses"
            )
    initialize(directory)
    store = Store(directory)
    try:
        with store.transaction() as db:
            if find_factory(db, factory):
                raise UsageError(
                    f"{directory} has a factory {factory} already",
                    hint="choose another directory or another name",
                )
            _keep_default_online_ca(db, now)
            polis_ids = {ADMIN: random(12), READ_ONLY: random(12)}
            db.execute(
                "INSERT INTO factory (name, reposerver_id, est_name, gateway_name,"
                " api_port, gateway_port, est_port, created_at, created_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    factory,
                    random(8),
                    place.est_name,
                    place.gateway_name,
                    place.api_port,
                    place.gateway_port,
                    place.est_port,
                    stamp(now),
                    polis_ids[ADMIN],
                ),
            )
            for role, name in ((ADMIN, "Mock Admin"), (READ_ONLY, "Mock Reader")):
                token = random(20)
                db.execute(
                    "INSERT INTO account (polis_id, factory, name, role) VALUES (?, ?, ?, ?)",
                    (polis_ids[role], factory, name, role),
                )
                db.execute(
                    "INSERT INTO token (value, factory, polis_id, role) VALUES (?, ?, ?, ?)",
                    (token, factory, polis_ids[role], role),
                )
                path = token_file(directory, factory, role)
                path.parent.mkdir(mode=0o700, exist_ok=True)
                files.write_atomic(path, token.encode())
            return choose_factory(db, factory)
    finally:
        store.close()


def token_file(directory: Path, factory: str, role: str = ADMIN) -> Path:
    """The file with the token (0600) that has this role in the factory."""
    return directory / "tokens" / f"{factory}.{role}"


def default_online_ca(db: sqlite3.Connection) -> str:
    """The online CA of factories that have no PKI, PEM. No mocked device has a certificate of it."""
    row = db.execute("SELECT value FROM setting WHERE name = ?", (_DEFAULT_ONLINE_CA,)).fetchone()
    return str(row["value"])


def _keep_default_online_ca(db: sqlite3.Connection, now: datetime.datetime) -> None:
    certificate = certificates.make_root(keys.generate_key(), "default", now=now)
    db.execute(
        "INSERT OR IGNORE INTO setting (name, value) VALUES (?, ?)",
        (_DEFAULT_ONLINE_CA, certificates.pem(certificate)),
    )
