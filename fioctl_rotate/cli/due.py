"""`rotations due`: which devices must rotate, and by when: as text, for a scheduled job, and as an HTML page."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fioctl_rotate.cli.common import (
    GROUP,
    Options,
    Result,
    Table,
    connect,
    connected,
    duration_option,
    option,
    spread,
)
from fioctl_rotate.cli.out_files import JunitOption, SummaryOption, require_new, writable, write_out
from fioctl_rotate.errors import DeviceFailed, UsageError
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.settings import Flags

if TYPE_CHECKING:
    from fioctl_rotate.rotation.due import Due

DAY = 86400.0
DUE_OPTIONS: Options = {
    "group": GROUP,
    "every": option("--all", "All devices of the Factory."),
    "within": duration_option("--within", "A certificate that ends within this time is due [default: 60d]."),
    "lifetime": duration_option("--lifetime", "How long a device certificate lives [default: 365d]."),
    "est_log": option("--est-log FILE", "Log of `est serve --log-format json`: exact dates."),
    "allow": option("--allow NAME", "`unknown`: do not exit with 3 for devices without a known date."),
    "html": option("--html FILE", "HTML page to write, with a plot: how many end each month.", callback=writable),
}  # fmt: skip


@dataclass(frozen=True)
class DueRequest:
    """Which devices are read, and how they are judged. `within` and `lifetime` are in seconds."""

    group: str | None = None
    every: bool = False
    within: float = 60 * DAY
    lifetime: float = 365 * DAY
    est_log: Path | None = None
    allow: list[str] | None = None
    html: Path | None = None

    @property
    def scope(self) -> Scope:
        """The group or the fleet. Raises UsageError unless exactly one of them is named."""
        if (self.group is None) is not self.every:
            raise UsageError("name either a group (-g GROUP) or all devices (--all)")
        return Scope.group_or_fleet(self.group)


def add_to(app: typer.Typer) -> None:
    """Add the command to the group `rotations`."""
    app.command("due", epilog="Example: fioctl-rotate rotations due -g field --within 90d")(due)


@connected
@spread("request", DueRequest, DUE_OPTIONS)
async def due(
    flags: Flags, request: DueRequest, junit: JunitOption = None, summary: SummaryOption = None
) -> Result:
    """Show when each device's certificate ends, counted from its last successful rotation; sorted by that date.

    The rotation's date is the server's, if it has one, else that of the device's clock; BY says which. A date that
    is not known is shown as unknown, never guessed. Exit code 3 if any device is due, expired or unknown, so that a
    scheduled job can alert.
    """
    from fioctl_rotate.clock import utc_now
    from fioctl_rotate.ops import due as ops
    from fioctl_rotate.ops import due_report
    from fioctl_rotate.rotation.due import message_of

    scope, now = request.scope, utc_now()
    if unknown := set(request.allow or ()) - {"unknown"}:
        raise UsageError(f"--allow: expected unknown, got {', '.join(sorted(unknown))}")
    if request.html is not None:
        require_new(request.html, hint="name another file, or remove it")
    async with connect(flags) as api:
        devices = await ops.who_is_due(
            api,
            scope,
            lifetime=timedelta(seconds=request.lifetime),
            within=timedelta(seconds=request.within),
            now=now,
            est_log=request.est_log,
        )
    allowed = {"fine", *(request.allow or ())}
    if junit is not None:
        write_out(junit, due_report.junit(devices, allowed))
    if request.html is not None:
        write_out(request.html, due_report.page(devices, str(scope), now))
    open_ = [device for device in devices if device.status not in allowed]
    message = message_of(devices)
    if summary is not None:
        from fioctl_rotate.ops import markdown

        title = f"Certificates of {scope} in factory {api.factory}"
        write_out(summary, markdown.of_due(title, message, devices), append=True)
    document = {"factory": api.factory, "server": api.server, "devices": devices}
    error = DeviceFailed(message) if open_ else None
    if not devices:
        error = DeviceFailed(f"{scope} has no devices")
    return Result(document, [message, "", Table(HEADERS, map(_row, devices))], error=error)


HEADERS = ("DEVICE", "STATUS", "ENDS", "DAYS LEFT", "ROTATED", "BY", "ROTATION")


def _row(device: "Due") -> tuple[str, ...]:
    return (
        device.name,
        str(device.status),
        f"{device.ends_at:%Y-%m-%d}" if device.ends_at else "",
        "" if device.days_left is None else str(device.days_left),
        f"{device.rotated_at:%Y-%m-%d}" if device.rotated_at else "",
        str(device.source or ""),
        device.rotation or device.message,
    )
