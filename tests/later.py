"""An operator whose clock is ahead, so that a test need not wait for the next second or minute."""

import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx

from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.api.peer import Peer
from fioctl_rotate.clock import Clock
from fioctl_rotate.mock.operator import operator_app
from fioctl_rotate.mock.store.database import Store


def later(minutes: int) -> Clock:
    return lambda: datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=minutes)


@asynccontextmanager
async def operator(directory: Path, clock: Clock) -> AsyncIterator[FactoryApi]:
    """The operator API of the mocked Factory `acme`, whose changes count by this clock."""
    with closing(Store(directory)) as store:
        app = operator_app(store, authenticate=False, clock=clock)
        async with Peer("http://mock", lambda: httpx.ASGITransport(app), name="mock") as peer:
            yield FactoryApi(peer, "acme")
