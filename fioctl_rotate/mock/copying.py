"""A copy of a mocked Factory with its own ports: what happens in it cannot harm the original."""

import contextlib
import shutil
from pathlib import Path

from fioctl_rotate.errors import Error, message_of
from fioctl_rotate.mock import authority
from fioctl_rotate.mock.store import accounts, config_levels
from fioctl_rotate.mock.store.accounts import FactoryRecord
from fioctl_rotate.mock.store.database import Store, copy_state


def copy_factory(source: Path, target: Path, factory: str, ports: tuple[int, int, int]) -> FactoryRecord:
    """Copy the state in `source` and the keys of its servers into the new directory `target`; returns the copy.

    `ports` are the copy's: operator API, gateway, EST server. Each ESTSERVER that names the factory's own EST
    server gets the new port. The devices' directories are not copied. Raises Error.
    """
    try:
        target.mkdir(mode=0o700, parents=True)
        copy_state(source, target)
        keys = authority.keys_directory(source, factory)
        shutil.copytree(keys, authority.keys_directory(target, factory))
    except (OSError, shutil.Error) as error:
        raise Error(message_of(error) if isinstance(error, OSError) else str(error)) from error
    with contextlib.closing(Store(target)) as store, store.transaction() as db:
        old = accounts.choose_factory(db, factory)
        accounts.keep_ports(db, factory, ports)
        new = accounts.choose_factory(db, factory)
        config_levels.replace_text(db, est_origin(old), est_origin(new))
    return new


def est_origin(factory: FactoryRecord) -> str:
    """The beginning of each ESTSERVER that names the factory's own EST server: `https://HOST:PORT/`."""
    return f"https://{factory.est_name}:{factory.est_port}/"
