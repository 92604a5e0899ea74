"""`apply`: push a reviewed plan, exactly as it was shown, or nothing."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fioctl_rotate.cli.common import connected, settings_of, single, with_api
from fioctl_rotate.cli.planning import Sending, with_sending
from fioctl_rotate.cli.pushing import send
from fioctl_rotate.cli.stages import with_max_failures
from fioctl_rotate.errors import Refused
from fioctl_rotate.rotation.plan import Plan, from_file
from fioctl_rotate.settings import Flags, Settings
from fioctl_rotate.toml import read_toml

if TYPE_CHECKING:
    from fioctl_rotate.api.client import FactoryApi

_MOST_BYTES = 16 << 20  # a plan in stages lists its devices


@connected
@with_sending
def apply(
    flags: Flags,
    sending: Sending,
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="Plan that a dry run wrote with --out.")],
    edited: Annotated[
        bool, typer.Option("--edited", help="Take a plan that was edited after it was written.")
    ] = False,
    max_failures: Annotated[
        str | None,
        typer.Option(
            "--max-failures", metavar="N|P%", help="With stages: go on with so many failures a stage."
        ),
    ] = None,
) -> None:
    """Push a plan that a dry run wrote, exactly as it was shown, or nothing.

    Refused (5) if the target's fio-rotate-certs has changed since, if the Factory or the server is another than the
    plan's, or if the file was edited. A plan that is applied already is no error: nothing is sent.

    A plan in stages is followed to its end; the same command goes on where an earlier run stopped.
    """
    plan = from_file(read_toml(plan_file, "plan", most=_MOST_BYTES), allow_edited=edited)
    sending.check(staged=plan.stages is not None)
    if max_failures is not None:
        plan = with_max_failures(plan, max_failures)
        sending = sending.replace(note=f"max-failures {max_failures}")
    settings = settings_of(flags)
    settings = settings.replace(factory=settings.factory or plan.factory)
    _check_destination(plan, settings)

    async def work(api: "FactoryApi") -> None:
        from fioctl_rotate.ops.push import refresh

        # A plan in stages goes on from wherever it stands, and compares at each step.
        await send(api, plan if plan.stages else await refresh(api, plan), sending)

    with_api(settings, work, timeout=sending.timeout)


def _check_destination(plan: Plan, settings: Settings) -> None:
    if plan.factory != settings.factory:
        raise Refused(f"the plan is for factory {plan.factory}, not for {settings.factory}")
    if _full(plan.server) != _full(settings.destination):
        raise Refused(
            f"the plan is for {plan.server}, not for {settings.destination}",
            hint="name the server or the mock that the plan names, or make a new plan",
        )


def _full(server: str) -> str:
    """A mock by its full path, so that it may be named from another directory."""
    mock = server.removeprefix("mock ")
    return server if mock == server else f"mock {Path(mock).resolve()}"


app = single(apply, "fioctl-rotate apply plan.toml")
