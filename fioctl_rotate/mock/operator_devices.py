"""The operator API's calls below /ota/devices/: devices, their configuration, their updates."""

import sqlite3

import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID
from msgspec import UNSET, Struct, UnsetType

from fioctl_rotate import wire
from fioctl_rotate.mock import authority, configs, events, fleet
from fioctl_rotate.mock.accounts import Factory
from fioctl_rotate.mock.configs import Target
from fioctl_rotate.mock.operation import Answer, Call, Operation
from fioctl_rotate.mock.operator_factory import config_page
from fioctl_rotate.mock.problem import Problem

_DEVICE = "/ota/devices/{device}"
_SORTS = ("name", "-name", "last_seen", "-last_seen")


class Registration(Struct, rename={"client_pem": "client.pem"}, kw_only=True):
    """A device to be registered: its client certificate (PEM), and what to call it."""

    client_pem: str
    name: str | UnsetType = UNSET
    group: str | UnsetType = UNSET


class DeviceChange(Struct, rename="kebab", kw_only=True, omit_defaults=True):
    """What to change of a device; `group` "" takes it out of its group."""

    name: str | UnsetType = UNSET
    owner: str | UnsetType = UNSET
    group: str | UnsetType = UNSET


def list_devices(call: Call) -> wire.DeviceList:
    """A page of devices. `name` takes a shell pattern; `sortby` is a list of `[-]name` and `[-]last_seen`."""
    mine = call.flag("mine")
    factory = _factory(call) if mine or "factory" in call.query else None
    page, limit = call.page()
    sort = [key for key in call.query.get("sortby", "").split(",") if key]
    if any(key not in _SORTS for key in sort):
        raise Problem(400, "a parameter is not right", {"sortby": f"is not of {', '.join(_SORTS)}"})
    filters: dict[str, str | int] = {
        name: call.query[name]
        for name in ("group", "name", "uuid", "match_tag", "target_name")
        if name in call.query
    }
    if (production := call.flag("prod")) is not None:
        filters["prod"] = int(production)
    seen = [factory.name] if factory else list(call.identity)
    if mine and factory:
        filters["mine"] = call.author(factory)
    devices = fleet.list_devices(call.db, seen, filters, sort=sort, page=page, limit=limit)
    devices.next = call.next(page, limit, devices.total)
    return devices


def register_device(call: Call) -> Answer:
    """Register the device that has the client certificate."""
    certificate = _certificate(call.body.client_pem)
    unit = _attribute(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME)
    factory = call.factory(call.query.get("factory") or unit)
    if unit != factory.name:
        raise _wrong_certificate(f"has a subject without OU={factory.name}")
    if authority.issuer_of(factory.ca_crt, certificate) is None:
        raise _wrong_certificate("is not signed by a device CA of the factory")
    device = fleet.register(
        call.db,
        factory.name,
        _attribute(certificate, NameOID.COMMON_NAME),
        authority.public_key_of(certificate),
        owner=call.author(factory),
        author=call.author(factory),
        now=call.now,
        name=call.body.name or None,
        group=call.body.group or None,
        production=authority.is_production(certificate),
    )
    return Answer(201, fleet.record(call.db, device))


def show_device(call: Call) -> wire.Device:
    """One device, with its public key and its configuration in force."""
    _, device = _device(call)
    return fleet.record(call.db, device)


def update_device(call: Call) -> wire.Device:
    """Rename a device, give it to another owner, or put it into a group."""
    factory, device = _device(call)
    changes: dict[str, str] = msgspec.to_builtins(call.body)
    fleet.update_device(call.db, device, changes, author=call.author(factory), now=call.now)
    return fleet.record(call.db, fleet.find_device(call.db, factory.name, device["uuid"], by_uuid=True))


def delete_device(call: Call) -> Answer:
    """Delete a device, and deny it from then on."""
    _, device = _device(call)
    fleet.delete_device(call.db, device, now=call.now)
    return Answer(204)


# --- Configuration ---


def show_config(call: Call) -> wire.ConfigList:
    """The device's own configuration's log, newest first."""
    _, device = _device(call)
    return config_page(call, _target(device))


def merge_config(call: Call) -> Answer:
    """Merge files into the device's own configuration, by name."""
    return _change_config(call, replace=False)


def replace_config(call: Call) -> Answer:
    """Replace the device's own configuration."""
    return _change_config(call, replace=True)


def delete_config(call: Call) -> Answer:
    """Delete a file of the device's own configuration."""
    factory, device = _device(call)
    _refuse_locked(device)
    configs.delete_file(
        call.db, _target(device), call.path["file"], author=call.author(factory), now=call.now
    )
    return Answer(204)


def _change_config(call: Call, *, replace: bool) -> Answer:
    call.flag("force")  # taken, and without effect: nothing is refused that it could force
    factory, device = _device(call)
    _refuse_locked(device)
    configs.change(
        call.db, _target(device), call.body, author=call.author(factory), now=call.now, replace=replace
    )
    return Answer(201)


def _refuse_locked(device: sqlite3.Row) -> None:
    """The manual: a device's configuration cannot be changed while its key is being changed."""
    if device["next_public_key"] is not None:
        raise Problem(
            409,
            f"device {device['name']} is changing its key; its configuration cannot be changed until it has",
        )


# --- Updates ---


def list_updates(call: Call) -> wire.UpdateList:
    """The device's last updates, newest first."""
    _, device = _device(call)
    page, limit = call.page()
    found = events.updates(call.db, device["uuid"])
    return wire.UpdateList(
        updates=found[(page - 1) * limit : page * limit],
        total=len(found),
        next=call.next(page, limit, len(found)),
    )


def show_update(call: Call) -> list[wire.Event]:
    """An update's events, in the order in which they arrived."""
    _, device = _device(call)
    return events.of_update(call.db, device["uuid"], call.path["update"])


def _factory(call: Call) -> Factory:
    """The factory that is named, or the only one that the caller sees."""
    if "factory" in call.query:
        return call.factory(call.query["factory"])
    if len(call.identity) != 1:
        raise Problem(400, "a parameter is not right", {"factory": "is missing"})
    return call.factory(next(iter(call.identity)))


def _device(call: Call) -> tuple[Factory, sqlite3.Row]:
    factory = _factory(call)
    by_uuid = bool(call.flag("by-uuid"))
    return factory, fleet.find_device(call.db, factory.name, call.path["device"], by_uuid=by_uuid)


def _target(device: sqlite3.Row) -> Target:
    return Target("device", device["uuid"])


def _certificate(pem: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        raise _wrong_certificate("is not a certificate in PEM") from None


def _attribute(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    values = [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(oid)]
    if len(values) != 1:
        raise _wrong_certificate(f"has a subject with {len(values)} {oid._name}, not one")
    return values[0]


def _wrong_certificate(message: str) -> Problem:
    return Problem(400, "the certificate is not right", {"client.pem": message})


_NAMED = ("factory", "by-uuid")
_PAGED = (*_NAMED, "page", "limit")

OPERATIONS = [
    Operation(
        "GET",
        "/ota/devices/",
        list_devices,
        gives=wire.DeviceList,
        parameters=(
            "factory",
            "group",
            "name",
            "uuid",
            "match_tag",
            "target_name",
            "mine",
            "prod",
            "sortby",
            "page",
            "limit",
        ),
    ),
    Operation(
        "PUT",
        "/ota/devices/",
        register_device,
        takes=Registration,
        gives=wire.Device,
        status=201,
        parameters=("factory",),
        errors=(409,),
    ),
    Operation("GET", f"{_DEVICE}/", show_device, gives=wire.Device, parameters=_NAMED),
    Operation(
        "PATCH",
        f"{_DEVICE}/",
        update_device,
        takes=DeviceChange,
        gives=wire.Device,
        parameters=_NAMED,
        errors=(409,),
    ),
    Operation("DELETE", f"{_DEVICE}/", delete_device, status=204, parameters=_NAMED),
    Operation("GET", f"{_DEVICE}/config/", show_config, gives=wire.ConfigList, parameters=_PAGED),
    Operation(
        "POST",
        f"{_DEVICE}/config/",
        replace_config,
        takes=wire.ConfigRequest,
        status=201,
        parameters=(*_NAMED, "force"),
        errors=(409, 413),
    ),
    Operation(
        "PATCH",
        f"{_DEVICE}/config/",
        merge_config,
        takes=wire.ConfigRequest,
        status=201,
        parameters=(*_NAMED, "force"),
        errors=(409, 413),
    ),
    Operation(
        "DELETE",
        _DEVICE + "/config/{file:path}/",
        delete_config,
        status=204,
        parameters=_NAMED,
        errors=(409,),
    ),
    Operation("GET", f"{_DEVICE}/updates/", list_updates, gives=wire.UpdateList, parameters=_PAGED),
    Operation("GET", _DEVICE + "/updates/{update}/", show_update, gives=list[wire.Event], parameters=_NAMED),
]
