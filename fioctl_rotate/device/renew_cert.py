"""A certificate rotation on the device: five steps, the state on disk after each, an event for each (fioconfig)."""

import datetime
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fioctl_rotate.device import state_file
from fioctl_rotate.device.connection import Connection, refusal
from fioctl_rotate.device.handler import RenewCert
from fioctl_rotate.device.identity import Identity, Sota, next_slot, token_of, write_unique
from fioctl_rotate.device.state_file import RotationState, go_json
from fioctl_rotate.device.stored_config import (
    decode_config,
    decrypted,
    encrypted,
    read_config,
    store_config,
)
from fioctl_rotate.errors import Error, message_of
from fioctl_rotate.est.client import accepted, build_csr
from fioctl_rotate.pki.keys import generate_key, private_key_pem, public_key_pem
from fioctl_rotate.pki.parsing import load_private_key
from fioctl_rotate.rotation.entry import reenroll_url
from fioctl_rotate.rotation.progress import STARTED, STEPS
from fioctl_rotate.wire import (
    ConfigFile,
    Event,
    EventDetail,
    EventType,
    GatewayConfigRequest,
    KeyAnnouncement,
)

COMPLETED = "CertRotationCompleted"


class RotationFailed(Error):
    """A step failed. fioconfig ends here; its next start resumes the rotation before anything else."""


@dataclass(frozen=True)
class Runtime:
    """What fioconfig has read at its start. It uses a rotation's new key and certificate only after its next start.

    `strict_est` is fioconfig before 2026-02, which takes only 201 and the bare media type. `notify` is called with
    each event's type and error text (None: success) before the event is sent, `pause` before each step.
    """

    storage: Path
    sota: Sota
    identity: Identity
    connection: Connection
    clock: Callable[[], datetime.datetime]
    strict_est: bool
    target_name: str
    target_version: str
    notify: Callable[[str, str | None], None]
    pause: Callable[[], Awaitable[object]]
    fail: str | None = None

    @property
    def gateway(self) -> str:
        """The gateway's URL."""
        return self.sota.text("tls.server")


async def begin(runtime: Runtime, arguments: RenewCert) -> None:
    """`fioconfig renew-cert`: a rotation from its start, also where an earlier one is unfinished.

    Raises RotationFailed.
    """
    await resume(
        runtime,
        RotationState(
            rotation_id=arguments.rotation_id,
            est_server=arguments.est_server,
            pkey_slot_ids=arguments.pkey_ids,
            cert_slot_ids=arguments.cert_ids,
        ),
    )


async def resume(runtime: Runtime, rotation: RotationState) -> None:
    """Go on with a rotation from the step that `rotation` is at. Raises RotationFailed."""
    if not rotation.rotation_id:
        rotation.rotation_id = f"certs-{int(runtime.clock().timestamp())}"
    await _send_event(runtime, rotation, STARTED, None)
    try:
        state_file.save(runtime.storage, rotation)
        for index in range(max(rotation.step_idx, 0), len(STEPS)):
            await _run_step(runtime, rotation, index)
    except (RotationFailed, OSError):
        # fioconfig evaluates the success of this event before the first step: it is always true.
        await _send_event(runtime, rotation, COMPLETED, None)
        raise
    # After a success fioconfig restarts itself before it can send CertRotationCompleted.
    state_file.complete(runtime.storage)


def finish_offline(runtime: Runtime, rotation: RotationState) -> None:
    """`fioconfig extract`, early at boot: finish a Finalize that was under way; other steps need the network."""
    if rotation.device_config_updated and not rotation.finalized:
        _finalize(runtime, rotation)
        state_file.save(runtime.storage, rotation)


async def _run_step(runtime: Runtime, rotation: RotationState, index: int) -> None:
    name = STEPS[index]
    try:
        await runtime.pause()
        if runtime.fail == name:
            raise Error("made to fail at this step, for the rehearsal")
        await _EXECUTE[index](runtime, rotation)
    except (Error, OSError) as error:
        message = message_of(error)
        await _send_event(runtime, rotation, name, message)
        raise RotationFailed(f"{name}: {message}") from error
    rotation.step_idx = index + 1
    await _send_event(runtime, rotation, name, None)
    state_file.save(runtime.storage, rotation)


async def _send_event(runtime: Runtime, rotation: RotationState, kind: str, error: str | None) -> None:
    runtime.notify(kind, error)
    event = Event(
        id=str(uuid.uuid4()),
        device_time=runtime.clock().strftime("%Y-%m-%dT%H:%M:%SZ"),
        event_type=EventType(id=kind, version=0),
        event=EventDetail(
            correlation_id=rotation.rotation_id,
            success=error is None,
            target_name=runtime.target_name,
            version=runtime.target_version,
            **({"details": error} if error else {}),
        ),
    )
    try:
        await runtime.connection.request("POST", f"{runtime.gateway}/events", [event])
    except Error:
        # A lost event does not stop a rotation.
        return


async def _generate_certificate(runtime: Runtime, rotation: RotationState) -> None:
    current = runtime.identity.certificate
    slots = runtime.sota.uses_slots
    if slots:
        new_key = next_slot(rotation.pkey_slot_ids, runtime.sota.text("p11.tls_pkey_id"), "07")
        key = token_of(runtime.sota).generate_key(new_key)
    else:
        key = generate_key()
        new_key = private_key_pem(key).decode()
    csr = build_csr(key, current)
    answer = await runtime.connection.post_csr(reenroll_url(rotation.est_server), csr)
    certificate = accepted(answer, current, only_201=runtime.strict_est)
    if slots:
        rotation.new_cert = next_slot(
            rotation.cert_slot_ids, runtime.sota.text("p11.tls_clientcert_id"), "09"
        )
        token_of(runtime.sota).import_certificate(rotation.new_cert, certificate)
    else:
        rotation.new_cert = certificate.public_bytes(Encoding.PEM).decode()
    rotation.new_key = new_key


async def _lock(runtime: Runtime, rotation: RotationState) -> None:
    announcement = KeyAnnouncement(next_pubkey=public_key_pem(_new_key(runtime, rotation).public_key()))
    response = await runtime.connection.request("PATCH", f"{runtime.gateway}/device", announcement)
    if response.status_code != 200:
        raise refusal(response)


async def _update_local_config(runtime: Runtime, rotation: RotationState) -> None:
    stored = read_config(runtime.storage)
    if stored is None:
        return
    config = decrypted(decode_config(stored), runtime.identity.key)
    new_key = _new_key(runtime, rotation).public_key()
    rotation.full_config_encrypted = go_json(encrypted(config, new_key)).decode()


async def _update_device_config(runtime: Runtime, rotation: RotationState) -> None:
    new_key = _new_key(runtime, rotation)
    response = await runtime.connection.request("GET", f"{runtime.gateway}/config-device")
    if response.status_code == 204:
        rotation.device_config_updated = True
        return
    if response.status_code != 200:
        raise refusal(response)
    config = decode_config(response.content)
    try:
        config = decrypted(config, runtime.identity.key)
    except Error:
        # An earlier run ended between upload and save: the configuration is already encrypted for the new key.
        decrypted(config, new_key)
        rotation.device_config_updated = True
        return
    request = GatewayConfigRequest(
        reason="Rotating device client certificate",
        files=[
            ConfigFile(
                name=name,
                value=file.value,
                unencrypted=file.unencrypted,
                **({"on_changed": file.on_changed} if file.on_changed else {}),
            )
            for name, file in encrypted(config, new_key.public_key()).items()
        ]
        or None,
        public_key=public_key_pem(new_key.public_key()),
    )
    response = await runtime.connection.request("PATCH", f"{runtime.gateway}/config", request)
    if not 200 <= response.status_code <= 204:
        raise refusal(response)
    rotation.device_config_updated = True


async def _finalize_step(runtime: Runtime, rotation: RotationState) -> None:
    _finalize(runtime, rotation)


def _finalize(runtime: Runtime, rotation: RotationState) -> None:
    if runtime.sota.uses_slots:
        changes = {"p11.tls_pkey_id": rotation.new_key, "p11.tls_clientcert_id": rotation.new_cert}
    else:
        changes = {
            "import.tls_pkey_path": str(write_unique(runtime.storage, "pkey", rotation.new_key)),
            "import.tls_clientcert_path": str(write_unique(runtime.storage, "client", rotation.new_cert)),
        }
    runtime.sota.update(changes)
    if rotation.full_config_encrypted:
        store_config(runtime.storage, rotation.full_config_encrypted.encode(), runtime.clock())
    rotation.finalized = True


def _new_key(runtime: Runtime, rotation: RotationState) -> ec.EllipticCurvePrivateKey:
    if not runtime.sota.uses_slots:
        return load_private_key(rotation.new_key.encode(), name="the new key")
    try:
        data = token_of(runtime.sota).key_path(rotation.new_key).read_bytes()
    except FileNotFoundError as error:
        raise Error(f"there is no key in slot {rotation.new_key}") from error
    return load_private_key(data, name="the new key")


_Step = Callable[[Runtime, RotationState], Awaitable[None]]
_EXECUTE: tuple[_Step, ...] = (
    _generate_certificate,
    _lock,
    _update_local_config,
    _update_device_config,
    _finalize_step,
)
