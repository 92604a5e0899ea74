"""Fixtures: a mocked Factory, bare or set up, with a clock that tests set.

Each is made once and copied for each test: most tests take less time than making one.
"""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fioctl_rotate.mock import new_factory
from fioctl_rotate.mock.gateway import gateway_app
from fioctl_rotate.mock.operator import operator_app
from fioctl_rotate.mock.store.accounts import ADMIN, READ_ONLY, choose_factory
from fioctl_rotate.mock.store.database import Store
from tests.making import Pki
from tests.mock.mocked import FACTORY, START, Clock, Http, Mock


@dataclass(frozen=True)
class Made:
    """A mocked Factory that is copied, and its keys."""

    directory: Path
    pki: Pki


@pytest.fixture
def clock() -> Clock:
    return Clock()


@contextlib.contextmanager
def opened(directory: Path, clock: Clock, pki: Pki | None = None) -> Iterator[Mock]:
    """The mocked Factory in the directory; with new keys where it has none."""
    with contextlib.closing(Store(directory)) as store:
        app = operator_app(store, authenticate=True, clock=clock)
        tokens = {
            role: new_factory.token_file(directory, "acme", role).read_text() for role in (ADMIN, READ_ONLY)
        }
        admin = Http(app, {"OSF-TOKEN": tokens[ADMIN]})
        user_id = admin("GET", f"{FACTORY}/users/self/").json()["polis-id"]
        with store.reading() as db:
            factory = choose_factory(db, "acme")
        yield Mock(
            directory=directory,
            store=store,
            factory=factory,
            clock=clock,
            pki=pki or Pki.make(owner=user_id, now=START),
            admin=admin,
            reader=Http(app, {"OSF-TOKEN": tokens[READ_ONLY]}),
            user_id=user_id,
            _gateway=gateway_app(store, "acme", clock=clock),
        )


def copied(made: Made, directory: Path, clock: Clock) -> contextlib.AbstractContextManager[Mock]:
    shutil.copytree(made.directory, directory)
    return opened(directory, clock, made.pki)


@pytest.fixture(scope="session")
def made_bare(tmp_path_factory: pytest.TempPathFactory) -> Made:
    directory = tmp_path_factory.mktemp("bare") / "mock"
    new_factory.create(directory, "acme", now=START)
    with opened(directory, Clock()) as mock:
        return Made(directory, mock.pki)


@pytest.fixture(scope="session")
def made_mock(made_bare: Made, tmp_path_factory: pytest.TempPathFactory) -> Made:
    directory = tmp_path_factory.mktemp("mock") / "mock"
    with copied(made_bare, directory, Clock()) as mock:
        mock.set_up_pki()
        assert mock.admin("POST", f"{FACTORY}/device-groups/", {"name": "field"}).status_code == 201
    return Made(directory, made_bare.pki)


@pytest.fixture
def bare(made_bare: Made, tmp_path: Path, clock: Clock) -> Iterator[Mock]:
    """A Factory with nothing set up."""
    with copied(made_bare, tmp_path / "mock", clock) as mock:
        yield mock


@pytest.fixture
def mock(made_mock: Made, tmp_path: Path, clock: Clock) -> Iterator[Mock]:
    """A Factory with its PKI, the group `field` and no devices."""
    with copied(made_mock, tmp_path / "mock", clock) as mock:
        yield mock
