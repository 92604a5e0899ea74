"""Two operators push to one group at once, 100 times: each gets the true outcome of its own push."""

import asyncio
import random

import pytest

from fioctl_rotate.errors import Refused
from fioctl_rotate.ops.push import plan_push, push
from fioctl_rotate.rotation.outcome import Outcome, OutcomeKind
from fioctl_rotate.rotation.plan import Plan, RotationRequest
from fioctl_rotate.rotation.scope import Scope
from tests.world import World

FIELD = Scope.of_group("field")


class Turns:
    """One request at a time. Whose turn it is depends on the seed, and not on how fast the machine is."""

    def __init__(self, seed: int, operators: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311  no secret
        self._operators = operators
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._give()
        await turn

    def leave(self) -> None:
        self._operators -= 1
        self._give()

    def _give(self) -> None:
        """Once each operator waits, the one before has its answer."""
        if self._waiting and len(self._waiting) == self._operators:
            self._waiting.pop(self._chance.randrange(self._operators)).set_result(None)


async def race(world: World, seed: int, operators: int) -> list[Outcome | None]:
    """The outcome for each operator; None where nothing was sent, because somebody else was there before."""
    turns = Turns(seed, operators)

    async def plan(number: int) -> Plan:
        request = RotationRequest("race", server_name="est.example.com", rotation_id=f"certs-{seed}-{number}")
        async with world.api() as api:
            return (await plan_push(api, FIELD, request, unix_seconds=seed))[0]

    async def operate(plan: Plan) -> Outcome | None:
        async with world.api() as api:
            try:
                return await push(api, plan)
            except Refused:
                return None
            finally:
                turns.leave()

    # All have seen the same before they push.
    plans = await asyncio.gather(*map(plan, range(operators)))
    world.pause = turns.wait
    return await asyncio.gather(*map(operate, plans))


async def ids_in_log(world: World) -> list[str]:
    from fioctl_rotate.ops.rotations import of_scope

    world.pause = None
    async with world.api() as api:
        return [rotation.id for rotation in (await of_scope(api, FIELD))[1]]


@pytest.mark.parametrize("operators", [2, 3])
def test_each_operator_gets_the_true_outcome_of_its_push(world: World, operators: int) -> None:
    told: list[OutcomeKind | None] = []
    for seed in range(100):
        before = asyncio.run(ids_in_log(world))
        outcomes = asyncio.run(race(world, seed, operators))
        names = [f"certs-{seed}-{number}" for number in range(operators)]
        log = asyncio.run(ids_in_log(world))
        told += [outcome.kind if outcome else None for outcome in outcomes]
        # Newest first; whoever was refused is not in it.
        landed = [name for name in log if name in names]
        assert set(landed) == {n for n, o in zip(names, outcomes, strict=True) if o is not None}
        for name, outcome in zip(names, outcomes, strict=True):
            if outcome is None:
                continue
            assert outcome.kind in (OutcomeKind.LANDED, OutcomeKind.REPLACED)
            below = (landed + before)[landed.index(name) + 1 :][:1]
            # Whoever replaced another's push is shown that, whatever the other one is shown.
            replaced = None if below == before[:1] else f"rotation {below[0]}"
            assert outcome.replaced == replaced
            if landed[0] == name:
                assert outcome.kind is OutcomeKind.LANDED
    # The races are races: each way to end comes up.
    assert {OutcomeKind.LANDED, OutcomeKind.REPLACED, None} <= set(told)
