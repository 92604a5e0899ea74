"""The state of a rotation on disk in fioconfig's format, so that each program resumes what the other began."""

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from fioctl_rotate.files import read_if_there, write_atomic

STATE_FILE = "cert-rotation.state"
COMPLETED_FILE = "cert-rotation.state.completed"
MAX_STATE = 16 << 20
"""The most bytes of a state, which holds a whole configuration."""


class RotationState(Struct, rename="pascal"):
    """The state of a rotation, with fioconfig's keys in fioconfig's order (fioconfig: CertRotationState).

    `new_key` and `new_cert` are PEM, or slot ids; `full_config_encrypted` is a JSON text.
    """

    rotation_id: str = ""
    step_idx: int = 0
    est_server: str = ""
    pkey_slot_ids: list[str] | None = field(default_factory=list)
    cert_slot_ids: list[str] | None = field(default_factory=list)
    new_key: str = ""
    new_cert: str = ""
    full_config_encrypted: str = ""
    device_config_updated: bool = False
    finalized: bool = False


def load(storage: Path) -> RotationState | None:
    """The rotation that was left unfinished, or None. Raises Error.

    A file that is not JSON reads as an empty state, as fioconfig takes it: the rotation fails at its first step.
    """
    data = read_if_there(storage / STATE_FILE, most=MAX_STATE)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=RotationState)
    except (ValueError, RecursionError):
        return RotationState()


def save(storage: Path, state: RotationState) -> None:
    """Write the state, mode 0640."""
    write_atomic(storage / STATE_FILE, go_json(state), 0o640, sync=False)


def complete(storage: Path) -> None:
    """Mark the rotation as done."""
    (storage / STATE_FILE).replace(storage / COMPLETED_FILE)


def go_json(value: Any) -> bytes:
    """`value` as Go's encoding/json writes it: no spaces, map keys sorted, `<>&` and U+2028/9 escaped."""
    if isinstance(value, dict):
        value = dict(sorted(value.items()))
    text = msgspec.json.encode(value)
    # In JSON these characters occur only inside strings.
    for character in "<>&\u2028\u2029":
        text = text.replace(character.encode(), f"\\u{ord(character):04x}".encode())
    return text
