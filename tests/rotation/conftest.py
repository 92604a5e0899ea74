"""Worlds: Factories whose devices do just what a test says."""

from datetime import UTC, datetime, timedelta

import pytest

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
