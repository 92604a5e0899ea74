"""The factories of the mock, their users, and the users' tokens."""

import base64
import binascii
import datetime
import json
import sqlite3
from dataclasses import dataclass

from fioctl_rotate import wire
from fioctl_rotate.errors import UsageError
from fioctl_rotate.mock.problem import Problem
from fioctl_rotate.mock.store.database import stamp

ADMIN = "admin"
READ_ONLY = "readonly"


@dataclass(frozen=True)
class FactoryRecord:
    """A factory of the mock: its names and ports, and the certificates on file (PEM or None)."""

    name: str
    reposerver_id: str
    est_name: str
    gateway_name: str
    api_port: int
    gateway_port: int
    est_port: int
    root_crt: str | None
    ca_crt: str | None
    est_tls_crt: str | None
    tls_crt: str | None
    disabled_ca_serials: str
    certs_version: int
    created_at: str
    created_by: str
    updated_at: str | None
    updated_by: str | None
    api_host: str = "localhost"

    @property
    def gateway_url(self) -> str:
        """The URL at which its devices check in."""
        return f"https://{self.gateway_name}:{self.gateway_port}"

    @property
    def api_url(self) -> str:
        """The URL of its operator API."""
        return f"http://{self.api_host}:{self.api_port}"


@dataclass(frozen=True)
class Account:
    """A user of a factory, and the role that says what the user may do there."""

    polis_id: str
    role: str


Caller = dict[str, Account]
"""Who makes a request: the account in each factory that this user sees."""


def factories(db: sqlite3.Connection) -> list[FactoryRecord]:
    """All factories, in the order in which they were made."""
    return [FactoryRecord(**dict(row)) for row in db.execute("SELECT * FROM factory ORDER BY rowid")]


def find_factory(db: sqlite3.Connection, name: str) -> FactoryRecord | None:
    """The factory of that name, or None."""
    row = db.execute("SELECT * FROM factory WHERE name = ?", (name,)).fetchone()
    return FactoryRecord(**dict(row)) if row else None


def choose_factory(db: sqlite3.Connection, name: str | None) -> FactoryRecord:
    """The named factory, the first one where `name` is None; raises UsageError where there is none."""
    known = factories(db)
    for factory in known:
        if name in (None, factory.name):
            return factory
    raise UsageError(
        f"no factory {name} in this mock", hint=f"it has: {', '.join(factory.name for factory in known)}"
    )


def add_factory(
    db: sqlite3.Connection,
    name: str,
    *,
    reposerver_id: str,
    est_name: str,
    gateway_name: str,
    ports: tuple[int, int, int],
    author: str,
    now: datetime.datetime,
) -> None:
    """Add a factory with nothing set up. `ports` are those of operator API, gateway and EST server."""
    db.execute(
        "INSERT INTO factory (name, reposerver_id, est_name, gateway_name,"
        " api_port, gateway_port, est_port, created_at, created_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (name, reposerver_id, est_name, gateway_name, *ports, stamp(now), author),
    )


def add_user(db: sqlite3.Connection, factory: str, account: Account, *, name: str, token: str) -> None:
    """Add a user to a factory, with a token."""
    db.execute(
        "INSERT INTO account (polis_id, factory, name, role) VALUES (?, ?, ?, ?)",
        (account.polis_id, factory, name, account.role),
    )
    db.execute(
        "INSERT INTO token (value, factory, polis_id, role) VALUES (?, ?, ?, ?)",
        (token, factory, account.polis_id, account.role),
    )


def keep_ports(db: sqlite3.Connection, factory: str, ports: tuple[int, int, int]) -> None:
    """Keep the ports of operator API, gateway and EST server."""
    db.execute(
        "UPDATE factory SET api_port = ?, gateway_port = ?, est_port = ? WHERE name = ?", (*ports, factory)
    )


@dataclass(frozen=True)
class Certificates:
    """A factory's certificates (PEM or None) and the serials (base 10) of its disabled device CAs."""

    root_crt: str | None
    ca_crt: str | None
    tls_crt: str | None
    est_tls_crt: str | None
    disabled_ca_serials: set[str]


def keep_certificates(
    db: sqlite3.Connection,
    factory: str,
    certificates: Certificates,
    *,
    author: str,
    now: datetime.datetime,
) -> None:
    """Replace the certificates on file. Running servers notice the new `certs_version`."""
    db.execute(
        "UPDATE factory SET root_crt = ?, ca_crt = ?, tls_crt = ?, est_tls_crt = ?, disabled_ca_serials = ?,"
        " certs_version = certs_version + 1, updated_at = ?, updated_by = ? WHERE name = ?",
        (
            certificates.root_crt,
            certificates.ca_crt,
            certificates.tls_crt,
            certificates.est_tls_crt,
            json.dumps(sorted(certificates.disabled_ca_serials)),
            stamp(now),
            author,
            factory,
        ),
    )


def keep_setting(db: sqlite3.Connection, name: str, value: str) -> None:
    """Keep a setting of the whole mock, unless it already has one."""
    db.execute("INSERT OR IGNORE INTO setting (name, value) VALUES (?, ?)", (name, value))


def setting(db: sqlite3.Connection, name: str) -> str | None:
    """The setting of that name, or None."""
    row = db.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
    return str(row["value"]) if row else None


def forget_setting(db: sqlite3.Connection, name: str) -> None:
    """Delete a setting if it exists."""
    db.execute("DELETE FROM setting WHERE name = ?", (name,))


def identify(db: sqlite3.Connection, token: str | None, authorization: str | None) -> Caller:
    """Whose token it is: `OSF-TOKEN` first, then `Authorization: Bearer <base64(access token)>`.

    Raises Problem (401) where neither is a token of this mock.
    """
    for value in (token, _bearer(authorization)):
        rows = db.execute("SELECT * FROM token WHERE value = ?", (value,)).fetchall() if value else []
        if rows:
            return {row["factory"]: Account(row["polis_id"], row["role"]) for row in rows}
    raise Problem(401, "the token is missing or not known")


def administrator(db: sqlite3.Connection) -> Caller:
    """The administrator of every factory, which a process that can read the mock's directory may be."""
    rows = db.execute("SELECT factory, polis_id FROM account WHERE role = ? ORDER BY rowid DESC", (ADMIN,))
    return {row["factory"]: Account(row["polis_id"], ADMIN) for row in rows}


def users(db: sqlite3.Connection, factory: str) -> list[wire.User]:
    """The factory's users."""
    rows = db.execute("SELECT * FROM account WHERE factory = ? ORDER BY rowid", (factory,))
    return [wire.User(polis_id=row["polis_id"], name=row["name"], role=row["role"]) for row in rows]


def user(db: sqlite3.Connection, factory: str, polis_id: str) -> wire.User:
    """One user, with teams and scopes; raises Problem (404)."""
    for found in users(db, factory):
        if found.polis_id == polis_id:
            read_only = found.role == READ_ONLY
            found.teams_ext = []
            found.effective_scopes = [
                scope
                for area in ("ci", "containers", "devices", "source", "targets")
                for scope in ([f"{area}:read"] if read_only else [f"{area}:read", f"{area}:read-update"])
            ]
            return found
    raise Problem(404, f"no user {polis_id}")


def _bearer(authorization: str | None) -> str | None:
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
