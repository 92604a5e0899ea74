"""A mocked Factory: made ready to rotate, served, and its event queue read."""

import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography import x509

from fioctl_rotate import files
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.clock import Clock, utc_now
from fioctl_rotate.device.identity import Sota
from fioctl_rotate.device.new_device import Kind, create_device
from fioctl_rotate.device.runner import device_directories
from fioctl_rotate.errors import Error, UsageError
from fioctl_rotate.est.server import LogRecord
from fioctl_rotate.mock import new_factory
from fioctl_rotate.mock.mock_server import KEPT_PORTS, Ports, serve_factory
from fioctl_rotate.mock.new_factory import Addresses, token_file
from fioctl_rotate.mock.store import accounts, device_records, event_queue
from fioctl_rotate.mock.store.accounts import FactoryRecord
from fioctl_rotate.mock.store.database import Store
from fioctl_rotate.ops.ceremony import create_pki
from fioctl_rotate.ops.connect import open_api
from fioctl_rotate.ops.est_authorization import authorize_est
from fioctl_rotate.ops.targets import find_group
from fioctl_rotate.pki import certificates
from fioctl_rotate.pki.directory import LOCAL_CA, PkiDirectory
from fioctl_rotate.pki.parsing import load_private_key
from fioctl_rotate.serving import listen
from fioctl_rotate.settings import Flags, resolve

__all__ = ["Addresses", "FactoryRecord", "Kind", "LogRecord", "Ports", "token_file"]

TARGET = ("intel-corei7-64-lmp-1", 1)
"""Name and version of what the mock's devices run; a target's name ends with its version."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Made:
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
    tell: Tell = lambda _text: None,
) -> Made:
    """Make a mocked Factory in `directory`, ready to rotate: PKI, EST authorized, `devices` registered and seen.

    A `bare` one has none of that. Ports of `place` that are 0 become free ones. `kinds` tells what kind of device
    the first, second, … is. Raises UsageError where it cannot be made, or exists already.
    """
    if bare and (group or devices):
        raise UsageError(
            "a bare Factory has no groups and devices", hint="leave out --bare, or --group and --devices"
        )
    factory = new_factory.create(directory, factory_name, now=clock(), addresses=_with_free_ports(addresses))
    if bare:
        return Made(factory, None, None, {})
    pki = PkiDirectory(pki_path(directory, factory_name))
    settings = resolve(Flags(factory=factory_name, mock=str(directory)), {})
    async with open_api(settings) as api:
        tell(f"creating the PKI in {pki.path}")
        await create_pki(api, pki, now=clock)
        tell("authorizing the EST server")
        await authorize_est(api, pki, now=clock)
        if group:
            await api.create_group(group)
        made = await _make_devices(api, directory, factory, pki, group, devices, kinds, clock, tell)
    return Made(factory, pki.path, group, made)


async def add_devices(
    directory: Path,
    factory_name: str | None,
    *,
    group: str | None,
    devices: int,
    kinds: Callable[[int], Kind] = lambda _number: Kind(),
    clock: Clock = utc_now,
    tell: Tell = lambda _text: None,
) -> Made:
    """Make and register `devices` more in a Factory (the first unless named) whose PKI `keys ca create` made.

    Raises Error where the Factory has no PKI directory with a local CA, or no such group.
    """
    with contextlib.closing(Store(directory)) as store, store.reading() as db:
        factory = accounts.choose_factory(db, factory_name)
    pki = PkiDirectory(pki_path(directory, factory.name))
    if not (pki.path / LOCAL_CA).exists():
        raise Error(
            f"{pki.path} has no {LOCAL_CA}, which signs for the mock's devices",
            hint=f"`fioctl-rotate keys ca create {pki.path}` makes it",
        )
    settings = resolve(Flags(factory=factory.name, mock=str(directory)), {})
    async with open_api(settings) as api:
        if group is not None:
            await find_group(api, group)
        made = await _make_devices(api, directory, factory, pki, group, devices, kinds, clock, tell)
    return Made(factory, pki.path, group, made)


@contextlib.asynccontextmanager
async def serve(
    directory: Path,
    factory_name: str | None = None,
    *,
    host: str = "127.0.0.1",
    ports: Ports = KEPT_PORTS,
    clock: Clock = utc_now,
    log: Callable[[LogRecord], None] = lambda _record: None,
) -> AsyncIterator[FactoryRecord]:
    """Serve a mocked Factory while the block runs; writes `fioctl_config`, with which the real fioctl reaches it.

    Simulated devices follow the gateway to its port. Raises Error as `mock_server.serve_factory` does.
    """
    async with serve_factory(
        directory, factory_name, host=host, ports=ports, clock=clock, log=log
    ) as factory:
        _move_devices(directory, factory)
        token = token_file(directory, factory.name).read_text()
        # fioctl reads a file as YAML by its name's ending. JSON's strings are YAML's too.
        text = f'factory: "{factory.name}"\ntoken: "{token}"\nserver:\n  url: "{factory.api_url}"\n'
        files.write_atomic(fioctl_config(directory, factory.name), text.encode())
        yield factory


def queue(directory: Path, factory_name: str | None = None) -> list[tuple[str, dict[str, Any]]]:
    """The event queue of a factory (the first unless named), oldest first: type and body. Raises Error."""
    with contextlib.closing(Store(directory)) as store, store.reading() as db:
        return event_queue.queue(db, accounts.choose_factory(db, factory_name).name)


def pki_path(directory: Path, factory: str) -> Path:
    """The operator's PKI directory of a mocked factory: `pki`, or `pki-NAME` for one that came later."""
    return directory / f"pki{_suffix(directory, factory)}"


def fioctl_config(directory: Path, factory: str) -> Path:
    """The settings file for the real fioctl: `fioctl.yaml`, or `fioctl-NAME.yaml` for a factory that came later."""
    return directory / f"fioctl{_suffix(directory, factory)}.yaml"


def _suffix(directory: Path, factory: str) -> str:
    with contextlib.closing(Store(directory)) as store, store.reading() as db:
        first = accounts.choose_factory(db, None).name == factory
    return "" if first else f"-{factory}"


async def _make_devices(
    api: FactoryApi,
    directory: Path,
    factory: FactoryRecord,
    pki: PkiDirectory,
    group: str | None,
    count: int,
    kinds: Callable[[int], Kind],
    clock: Clock,
    tell: Tell,
) -> dict[str, str]:
    made: dict[str, str] = {}
    if not count:
        return made
    tell(f"registering {count} devices")
    root_pem = certificates.pem(pki.root_certificate(factory.name, now=clock()))
    ca = x509.load_pem_x509_certificate((pki.path / LOCAL_CA).read_bytes())
    key_path = (pki.path / LOCAL_CA).with_suffix(".key")
    ca_key = load_private_key(key_path.read_bytes(), name=str(key_path))
    known = await api.device_count()
    width = len(str(known + count))
    with contextlib.closing(Store(directory)) as store:
        for number in range(known + 1, known + count + 1):
            device, kind = str(uuid.uuid4()), kinds(number - known)
            certificate = create_device(
                directory / "devices" / device,
                subject=certificates.name(device, factory.name),
                gateway=factory.gateway_url,
                root_pem=root_pem,
                ca=ca,
                ca_key=ca_key,
                now=clock(),
                kind=kind,
                target=TARGET,
            )
            name = f"device-{number:0{width}}"
            await api.register_device(certificates.pem(certificate), name=name, group=group)
            with store.transaction() as db:
                row = device_records.find_device(db, factory.name, device, by_uuid=True)
                device_records.report(db, device, lmp_ver=str(kind.lmp), target_name=TARGET[0], tag="main")
                device_records.see_device(db, row, clock())
            made[device] = name
    return made


def _with_free_ports(addresses: Addresses) -> Addresses:
    """The place with free ports where it says 0. They are found together, so that they differ."""
    with contextlib.ExitStack() as stack:

        def found(port: int) -> int:
            return port or int(stack.enter_context(listen("127.0.0.1", 0)).getsockname()[1])

        return replace(
            addresses,
            api_port=found(addresses.api_port),
            gateway_port=found(addresses.gateway_port),
            est_port=found(addresses.est_port),
        )


def _move_devices(directory: Path, factory: FactoryRecord) -> None:
    """Have the simulated devices of the factory use the gateway's present address."""
    with contextlib.closing(Store(directory)) as store, store.reading() as db:
        uuids = device_records.uuids(db, factory.name)
    for path in device_directories(directory / "devices", uuids):
        # A damaged directory is named by `mock devices`.
        with contextlib.suppress(Error):
            sota = Sota(path / "sota.toml")
            if sota.text("tls.server") != factory.gateway_url:
                sota.update({"tls.server": factory.gateway_url})
