"""How many requests a watch makes: 30 polls over 5,000 devices, of which 1 % change in each.

    pytest -n 0 -s tests/benchmarks/bench_watch.py

The floor is one page of the list a poll, and one request for the events of each device that has changed and was
not known to be done. Above it are the first list, and the newest devices of a poll, asked once more because
last-seen has whole seconds; below it are devices that the list alone shows to be done.
"""

import asyncio
import random
from collections import Counter

from fioctl_rotate.ops.rotations import find_rotation
from fioctl_rotate.ops.watch import Watch
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.state import State
from tests.world import World

DEVICES, POLLS, CHANGING = 5000, 30, 50


def kind(request):
    path = request.split(" ")[1]
    if path == "/ota/devices/":
        return "pages of the list"
    return "events" if "/updates/" in path else "configurations" if "/config/" in path else "records"


def test_requests_of_a_watch(tmp_path):
    chance = random.Random(1)  # noqa: S311  the same devices in each run
    world = World(tmp_path / "mock")
    names = [f"d{number:04}" for number in range(DEVICES)]
    world.add(*names)
    world.wait(minutes=1)
    asyncio.run(world.push())
    begun, floor = set(), 0

    async def run():
        nonlocal floor
        async with world.api() as api:
            rotation = (await find_rotation(api, "certs-1", Scope.of_group("field"))).rotation
            world.requests.clear()
            watch = Watch(api, rotation, now=lambda: world.now)
            snapshot = None
            for _ in range(POLLS):
                changed = chance.sample(names, CHANGING)
                done = (
                    {state.name for state in snapshot.states if state.state == State.DONE} if snapshot else ()
                )
                floor += 1 + len(set(changed).difference(done))
                for name in changed:
                    if name in begun:
                        world.see(name)
                    else:
                        world.rotate(name)
                        world.come_back(name)
                        begun.add(name)
                    world.wait(seconds=15 / CHANGING)
                snapshot = await watch.poll()
            return snapshot

    snapshot = asyncio.run(run())
    total = len(world.requests)
    everything = POLLS * (DEVICES + DEVICES // 1000)
    print(
        f"\n{POLLS} polls over {DEVICES:,} devices, {CHANGING} changing in each: {snapshot.summary.message}"
    )
    for what, count in Counter(map(kind, world.requests)).most_common():
        print(f"{count:>8,}  {what}")
    print(f"{total:>8,}  requests, {total / POLLS:.1f} a poll")
    print(f"{floor:>8,}  floor: {total / floor:.2f} times that")
    print(f"{everything:>8,}  asking everybody each time: {everything / total:.0f} times as many")
    assert len(begun) <= snapshot.summary.total - snapshot.summary.states[State.PENDING]
