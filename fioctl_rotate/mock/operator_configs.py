"""The operator API's calls for configurations: of the fleet, a group or a device, by the same functions."""

from fioctl_rotate import wire
from fioctl_rotate.mock.operation import DEVICE, FACTORY, PAGED, Call, Operations
from fioctl_rotate.mock.operator_factory import GROUP
from fioctl_rotate.mock.problem import Problem
from fioctl_rotate.mock.requests import ConfigRequest
from fioctl_rotate.mock.store import config_levels, device_groups
from fioctl_rotate.mock.store.accounts import FactoryRecord
from fioctl_rotate.mock.store.config_levels import Level

_CONFIGS = [f"{path}/config/" for path in (FACTORY, GROUP, DEVICE)]
_FILES = [path + "{file:path}/" for path in _CONFIGS]

operations = Operations()


@operations("GET", *_CONFIGS, query=PAGED)
def show_config(call: Call) -> wire.ConfigList:
    """The configuration's log, newest first."""
    _, level = _level(call)
    page, limit = call.page()
    log = config_levels.log(call.db, level)
    return wire.ConfigList(
        config=log[(page - 1) * limit : page * limit],
        total=len(log),
        next=call.next(page, limit, len(log)),
    )


@operations("PATCH", *_CONFIGS, status=201, query=("force",), errors=(409, 413))
def merge_config(call: Call, body: ConfigRequest) -> dict[str, str]:
    """Merge files into the configuration, by name. 409 while the device is changing its key."""
    return _change(call, body, replace=False)


@operations("POST", *_CONFIGS, status=201, query=("force",), errors=(409, 413))
def replace_config(call: Call, body: ConfigRequest) -> dict[str, str]:
    """Replace the configuration. 409 while the device is changing its key."""
    return _change(call, body, replace=True)


@operations("DELETE", *_FILES, errors=(409,))
def delete_config(call: Call) -> None:
    """Delete a file of the configuration. 409 while the device is changing its key."""
    factory, level = _level(call)
    config_levels.delete_file(call.db, level, call.path["file"], author=call.author(factory), now=call.now)


def _change(call: Call, body: ConfigRequest, *, replace: bool) -> dict[str, str]:
    call.flag("force")  # checked, but without effect: the mock refuses nothing that `force` would allow
    factory, level = _level(call)
    config_levels.change(
        call.db,
        level,
        body.files,
        reason=body.reason,
        author=call.author(factory),
        now=call.now,
        replace=replace,
    )
    return {}


def _level(call: Call) -> tuple[FactoryRecord, Level]:
    """The factory, and the level whose configuration the path names; raises Problem.

    409: a device's configuration cannot be changed while the device changes its key (the manual).
    """
    if "device" in call.path:
        factory, device = call.device()
        if call.operation.writes and device.next_public_key is not None:
            raise Problem(
                409,
                f"device {device.name} is changing its key; its configuration can be changed after that",
            )
        return factory, Level("device", device.uuid)
    factory = call.factory()
    if "group" in call.path:
        group = device_groups.find_group(call.db, factory.name, call.path["group"])
        return factory, Level("group", str(group.id))
    return factory, Level("fleet", factory.name)
