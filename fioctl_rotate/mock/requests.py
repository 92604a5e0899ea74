"""The bodies that the mocked Factory takes. Each forbids unknown fields."""

from msgspec import UNSET, Struct, UnsetType, field

from fioctl_rotate import wire


class NewConfigFile(wire.ConfigFile, forbid_unknown_fields=True):
    """One file of a configuration."""


class ConfigRequest(Struct, rename="kebab", kw_only=True, forbid_unknown_fields=True):
    """A change of a configuration."""

    reason: str = ""
    files: list[NewConfigFile] = field(default_factory=list)


class DeviceConfigRequest(Struct, rename="kebab", kw_only=True, forbid_unknown_fields=True):
    """A device's change of its own configuration; `public_key` (PEM or "") is the key it is encrypted for."""

    reason: str = ""
    files: list[NewConfigFile] | None = None
    public_key: str = ""


class KeyAnnouncement(wire.KeyAnnouncement, forbid_unknown_fields=True):
    """The key that a device will use next, PEM."""


class CsrRequest(wire.CsrRequest, forbid_unknown_fields=True):
    """Which CSRs the backend makes."""


class CertsPatch(wire.CertsPatch, forbid_unknown_fields=True):
    """New certificates for a factory, PEM."""


class NewGroup(Struct, rename="kebab", kw_only=True, forbid_unknown_fields=True):
    """A device group to be made."""

    name: str
    description: str | None = None


class GroupChange(Struct, rename="kebab", kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What to change of a device group."""

    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET


class Registration(Struct, rename={"client_pem": "client.pem"}, kw_only=True, forbid_unknown_fields=True):
    """A device to be registered: its client certificate (PEM), its name and its group."""

    client_pem: str
    name: str | UnsetType = UNSET
    group: str | UnsetType = UNSET


class DeviceChange(Struct, rename="kebab", kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What to change of a device; `group` "" takes it out of its group."""

    name: str | UnsetType = UNSET
    owner: str | UnsetType = UNSET
    group: str | UnsetType = UNSET
