"""Make a mocked Factory that is ready to rotate, serve it, and read its event queue."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fioctl_rotate import files
from fioctl_rotate.clock import Clock, utc_now
from fioctl_rotate.device.new_device import Kind
from fioctl_rotate.errors import UsageError
from fioctl_rotate.est.server import LogRecord
from fioctl_rotate.mock import new_factory
from fioctl_rotate.mock.est_faults import EstFault
from fioctl_rotate.mock.mock_server import DEFAULT_SERVING, Ports, Serving, serve_factory
from fioctl_rotate.mock.new_factory import Addresses, token_file
from fioctl_rotate.mock.store import accounts, event_queue
from fioctl_rotate.mock.store.accounts import FactoryRecord
from fioctl_rotate.mock.store.database import Store
from fioctl_rotate.ops.connect import open_api
from fioctl_rotate.ops.mock_fleet import Say, make_devices, move_devices, numbered
from fioctl_rotate.ops.mock_making import begun, claimed, in_directory, pki_path, set_up, suffix
from fioctl_rotate.ops.targets import find_group
from fioctl_rotate.pki.directory import PkiDirectory

__all__ = ["Addresses", "EstFault", "FactoryRecord", "Kind", "LogRecord", "Ports", "Serving", "token_file"]


@dataclass(frozen=True)
class MadeFactory:
    """A mocked Factory as it was made: `pki` is None for a bare one, `devices` has names by uuid."""

    factory: FactoryRecord
    pki: Path | None
    group: str | None
    devices: dict[str, str]


async def init(
    directory: Path,
    factory_name: str,
    *,
    addresses: Addresses,
    group: str | None = None,
    devices: int = 0,
    kinds: Callable[[int], Kind] = lambda _number: Kind(),
    bare: bool = False,
    clock: Clock = utc_now,
    say: Say = lambda _text: None,
) -> MadeFactory:
    """Make a mocked Factory in `directory`, ready to rotate: PKI, EST authorized, `devices` registered and seen.

    A `bare` one has none of that. Ports of `addresses` that are 0 become free ones. `kinds` gives the kind of the
    first, second, … device. After an interruption, run it again: it continues. Raises UsageError where the Factory
    cannot be made, or exists already; Refused where `directory` holds what no `init` has made.
    """
    if bare and (group or devices):
        raise UsageError(
            "a bare Factory has no groups and devices", hint="leave out --bare, or --group and --devices"
        )
    new_factory.check(factory_name, addresses)
    with claimed(directory):
        factory = begun(directory, factory_name, addresses, clock=clock, bare=bare)
        if bare:
            return MadeFactory(factory, None, None, {})
        async with open_api(in_directory(directory, factory_name)) as api:
            pki = await set_up(api, directory, factory, clock=clock, say=say)
            if group and group not in [known.name for known in await api.groups()]:
                await api.create_group(group)
            made = {device.uuid: device.name for device in await api.devices({})}
        missing = max(0, devices - len(made))
        wanted = numbered(directory, factory_name, missing, group=group, kinds=kinds, now=clock())
        made |= make_devices(directory, factory, pki, wanted, clock=clock, say=say)
        new_factory.finish(directory, factory_name)
    return MadeFactory(factory, pki.path, group, made)


async def add_devices(
    directory: Path,
    factory_name: str | None,
    *,
    group: str | None,
    devices: int,
    kinds: Callable[[int], Kind] = lambda _number: Kind(),
    clock: Clock = utc_now,
    say: Say = lambda _text: None,
) -> MadeFactory:
    """Make and register `devices` more devices in a Factory (the first unless named) that has a PKI directory.

    Raises Error where the Factory has no PKI directory with a local CA, or no such group.
    """
    with contextlib.closing(Store(directory)) as store, store.reading() as db:
        factory = accounts.choose_factory(db, factory_name)
    pki = PkiDirectory(pki_path(directory, factory.name))
    async with open_api(in_directory(directory, factory.name)) as api:
        if group is not None:
            await find_group(api, group)
    wanted = numbered(directory, factory.name, devices, group=group, kinds=kinds, now=clock())
    made = make_devices(directory, factory, pki, wanted, clock=clock, say=say)
    return MadeFactory(factory, pki.path, group, made)


@contextlib.asynccontextmanager
async def serve(
    directory: Path,
    factory_name: str | None = None,
    serving: Serving = DEFAULT_SERVING,
) -> AsyncIterator[FactoryRecord]:
    """Serve a mocked Factory while the block runs; writes `fioctl_config`, with which the real fioctl reaches it.

    Simulated devices follow the gateway to its port. Raises Error as `mock_server.serve_factory` does.
    """
    async with serve_factory(directory, factory_name, serving) as factory:
        move_devices(directory, factory)
        token = token_file(directory, factory.name).read_text()
        # fioctl takes a file for YAML by the ending of its name.
        text = f'factory: "{factory.name}"\ntoken: "{token}"\nserver:\n  url: "{factory.api_url}"\n'
        files.write_atomic(fioctl_config(directory, factory.name), text.encode())
        yield factory


def queue(directory: Path, factory_name: str | None = None) -> list[tuple[str, dict[str, Any]]]:
    """The event queue of a factory (the first unless named), oldest first: type and body. Raises Error."""
    with contextlib.closing(Store(directory)) as store, store.reading() as db:
        return event_queue.queue(db, accounts.choose_factory(db, factory_name).name)


def fioctl_config(directory: Path, factory: str) -> Path:
    """The settings file for the real fioctl: `fioctl.yaml`, or `fioctl-NAME.yaml` for a factory that came later."""
    return directory / f"fioctl{suffix(directory, factory)}.yaml"
