"""Fixtures: a mocked Factory, bare or set up, with a clock that tests set."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fioctl_rotate.mock import new_factory
from fioctl_rotate.mock.gateway import gateway_app
from fioctl_rotate.mock.operator import operator_app
from fioctl_rotate.mock.store.accounts import ADMIN, READ_ONLY
from fioctl_rotate.mock.store.database import Store
from tests.making import Pki
from tests.mock.mocked import FACTORY, START, Clock, Http, Mock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bare(tmp_path: Path, clock: Clock) -> Iterator[Mock]:
    """A Factory with nothing set up."""
    directory = tmp_path / "mock"
    factory = new_factory.create(directory, "acme", now=START)
    with contextlib.closing(Store(directory)) as store:
        app = operator_app(store, authenticate=True, clock=clock)
        tokens = {
            role: new_factory.token_file(directory, "acme", role).read_text() for role in (ADMIN, READ_ONLY)
        }
        admin = Http(app, {"OSF-TOKEN": tokens[ADMIN]})
        user_id = admin("GET", f"{FACTORY}/users/self/").json()["polis-id"]
        yield Mock(
            directory=directory,
            store=store,
            factory=factory,
            clock=clock,
            pki=Pki.make(owner=user_id, now=START),
            admin=admin,
            reader=Http(app, {"OSF-TOKEN": tokens[READ_ONLY]}),
            user_id=user_id,
            _gateway=gateway_app(store, "acme", clock=clock),
        )


@pytest.fixture
def mock(bare: Mock) -> Mock:
    """A Factory with its PKI, the group `field` and no devices."""
    bare.set_up_pki()
    assert bare.admin("POST", f"{FACTORY}/device-groups/", {"name": "field"}).status_code == 201
    return bare
