"""`mock devices`: the mock's simulated devices, run until stopped."""

from pathlib import Path
from typing import Annotated

import typer

from fioctl_rotate.cli import common
from fioctl_rotate.cli.common import Format, FormatOption, OptionalGroup, note, option
from fioctl_rotate.errors import Refused, printable
from fioctl_rotate.settings import Flags, resolve

EXAMPLE = "Example: fioctl-rotate mock devices ./acme --group field --interval 5"


def _directory(text: str) -> Path:
    if not text:
        raise Refused("DIR is empty", hint="name a directory; a shell variable may be unset")
    return Path(text)


DirectoryArgument = Annotated[
    Path, typer.Argument(metavar="DIR", parser=_directory, help="Directory that holds the mocked Factory.")
]
FailOption = Annotated[
    list[str] | None,
    option(
        "--fail STEP[:PERCENT]",
        "Make a step (1 to 5) fail on PERCENT of the devices, or on one (repeatable).",
    ),
]
FactoryOption = Annotated[str | None, option("-f --factory NAME", "Factory name [default: the first one].")]


async def devices(
    directory: DirectoryArgument,
    factory: FactoryOption = None,
    group: OptionalGroup = None,
    interval: Annotated[
        float | None,
        common.duration_option(
            "--interval", "Time between two check-ins [default: the clone's, or 10s].", shortest=0.1
        ),
    ] = None,
    reboot: Annotated[
        float,
        option("--reboot PERCENT", "Chance that a device reboots before a check-in.", min=0, max=100),
    ] = 0.0,
    fail: FailOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Run the mock's devices against `mock serve`, until Ctrl-C; with -g, those of one group.

    They do what fioconfig does: check in, write what changed, rotate, resume a rotation that was interrupted. A
    wrong EST URL wedges them as it wedges real ones. Each step is one line. Real devices check in every 300
    seconds.
    """
    import asyncio

    from fioctl_rotate.ops.mock_devices import (
        check_in_intervals,
        factory_in,
        mock_devices,
        run_mock_devices,
    )
    from fioctl_rotate.rotation.made_to_fail import parse_made_to_fail
    from fioctl_rotate.serving import until_interrupted

    settings = resolve(Flags(factory=factory_in(directory, factory), mock=str(directory)), {})
    async with common.open_api(settings) as api:
        names = await mock_devices(api, directory, group=group)

    def observe(uuid: str, event: str, error: str | None) -> None:
        if format is Format.JSON:
            line = {"uuid": uuid, "device": names[uuid], "event": event, "success": error is None}
            common.emit_json(line | ({"details": error} if error else {}), lines=True)
        else:
            common.emit(printable(f"{names[uuid]}  {event}" + (f": {error}" if error else "")))

    intervals = check_in_intervals(directory, names, interval)
    every = " or ".join(f"{seconds:g}" for seconds in sorted(set(intervals.values())))
    note(f"running {len(names)} device(s), a check-in every {every} s; Ctrl-C ends it")
    stop = asyncio.Event()
    fleet = asyncio.create_task(
        run_mock_devices(
            directory,
            names,
            intervals=intervals,
            reboot=reboot / 100,
            fail=[parse_made_to_fail(text) for text in fail or []],
            stop=stop,
            observe=observe,
            problem=lambda uuid, message: note(printable(f"{names[uuid]}: {message}")),
        )
    )
    interrupted = asyncio.create_task(until_interrupted())
    await asyncio.wait({fleet, interrupted}, return_when=asyncio.FIRST_COMPLETED)
    interrupted.cancel()
    stop.set()
    await fleet
