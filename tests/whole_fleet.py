"""A fleet on which everything happens, for real: `mock serve`, devices over TLS, and the program as CI runs it.

Some devices fail at each of the five steps, some recover, some are offline, shadowed or too old, some have a wrong
clock, and some get a certificate from a CA that the gateway doesn't trust. The program runs beside it all, in a
process of its own.
"""

import asyncio
import contextlib
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.x509.oid import NameOID
from starlette.requests import Request

from fioctl_rotate import serving, tls
from fioctl_rotate.clock import utc_now
from fioctl_rotate.device.device import Device, StartOutcome
from fioctl_rotate.device.new_device import Kind
from fioctl_rotate.device.runner import run_devices
from fioctl_rotate.errors import Error
from fioctl_rotate.est.server import EstApp, client_from_tls
from fioctl_rotate.mock.mock_server import Ports, Serving
from fioctl_rotate.mock.new_factory import Addresses, token_file
from fioctl_rotate.mock.store import device_records
from fioctl_rotate.mock.store.database import Store
from fioctl_rotate.ops import mock
from fioctl_rotate.pki import certificates
from fioctl_rotate.rotation.progress import STEPS
from tests.commandline import Result
from tests.making import Pki, write_pair

ROLES = {
    **{f"fails-{step}": ("failing", step, None) for step in range(1, 6)},
    "recovers": ("done", 5, None),
    "untrusted": ("finalized", 5, None),
    "wrong-clock": ("done", 5, None),
    "slots": ("done", 5, None),
    "offline": ("pending", 0, "offline"),
    "shadowed": ("pending", 0, "shadowed"),
    "old": ("pending", 0, "unsupported"),
}
"""What a device does, and how it must be shown: state, step, reason. All others have no problem, and are done."""
KINDS = {"wrong-clock": Kind(clock_offset=-90_000_000), "slots": Kind(slots=True), "old": Kind(lmp=88)}
WORDS = "made to fail at this step, for the rehearsal"


class WholeFleet:
    """A served Factory whose devices run. `roles` has what each device does, by its name."""

    def __init__(
        self, directory: Path, environment: dict[str, str], est_port: int, roles: dict[str, str]
    ) -> None:
        self.directory = directory
        self.est_port = est_port
        self.roles = roles
        self._environment = environment
        self._at_their_ends = asyncio.Event()
        self._waiting: dict[str, str] = {}
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def start(self, devices: list[Device], roles: dict[str, str], *, check_in: float) -> None:
        """Let the devices, whose `roles` go by UUID, check in every `check_in` seconds."""
        self._waiting = {device.uuid: roles[device.uuid] for device in devices}
        history: dict[str, list[StartOutcome | Error]] = {uuid: [] for uuid in self._waiting}

        def checked_in(uuid: str, outcome: StartOutcome | Error) -> None:
            history[uuid].append(outcome)
            if uuid in self._waiting and _at_its_end(self._waiting[uuid], history[uuid]):
                del self._waiting[uuid]
            if not self._waiting:
                self._at_their_ends.set()

        self._running = asyncio.create_task(
            run_devices(devices, interval=check_in, stop=self._stop, at_once=20, checked_in=checked_in)
        )

    async def at_their_ends(self) -> None:
        """Wait until no device has anything new to do."""
        try:
            await asyncio.wait_for(self._at_their_ends.wait(), 600)
        except TimeoutError:
            raise AssertionError(f"not at their ends: {self._waiting}") from None

    async def stop(self) -> None:
        """Stop the devices, none in the middle of something."""
        self._stop.set()
        if self._running is not None:
            await self._running

    async def run(self, *arguments: object) -> Result:
        """Run the program in a process of its own, against the server."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fioctl_rotate", *map(str, arguments)),
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return Result(int(process.returncode or 0), out.decode(), err.decode())

    async def push(self) -> Result:
        """Push the rotation certs-1 to the group."""
        return await self.run(
            *(
                "config",
                "rotate-certs",
                "-g",
                "field",
                "-r",
                "yearly",
                "--rotation-id",
                "certs-1",
            ),
            *("--server-name", "localhost", "-p", self.est_port),
        )

    def expected(self) -> dict[str, tuple[str, int, str | None]]:
        """How each device must be shown in the end, by its name: state, step, reason."""
        return {name: ROLES.get(role, ("done", 5, None)) for name, role in self.roles.items()}


@contextlib.asynccontextmanager
async def whole_fleet(directory: Path, counts: dict[str, int], *, check_in: float) -> Any:
    """Serve a Factory with that many devices of each role, checking in every `check_in` seconds.

    Yields a WholeFleet. Devices that recover do so after their second attempt.
    """
    roles = [role for role, count in counts.items() for _ in range(count)]
    made = await mock.init(
        directory,
        "acme",
        addresses=Addresses(0, 0, 0),
        group="field",
        devices=len(roles),
        kinds=lambda number: KINDS.get(roles[number - 1], Kind()),
    )
    by_uuid = dict(zip(made.devices, roles, strict=True))
    by_name = dict(zip(made.devices.values(), roles, strict=True))
    _set_back(directory, [uuid for uuid, role in by_uuid.items() if role == "offline"])
    async with (
        mock.serve(directory, serving=Serving(ports=Ports(0, 0, 0))) as factory,
        _est(directory, by_uuid) as est_port,
    ):
        environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if name in ("PATH", "HOME", "XDG_STATE_HOME")
            },
            "FIOCTL_FACTORY": "acme",
            "FIOCTL_TOKEN": token_file(directory, "acme").read_text(),
            "FIOCTL_ROTATE_SERVER": factory.api_url,
        }
        world = WholeFleet(directory, environment, est_port, by_name)
        for name, role in by_name.items():
            if role == "shadowed":
                shadow = await world.run(
                    *("device", "config", "rotate-certs", name, "-r", "its own", "--rotation-id", "certs-0"),
                    *("--server-name", "localhost", "-p", est_port, "--no-checks"),
                )
                assert shadow.code == 0, shadow.err
        world.start(_devices(directory, by_uuid), by_uuid, check_in=check_in)
        try:
            yield world
        finally:
            await world.stop()


def _at_its_end(role: str, outcomes: list[StartOutcome | Error]) -> bool:
    """Whether a device with these check-ins has gone through all that its role has for it."""
    if role == "old":
        return True
    if role.startswith("fails-"):
        return len([outcome for outcome in outcomes if isinstance(outcome, Error)]) > 1
    if StartOutcome.ROTATED not in outcomes:
        return False
    # A refused certificate is tried again for a minute before the device says so.
    after = outcomes[outcomes.index(StartOutcome.ROTATED) + 1 :]
    return role == "untrusted" or any(isinstance(outcome, StartOutcome) for outcome in after)


def _devices(directory: Path, roles: dict[str, str]) -> list[Device]:
    devices = []
    for uuid, role in roles.items():
        if role == "offline":
            continue
        device = Device(directory / "devices" / uuid)
        if role.startswith("fails-"):
            device.fail = STEPS[int(role[-1]) - 1]
        if role == "recovers":
            device = Device(
                directory / "devices" / uuid, observe=_recovering(device_box := []), fail=STEPS[1]
            )
            device_box.append(device)
        devices.append(device)
    return devices


def _recovering(box: list[Device]) -> Any:
    failures = 0

    def observe(_uuid: str, _event: str, error: str | None) -> None:
        nonlocal failures
        failures += error is not None
        if failures == 2:
            box[0].fail = None

    return observe


def _set_back(directory: Path, uuids: list[str]) -> None:
    """Devices that were last seen days ago."""
    with contextlib.closing(Store(directory)) as store, store.transaction() as db:
        for uuid in uuids:
            device_records.see_device(
                db,
                device_records.find_device(db, "acme", uuid, by_uuid=True),
                datetime.now(UTC) - timedelta(days=3),
            )


@contextlib.asynccontextmanager
async def _est(directory: Path, roles: dict[str, str]) -> Any:
    """An EST server of the operator's own, whose CA key was mixed up for some of the devices."""
    pki = Pki.read(directory / "pki")
    other = pki.with_another_ca()
    files = write_pair(directory, "own-est", pki.server())

    right = EstApp(authority=pki.authority, clock=utc_now)
    wrong = EstApp(authority=other.authority, clock=utc_now)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = client_from_tls(Request(scope))
        names = client.subject.get_attributes_for_oid(NameOID.COMMON_NAME) if client else []
        mixed_up = any(roles.get(str(name.value)) == "untrusted" for name in names)
        await (wrong if mixed_up else right)(scope, receive, send)

    context = tls.server_context(*files, certificates.pem(pki.ca), required=False)
    with serving.listen("127.0.0.1", 0) as sock:
        async with serving.running(app, sock, context) as port:
            yield port
