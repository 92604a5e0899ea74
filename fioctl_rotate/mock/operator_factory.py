"""The operator API's calls below /ota/factories/: certificates, users, groups, configuration, denied devices."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from fioctl_rotate import wire
from fioctl_rotate.mock import accounts, authority, configs, fleet
from fioctl_rotate.mock.accounts import Factory
from fioctl_rotate.mock.configs import Target
from fioctl_rotate.mock.operation import Answer, Call, Operation, Text
from fioctl_rotate.mock.setup import default_online_ca

_FACTORY = "/ota/factories/{factory}"
_GROUP = _FACTORY + "/device-groups/{group}"


class NewGroup(Struct, rename="kebab", kw_only=True):
    """A device group to be made."""

    name: str
    description: str | UnsetType = UNSET


class GroupChange(Struct, rename="kebab", kw_only=True, omit_defaults=True):
    """What to change of a device group."""

    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET


def list_factories(call: Call) -> list[wire.Factory]:
    """The factories that the token sees."""
    return [
        wire.Factory(name=factory.name, reposerver_id=factory.reposerver_id)
        for factory in accounts.factories(call.db)
        if factory.name in call.identity
    ]


# --- Certificates ---


def show_certs(call: Call) -> wire.Certs | Answer:
    """The factory's certificates; 206 while its PKI is not set up."""
    factory = _factory(call)
    certs = authority.on_file(factory)
    return certs if factory.root_crt else Answer(206, certs)


def create_csrs(call: Call) -> wire.Csrs:
    """Have the backend make keys for the certificates asked for; answers their CSRs, PEM."""
    return authority.create_csrs(call.db, call.directory, _factory(call), call.body)


def upload_certs(call: Call) -> Answer:
    """Upload certificates, PEM. The root is set once; all others must chain to it."""
    factory = _factory(call)
    authority.upload(call.db, factory, call.body, author=call.author(factory), now=call.now)
    return Answer(204)


def show_default_online_ca(call: Call) -> Text:
    """The online CA of factories that have no PKI of their own."""
    return Text(default_online_ca(call.db), "application/x-pem-file")


# --- Users ---


def list_users(call: Call) -> list[wire.User]:
    """The factory's users."""
    return accounts.users(call.db, _factory(call).name)


def show_user(call: Call) -> wire.User:
    """One user with teams and scopes; `self` is the token's."""
    factory = _factory(call)
    wanted = call.path["user"]
    return accounts.user(call.db, factory.name, call.author(factory) if wanted == "self" else wanted)


# --- Groups ---


def list_groups(call: Call) -> wire.DeviceGroupList:
    """The factory's device groups."""
    return wire.DeviceGroupList(groups=fleet.groups(call.db, _factory(call).name))


def create_group(call: Call) -> Answer:
    """Make a device group."""
    factory = _factory(call)
    description = None if call.body.description is UNSET else call.body.description
    group = fleet.create_group(
        call.db, factory.name, call.body.name, description, author=call.author(factory), now=call.now
    )
    return Answer(201, group)


def update_group(call: Call) -> wire.DeviceGroup:
    """Rename a device group or describe it anew."""
    factory = _factory(call)
    changes = {
        key: value
        for key, value in (("name", call.body.name), ("description", call.body.description))
        if value is not UNSET
    }
    return fleet.update_group(
        call.db, factory.name, call.path["group"], changes, author=call.author(factory), now=call.now
    )


def delete_group(call: Call) -> Answer:
    """Delete a device group that has no devices."""
    fleet.delete_group(call.db, _factory(call).name, call.path["group"])
    return Answer(204)


# --- Configuration ---


def show_config(call: Call) -> wire.ConfigList:
    """The configuration's log, newest first."""
    _, target = _target(call)
    return config_page(call, target)


def merge_config(call: Call) -> Answer:
    """Merge files into the configuration, by name."""
    return _change_config(call, replace=False)


def replace_config(call: Call) -> Answer:
    """Replace the configuration."""
    return _change_config(call, replace=True)


def delete_config(call: Call) -> Answer:
    """Delete a file of the configuration."""
    factory, target = _target(call)
    configs.delete_file(call.db, target, call.path["file"], author=call.author(factory), now=call.now)
    return Answer(204)


def config_page(call: Call, target: Target) -> wire.ConfigList:
    """A page of a configuration's log."""
    page, limit = call.page()
    log = configs.log(call.db, target)
    return wire.ConfigList(
        config=log[(page - 1) * limit : page * limit],
        total=len(log),
        next=call.next(page, limit, len(log)),
    )


def _change_config(call: Call, *, replace: bool) -> Answer:
    call.flag("force")  # taken, and without effect: nothing is refused that it could force
    factory, target = _target(call)
    configs.change(call.db, target, call.body, author=call.author(factory), now=call.now, replace=replace)
    return Answer(201)


# --- Denied devices ---


def list_denied(call: Call) -> wire.DeviceList:
    """Devices that were deleted, which cannot come back."""
    factory = _factory(call)
    page, limit = call.page()
    devices = fleet.list_denied(call.db, factory.name, page=page, limit=limit)
    devices.next = call.next(page, limit, devices.total)
    return devices


def allow_denied(call: Call) -> Answer:
    """Take a device off the deny list."""
    fleet.allow(call.db, _factory(call).name, call.path["uuid"])
    return Answer(204)


def _factory(call: Call) -> Factory:
    return call.factory(call.path["factory"])


def _target(call: Call) -> tuple[Factory, Target]:
    factory = _factory(call)
    if (group := call.path.get("group")) is None:
        return factory, Target("factory", factory.name)
    return factory, Target("group", str(fleet.find_group(call.db, factory.name, group).id))


def _configuration(path: str) -> list[Operation]:
    paging: dict[str, Any] = {"parameters": ("page", "limit")}
    change: dict[str, Any] = {"takes": wire.ConfigRequest, "status": 201, "errors": (413,)}
    return [
        Operation("GET", f"{path}/config/", show_config, gives=wire.ConfigList, **paging),
        Operation("POST", f"{path}/config/", replace_config, parameters=("force",), **change),
        Operation("PATCH", f"{path}/config/", merge_config, parameters=("force",), **change),
        Operation("DELETE", path + "/config/{file:path}/", delete_config, status=204),
    ]


OPERATIONS = [
    Operation("GET", "/ota/factories/", list_factories, gives=list[wire.Factory]),
    Operation("GET", "/ota/default-online-ca.pem", show_default_online_ca, gives=str, public=True),
    Operation("GET", f"{_FACTORY}/certs/", show_certs, gives=wire.Certs),
    Operation(
        "POST", f"{_FACTORY}/certs/", create_csrs, takes=wire.CsrRequest, gives=wire.Csrs, errors=(409,)
    ),
    Operation("PATCH", f"{_FACTORY}/certs/", upload_certs, takes=wire.CertsPatch, status=204, errors=(409,)),
    Operation("GET", f"{_FACTORY}/users/", list_users, gives=list[wire.User]),
    Operation("GET", _FACTORY + "/users/{user}/", show_user, gives=wire.User),
    *_configuration(_FACTORY),
    Operation("GET", f"{_FACTORY}/device-groups/", list_groups, gives=wire.DeviceGroupList),
    Operation(
        "POST",
        f"{_FACTORY}/device-groups/",
        create_group,
        takes=NewGroup,
        gives=wire.DeviceGroup,
        status=201,
        errors=(409,),
    ),
    Operation("PATCH", f"{_GROUP}/", update_group, takes=GroupChange, gives=wire.DeviceGroup, errors=(409,)),
    Operation("DELETE", f"{_GROUP}/", delete_group, status=204, errors=(409,)),
    *_configuration(_GROUP),
    Operation(
        "GET",
        f"{_FACTORY}/denied-devices/",
        list_denied,
        gives=wire.DeviceList,
        parameters=("page", "limit"),
    ),
    Operation("DELETE", _FACTORY + "/denied-devices/{uuid}/", allow_denied, status=204),
]
