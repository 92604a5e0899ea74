"""The demo: a whole rotation on a mocked Factory, from a root key to the proof on every device.

It calls the functions that the commands call, against real servers on free ports of this machine. It shows its
steps on a `Stage`.
"""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fioctl_rotate import tls
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.checks import Status
from fioctl_rotate.clock import utc_now
from fioctl_rotate.device.device import Device
from fioctl_rotate.device.identity import Identity, Sota, load_identity
from fioctl_rotate.device.new_device import Kind
from fioctl_rotate.device.runner import device_directories, run_devices
from fioctl_rotate.errors import TimedOut
from fioctl_rotate.http import httpx
from fioctl_rotate.mock.new_factory import Addresses
from fioctl_rotate.mock.store.accounts import FactoryRecord
from fioctl_rotate.ops import mock
from fioctl_rotate.ops.ceremony import create_pki
from fioctl_rotate.ops.connect import open_api
from fioctl_rotate.ops.est_authorization import authorize_est
from fioctl_rotate.ops.push import plan_push, push
from fioctl_rotate.ops.push_checks import check_push, keep_baselines
from fioctl_rotate.ops.rollout import roll_out
from fioctl_rotate.ops.staging import StageRequest, plan_stages
from fioctl_rotate.ops.watch import Snapshot, Watch
from fioctl_rotate.pki.directory import PkiDirectory
from fioctl_rotate.rotation.made_to_fail import MadeToFail, failing_steps
from fioctl_rotate.rotation.plan import Plan, RotationRequest
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.stages import DEFAULT_STAGE_TIMEOUT, parse_share
from fioctl_rotate.rotation.state import DeviceState, Rotation, State
from fioctl_rotate.settings import Flags, resolve

FACTORY, GROUP = "demo", "field"
CANARY, SOAK = "device-1", 1  # the device of the first stage, and the soak time in seconds
REASON = "demo"
PATIENCE = 60.0  # seconds without progress on any device, after which the demo fails
POLL = 0.1  # seconds between two polls
CHECK_IN = 0.5  # seconds between a device's check-ins
STARTS = 1.5  # seconds from the start of the first device to that of the last
PAUSE = 0.2  # seconds added to each step of a device, so that a person can follow it


class Stage(Protocol):
    """Where the demo is shown."""

    def step(self, title: str, *commands: str) -> None:
        """A step begins; `commands` are what an operator would type for it."""

    def say(self, text: str) -> None:
        """Show a result of the step."""

    def plan(self, plan: Plan) -> None:
        """Show the dry run."""

    def progress(self, snapshot: Snapshot) -> None:
        """Show how far each device has come, as the operator sees it."""


@dataclass(frozen=True)
class DeviceProof:
    """What was seen of one device at the end; `failed` is the device's error where it did not rotate."""

    name: str
    new_certificate: bool
    same_subject: bool
    new_accepted: bool
    old_refused: bool
    failed: str | None = None

    @property
    def holds(self) -> bool:
        """Whether the device has rotated."""
        return self.new_certificate and self.same_subject and self.new_accepted and self.old_refused


async def run(
    directory: Path, stage: Stage, *, devices: int, fail: Sequence[MadeToFail] = ()
) -> list[DeviceProof]:
    """Play the demo in `directory`, which must not exist or be empty, and return a proof for each device.

    `fail` has the steps that are made to fail, on the first devices. Raises TimedOut where no device makes any
    progress for PATIENCE seconds.
    """
    settings = resolve(Flags(factory=FACTORY, mock=str(directory)), {})
    made = await mock.init(directory, FACTORY, addresses=Addresses(0, 0, 0), bare=True)
    factory = made.factory
    stage.step(
        "A Factory with nothing set up",
        f'fioctl-rotate mock init "$D" --factory {FACTORY} --bare --port {factory.api_port} '
        f"--est-port {factory.est_port} --gateway-port {factory.gateway_port}",
        f'export FIOCTL_ROTATE_MOCK="$D" FIOCTL_FACTORY={FACTORY}',
    )
    async with open_api(settings) as api:
        await _set_up(api, directory, stage, devices)
        async with mock.serve(directory, FACTORY) as factory:
            stage.step(
                "The servers: operator API, device gateway and EST over mutual TLS",
                'fioctl-rotate mock serve "$D" &',
            )
            stage.say(f"gateway {factory.gateway_url}, EST server https://localhost:{factory.est_port}")
            # A failing device would stop the first stage, and only after ten minutes: too long for a demo.
            staged = devices > 1 and not fail
            plan = await _plan(api, stage, factory.est_port, staged=staged)
            return await _rotate(api, directory, factory, plan, stage, fail)


async def _set_up(api: FactoryApi, directory: Path, stage: Stage, devices: int) -> None:
    stage.step("Its root of trust", 'fioctl-rotate keys ca create "$D/pki"')
    pki = PkiDirectory(directory / "pki")
    root = (await create_pki(api, pki)).root
    stage.say(
        f"{root.subject.rfc4514_string()}, valid until {root.not_valid_after_utc:%Y-%m-%d}, "
        "its key in pki/factory_ca.key"
    )
    stage.step(
        "The EST server: its CSR is checked, then signed",
        'fioctl-rotate est authorize "$D/pki"',
    )
    authorized = (await authorize_est(api, pki)).certificate
    if authorized is not None:
        stage.say(f"certificate for localhost, valid until {authorized.not_valid_after_utc:%Y-%m-%d}")
    slots = 1 if devices > 1 else 0
    stage.step(
        f"A group of {devices} devices" + (", one with its key in PKCS#11 slots" if slots else ""),
        f"fioctl-rotate config device-group create {GROUP}",
        f'fioctl-rotate mock add-devices "$D" -g {GROUP} --devices {devices} --slots {slots}',
    )
    await api.create_group(GROUP)
    await mock.add_devices(
        directory,
        FACTORY,
        group=GROUP,
        devices=devices,
        kinds=lambda number: Kind(slots=number > devices - slots),
    )


async def _plan(api: FactoryApi, stage: Stage, est_port: int, *, staged: bool) -> Plan:
    request = RotationRequest(REASON, port=est_port)
    plan, target = await plan_push(api, Scope.of_group(GROUP), request, unix_seconds=int(time.time()))
    if staged:
        wanted = StageRequest((), (CANARY,), SOAK, parse_share("0", "--max-failures"), DEFAULT_STAGE_TIMEOUT)
        plan = (await plan_stages(api, plan, wanted, now=utc_now())).plan
    stage.step("The dry run: exactly what would be sent", f"{_command(plan)} --dryrun")
    stage.plan(plan)
    findings = await check_push(api, plan, target, now=utc_now())
    passed = [check for check in findings.checks if check.status is Status.PASS]
    stage.say(f"{len(passed)} of {len(findings.checks)} checks passed")
    keep_baselines(api, plan, findings)
    return plan


def _command(plan: Plan) -> str:
    stages = f" --canary {CANARY} --soak {SOAK}s" if plan.stages else ""
    return (
        f"fioctl-rotate config rotate-certs -g {GROUP} -r {REASON} -p {plan.entry.port} "
        f"--rotation-id {plan.rotation_id}{stages}"
    )


async def _rotate(
    api: FactoryApi,
    directory: Path,
    factory: FactoryRecord,
    plan: Plan,
    stage: Stage,
    fail: Sequence[MadeToFail],
) -> list[DeviceProof]:
    watch = Watch(api, Rotation(plan.rotation_id, plan.scope))
    names = {device.uuid: device.name for device in await api.devices(plan.scope.device_filters)}
    paths = sorted(device_directories(directory / "devices"), key=lambda path: names[path.name])
    before = {path.name: load_identity(Sota(path / "sota.toml")) for path in paths}
    failing = failing_steps(fail, [path.name for path in paths])
    devices = [Device(path, fail=failing.get(path.name), pause=PAUSE) for path in paths]
    late = devices[-2] if len(devices) > 2 else None
    stage.step(
        "The devices check in"
        + (f"; {names[late.uuid]} is offline until the others are done" if late else ""),
        " ".join(
            [f'fioctl-rotate mock devices "$D" -g {GROUP} --interval 1', *map("--fail {}".format, fail), "&"]
        ),
    )
    if plan.stages:
        stage.step(
            f"The push in two stages: {CANARY}, and the group once that one is proven and settled",
            f"{_command(plan)} -y --interval 1",
        )
        pushed: Coroutine[Any, Any, object] = roll_out(api, plan, interval=POLL, sent=stage.say)
    else:
        stage.step(
            "The push, and what landed",
            f"{_command(plan)} -y",
            f"fioctl-rotate rotations watch {plan.rotation_id} -g {GROUP} --interval 1 --exit-status",
        )
        pushed = push(api, plan, tell=stage.say)
    snapshot = await _until_done(watch, devices, late, stage, pushed, failing=bool(failing))
    watch.keep()
    stage.step(
        "The proof: new certificates, same subjects, the new ones accepted, the old ones refused",
        f"fioctl-rotate rotations show {plan.rotation_id} -g {GROUP}",
        'fioctl-rotate mock events "$D"',
    )
    root = (directory / "pki" / "factory_ca.pem").read_text()
    errors = {state.uuid: state.message for state in snapshot.states if state.state is State.FAILING}
    return [
        await _prove(
            names[path.name],
            factory.gateway_url,
            root,
            before[path.name],
            load_identity(Sota(path / "sota.toml")),
            errors.get(path.name),
        )
        for path in paths
    ]


class _Fleet:
    """The demo's devices; `late` checks in only once `others_done` is set."""

    def __init__(self, devices: list[Device], late: Device | None) -> None:
        self.late = late
        self.others_done = asyncio.Event()
        self._devices = devices
        self._stop = asyncio.Event()

    def start(self, group: asyncio.TaskGroup) -> None:
        """Start the devices one after the other."""
        for number, device in enumerate(self._devices):
            delay = 0.0 if device is self.late else number * STARTS / len(self._devices)
            group.create_task(self._run(device, delay))

    def stop(self) -> None:
        """Stop all of them."""
        self.others_done.set()
        self._stop.set()

    async def _run(self, device: Device, delay: float) -> None:
        if device is self.late:
            await self.others_done.wait()
        await asyncio.sleep(delay)
        await run_devices([device], interval=CHECK_IN, stop=self._stop)


async def _until_done(
    watch: Watch,
    devices: list[Device],
    late: Device | None,
    stage: Stage,
    pushed: Coroutine[Any, Any, object],
    *,
    failing: bool,
) -> Snapshot:
    """Run the devices, the late one last, and `pushed`, until all are done.

    A device that is made to fail counts as done once it makes its second attempt.
    """
    fleet = _Fleet(devices, late)
    async with asyncio.TaskGroup() as group:
        fleet.start(group)
        push_task = group.create_task(pushed)
        snapshot, not_done = await _poll(watch, fleet, stage, push_task, failing=failing)
        push_task.cancel()
        fleet.stop()
    if not_done:
        names = ", ".join(state.name for state in not_done)
        raise TimedOut(f"no progress for {PATIENCE:g} s: {names}")
    return snapshot


async def _poll(
    watch: Watch, fleet: _Fleet, stage: Stage, push_task: "asyncio.Task[object]", *, failing: bool
) -> tuple[Snapshot, list[DeviceState]]:
    """Poll until all is done or no device makes progress; returns the last snapshot, and who is not done."""
    before: list[tuple[str, State, int, int]] = []
    clock = asyncio.get_running_loop().time
    moved = clock()
    while True:
        snapshot = await watch.poll()
        stage.progress(snapshot)
        not_done = [state for state in snapshot.states if state.state is not State.DONE]
        if failing:
            not_done = [s for s in not_done if not (s.state is State.FAILING and s.attempts >= 2)]
        if all(fleet.late is not None and state.uuid == fleet.late.uuid for state in not_done):
            fleet.others_done.set()
        now = [(state.uuid, state.state, state.step, state.attempts) for state in not_done]
        if now != before:
            before, moved = now, clock()
        if (not not_done and push_task.done()) or clock() - moved > PATIENCE:
            return snapshot, not_done
        await asyncio.sleep(POLL)


async def _prove(
    name: str, gateway: str, root: str, old: Identity, new: Identity, failed: str | None
) -> DeviceProof:
    return DeviceProof(
        name=name,
        new_certificate=new.certificate.serial_number != old.certificate.serial_number
        and new.certificate.public_key() != old.certificate.public_key(),
        same_subject=new.certificate.subject.public_bytes() == old.certificate.subject.public_bytes(),
        new_accepted=await _is_accepted(gateway, root, new),
        old_refused=not await _is_accepted(gateway, root, old),
        failed=failed,
    )


async def _is_accepted(gateway: str, root: str, identity: Identity) -> bool:
    """Whether the gateway accepts this certificate. A refusal in the handshake shows as a network error.

    Raises TimedOut where no answer comes: silence proves nothing.
    """
    context = tls.client_context(root, cert=identity.certificate_path, key=identity.key_path)
    async with httpx.AsyncClient(verify=context, trust_env=False, timeout=PATIENCE) as client:
        try:
            return (await client.get(f"{gateway}/device")).status_code == 200
        except httpx.TimeoutException as error:
            raise TimedOut(f"{gateway} does not answer within {PATIENCE:g} s") from error
        except httpx.TransportError:
            return False
