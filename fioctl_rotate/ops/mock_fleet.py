"""Make and register the simulated devices of a mocked Factory, and tell them the address of its gateway."""

import contextlib
import datetime
import shlex
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fioctl_rotate import files
from fioctl_rotate.clock import Clock
from fioctl_rotate.device.identity import Sota
from fioctl_rotate.device.new_device import Kind, create_device
from fioctl_rotate.device.runner import device_directories
from fioctl_rotate.errors import Error, Refused, message_of
from fioctl_rotate.mock import authority
from fioctl_rotate.mock.problem import Problem
from fioctl_rotate.mock.store import accounts, device_records
from fioctl_rotate.mock.store.accounts import FactoryRecord
from fioctl_rotate.mock.store.database import Store
from fioctl_rotate.pki import certificates
from fioctl_rotate.pki.directory import LOCAL_CA, PkiDirectory
from fioctl_rotate.pki.parsing import load_certificate, load_private_key

TARGET = ("intel-corei7-64-lmp-1", 1)
"""Name and version of what the mock's devices run; a target's name ends with its version."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class NewDevice:
    """A simulated device to be made. `lmp_ver` is what the operator API shows; `last_seen` None: never seen."""

    uuid: str
    name: str
    group: str | None = None
    kind: Kind = field(default_factory=Kind)
    lmp_ver: str | None = None
    target: tuple[str, int] | None = TARGET
    tag: str | None = "main"
    last_seen: datetime.datetime | None = None


def numbered(
    directory: Path,
    factory: str,
    count: int,
    *,
    group: str | None,
    kinds: Callable[[int], Kind],
    now: datetime.datetime,
) -> list[NewDevice]:
    """`count` more devices, named `device-N`; `kinds` gives the kind of the first, second, … one."""
    with contextlib.closing(Store(directory)) as store, store.reading() as db:
        known = len(device_records.uuids(db, factory))
    width = len(str(known + count))
    return [
        NewDevice(
            uuid=str(uuid.uuid4()),
            name=f"device-{known + number:0{width}}",
            group=group,
            kind=kinds(number),
            lmp_ver=str(kinds(number).lmp),
            last_seen=now,
        )
        for number in range(1, count + 1)
    ]


def make_devices(
    directory: Path,
    factory: FactoryRecord,
    pki: PkiDirectory,
    devices: Sequence[NewDevice],
    *,
    clock: Clock,
    say: Say,
    before: Callable[[sqlite3.Connection], None] = lambda _db: None,
) -> dict[str, str]:
    """Make the devices in `directory`, all registered or none; returns their names by uuid.

    They are registered in one transaction, not one request each, so thousands take seconds. `before` is called in
    the transaction, before the first device. Raises Error: no local CA, a name or uuid that is in use, a full disk.
    Raises Refused: a CA that is not the mock's own.
    """
    if devices:
        say(f"registering {len(devices)} devices")
    root_pem, ca, ca_key = _signer(directory, factory, pki, clock())
    with contextlib.ExitStack() as undo, contextlib.closing(Store(directory)) as store:
        made: list[x509.Certificate] = []
        with store.reading() as db:
            taken = next((device for device in devices if device_records.is_taken(db, device.uuid)), None)
        if taken is not None:
            raise Error(f"{directory} already has a device {taken.uuid}")
        for device in devices:
            path = directory / "devices" / device.uuid
            # A folder that is there now was left by an interrupted run: its device is not registered.
            shutil.rmtree(path, ignore_errors=True)
            undo.callback(shutil.rmtree, path, ignore_errors=True)
            try:
                certificate = create_device(
                    path,
                    subject=certificates.name(device.uuid, factory.name),
                    gateway=factory.gateway_url,
                    root_pem=root_pem,
                    ca=ca,
                    ca_key=ca_key,
                    now=clock(),
                    kind=device.kind,
                    target=device.target,
                )
            except OSError as error:
                raise Error(message_of(error)) from error
            made.append(certificate)
        try:
            with store.transaction() as db:
                before(db)
                for device, certificate in zip(devices, made, strict=True):
                    _register(db, factory, device, certificate, clock())
        except Problem as problem:
            raise Error(problem.message) from None
        undo.pop_all()
    return {device.uuid: device.name for device in devices}


def _signer(
    directory: Path, factory: FactoryRecord, pki: PkiDirectory, now: datetime.datetime
) -> tuple[str, x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The root (PEM), and the local CA with its key, which must be a device CA of this mocked factory."""
    path = pki.path / LOCAL_CA
    pem = files.read_if_there(path)
    if pem is None:
        in_mock = ["--factory", factory.name, "--mock", str(directory)]
        create = ["fioctl-rotate", "keys", "ca", "create", str(pki.path), *in_mock]
        raise Error(
            f"{pki.path} has no {LOCAL_CA}, which signs for the mock's devices",
            hint=f"`{shlex.join(create)}` makes it",
        )
    ca = load_certificate(pem, str(path))
    with contextlib.closing(Store(directory)) as store, store.reading() as db:
        on_file = accounts.choose_factory(db, factory.name).ca_crt
    if ca not in authority.bundled(on_file):
        raise Refused(f"{path} is not a device CA of the mocked Factory {factory.name}")
    key_path = path.with_suffix(".key")
    key = load_private_key(files.read(key_path), name=str(key_path))
    return certificates.pem(pki.root_certificate(factory.name, now=now)), ca, key


def _register(
    db: sqlite3.Connection,
    factory: FactoryRecord,
    device: NewDevice,
    certificate: x509.Certificate,
    now: datetime.datetime,
) -> None:
    record = device_records.register(
        db,
        factory.name,
        device.uuid,
        authority.public_key_of(certificate),
        owner=factory.created_by,
        author=factory.created_by,
        now=now,
        name=device.name,
        group=device.group,
    )
    target = device.target[0] if device.target else None
    device_records.report(db, device.uuid, lmp_ver=device.lmp_ver, target_name=target, tag=device.tag)
    if device.last_seen is not None:
        device_records.see_device(db, record, device.last_seen)


def move_devices(directory: Path, factory: FactoryRecord) -> None:
    """Tell the simulated devices of the factory the gateway's present address."""
    with contextlib.closing(Store(directory)) as store, store.reading() as db:
        uuids = device_records.uuids(db, factory.name)
    for path in device_directories(directory / "devices", uuids):
        # `mock devices` names a damaged directory.
        with contextlib.suppress(Error):
            sota = Sota(path / "sota.toml")
            if sota.text("tls.server") != factory.gateway_url:
                sota.update({"tls.server": factory.gateway_url})
