"""A plan made against the real Factory, rehearsed on a clone of it: on simulated time, over real TLS on loopback.

It runs on copies inside the clone's directory: one for the rollout in stages, one for the plain push. The clone
itself does not change, so each rehearsal starts from the same state.
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
from fioctl_rotate.ops.rehearsal_play import NOBODY, Audience, RehearsalOptions, play
from fioctl_rotate.ops.rehearsal_world import CHECK_IN
from fioctl_rotate.ops.rehearsed import Played, Rehearsal
from fioctl_rotate.ops.simulated_fleet import STEP_TAKES
from fioctl_rotate.rotation.plan import Plan

# Up to this many devices, starting another process takes longer than their push.
FEW = 50


async def rehearse(
    directory: Path, plan: Plan, options: RehearsalOptions, audience: Audience = NOBODY
) -> Rehearsal:
    """Rehearse `plan` on the clone in `directory`.

    Raises UsageError or Error where the directory has no mocked Factory that can be used. Raises Refused where the
    plan is for another Factory, or the clone has another entry or other devices than the plan.
    """
    with contextlib.closing(Store(directory)) as store, store.reading() as db:
        names = [factory.name for factory in accounts.factories(db)]
    if plan.factory not in names:
        raise Refused(
            f"the plan is for factory {plan.factory}, but {directory} has {', '.join(names)}",
            hint=f"`fioctl-rotate mock clone DIR -f {plan.factory}` makes a clone of it",
        )
    folder = directory / "rehearsal"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        with locked(folder / ".lock", Refused(f"another rehearsal runs in {directory}")):
            for name in ("in-stages", "plain-push", "state"):
                shutil.rmtree(folder / name, ignore_errors=True)
            with state_in(folder / "state"):
                return await _rehearse(directory, folder, plan, options, audience)
    except OSError as error:
        raise Error(message_of(error)) from error


async def _rehearse(
    directory: Path, folder: Path, plan: Plan, options: RehearsalOptions, audience: Audience
) -> Rehearsal:
    refused: list[str] = []
    staged = None
    if plan.stages is None:
        plain = await play(
            directory, folder / "plain-push", plan, options, audience=audience, refused=refused.append
        )
    else:
        staged, plain = await _both(directory, folder, plan, options, audience, refused)
    return Rehearsal(
        rotation_id=rehearsed_id(plan.rotation_id),
        planned_id=plan.rotation_id,
        target=str(plan.scope),
        factory=plan.factory,
        directory=str(directory),
        staged=staged,
        plain=plain,
        faults=options.faults.typed,
        simulated=_simulated(options),
        refused=list(dict.fromkeys(refused)),
    )


async def _both(
    directory: Path,
    folder: Path,
    plan: Plan,
    options: RehearsalOptions,
    audience: Audience,
    refused: list[str],
) -> tuple[Played, Played]:
    """The rollout in stages, and the same as a plain push; with many devices both at the same time."""
    path, plain_plan = folder / "plain-push", plan.replace(stages=None)

    async def staged() -> Played:
        return await play(
            directory, folder / "in-stages", plan, options, audience=audience, refused=refused.append
        )

    if (plan.devices or 0) <= FEW:
        played = await staged()
        audience.say("now the same as a plain push")
        return played, await play(directory, path, plain_plan, options, refused=refused.append)
    try:
        async with asyncio.TaskGroup() as group:
            beside = group.create_task(play_in_child(directory, path, folder / "state", plain_plan, options))
            played = await staged()
            if not beside.done():
                audience.say("waiting for the plain push, which is rehearsed at the same time")
    except BaseExceptionGroup as errors:
        raise first_of(errors) from None
    plain, more = beside.result()
    refused += more
    return played, plain


def _simulated(options: RehearsalOptions) -> list[str]:
    every = (
        f"{options.check_in:g} s" if options.check_in else f"{CHECK_IN:g} s unless the clone has another time"
    )
    return [
        "devices, gateway and EST server are those of the mock, with the clone's keys; TLS between them is real",
        f"time: devices check in every {every}; the time between polls is at least {options.interval:g} s, and at"
        f" least a tenth of the check-in interval; a step of a rotation takes {STEP_TAKES:g} s. Waits for these,"
        " soak, timeouts and retries take no real time. Certificates use the real time",
        "after one check-in over TLS without news, the next ones are only counted, until there is news. A start"
        " that fails as the two before it is only counted, too. After an hour without a change, polls are further"
        " apart",
        "the checks before a push are left out",
    ]
