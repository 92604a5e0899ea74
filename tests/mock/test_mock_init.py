"""`mock init`: where it refuses to work, and that it goes on after it was cut off anywhere."""

import asyncio
import datetime
import re
import shlex
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from fioctl_rotate import files
from fioctl_rotate.device.new_device import create_device
from fioctl_rotate.errors import Error, Refused
from fioctl_rotate.mock.store.database import Store
from fioctl_rotate.ops import mock
from fioctl_rotate.ops.mock import Addresses
from fioctl_rotate.pki import certificates
from fioctl_rotate.pki.keys import generate_key, private_key_pem
from tests.commandline import Cli
from tests.processes import FREE

CREATE_DEVICE = "fioctl_rotate.ops.mock_fleet.create_device"
ROTATE = ("config", "rotate-certs", "-g", "field", "-r", "why", "--dryrun", "--no-checks", "-f", "acme")


def init(directory: Path, *, devices: int = 2, factory: str = "acme") -> mock.MadeFactory:
    return asyncio.run(
        mock.init(directory, factory, addresses=Addresses(0, 0, 0), group="field", devices=devices)
    )


def put_root(directory: Path) -> None:
    """A root of the operator's own, as `keys ca create` leaves one."""
    directory.mkdir(parents=True)
    key = generate_key()
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=30)
    (directory / "factory_ca.key").write_bytes(private_key_pem(key))
    (directory / "factory_ca.pem").write_text(certificates.pem(certificates.make_root(key, "acme", now=past)))


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("bare", [(), ("--bare",)])
@pytest.mark.parametrize("place", ["pki", "."])
def test_a_directory_with_a_root_is_refused_and_stays_as_it_is(
    cli: Cli, mock_dir: Path, bare: tuple[str, ...], place: str
) -> None:
    put_root(mock_dir / place)
    before = contents(mock_dir)
    result = cli("mock", "init", mock_dir, "-f", "acme", *bare, *FREE)
    assert result.code == 5
    assert result.err.startswith(f"error: {mock_dir} is not empty, and holds no mocked Factory\nhint: ")
    assert contents(mock_dir) == before


def test_a_root_in_the_place_of_a_second_factory_s_is_refused(cli: Cli, mock_dir: Path) -> None:
    init(mock_dir)
    put_root(mock_dir / "pki-other")
    before = contents(mock_dir / "pki-other")
    result = cli("mock", "init", mock_dir, "-f", "other", "--devices", 1, *FREE)
    assert result.code == 5
    assert f"{mock_dir / 'pki-other'} has a root key that `mock init` has not made" in result.err
    assert contents(mock_dir / "pki-other") == before


def test_any_other_directory_that_is_not_empty_is_refused(cli: Cli, mock_dir: Path) -> None:
    mock_dir.mkdir()
    (mock_dir / "notes.txt").write_text("mine")
    assert cli("mock", "init", mock_dir, "-f", "acme", *FREE).code == 5
    assert contents(mock_dir) == {"notes.txt": b"mine"}
    assert cli("mock", "init", mock_dir / "notes.txt", "-f", "acme", *FREE).code == 5


@pytest.mark.parametrize("command", ["init", "serve", "devices", "events", "add-devices"])
def test_an_empty_path_is_refused(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    more = {"init": ("-f", "acme"), "add-devices": ("--devices", 1)}.get(command, ())
    result = cli("mock", command, "", *more)
    assert (result.code, result.err.splitlines()[0]) == (5, "error: DIR is empty")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_is_accepted(mock_dir: Path) -> None:
    mock_dir.mkdir()
    assert len(init(mock_dir).devices) == 2


def test_two_at_once_are_refused(cli: Cli, mock_dir: Path) -> None:
    mock_dir.mkdir()
    with files.locked(mock_dir, Refused("nobody else is here")):
        result = cli("mock", "init", mock_dir, "-f", "acme", *FREE)
    assert (result.code, result.err) == (5, f"error: another `mock init` works in {mock_dir}\n")


class Cut(BaseException):
    """As kill -9: nothing is cleaned up but what the system cleans up."""


def test_after_a_cut_at_any_write_it_goes_on_with_the_same_root(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cut is an exception that nothing catches, after each file and before each transaction."""
    left = 0

    def counted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            result = function(*args, **kwargs)
            left -= 1
            if left == 0:
                raise Cut
            return result

        return call

    with monkeypatch.context() as patched:
        for name in ("write_atomic", "create_new"):
            patched.setattr(files, name, counted(getattr(files, name)))
        patched.setattr(Store, "transaction", counted(Store.transaction))
        patched.setattr(CREATE_DEVICE, counted(create_device))
        patched.setattr(shutil, "rmtree", lambda *_args, **_kwargs: None)
        cuts = 0
        while True:
            directory, left = tmp_path / f"{cuts}", cuts + 1
            try:
                init(directory)
            except Cut:
                cuts += 1
            else:
                break
    assert cuts > 15
    for number in range(cuts):
        directory = tmp_path / f"{number}"
        key = directory / "pki" / "factory_ca.key"
        before = key.read_bytes() if key.exists() else None
        assert len(init(directory).devices) == 2, number
        assert before in (None, key.read_bytes())
        again = cli("mock", "init", directory, "-f", "acme", *FREE)
        assert (again.code, "already" in again.err) == (2, True)
        assert cli(*ROTATE, "--mock", directory).code == 0
        listed = cli("devices", "list", "-f", "acme", "--mock", directory, "--format", "json").json
        assert [device["name"] for device in listed["devices"]] == ["device-1", "device-2"]


def test_a_root_that_came_between_a_cut_and_the_next_run_is_refused(
    cli: Cli, mock_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut(*_args: object, **_kwargs: object) -> None:
        raise Cut

    with monkeypatch.context() as patched:
        patched.setattr("fioctl_rotate.ops.mock_making.create_pki", cut)
        with pytest.raises(Cut):
            init(mock_dir)
    put_root(mock_dir / "pki")
    before = contents(mock_dir / "pki")
    assert cli("mock", "init", mock_dir, "-f", "acme", *FREE).code == 5
    assert contents(mock_dir / "pki") == before


def test_devices_are_all_made_or_none(mock_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init(mock_dir, devices=1)
    known = sorted((mock_dir / "devices").iterdir())
    made = 0

    def full(*args: Any, **kwargs: Any) -> Any:
        nonlocal made
        made += 1
        if made == 3:
            raise OSError(28, "No space left on device", str(args[0]))
        return create_device(*args, **kwargs)

    monkeypatch.setattr(CREATE_DEVICE, full)
    with pytest.raises(Error, match="No space left on device"):
        asyncio.run(mock.add_devices(mock_dir, None, group="field", devices=5))
    assert sorted((mock_dir / "devices").iterdir()) == known


def test_a_ca_that_is_not_the_mock_s_signs_nothing(cli: Cli, mock_dir: Path, tmp_path: Path) -> None:
    """As when somebody has copied the PKI directory of the real Factory there."""
    init(mock_dir, devices=0)
    init(tmp_path / "another", devices=0)
    shutil.rmtree(mock_dir / "pki")
    shutil.copytree(tmp_path / "another" / "pki", mock_dir / "pki")
    result = cli("mock", "add-devices", mock_dir, "--devices", 1)
    assert result.code == 5
    assert f"{mock_dir / 'pki' / 'local-ca.pem'} is not a device CA of the mocked Factory acme" in result.err


def test_devices_need_a_local_ca_and_the_hint_works_as_printed(cli: Cli, tmp_path: Path) -> None:
    directory = tmp_path / "a mock"
    assert cli("mock", "init", directory, "-f", "acme", "--bare", *FREE).code == 0
    result = cli("mock", "add-devices", directory, "--devices", 1)
    assert (result.code, "has no local-ca.pem" in result.err) == (1, True)
    hint = re.search(r"hint: `fioctl-rotate (.*)` makes it", result.err)
    assert hint is not None
    assert cli(*shlex.split(hint[1]), "-y").code == 0
    none = cli("mock", "devices", directory)
    hint = re.search(r"hint: `fioctl-rotate (.*)` makes some", none.err)
    assert hint is not None
    assert cli(*shlex.split(hint[1])).code == 0


def test_a_damaged_state_is_one_line(cli: Cli, mock_dir: Path) -> None:
    mock_dir.mkdir()
    (mock_dir / "mock.db").write_bytes(b"not a database" * 100)
    for command in (("init", mock_dir, "-f", "acme"), ("serve", mock_dir), ("events", mock_dir)):
        result = cli("mock", *command)
        assert result.code == 1
        assert result.err.startswith(f"error: {mock_dir / 'mock.db'} is not a mocked Factory's state")


def test_a_state_that_is_locked_is_one_line(
    cli: Cli, mock_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fioctl_rotate.mock.store import database

    init(mock_dir, devices=0)
    monkeypatch.setattr(database, "PATIENCE", 0.05)
    with sqlite3.connect(mock_dir / "mock.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        result = cli("mock", "add-devices", mock_dir, "--devices", 1)
        other.execute("ROLLBACK")
    other.close()
    assert result.code == 1
    assert (
        f"error: the mock's state {mock_dir / 'mock.db'} cannot be used: database is locked\n" in result.err
    )


def test_kinds_of_devices(cli: Cli, mock_dir: Path) -> None:
    init(mock_dir, devices=0)
    for options in (
        ("--lmp", 88, "--old-est-client"),
        ("--clock-offset", "2d"),
        ("--clock-offset", "-90m", "--slots", 1),
    ):
        assert cli("mock", "add-devices", mock_dir, "-g", "field", "--devices", 1, *options).code == 0
    listed = cli("devices", "list", "-f", "acme", "--mock", mock_dir, "--format", "json").json["devices"]
    assert [device["lmp-ver"] for device in listed] == ["88", "97", "97"]
    sotas = [(mock_dir / "devices" / device["uuid"] / "sota.toml").read_text() for device in listed]
    assert "strict_est = true" in sotas[0]
    assert ["strict_est = true" in sota for sota in sotas] == [True, False, False]
    assert "clock_offset = 172800\n" in sotas[1]
    assert "clock_offset = -5400\n" in sotas[2]
    assert ["pkcs11" in sota for sota in sotas] == [False, False, True]
    assert cli("mock", "add-devices", mock_dir, "--devices", 1, "--clock-offset", "soon").code == 2
