"""`mock devices`: the mock's simulated devices, run until stopped."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fioctl_rotate.cli.common import (
    Format,
    FormatOption,
    duration_option,
    emit,
    emit_json,
    note,
    run,
    with_api,
)
from fioctl_rotate.errors import printable
from fioctl_rotate.settings import Flags, resolve

if TYPE_CHECKING:
    from fioctl_rotate.api.client import FactoryApi
    from fioctl_rotate.device.device import Outcome
    from fioctl_rotate.errors import Error

EXAMPLE = "Example: fioctl-rotate mock devices ./acme --group field --interval 5"


def devices(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Directory that holds the mocked Factory.")
    ],
    factory: Annotated[
        str | None,
        typer.Option("-f", "--factory", metavar="NAME", help="Factory; the first one unless given."),
    ] = None,
    group: Annotated[
        str | None, typer.Option("-g", "--group", metavar="GROUP", help="Run this group's devices alone.")
    ] = None,
    interval: Annotated[
        float, duration_option("--interval", "Time between two check-ins.", shortest=0.1)
    ] = 10.0,
    format: FormatOption = Format.TEXT,
) -> None:
    """Run the mock's devices against `mock serve`, until Ctrl-C.

    They do what fioconfig does: check in, write what changed, rotate when told to, resume what was cut off. A wrong
    EST URL wedges them as it wedges real ones. Each step is a line; real devices check in every 300 seconds.
    """
    names = _names(directory, factory, group)

    def observe(uuid: str, event: str, error: str | None) -> None:
        if format is Format.JSON:
            line = {"uuid": uuid, "device": names[uuid], "event": event, "success": error is None}
            emit_json(line | ({"details": error} if error else {}), lines=True)
        else:
            emit(printable(f"{names[uuid]}  {event}" + (f": {error}" if error else "")))

    def checked_in(uuid: str, outcome: "Outcome | Error") -> None:
        from fioctl_rotate.device.rotation import RotationFailed

        # What failed in a rotation has been told step by step.
        if isinstance(outcome, Exception) and not isinstance(outcome, RotationFailed):
            note(printable(f"{names[uuid]}: {outcome}"))

    async def work() -> None:
        import asyncio

        from fioctl_rotate.ops.mock_devices import run_mock_devices
        from fioctl_rotate.serving import until_interrupted

        stop = asyncio.Event()
        fleet = asyncio.create_task(
            run_mock_devices(
                directory, names, interval=interval, stop=stop, observe=observe, checked_in=checked_in
            )
        )
        interrupted = asyncio.create_task(until_interrupted())
        await asyncio.wait({fleet, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        interrupted.cancel()
        stop.set()
        await fleet

    note(f"running {len(names)} device(s), a check-in every {interval:g} s; Ctrl-C ends it")
    run(work())


def _names(directory: Path, factory: str | None, group: str | None) -> dict[str, str]:
    from fioctl_rotate.ops.mock_devices import factory_in, mock_devices

    settings = resolve(Flags(factory=factory_in(directory, factory), mock=str(directory)), {})

    async def work(api: "FactoryApi") -> dict[str, str]:
        return await mock_devices(api, directory, group=group)

    return with_api(settings, work)
