"""What all ways to make a mocked Factory share: a directory of its own, and its PKI."""

import contextlib
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fioctl_rotate import files
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.clock import Clock
from fioctl_rotate.errors import Error, Refused, message_of
from fioctl_rotate.mock import new_factory
from fioctl_rotate.mock.new_factory import Addresses
from fioctl_rotate.mock.store import accounts
from fioctl_rotate.mock.store.accounts import FactoryRecord
from fioctl_rotate.mock.store.database import Store, moment
from fioctl_rotate.ops.ceremony import create_pki
from fioctl_rotate.ops.est_authorization import authorize_est
from fioctl_rotate.ops.mock_fleet import Say
from fioctl_rotate.pki.directory import ROOT_CERTIFICATE, PkiDirectory
from fioctl_rotate.pki.parsing import load_certificate
from fioctl_rotate.serving import listen
from fioctl_rotate.settings import Flags, Settings, resolve

# Below the ports that a system gives by itself: Linux from 32768 on, others from 49152 on.
_FREE_PORTS = (20_000, 32_000)


@contextlib.contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Keep other `init`s out of `directory`, which is made where it is missing, while the block runs.

    Raises Refused where it holds anything but mocked Factories, or another `init` runs.
    """
    if directory.exists() and not directory.is_dir():
        raise Refused(f"{directory} is not a directory")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with files.locked(directory, Refused(f"another `mock init` works in {directory}")):
            if any(directory.iterdir()) and not (directory / "mock.db").is_file():
                raise Refused(
                    f"{directory} is not empty, and holds no mocked Factory",
                    hint="name a new or an empty directory",
                )
            yield
    except OSError as error:
        raise Error(message_of(error)) from error


def begun(
    directory: Path, factory: str, addresses: Addresses, *, clock: Clock, bare: bool = False
) -> FactoryRecord:
    """The factory: a new one, or the unfinished one of an interrupted run. A `bare` one is finished with that.

    Ports of `addresses` that are 0 become free ones. Raises UsageError where the factory is there already.
    """
    known = new_factory.find_unfinished(directory, factory)
    return known or new_factory.create(
        directory, factory, now=clock(), addresses=_with_free_ports(addresses), unfinished=not bare
    )


async def set_up(
    api: FactoryApi, directory: Path, factory: FactoryRecord, *, clock: Clock, say: Say
) -> PkiDirectory:
    """Create the factory's PKI and authorize its EST server, or complete what is missing. `api` is the mock's own.

    Raises Refused where a root is there that was not made for this factory.
    """
    pki = PkiDirectory(pki_path(directory, factory.name))
    _refuse_foreign_root(pki, factory)
    say(f"creating the PKI in {pki.path}")
    await create_pki(api, pki, now=clock)
    say("authorizing the EST server")
    await authorize_est(api, pki, now=clock)
    return pki


def in_directory(directory: Path, factory: str) -> Settings:
    """The settings with which commands reach the mocked factory without a server."""
    return resolve(Flags(factory=factory, mock=str(directory)), {})


def pki_path(directory: Path, factory: str) -> Path:
    """The operator's PKI directory of a mocked factory: `pki`, or `pki-NAME` for one that came later."""
    return directory / f"pki{suffix(directory, factory)}"


def suffix(directory: Path, factory: str) -> str:
    """The end of the names of a factory's files: "" for the first factory of the directory."""
    with contextlib.closing(Store(directory)) as store, store.reading() as db:
        first = accounts.choose_factory(db, None).name == factory
    return "" if first else f"-{factory}"


def _refuse_foreign_root(pki: PkiDirectory, factory: FactoryRecord) -> None:
    """Raise Refused where a root is in the PKI directory that is older than the mocked Factory."""
    pem = files.read_if_there(pki.path / ROOT_CERTIFICATE)
    root = load_certificate(pem, str(pki.path / ROOT_CERTIFICATE)) if pem else None
    if root is not None and root.not_valid_before_utc < moment(factory.created_at):
        raise Refused(
            f"{pki.path} has a root key that `mock init` has not made",
            hint="name a new or an empty directory",
        )


def _with_free_ports(addresses: Addresses) -> Addresses:
    """The addresses with free ports where they say 0."""
    api, gateway, est = free_ports(3)
    return replace(
        addresses,
        api_port=addresses.api_port or api,
        gateway_port=addresses.gateway_port or gateway,
        est_port=addresses.est_port or est,
    )


def free_ports(count: int) -> tuple[int, ...]:
    """`count` different ports that are free now. Raises Error where there are not enough."""
    # All stay open until the last one is found, so that they differ.
    with contextlib.ExitStack() as stack:
        return tuple(_free_port(stack) for _ in range(count))


def _free_port(stack: contextlib.ExitStack) -> int:
    """A port that is free now, and in use while `stack` is open. Raises Error where there is none.

    It is not one that the system gives to connections or for port 0: our server uses the port only later, and until
    then another program could get it.
    """
    tries = 100
    while True:
        tries -= 1
        try:
            sock = stack.enter_context(listen("127.0.0.1", random.randrange(*_FREE_PORTS)))  # noqa: S311  no secret
            return int(sock.getsockname()[1])
        except Error:
            if not tries:
                raise
