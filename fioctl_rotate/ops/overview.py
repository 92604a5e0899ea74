"""The rotations of a whole Factory, and how far each of them is."""

from dataclasses import dataclass

from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.ops import baselines
from fioctl_rotate.ops.rotations import of_groups, of_scope
from fioctl_rotate.ops.watch import Watch
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.state import Rotation
from fioctl_rotate.rotation.tracker import Tracker


@dataclass(frozen=True)
class Listed:
    """A rotation, and how many of its devices are done; None where that is not known."""

    rotation: Rotation
    done: int | None = None
    total: int | None = None


async def rotations(api: FactoryApi, scope: Scope | None) -> list[Listed]:
    """The rotations of the scope, or of all groups, newest first.

    For all groups, the devices of current rotations are read. Other counts come from what this machine has stored.
    Raises Error for an unknown group or device.
    """
    found = await of_groups(api) if scope is None else (await of_scope(api, scope))[1]
    return [await _listed(api, rotation, read=scope is None) for rotation in found]


async def _listed(api: FactoryApi, rotation: Rotation, *, read: bool) -> Listed:
    if read and rotation.current:
        watch = Watch(api, rotation)
        snapshot = await watch.poll()
        watch.keep()
        return Listed(rotation, snapshot.summary.done, snapshot.summary.total)
    readings = baselines.load(api, rotation)
    if readings.whole_list is None:
        return Listed(rotation)
    tracker = Tracker(rotation, readings)
    tracker.refresh(readings.whole_list)
    summary = tracker.summary()
    return Listed(rotation, summary.done, summary.total)
