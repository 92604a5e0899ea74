"""A PKI directory with a root, and a mocked Factory with nothing set up or with a PKI."""

import datetime
import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fioctl_rotate.mock import new_factory
from fioctl_rotate.pki.hsm import TokenKeyStore
from fioctl_rotate.pki.hsm_session import Token as PkiToken
from fioctl_rotate.pki.keys import private_key_pem
from tests import making
from tests.commandline import Cli
from tests.pki.softhsm import MODULE, PIN, Token


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


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iterator[str]]:
    """Labels of fresh tokens. SoftHSM reads its configuration and its list of tokens once a process."""
    place = tmp_path_factory.mktemp("softhsm")
    (place / "tokens").mkdir()
    configuration = place / "softhsm2.conf"
    configuration.write_text(
        f"directories.tokendir = {place}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(configuration))
        # All of one length: pkcs11-tool accepts a token whose label only begins with the one that was given.
        # More than there are tests that take one: one process may run them all.
        labels = [f"token-{number:03}" for number in range(120)]
        for label in labels:
            subprocess.run(
                [
                    "softhsm2-util",
                    "--init-token",
                    "--free",
                    "--label",
                    label,
                    "--pin",
                    PIN,
                    "--so-pin",
                    "87654321",
                ],
                check=True,
                capture_output=True,
            )
        yield itertools.chain(labels)


@pytest.fixture
def token(tokens: Iterator[str], monkeypatch: pytest.MonkeyPatch) -> Token:
    """A token with nothing in it, whose PIN is in the environment."""
    monkeypatch.setenv("FIOCTL_ROTATE_HSM_PIN", PIN)
    return Token(next(tokens))


@pytest.fixture
def adopted(token: Token, tmp_path: Path) -> tuple[Token, Path]:
    """A token with a root's key, and the directory with the root's certificate, made with no Factory."""
    token.generate()
    directory = tmp_path / "pki"
    directory.mkdir(mode=0o700)
    assert MODULE is not None
    key = TokenKeyStore(PkiToken(str(MODULE), token.label, lambda: PIN)).load()
    (directory / "factory_ca.pem").write_bytes(making.pem(making.certificate(key=key, signer=key)))
    return token, directory
