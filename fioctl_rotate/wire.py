"""The messages on the wire, used by both the client and the mocked Factory.

Three dialects meet here: the operator API is kebab-case, the device gateway speaks Go's field names and
camelCase. What we read from a Factory is lenient (a field may be absent or null); what the mock takes is checked
by the mock. Source: the public sources of fioctl and fioconfig.
"""

from typing import Any

from msgspec import UNSET, Struct, UnsetType, field

# --- The operator API: configuration ---


class ConfigFile(Struct, rename="kebab", kw_only=True):
    """One file of a configuration. `on_changed` is the command that a device runs when the file changes."""

    name: str
    value: str = ""
    unencrypted: bool = False
    on_changed: list[str] | UnsetType | None = UNSET


class ConfigRequest(Struct, rename="kebab", kw_only=True):
    """What is sent to change a configuration: PATCH merges by file name, POST replaces."""

    reason: str = ""
    files: list[ConfigFile] = field(default_factory=list)


class Config(Struct, rename="kebab", kw_only=True):
    """One entry of a configuration log. Times are naive UTC (`2024-11-11T15:59:07`)."""

    created_at: str | None = None
    created_by: str | None = None
    applied_at: str | UnsetType | None = UNSET
    reason: str | None = None
    files: list[ConfigFile] | None = None


class ConfigList(Struct, rename="kebab", kw_only=True):
    """A page of a configuration log, newest first; `next` is an absolute URL."""

    config: list[Config] = field(default_factory=list)
    total: int = 0
    next: str | None = None


# --- The operator API: groups, devices, updates, users ---


class ChangeMeta(Struct, rename="kebab", kw_only=True):
    """Who made and last changed something, and when."""

    created_by: str | None = None
    created_at: str | None = None
    updated_by: str | None = None
    updated_at: str | None = None


class Factory(Struct, rename="kebab", kw_only=True):
    """A factory that a token sees."""

    name: str
    reposerver_id: str | None = None


class DeviceGroup(Struct, rename="kebab", kw_only=True):
    """A device group."""

    id: int = 0
    name: str = ""
    description: str | None = None
    change_meta: ChangeMeta | None = None


class DeviceGroupList(Struct, rename="kebab", kw_only=True):
    """All groups of a factory."""

    groups: list[DeviceGroup] = field(default_factory=list)


class Device(Struct, rename="kebab", kw_only=True):
    """A device. Lists name its group in `device_group`, the single record in `group`.

    `last_seen` is RFC 3339 with a zone; `public_key` is PEM and only in the single record.
    """

    uuid: str
    name: str = ""
    owner: str | None = None
    factory: str | None = None
    device_group: str | None = None
    group: DeviceGroup | None = None
    last_seen: str | None = None
    lmp_ver: str | None = None
    target_name: str | None = None
    tag: str | None = None
    status: str | None = None
    up_to_date: bool | None = None
    docker_apps: list[str] | UnsetType | None = UNSET
    ostree_hash: str | UnsetType | None = UNSET
    current_update: str | UnsetType | None = UNSET
    aktualizr_toml: str | UnsetType | None = UNSET
    is_prod: bool | None = None
    is_wave: bool | None = None
    public_key: str | None = None
    active_config: Config | None = None
    change_meta: ChangeMeta | None = None

    @property
    def group_name(self) -> str | None:
        """The name of the device's group, wherever this record has it."""
        return self.group.name if self.group else (self.device_group or None)


class DeviceList(Struct, rename="kebab", kw_only=True):
    """A page of devices; `next` is an absolute URL."""

    devices: list[Device] = field(default_factory=list)
    total: int = 0
    next: str | None = None


class Update(Struct, rename="kebab", kw_only=True):
    """One update of a device, a certificate rotation among them: its events share `correlation_id`."""

    correlation_id: str
    target: str | None = None
    version: str | None = None
    time: str | None = None


class UpdateList(Struct, rename="kebab", kw_only=True):
    """A page of a device's updates, newest first."""

    updates: list[Update] = field(default_factory=list)
    total: int = 0
    next: str | None = None


class User(Struct, rename="kebab", kw_only=True):
    """A user of a factory; teams and scopes come with the single record only."""

    polis_id: str
    name: str = ""
    role: str = ""
    teams_ext: list[dict[str, Any]] | UnsetType | None = UNSET
    effective_scopes: list[str] | UnsetType | None = UNSET


# --- The operator API: certificates ---


class Certs(Struct, rename="kebab", kw_only=True):
    """A factory's certificates, PEM; `ca_crt` is a bundle. The API of 2021 answered nulls where nothing is set."""

    root_crt: str | None = None
    ca_crt: str | None = None
    est_tls_crt: str | None = None
    tls_crt: str | None = None
    disabled_ca_serials: list[str] | None = None
    change_meta: ChangeMeta | None = None


class CertsPatch(Struct, rename="kebab", kw_only=True, omit_defaults=True):
    """New certificates for a factory, PEM. `change_meta` is sent as fioctl sends it, and ignored."""

    root_crt: str | UnsetType = UNSET
    ca_crt: str | UnsetType = UNSET
    est_tls_crt: str | UnsetType = UNSET
    tls_crt: str | UnsetType = UNSET
    ca_revoke_crl: str | UnsetType = UNSET
    change_meta: ChangeMeta = field(
        default_factory=lambda: ChangeMeta(created_by="", created_at="", updated_by="", updated_at="")
    )


class CsrRequest(Struct, rename="kebab", kw_only=True):
    """The CSRs to make; the backend makes and keeps their keys."""

    first_time_init: bool = False
    ca_csr: bool = False
    est_tls_csr: bool = False
    tls_csr: bool = False


class Csrs(Struct, rename="kebab", kw_only=True, omit_defaults=True):
    """The CSRs asked for, PEM, one block each."""

    ca_csr: str | None = None
    est_tls_csr: str | None = None
    tls_csr: str | None = None


# --- Events: as a device posts them, as the operator reads them ---


class EventType(Struct, rename="camel", kw_only=True):
    """The step that an event reports."""

    id: str
    version: int | UnsetType = UNSET


class EventDetail(Struct, rename="camel", kw_only=True, omit_defaults=True):
    """An event's outcome. `details` holds the error's text and is absent on success."""

    correlation_id: str | UnsetType = UNSET
    success: bool | None = None
    target_name: str | None = None
    version: str | None = None
    details: str | UnsetType | None = UNSET


class Event(Struct, rename="camel", kw_only=True):
    """An event. `device_time` is RFC 3339, whole seconds, by the device's clock. `id` is the device's, unique."""

    id: str | UnsetType = UNSET
    device_time: str = ""
    event_type: EventType
    event: EventDetail


# --- The device gateway ---


class GatewayFile(Struct, rename="pascal", kw_only=True):
    """One file as a device fetches it: `GET /config` answers an object of these by file name."""

    value: str = ""
    on_changed: list[str] | None = None
    unencrypted: bool = False


class GatewayConfigRequest(Struct, rename="kebab", kw_only=True):
    """What a device sends to write its own configuration; `public_key` (PEM or "") encrypted it."""

    reason: str = ""
    files: list[ConfigFile] | None = None
    public_key: str = ""


class KeyAnnouncement(Struct, kw_only=True):
    """`PATCH /device`: the public key that the device will use next, PEM."""

    next_pubkey: str


class PublicKeyChange(Struct, rename="pascal", kw_only=True):
    """DEVICE_PUBKEY_CHANGE on the Factory's event queue; `time` is in Unix seconds."""

    uuid: str
    device_group_id: int | None = None
    time: int
    new_pub_key: str
    old_pub_key: str


class ConfigApplied(Struct, rename="pascal", kw_only=True):
    """DEVICE_CONFIG_APPLIED on the Factory's event queue; `time` is in Unix seconds."""

    uuid: str
    time: int
