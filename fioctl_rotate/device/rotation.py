"""A certificate rotation on the device: five steps, the state on disk after each, an event for each (fioconfig)."""

import datetime
import os
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fioctl_rotate.device import ecies, state
from fioctl_rotate.device.connection import Connection
from fioctl_rotate.device.handler import RenewCert
from fioctl_rotate.device.identity import Identity, Sota, next_slot, token_of, write_new
from fioctl_rotate.device.state import RotationState, go_json
from fioctl_rotate.errors import Error
from fioctl_rotate.est.client import build_csr, check_new_certificate, decode_certificates
from fioctl_rotate.files import write_atomic
from fioctl_rotate.pki.keys import generate_key, private_key_pem, public_key_pem
from fioctl_rotate.pki.parsing import load_private_key
from fioctl_rotate.rotation.progress import STARTED, STEPS
from fioctl_rotate.wire import (
    ConfigFile,
    Event,
    EventDetail,
    EventType,
    GatewayConfigRequest,
    GatewayFile,
    KeyAnnouncement,
)

CONFIG_FILE = "config.encrypted"

COMPLETED = "CertRotationCompleted"

GatewayConfig = dict[str, GatewayFile]


class RotationFailed(Error):
    """A step failed. fioconfig ends here; its next start resumes the rotation before anything else."""


@dataclass(frozen=True)
class Runtime:
    """What a device has in hand from a program start on; a rotation's outcome is only seen at the next one.

    `strict_est` is fioconfig before 2026-02, which takes 201 and the bare media type alone. `notify` is called
    with each event's type and error text (None: success) before the event is sent, `pause` before each step.
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
        return str(self.sota.get("tls.server"))


def decode_config(data: bytes) -> GatewayConfig:
    """A configuration as the gateway sends it and the device stores it. Raises Error where it is something else."""
    try:
        return msgspec.json.decode(data, type=GatewayConfig | None) or {}
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Error(f"the configuration is not what a gateway sends: {error}") from error


def decrypted(config: GatewayConfig, key: ec.EllipticCurvePrivateKey) -> GatewayConfig:
    """The configuration in clear. Raises Error that names the file that cannot be decrypted."""
    clear = {}
    for name, file in config.items():
        try:
            value = file.value if file.unencrypted else ecies.decrypt(key, file.value)
        except Error as error:
            raise Error(f"{name}: {error.message}") from error
        clear[name] = msgspec.structs.replace(file, value=value)
    return clear


def encrypted(config: GatewayConfig, key: ec.EllipticCurvePublicKey) -> GatewayConfig:
    """The configuration with every value encrypted that is not marked as unencrypted."""
    return {
        name: file
        if file.unencrypted
        else msgspec.structs.replace(file, value=ecies.encrypt(key, file.value))
        for name, file in config.items()
    }


async def begin(runtime: Runtime, arguments: RenewCert) -> None:
    """`fioconfig renew-cert`: a rotation from its start, whatever is left of an earlier one.

    Raises RotationFailed.
    """
    await _run(
        runtime,
        RotationState(
            rotation_id=arguments.rotation_id or f"certs-{int(runtime.clock().timestamp())}",
            est_server=arguments.est_server,
            pkey_slot_ids=arguments.pkey_ids,
            cert_slot_ids=arguments.cert_ids,
        ),
    )


async def resume(runtime: Runtime, left: RotationState) -> None:
    """Go on with a rotation that an earlier start has left. Raises RotationFailed."""
    if not left.rotation_id:
        left.rotation_id = f"certs-{int(runtime.clock().timestamp())}"
    await _run(runtime, left)


def finish_offline(runtime: Runtime, left: RotationState) -> None:
    """`fioconfig extract`, early at boot: finish a Finalize that was under way; the rest needs the network."""
    if left.device_config_updated and not left.finalized:
        _finalize(runtime, left)
        state.save(runtime.storage, left)


async def _run(runtime: Runtime, rotation: RotationState) -> None:
    await _send_event(runtime, rotation, STARTED, None)
    state.save(runtime.storage, rotation)
    for index, name in enumerate(STEPS):
        if index < rotation.step_idx:
            continue
        try:
            await runtime.pause()
            if runtime.fail == name:
                raise Error("made to fail at this step, for the rehearsal")
            await _EXECUTE[index](runtime, rotation)
        except Error as error:
            await _send_event(runtime, rotation, name, error.message)
            # fioconfig evaluates the success of this event before the first step: it is always true.
            await _send_event(runtime, rotation, COMPLETED, None)
            raise RotationFailed(f"{name}: {error.message}") from error
        rotation.step_idx = index + 1
        await _send_event(runtime, rotation, name, None)
        state.save(runtime.storage, rotation)
    # After a success fioconfig restarts itself before it comes to send CertRotationCompleted.
    state.complete(runtime.storage)


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
        # An event that is lost does not stop a rotation.
        return


async def _generate_certificate(runtime: Runtime, rotation: RotationState) -> None:
    current = runtime.identity.certificate
    slots = runtime.sota.uses_slots
    if slots:
        new_key = next_slot(rotation.pkey_slot_ids, runtime.sota.get("p11.tls_pkey_id"), "07")
        key = token_of(runtime.sota).generate_key(new_key)
    else:
        key = generate_key()
        new_key = private_key_pem(key).decode()
    try:
        csr = build_csr(key, current)
    except ValueError as error:
        raise Error(str(error)) from error
    response = await runtime.connection.post_csr(f"{rotation.est_server}/simplereenroll", csr)
    if response.status_code != 201 and (runtime.strict_est or response.status_code != 200):
        raise Error(f"the EST server answers {response.status_code}: {response.text.strip()[:500]}")
    media_type = response.headers.get("content-type", "")
    bare = "application/pkcs7-mime"
    if media_type != bare and (runtime.strict_est or not media_type.startswith(bare)):
        raise Error(f"the EST server answers with the media type {media_type!r}")
    certificate = decode_certificates(response.content)[0]
    check_new_certificate(current, certificate)
    if slots:
        rotation.new_cert = next_slot(rotation.cert_slot_ids, runtime.sota.get("p11.tls_clientcert_id"), "09")
        token_of(runtime.sota).import_certificate(rotation.new_cert, certificate)
    else:
        rotation.new_cert = certificate.public_bytes(Encoding.PEM).decode()
    rotation.new_key = new_key


async def _lock(runtime: Runtime, rotation: RotationState) -> None:
    announcement = KeyAnnouncement(next_pubkey=public_key_pem(_new_key(runtime, rotation).public_key()))
    response = await runtime.connection.request("PATCH", f"{runtime.gateway}/device", announcement)
    if response.status_code != 200:
        raise Error(f"the gateway answers {response.status_code}: {response.text.strip()[:500]}")


async def _update_local_config(runtime: Runtime, rotation: RotationState) -> None:
    try:
        stored = (runtime.storage / CONFIG_FILE).read_bytes()
    except FileNotFoundError:
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
        raise Error(f"the gateway answers {response.status_code}: {response.text.strip()[:500]}")
    config = decode_config(response.content)
    try:
        config = decrypted(config, runtime.identity.key)
    except Error:
        # Cut off between upload and save, the configuration is there already, for the new key.
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
        raise Error(f"the gateway answers {response.status_code}: {response.text.strip()[:500]}")
    rotation.device_config_updated = True


async def _finalize_step(runtime: Runtime, rotation: RotationState) -> None:
    _finalize(runtime, rotation)


def _finalize(runtime: Runtime, rotation: RotationState) -> None:
    if runtime.sota.uses_slots:
        changes = {"p11.tls_pkey_id": rotation.new_key, "p11.tls_clientcert_id": rotation.new_cert}
    else:
        changes = {
            "import.tls_pkey_path": str(write_new(runtime.storage, "pkey", rotation.new_key)),
            "import.tls_clientcert_path": str(write_new(runtime.storage, "client", rotation.new_cert)),
        }
    runtime.sota.update(changes)
    if rotation.full_config_encrypted:
        store_config(runtime.storage, rotation.full_config_encrypted.encode(), runtime.clock())
    rotation.finalized = True


def store_config(storage: Path, data: bytes, modified: datetime.datetime) -> None:
    """Write `config.encrypted` with this time of modification, which the next check-in sends."""
    path = storage / CONFIG_FILE
    write_atomic(path, data, 0o640)
    os.utime(path, (modified.timestamp(), modified.timestamp()))


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
