"""A copy of a mocked Factory, with ports of its own, to be spoiled without harm to the first."""

import contextlib
import shutil
from pathlib import Path

from fioctl_rotate.errors import Error, message_of
from fioctl_rotate.mock import authority
from fioctl_rotate.mock.store import accounts, config_levels
from fioctl_rotate.mock.store.accounts import FactoryRecord
from fioctl_rotate.mock.store.database import Store, copy_state


def copy_factory(source: Path, target: Path, factory: str, ports: tuple[int, int, int]) -> FactoryRecord:
    """Copy the state in `source`, and the keys of its servers, into the new directory `target`; the factory there.

    `ports` are those of operator API, gateway and EST server; each ESTSERVER of its own gets the new one. Devices
    are not copied. Raises Error.
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
    """How an ESTSERVER of the factory's own EST server begins."""
    return f"https://{factory.est_name}:{factory.est_port}/"
