"""The client's CPU a request, eight at once, over the same requests by one httpx client that eight tasks share."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

from fioctl_rotate.http import httpx
from fioctl_rotate.ops.connect import open_api
from fioctl_rotate.settings import Flags, resolve
from tests.benchmarks.measuring import Factory, Row

REQUESTS, AT_ONCE = 2000, 8


async def ours(url: str) -> None:
    """By the program's client, as `rotations show` asks each device."""
    settings = resolve(Flags(factory="acme", token="token", server=url), {})
    async with open_api(settings) as api:
        await _share_out(lambda uuid: api.device(uuid, by_uuid=True))


async def one_client(url: str) -> None:
    """By one httpx client, which is what its documentation advises."""
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:

        async def ask(uuid: str) -> None:
            (await http.get(f"/ota/devices/{uuid}/", params={"factory": "acme", "by-uuid": "1"})).json()

        await _share_out(ask)


async def _share_out(ask: Callable[[str], Awaitable[object]]) -> None:
    uuids = iter([f"uuid-device-{number:06}" for number in range(REQUESTS)])

    async def work() -> None:
        for uuid in uuids:
            await ask(uuid)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


def row(factory: Factory, runs: int) -> Row:
    """Both in turn, in this process."""

    def cpu(work: Callable[[str], Awaitable[None]]) -> float:
        async def run() -> float:
            before = time.process_time()
            await work(factory.url)
            return time.process_time() - before

        return asyncio.run(run()) / REQUESTS * 1000

    pairs = [(cpu(ours), cpu(one_client)) for _ in range(runs + 1)][1:]
    return Row(
        f"client, a request, {AT_ONCE} at once",
        "one shared httpx client",
        statistics.median(mine for mine, _ in pairs),
        statistics.median(theirs for _, theirs in pairs),
        statistics.median(mine / theirs for mine, theirs in pairs),
        "ms CPU",
        0.5,
    )
