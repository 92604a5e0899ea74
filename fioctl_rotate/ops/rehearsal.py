"""A plan made against the real Factory, rehearsed on a clone of it: on simulated time, over real TLS on loopback.

Everything happens on copies inside of the clone's directory, one for the rollout in stages and one for the plain
push beside it. So the clone stays as it is, and each rehearsal begins with the same.
"""

import asyncio
import contextlib
import shutil
from pathlib import Path

from fioctl_rotate.errors import Error, Refused, message_of
from fioctl_rotate.files import locked
from fioctl_rotate.folders import state_in
from fioctl_rotate.mock.store import accounts
from fioctl_rotate.mock.store.database import Store
from fioctl_rotate.ops.at_once import first_of
from fioctl_rotate.ops.rehearsal_child import play_in_child
from fioctl_rotate.ops.rehearsal_plan import rehearsed_id
from fioctl_rotate.ops.rehearsal_play import NOBODY, Audience, Wanted, play
from fioctl_rotate.ops.rehearsal_world import CHECK_IN
from fioctl_rotate.ops.rehearsed import Played, Rehearsal
from fioctl_rotate.ops.simulated_fleet import STEP_TAKES
from fioctl_rotate.rotation.plan import Plan

# With fewer devices, the start of another process takes longer than their push.
FEW = 50


async def rehearse(directory: Path, plan: Plan, wanted: Wanted, audience: Audience = NOBODY) -> Rehearsal:
    """Rehearse `plan` on the clone in `directory`.

    Raises UsageError or Error where that holds no mocked Factory that can be used, Refused where the plan is for
    another Factory, or where its devices or its entry are others on the clone than when the plan was made.
    """
    with contextlib.closing(Store(directory)) as store, store.reading() as db:
        names = [factory.name for factory in accounts.factories(db)]
    if plan.factory not in names:
        raise Refused(
            f"the plan is for factory {plan.factory}, and {directory} has {', '.join(names)}",
            hint=f"`fioctl-rotate mock clone DIR -f {plan.factory}` makes a clone of it",
        )
    place = directory / "rehearsal"
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        with locked(place / ".lock", Refused(f"another rehearsal runs in {directory}")):
            for name in ("in-stages", "plain-push", "state"):
                shutil.rmtree(place / name, ignore_errors=True)
            with state_in(place / "state"):
                return await _rehearse(directory, place, plan, wanted, audience)
    except OSError as error:
        raise Error(message_of(error)) from error


async def _rehearse(
    directory: Path, place: Path, plan: Plan, wanted: Wanted, audience: Audience
) -> Rehearsal:
    refused: list[str] = []
    staged = None
    if plan.stages is None:
        plain = await play(
            directory, place / "plain-push", plan, wanted, audience=audience, refused=refused.append
        )
    else:
        staged, plain = await _both(directory, place, plan, wanted, audience, refused)
    return Rehearsal(
        rotation_id=rehearsed_id(plan.rotation_id),
        planned_id=plan.rotation_id,
        target=str(plan.scope),
        factory=plan.factory,
        directory=str(directory),
        staged=staged,
        plain=plain,
        faults=wanted.faults.typed,
        simulated=_simulated(wanted),
        refused=list(dict.fromkeys(refused)),
    )


async def _both(
    directory: Path, place: Path, plan: Plan, wanted: Wanted, audience: Audience, refused: list[str]
) -> tuple[Played, Played]:
    """The rollout in stages, and the same as a plain push: beside it where there are many devices."""
    path, plain_plan = place / "plain-push", plan.replace(stages=None)

    async def staged() -> Played:
        return await play(
            directory, place / "in-stages", plan, wanted, audience=audience, refused=refused.append
        )

    if (plan.devices or 0) <= FEW:
        played = await staged()
        audience.say("the same as a plain push")
        return played, await play(directory, path, plain_plan, wanted, refused=refused.append)
    try:
        async with asyncio.TaskGroup() as group:
            beside = group.create_task(play_in_child(directory, path, place / "state", plain_plan, wanted))
            played = await staged()
            if not beside.done():
                audience.say("waiting for the plain push, which is rehearsed beside it")
    except BaseExceptionGroup as errors:
        raise first_of(errors) from None
    plain, more = beside.result()
    refused += more
    return played, plain


def _simulated(wanted: Wanted) -> list[str]:
    every = (
        f"{wanted.check_in:g} s" if wanted.check_in else f"{CHECK_IN:g} s unless the clone has another time"
    )
    return [
        "devices, gateway and EST server are those of the mock, with the clone's keys; TLS between them is real",
        f"time: devices check in every {every}, polls are at least {wanted.interval:g} s and a tenth of that apart,"
        f" a step of a rotation takes {STEP_TAKES:g} s. Waits for these, soak, timeouts and retries take no real"
        " time. Certificates go by the real time",
        "a check-in without news is counted, and not made, once one over TLS had no news; so is a start that fails"
        " as the two before it. While nothing changes for an hour, polls are further apart",
        "the checks before a push are left out",
    ]
