"""The operator API's calls below /ota/devices/: devices and their updates."""

import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID

from fioctl_rotate import wire
from fioctl_rotate.errors import Error
from fioctl_rotate.mock import authority
from fioctl_rotate.mock.operation import DEVICE, PAGED, Call, Operations
from fioctl_rotate.mock.problem import Problem
from fioctl_rotate.mock.requests import DeviceChange, Registration
from fioctl_rotate.mock.store import device_records, updates
from fioctl_rotate.pki.parsing import load_certificate

_FILTERS = ("group", "name", "uuid", "match_tag", "target_name")
_SORTS = ("name", "-name", "last_seen", "-last_seen")

operations = Operations()


@operations("GET", "/ota/devices/", query=("factory", *_FILTERS, "mine", "prod", "sortby", *PAGED))
def list_devices(call: Call) -> wire.DeviceList:
    """A page of devices. `name` takes a shell pattern; `sortby` is a list of `[-]name` and `[-]last_seen`."""
    mine = call.flag("mine")
    factory = call.factory() if mine or "factory" in call.query else None
    page, limit = call.page()
    sort = [key for key in call.query.get("sortby", "").split(",") if key]
    if any(key not in _SORTS for key in sort):
        raise Problem(400, "a parameter is not valid", {"sortby": f"expected {', '.join(_SORTS)}"})
    filters: dict[str, str | int] = {name: call.query[name] for name in _FILTERS if name in call.query}
    if (production := call.flag("prod")) is not None:
        filters["prod"] = int(production)
    visible = [factory.name] if factory else list(call.caller)
    if mine and factory:
        filters["mine"] = call.author(factory)
    devices = device_records.list_devices(call.db, visible, filters, sort=sort, page=page, limit=limit)
    devices.next = call.next(page, limit, devices.total)
    return devices


@operations("PUT", "/ota/devices/", status=201, query=("factory",), errors=(409,))
def register_device(call: Call, body: Registration) -> wire.Device:
    """Register the device that has this client certificate."""
    certificate = _certificate(body.client_pem)
    unit = _attribute(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME)
    factory = call.factory(call.query.get("factory") or unit)
    if unit != factory.name:
        raise _wrong_certificate(f"has a subject without OU={factory.name}")
    issuer = authority.issuer_of(factory.ca_crt, certificate)
    if issuer is None:
        raise _wrong_certificate("is not signed by a device CA of the factory")
    if authority.is_disabled(factory, issuer):
        raise _wrong_certificate(f"is signed by the device CA {issuer.serial_number}, which is disabled")
    device = device_records.register(
        call.db,
        factory.name,
        _attribute(certificate, NameOID.COMMON_NAME),
        authority.public_key_of(certificate),
        owner=call.author(factory),
        author=call.author(factory),
        now=call.now,
        name=body.name or None,
        group=body.group or None,
        production=authority.is_production(certificate),
    )
    return device_records.record(call.db, device)


@operations("GET", f"{DEVICE}/")
def show_device(call: Call) -> wire.Device:
    """One device, with its public key and its configuration in force."""
    _, device = call.device()
    return device_records.record(call.db, device)


@operations("PATCH", f"{DEVICE}/", errors=(409,))
def update_device(call: Call, body: DeviceChange) -> wire.Device:
    """Rename a device, give it to another owner, or put it into a group."""
    factory, device = call.device()
    changes: dict[str, str] = msgspec.to_builtins(body)
    device_records.update_device(call.db, device, changes, author=call.author(factory), now=call.now)
    changed = device_records.find_device(call.db, factory.name, device.uuid, by_uuid=True)
    return device_records.record(call.db, changed)


@operations("DELETE", f"{DEVICE}/")
def delete_device(call: Call) -> None:
    """Delete a device, and deny it from then on."""
    _, device = call.device()
    device_records.delete_device(call.db, device, now=call.now)


@operations("GET", f"{DEVICE}/updates/", query=PAGED)
def list_updates(call: Call) -> wire.UpdateList:
    """The device's last updates, newest first."""
    _, device = call.device()
    page, limit = call.page()
    found = updates.updates(call.db, device.uuid)
    return wire.UpdateList(
        updates=found[(page - 1) * limit : page * limit],
        total=len(found),
        next=call.next(page, limit, len(found)),
    )


@operations("GET", DEVICE + "/updates/{update}/")
def show_update(call: Call) -> list[wire.Event]:
    """An update's events, in the order in which they arrived."""
    _, device = call.device()
    return updates.of_update(call.db, device.uuid, call.path["update"])


def _certificate(pem: str) -> x509.Certificate:
    try:
        return load_certificate(pem, "client.pem")
    except Error:
        raise _wrong_certificate("is not a certificate in PEM") from None


def _attribute(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    values = [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(oid)]
    if len(values) != 1:
        raise _wrong_certificate(f"expected one {oid._name} in the subject, got {len(values)}")
    return values[0]


def _wrong_certificate(message: str) -> Problem:
    return Problem(400, "the certificate is not valid", {"client.pem": message})
