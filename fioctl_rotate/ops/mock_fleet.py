"""The simulated devices of a mocked Factory: made and registered, and moved along with its gateway."""

import contextlib
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from fioctl_rotate import files
from fioctl_rotate.clock import Clock
from fioctl_rotate.device.identity import Sota
from fioctl_rotate.device.new_device import Kind, create_device
from fioctl_rotate.device.runner import device_directories
from fioctl_rotate.errors import Error, Refused, message_of
from fioctl_rotate.mock import authority
from fioctl_rotate.mock.store import accounts, device_records
from fioctl_rotate.mock.store.accounts import FactoryRecord
from fioctl_rotate.mock.store.database import Store
from fioctl_rotate.pki import certificates
from fioctl_rotate.pki.directory import LOCAL_CA, PkiDirectory
from fioctl_rotate.pki.parsing import load_certificate, load_private_key

TARGET = ("intel-corei7-64-lmp-1", 1)
"""Name and version of what the mock's devices run; a target's name ends with its version."""

Say = Callable[[str], None]


def make_devices(
    directory: Path,
    factory: FactoryRecord,
    pki: PkiDirectory,
    group: str | None,
    count: int,
    *,
    kinds: Callable[[int], Kind],
    clock: Clock,
    say: Say,
) -> dict[str, str]:
    """Make `count` devices in `directory`, all registered or none; returns their names by uuid.

    `kinds` gives the kind of the first, second, … one. They are registered in one transaction, not one request
    each: thousands take seconds. Raises Error: no local CA, a full disk; Refused: a CA that is not the mock's own.
    """
    if not count:
        return {}
    say(f"registering {count} devices")
    root_pem = certificates.pem(pki.root_certificate(factory.name, now=clock()))
    ca_path = pki.path / LOCAL_CA
    ca_pem = files.read_if_there(ca_path)
    if ca_pem is None:
        raise Error(
            f"{pki.path} has no {LOCAL_CA}, which signs for the mock's devices",
            hint=f"`fioctl-rotate keys ca create {pki.path}` makes it",
        )
    ca = load_certificate(ca_pem, str(ca_path))
    key_path = ca_path.with_suffix(".key")
    ca_key = load_private_key(files.read(key_path), name=str(key_path))
    with contextlib.ExitStack() as undo, contextlib.closing(Store(directory)) as store:
        with store.reading() as db:
            factory = accounts.choose_factory(db, factory.name)
        if ca not in authority.bundled(factory.ca_crt):
            raise Refused(f"{ca_path} is not a device CA of the mocked Factory {factory.name}")
        made: list[tuple[str, Kind, x509.Certificate]] = []
        for number in range(1, count + 1):
            device, kind = str(uuid.uuid4()), kinds(number)
            path = directory / "devices" / device
            undo.callback(shutil.rmtree, path, ignore_errors=True)
            try:
                certificate = create_device(
                    path,
                    subject=certificates.name(device, factory.name),
                    gateway=factory.gateway_url,
                    root_pem=root_pem,
                    ca=ca,
                    ca_key=ca_key,
                    now=clock(),
                    kind=kind,
                    target=TARGET,
                )
            except OSError as error:
                raise Error(message_of(error)) from error
            made.append((device, kind, certificate))
        names: dict[str, str] = {}
        with store.transaction() as db:
            known = len(device_records.uuids(db, factory.name))
            width = len(str(known + count))
            for number, (device, kind, certificate) in enumerate(made, known + 1):
                names[device] = f"device-{number:0{width}}"
                registered = device_records.register(
                    db,
                    factory.name,
                    device,
                    authority.public_key_of(certificate),
                    owner=factory.created_by,
                    author=factory.created_by,
                    now=clock(),
                    name=names[device],
                    group=group,
                )
                device_records.report(db, device, lmp_ver=str(kind.lmp), target_name=TARGET[0], tag="main")
                device_records.see_device(db, registered, clock())
        undo.pop_all()
    return names


def move_devices(directory: Path, factory: FactoryRecord) -> None:
    """Have the simulated devices of the factory use the gateway's present address."""
    with contextlib.closing(Store(directory)) as store, store.reading() as db:
        uuids = device_records.uuids(db, factory.name)
    for path in device_directories(directory / "devices", uuids):
        # A damaged directory is named by `mock devices`.
        with contextlib.suppress(Error):
            sota = Sota(path / "sota.toml")
            if sota.text("tls.server") != factory.gateway_url:
                sota.update({"tls.server": factory.gateway_url})
