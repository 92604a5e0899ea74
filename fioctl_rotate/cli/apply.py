"""`apply`: push a reviewed plan, exactly as it was shown, or nothing."""

from pathlib import Path
from typing import Annotated

from fioctl_rotate.cli.common import connected, open_api, option, settings_of, single
from fioctl_rotate.cli.planning import PlanArgument, Sending, with_sending
from fioctl_rotate.cli.pushing import in_time, send, waivers
from fioctl_rotate.cli.rehearsing import Rehearsing, rehearse, with_rehearsing
from fioctl_rotate.cli.stages import with_max_failures
from fioctl_rotate.errors import Refused
from fioctl_rotate.rotation.plan import Plan
from fioctl_rotate.settings import Flags, Settings


@connected
@with_sending
@with_rehearsing
async def apply(
    flags: Flags,
    sending: Sending,
    rehearsing: Rehearsing,
    plan_file: PlanArgument,
    edited: Annotated[bool, option("--edited", "Take a plan that was edited after it was written.")] = False,
    digest: Annotated[
        str | None, option("--digest DIGEST", "Apply only the plan with this digest, as it was approved.")
    ] = None,
    max_failures: Annotated[
        str | None, option("--max-failures N|P%", "With stages: failures allowed per stage from now on.")
    ] = None,
) -> None:
    """Push a plan that a dry run wrote, exactly as it was shown, or nothing.

    Refused (5) if the target's fio-rotate-certs or its devices have changed since the plan was made, or if the file
    was edited. Also refused for another Factory or server than the plan's, and for a failed check that the plan
    does not allow. A plan that is applied already is not an error: nothing is sent.

    A plan in stages is followed to its end. The same command continues where an earlier run stopped.

    With --rehearse the plan runs on a clone of the Factory, in simulated time, and is compared with a plain push
    (without stages). No connection leaves this machine. --interval, --timeout and all other times are simulated
    too.
    """
    from fioctl_rotate.ops.plan_file import read_plan
    from fioctl_rotate.ops.push import DEVICES_CHANGED, resume
    from fioctl_rotate.ops.push_checks import check_names

    plan = read_plan(plan_file).accept(edited=edited, digest=digest)
    rehearsing.check()
    sending.check(staged=plan.stages is not None or rehearsing.rehearse is not None)
    allow = waivers(sending, DEVICES_CHANGED)
    plan = plan.replace(
        allow=check_names((*plan.allow, *(name for name in allow if name != DEVICES_CHANGED))),
        checks=(),  # apply checks again
    )
    if max_failures is not None:
        plan = with_max_failures(plan, max_failures)
        sending = sending.replace(note=f"max-failures {max_failures}")
    if rehearsing.rehearse is not None:
        await rehearse(plan, sending, rehearsing, allow)
        return
    settings = settings_for(flags, plan)

    async with open_api(settings, timeout=sending.timeout) as api:
        if plan.stages is not None:
            # A rollout compares the plan with the Factory at each step, so it needs no reading before.
            await send(api, plan, None, sending)
            return
        resuming = resume(api, plan, allow=allow, checked=not sending.no_checks)
        resumed, target = await in_time(api, resuming)
        await send(api, resumed, target, sending)


def settings_for(flags: Flags, plan: Plan) -> Settings:
    """The settings of a command about the plan. Raises Refused where they name another Factory or server."""
    settings = settings_of(flags)
    settings = settings.replace(factory=settings.factory or plan.factory)
    if plan.factory != settings.factory:
        raise Refused(f"the plan is for factory {plan.factory}, not for {settings.factory}")
    if _with_full_path(plan.server) != _with_full_path(settings.destination):
        raise Refused(
            f"the plan is for {plan.server}, not for {settings.destination}",
            hint="name the server or the mock that the plan names, or make a new plan",
        )
    return settings


def _with_full_path(server: str) -> str:
    """`server`; a mock gets its full path, so that it may be named from another directory."""
    mock = server.removeprefix("mock ")
    return server if mock == server else f"mock {Path(mock).resolve()}"


app = single(apply, "fioctl-rotate apply plan.toml")
