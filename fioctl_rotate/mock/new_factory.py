"""A new mocked Factory, with nothing set up in it."""

import datetime
import re
import secrets
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fioctl_rotate import files
from fioctl_rotate.errors import UsageError
from fioctl_rotate.hostname import host_name_fault
from fioctl_rotate.mock.store import accounts
from fioctl_rotate.mock.store.accounts import ADMIN, READ_ONLY, Account, FactoryRecord
from fioctl_rotate.mock.store.database import Store, initialize
from fioctl_rotate.pki import certificates, keys

_NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?")
_DEFAULT_ONLINE_CA = "default-online-ca"
_UNFINISHED = "unfinished:"


@dataclass(frozen=True)
class Addresses:
    """Where a mocked Factory is reached: ports, and the names in the certificates of EST server and gateway."""

    api_port: int = 8442
    gateway_port: int = 8444
    est_port: int = 8443
    gateway_name: str = "localhost"
    est_name: str = "localhost"


def check(factory: str, addresses: Addresses) -> None:
    """Raise UsageError where the factory's name or a host name is not valid."""
    if not _NAME.fullmatch(factory):
        raise UsageError(
            f"`{factory}` is not a valid Factory name", hint="letters, digits and inner hyphens, at most 63"
        )
    for host in (addresses.gateway_name, addresses.est_name):
        # The name becomes the certificate's CN, too, which has at most 64 characters (RFC 5280, ub-common-name).
        fault = host_name_fault(host) or ("longer than 64 characters" if len(host) > 64 else None)
        if fault:
            raise UsageError(
                f"`{host}` is not a valid DNS name: {fault}",
                hint="certificates name servers by DNS names, not by addresses",
            )


def create(
    directory: Path,
    factory: str,
    *,
    now: datetime.datetime,
    addresses: Addresses | None = None,
    unfinished: bool = False,
    random: Callable[[int], str] = secrets.token_hex,
) -> FactoryRecord:
    """Make `factory` in `directory`, which may hold others, with two users and a token file for each.

    With `unfinished` it counts as not ready until `finish` is called. `random(n)` gives n random bytes in
    hexadecimal. Raises UsageError: the factory's name is not valid or is taken, a host name is not a DNS name.
    """
    addresses = addresses or Addresses()
    check(factory, addresses)
    initialize(directory)
    with closing(Store(directory)) as store, store.transaction() as db:
        if accounts.find_factory(db, factory):
            raise UsageError(
                f"{directory} already has a factory {factory}",
                hint="choose another directory or another name",
            )
        root = certificates.make_root(keys.generate_key(), "default", now=now)
        accounts.keep_setting(db, _DEFAULT_ONLINE_CA, certificates.pem(root))
        if unfinished:
            accounts.keep_setting(db, f"{_UNFINISHED}{factory}", "")
        users = [
            (Account(random(12), ADMIN), "Mock Admin"),
            (Account(random(12), READ_ONLY), "Mock Reader"),
        ]
        accounts.add_factory(
            db,
            factory,
            reposerver_id=random(8),
            est_name=addresses.est_name,
            gateway_name=addresses.gateway_name,
            ports=(addresses.api_port, addresses.gateway_port, addresses.est_port),
            author=users[0][0].polis_id,
            now=now,
        )
        for account, name in users:
            token = random(20)
            accounts.add_user(db, factory, account, name=name, token=token)
            path = token_file(directory, factory, account.role)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            files.write_atomic(path, token.encode())
        return accounts.choose_factory(db, factory)


def find_unfinished(directory: Path, factory: str) -> FactoryRecord | None:
    """The factory of that name if it was created as unfinished and `finish` was not called; else None."""
    initialize(directory)
    with closing(Store(directory)) as store, store.reading() as db:
        begun = accounts.setting(db, f"{_UNFINISHED}{factory}") is not None
        return accounts.choose_factory(db, factory) if begun else None


def finish(directory: Path, factory: str) -> None:
    """Mark the factory as ready."""
    with closing(Store(directory)) as store, store.transaction() as db:
        accounts.forget_setting(db, f"{_UNFINISHED}{factory}")


def token_file(directory: Path, factory: str, role: str = ADMIN) -> Path:
    """The file (0600) with the token that has this role in the factory."""
    return directory / "tokens" / f"{factory}.{role}"


def default_online_ca(db: sqlite3.Connection) -> str:
    """The online CA of factories that have no PKI, PEM. No mocked device has a certificate of it."""
    return accounts.setting(db, _DEFAULT_ONLINE_CA) or ""
