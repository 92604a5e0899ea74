"""The client's CPU a request, eight at once; the floor is the plain way: one httpx client, a task each."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from fioctl_rotate import wire
from fioctl_rotate.http import httpx
from fioctl_rotate.ops.at_once import Pace, for_each
from fioctl_rotate.ops.connect import open_api
from fioctl_rotate.settings import Flags, resolve
from tests.benchmarks.measuring import Factory, Row, Wanted, row_of

REQUESTS, AT_ONCE = 2000, 8
UUIDS = [f"uuid-device-{number:06}" for number in range(REQUESTS)]


async def ours(url: str) -> None:
    """As `rotations show` reads each device."""
    settings = resolve(Flags(factory="acme", token="token", server=url), {})
    async with open_api(settings) as api:

        async def ask(uuid: str) -> None:
            await api.device(uuid, by_uuid=True)

        await for_each(UUIDS, ask, Pace(AT_ONCE))


async def plain(url: str) -> None:
    """As the program once did it, but for the retries: a task a device, of which eight may ask."""
    gate = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(base_url=url, trust_env=False, headers={"OSF-TOKEN": "token"}) as http:

        async def ask(uuid: str) -> None:
            async with gate:
                answer = await http.get(f"/ota/devices/{uuid}/", params={"factory": "acme", "by-uuid": "1"})
                msgspec.json.decode(answer.content, type=wire.Device)

        await asyncio.gather(*map(ask, UUIDS))


def row(factory: Factory, runs: int) -> Row:
    """Both in turn, in this process."""

    def cpu(work: Callable[[str], Awaitable[None]]) -> float:
        async def run() -> float:
            before = time.process_time()
            await work(factory.url)
            return time.process_time() - before

        return asyncio.run(run()) / REQUESTS * 1000

    pairs = [(cpu(ours), cpu(plain)) for _ in range(runs + 1)][1:]
    return row_of(
        f"client, a request, {AT_ONCE} at once", "one httpx client, a task each", pairs, "ms CPU", Wanted(0.5)
    )
