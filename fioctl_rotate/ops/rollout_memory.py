"""What a rollout in stages remembers between runs, so that it does not wait twice. Without it, it only waits again.

One JSON file for each plan (`rotation.picture.Memory`) in the user's state folder: uuids and times, nothing secret.
"""

import hashlib
from pathlib import Path

import msgspec

from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.files import write_atomic
from fioctl_rotate.folders import state_folder
from fioctl_rotate.rotation.picture import Memory
from fioctl_rotate.rotation.plan import Plan


def load(api: FactoryApi, plan: Plan) -> Memory:
    """What was remembered of the plan; an empty memory where that cannot be read."""
    try:
        return msgspec.json.decode(_file(api, plan).read_bytes(), type=Memory)
    except (OSError, msgspec.MsgspecError, RecursionError):
        return Memory()


def save(api: FactoryApi, plan: Plan, memory: Memory) -> None:
    """Remember. A folder that cannot be written is not an error."""
    try:
        path = _file(api, plan)
        data = msgspec.json.encode(memory)
        # Most polls have nothing new, and a write waits for the disk.
        if not path.exists() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomic(path, data)
    except OSError:
        return


def _file(api: FactoryApi, plan: Plan) -> Path:
    name = hashlib.sha256(f"{api.server}\0{api.factory}\0{plan.mark}".encode()).hexdigest()[:32]
    return state_folder() / "rollouts" / f"{name}.json"
