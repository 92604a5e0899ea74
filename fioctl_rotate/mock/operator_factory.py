"""The operator API's calls below /ota/factories/: certificates, users, groups, denied devices."""

import msgspec

from fioctl_rotate import wire
from fioctl_rotate.mock import authority
from fioctl_rotate.mock.new_factory import default_online_ca
from fioctl_rotate.mock.operation import FACTORY, PAGED, Call, Operations, Pem
from fioctl_rotate.mock.requests import CertsPatch, CsrRequest, GroupChange, NewGroup
from fioctl_rotate.mock.store import accounts, deny_list, device_groups

GROUP = FACTORY + "/device-groups/{group}"

operations = Operations()


@operations("GET", "/ota/factories/")
def list_factories(call: Call) -> list[wire.Factory]:
    """The factories that the token sees."""
    return [
        wire.Factory(name=factory.name, reposerver_id=factory.reposerver_id)
        for factory in accounts.factories(call.db)
        if factory.name in call.caller
    ]


@operations("GET", f"{FACTORY}/certs/")
def show_certs(call: Call) -> wire.Certs:
    """The factory's certificates; 206 while its PKI is not set up."""
    factory = call.factory()
    if not factory.root_crt:
        call.status = 206
    return authority.on_file(factory)


@operations("POST", f"{FACTORY}/certs/", errors=(409,))
def create_csrs(call: Call, body: CsrRequest) -> wire.Csrs:
    """Have the backend make the keys of the requested certificates; answers their CSRs, PEM."""
    return authority.create_csrs(call.db, call.directory, call.factory(), body)


@operations("PATCH", f"{FACTORY}/certs/", errors=(409,))
def upload_certs(call: Call, body: CertsPatch) -> None:
    """Upload certificates, PEM. The root is set once; all others must chain to it."""
    factory = call.factory()
    authority.upload(call.db, factory, body, author=call.author(factory), now=call.now)


@operations("GET", "/ota/default-online-ca.pem", public=True)
def show_default_online_ca(call: Call) -> Pem:
    """The online CA of factories that have no PKI of their own."""
    return Pem(default_online_ca(call.db))


@operations("GET", f"{FACTORY}/users/")
def list_users(call: Call) -> list[wire.User]:
    """The factory's users."""
    return accounts.users(call.db, call.factory().name)


@operations("GET", FACTORY + "/users/{user}/")
def show_user(call: Call) -> wire.User:
    """One user with teams and scopes; `self` is the user of the token."""
    factory = call.factory()
    wanted = call.path["user"]
    return accounts.user(call.db, factory.name, call.author(factory) if wanted == "self" else wanted)


@operations("GET", f"{FACTORY}/device-groups/")
def list_groups(call: Call) -> wire.DeviceGroupList:
    """The factory's device groups."""
    return wire.DeviceGroupList(groups=device_groups.groups(call.db, call.factory().name))


@operations("POST", f"{FACTORY}/device-groups/", status=201, errors=(409,))
def create_group(call: Call, body: NewGroup) -> wire.DeviceGroup:
    """Make a device group."""
    factory = call.factory()
    return device_groups.create_group(
        call.db, factory.name, body.name, body.description, author=call.author(factory), now=call.now
    )


@operations("PATCH", f"{GROUP}/", errors=(409,))
def update_group(call: Call, body: GroupChange) -> wire.DeviceGroup:
    """Change the name or the description of a device group."""
    factory = call.factory()
    changes: dict[str, str] = msgspec.to_builtins(body)
    return device_groups.update_group(
        call.db, factory.name, call.path["group"], changes, author=call.author(factory), now=call.now
    )


@operations("DELETE", f"{GROUP}/", errors=(409,))
def delete_group(call: Call) -> None:
    """Delete a device group that has no devices."""
    device_groups.delete_group(call.db, call.factory().name, call.path["group"])


@operations("GET", f"{FACTORY}/denied-devices/", query=PAGED)
def list_denied(call: Call) -> wire.DeviceList:
    """Devices that were deleted and so cannot register again."""
    factory = call.factory()
    page, limit = call.page()
    devices = deny_list.list_denied(call.db, factory.name, page=page, limit=limit)
    devices.next = call.next(page, limit, devices.total)
    return devices


@operations("DELETE", FACTORY + "/denied-devices/{uuid}/")
def allow_denied(call: Call) -> None:
    """Take a device off the deny list."""
    deny_list.allow(call.db, call.factory().name, call.path["uuid"])
