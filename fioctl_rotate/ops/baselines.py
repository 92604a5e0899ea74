"""What readings of a rotation leave behind on this machine, so that a later look can prove what an earlier one saw.

One JSON file a rotation, `{uuid: {"first-key", "first-key-is-old", "finalized-by"}}`, in the user's state folder:
digests of public keys and times, nothing secret. Without it (another machine, a folder that cannot be written) a
look still works; it then proves less at first (see rotation/state.py).
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
from platformdirs import user_state_path

from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.files import write_atomic
from fioctl_rotate.rotation.tracker import Baseline


def load(api: FactoryApi, rotation_id: str) -> dict[str, Baseline]:
    """The baselines kept of a rotation, by uuid; {} where there are none that can be read."""
    try:
        return msgspec.json.decode(_file(api, rotation_id).read_bytes(), type=dict[str, Baseline])
    except (OSError, msgspec.DecodeError):
        return {}


def save(api: FactoryApi, rotation_id: str, baselines: Mapping[str, Baseline]) -> None:
    """Keep the baselines of a rotation. A folder that cannot be written is no reason to fail: they are an aid."""
    path = _file(api, rotation_id)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(path, msgspec.json.encode(baselines))
    except OSError:
        return


def _file(api: FactoryApi, rotation_id: str) -> Path:
    # By factory alone: one server has many names, and devices are told apart by uuid. What is named may be anything
    # that somebody typed; its digest is a file name.
    name = hashlib.sha256(f"{api.factory}\0{rotation_id}".encode()).hexdigest()[:32]
    return user_state_path("fioctl-rotate", appauthor=False) / "watched" / f"{name}.json"
