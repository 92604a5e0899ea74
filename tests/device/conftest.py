"""Fixtures: a gateway and an EST server on loopback, and a device that is killed at a request."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fioctl_rotate.device.device import Device
from tests.device.bench import Bench, Gateway
from tests.making import Pki


@pytest.fixture(scope="session")
def pki() -> Pki:
    return Pki.make()


@pytest.fixture
def bench(pki: Pki, tmp_path: Path) -> Bench:
    return Bench(pki, tmp_path)


@pytest.fixture
def cut_off() -> Callable[..., Awaitable[bool]]:
    """Runs a device's check-in and kills it when its n-th request has come, or has been answered."""

    async def run(device: Device, gateway: Gateway, number: int, when: str) -> bool:
        started = len(gateway.requests)
        task = asyncio.create_task(device.check_in())
        killed = False

        async def reached(count: int, moment: str) -> None:
            nonlocal killed
            if count - started == number and moment == when:
                killed = True
                task.cancel()
                await asyncio.sleep(0)

        gateway.reached = reached
        with contextlib.suppress(asyncio.CancelledError):
            await task
        gateway.reached = None
        return killed

    return run
