"""What a large Factory costs, as far as it does not depend on the machine: requests, memory, and how both grow."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks import simulation
from tests.benchmarks.measuring import Cost, Factory, running
from tests.benchmarks.startup import PUSH
from tests.processes import imported

SHOW = ("rotations", "show", "certs-1", "-g", "field")
MEMORY = 80  # MB that the program may take for 10,000 devices
SERVED = {"asyncio", "dataclasses", "hashlib", "httpx", "msgspec", "platformdirs"}


@pytest.fixture
def few(tmp_path: Path) -> Iterator[Factory]:
    with running(5, tmp_path) as factory:
        yield factory


def test_a_push_makes_few_requests(few: Factory) -> None:
    assert few.run(*PUSH, "--no-checks", "--dryrun").requests <= 4
    assert few.run("rotations", "list", "-g", "field").requests <= 2
    few.run(*SHOW)  # from now on it is known here that the rotation before has ended
    # Nothing listens on port 1, and the Factory has no root, so the EST server cannot be checked.
    assert few.run(*PUSH, "-p", 1, "--allow", "est", "-y").requests <= 7 + 5
    assert few.run(*PUSH, "--no-checks", "-y").requests <= 6


@pytest.mark.parametrize("command", [(*PUSH, "--no-checks", "--dryrun"), ("rotations", "list"), SHOW])
def test_what_only_reads_imports_nothing_that_it_does_not_need(
    few: Factory, command: tuple[str, ...]
) -> None:
    assert imported(*command, **few.environment)[1] <= SERVED


def test_showing_a_large_factory_grows_with_what_changed(tmp_path: Path) -> None:
    def shown(devices: int) -> tuple[Cost, Cost]:
        (home := tmp_path / str(devices)).mkdir()
        with running(devices, home) as factory:
            return factory.run(*SHOW), factory.run(*SHOW)

    small, large = shown(1_000), shown(10_000)
    first, again = large
    # At first one request a device, for its events; the list comes in pages of 1000.
    assert first.requests <= 10_000 * 1.02 + 20
    assert again.requests <= small[1].requests + 10
    assert first.memory < MEMORY
    assert first.memory - small[0].memory < 9_000 * 0.003, "no more than 3 KB a device"
    # What the events cost, without start-up: ten times as many devices, about ten times as much.
    assert first.cpu - again.cpu < 20 * (small[0].cpu - small[1].cpu)


def test_a_clone_reads_each_device_once(tmp_path: Path) -> None:
    # Of each: its own configuration, its updates, and the events of its newest rotation.
    requests = simulation.cloning(20, tmp_path).requests
    assert requests is not None
    assert requests <= 3 * 20 + 10
