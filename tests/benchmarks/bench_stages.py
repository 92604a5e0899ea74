"""How many devices a fault harms: a rotation in stages beside a plain push to the group, in a model of both.

    pytest -n 0 -s tests/benchmarks/bench_stages.py

300 model devices (tests/rotation/model_device.py) check in every five minutes, and one in fifty of them reboots
before that, for most of a day. A device is harmed that is stuck at an EST server, is refused by the gateway, or has
rotated twice. The rollout is applied at each check-in and ends by itself; what it sent stays.
"""

import random
from collections.abc import Callable
from datetime import timedelta

from fioctl_rotate.rotation.picture import Memory
from fioctl_rotate.rotation.rollout import Verdict
from tests.rotation.model_device import value_of
from tests.rotation.rollout_model import Run, World, rotate_all

DEVICES, POLLS, REBOOTS = 300, 250, 0.02
STAGES = [3, 12, 60]


def nothing(_world: World, _poll: int) -> None:
    pass


def never_works(world: World, _poll: int) -> None:
    world.down = {"certs-9"}


def dies_later(world: World, poll: int) -> None:
    world.down = {"certs-9"} if poll >= 12 else set()


def dies_and_comes_back(world: World, poll: int) -> None:
    world.down = {"certs-9"} if 2 <= poll < 100 else set()


def foreign_ca(world: World, _poll: int) -> None:
    world.untrusted = {"certs-9"}


def older_is_gone(world: World, _poll: int) -> None:
    world.down = {"certs-1"}


Fault = Callable[[World, int], None]
FAULTS: list[tuple[str, str | None, Fault, bool]] = [
    ("none", None, nothing, False),
    ("the EST server never works", None, never_works, False),
    ("it stops working after an hour", None, dies_later, False),
    ("it fails for eight hours, then works", None, dies_and_comes_back, False),
    ("a CA that the gateway does not trust", None, foreign_ca, False),
    ("an older rotation beneath", "certs-1", nothing, False),
    ("beneath, and its EST server is gone", "certs-1", older_is_gone, False),
    ("the same, with --clear-older", "certs-1", older_is_gone, True),
]


def harmed(world: World, older: str | None) -> tuple[int, int]:
    """How many devices are harmed, and how many have rotated well."""
    count = well = 0
    for device in world.devices.values():
        new = device.rotated[1 if older else 0 :]
        refused = device.locked and device.completed in world.untrusted
        count += device.resuming is not None or refused or len(new) > 1
        well += new == ["certs-9"] and not refused and device.resuming is None
    return count, well


def play(older: str | None, fault: Fault, *, staged: bool, clear: bool) -> tuple[int, int, str]:
    chance = random.Random(1)  # noqa: S311  the same reboots in each run
    world = World([f"d{number:03}" for number in range(DEVICES)])
    if older:
        rotate_all(world, world.group, older)
    run = Run(world, world.plan(STAGES if staged else [], clear_group=clear), Memory())
    verdict = Verdict.GO_ON
    if not staged:
        world.group.change(value_of("certs-9"), "plain", world.now)
    for poll in range(POLLS):
        fault(world, poll)
        if staged and verdict is not Verdict.DONE:
            verdict = run.poll().verdict
        reboots = {name for name in world.devices if chance.random() < REBOOTS}
        run.pass_time(reboot=reboots)
        if not staged and poll == POLLS // 2:
            # What the program advises once a plain push is done.
            world.group.change(world.group.entry, "settle certs-9", world.now + timedelta(minutes=1))
    return *harmed(world, older), str(verdict) if staged else ""


def test_devices_harmed() -> None:
    print(
        f"\n{DEVICES} devices, stages of {', '.join(map(str, STAGES))} and the group; harmed / rotated well"
    )
    print(f"{'fault':38} {'plain push':>14} {'in stages':>14}  rollout")
    for name, older, fault, clear in FAULTS:
        plain_harmed, plain_well, _ = play(older, fault, staged=False, clear=False)
        staged_harmed, staged_well, verdict = play(older, fault, staged=True, clear=clear)
        plain, staged = f"{plain_harmed} / {plain_well}", f"{staged_harmed} / {staged_well}"
        print(f"{name:38} {plain:>14} {staged:>14}  {verdict}")
