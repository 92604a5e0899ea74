"""Worlds: Factories whose devices do just what a test says."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.rotation.fleets import make_mixed, make_well
from tests.world import World


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path / "mock")
    yield made
    made.store.close()


@pytest.fixture
def recent(tmp_path):
    """A world of an hour ago, for commands, which go by the real clock."""
    made = World(tmp_path / "mock", datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1))
    yield made
    made.store.close()


@pytest.fixture
def mixed(recent):
    """Rotation certs-1, on whose devices everything happens that can."""
    make_mixed(recent)
    return recent


@pytest.fixture
def well(recent):
    """Rotation certs-1, which both devices, a and b, have done."""
    make_well(recent)
    return recent


@pytest.fixture
def rotations(cli, recent):
    """Run a command of `rotations` on the world."""

    def call(command, *args):
        return cli("rotations", command, *args, "--mock", recent.directory, "-f", "acme")

    return call
