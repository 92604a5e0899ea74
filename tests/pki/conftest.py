"""A PKI directory with a root, and a mocked Factory with nothing set up or with a PKI."""

import datetime
from pathlib import Path

import pytest

from fioctl_rotate.mock import new_factory
from fioctl_rotate.pki.keys import private_key_pem
from tests import making
from tests.commandline import Cli


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    """A PKI directory with a root that is fit to sign."""
    directory = tmp_path / "pki"
    directory.mkdir(mode=0o700)
    (directory / "factory_ca.key").write_bytes(private_key_pem(making.ROOT_KEY))
    (directory / "factory_ca.key").chmod(0o400)
    (directory / "factory_ca.pem").write_bytes(making.pem(making.certificate()))
    return directory


@pytest.fixture
def factory(mock_dir: Path) -> Path:
    """A mocked Factory called acme, with nothing set up in it."""
    new_factory.create(mock_dir, making.FACTORY, now=datetime.datetime.now(datetime.UTC))
    return mock_dir


@pytest.fixture
def here(cli: Cli, factory: Path) -> Cli:
    """The command line, talking to the mocked Factory."""
    return lambda *arguments: cli(*arguments, "--mock", factory, "-f", making.FACTORY)


@pytest.fixture
def created(here: Cli, tmp_path: Path) -> Path:
    """The PKI directory that `keys ca create` made for the Factory."""
    directory = tmp_path / "created"
    assert here("keys", "ca", "create", directory).code == 0
    return directory
