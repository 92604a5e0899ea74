"""Where a configuration lives: on the whole fleet, on a device group, or on one device.

This module knows how the three differ, and `FactoryApi.config` knows where the API keeps each. No other code asks
which of them a scope is.
"""

import shlex
from collections.abc import Mapping
from typing import Any

from fioctl_rotate.value import Value


class Scope(Value):
    """Where a configuration lives; made by `fleet`, `of_group` and `of_device`.

    `name` is the group's or the device's. `uuid` is the device's, None where it was not read yet.
    """

    kind: str
    name: str = ""
    uuid: str | None = None

    @classmethod
    def fleet(cls) -> "Scope":
        """The fleet-wide configuration."""
        return cls("fleet")

    @classmethod
    def of_group(cls, name: str) -> "Scope":
        """A device group's configuration."""
        return cls("group", name)

    @classmethod
    def unknown(cls) -> "Scope":
        """The scope of a rotation that was named by its id alone, and not found yet."""
        return cls("unknown")

    @classmethod
    def group_or_fleet(cls, group: str | None) -> "Scope":
        """A device group's configuration, or the fleet's if no group is named."""
        return cls.fleet() if group is None else cls.of_group(group)

    @classmethod
    def of_device(cls, name: str, uuid: str | None = None) -> "Scope":
        """A device's own configuration."""
        return cls("device", name, uuid)

    def __str__(self) -> str:
        """As people call it: `group field`, `device pump-7`."""
        if self.kind == "unknown":
            return "a target not known yet"
        return f"{self.kind} {self.name}" if self.name else "the whole fleet"

    @property
    def shared(self) -> bool:
        """Whether several devices can follow it. Of these, one with an entry of its own does not."""
        return self.kind != "device"

    @property
    def options(self) -> list[str]:
        """The options that name it for `rotations` and similar commands: `-g GROUP` or `--device DEVICE`."""
        return {"group": ["-g", self.name], "device": ["--device", self.name]}.get(self.kind, [])

    @property
    def option_text(self) -> str:
        """`options` as they are typed."""
        return shlex.join(self.options)

    @property
    def device_filters(self) -> dict[str, str]:
        """The query that lists exactly the devices that follow it (`GET /ota/devices/`)."""
        return {"fleet": {}, "group": {"group": self.name}, "device": {"uuid": str(self.uuid)}}[self.kind]

    def includes(self, group: str | None) -> bool:
        """Whether a device that is now in `group` is one of its devices, if it was one before."""
        return self.kind != "group" or group == self.name

    def config_command(self, action: str) -> list[str]:
        """The command line for `action` on its configuration: `log`, `delete` or `rotate-certs`."""
        before = ["device", "config"] if self.kind == "device" else ["config"]
        return ["fioctl-rotate", *before, action, *({"device": [self.name]}.get(self.kind, self.options))]

    def document(self) -> dict[str, str]:
        """The scope as plans and JSON show it: `{group}` or `{device, uuid}`."""
        named = {self.kind: self.name} if self.name else {}
        return named if self.uuid is None else {**named, "uuid": self.uuid}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Scope":
        """The scope that `document` shows. Raises KeyError where it names none."""
        if "group" in document:
            return cls.of_group(str(document["group"]))
        return cls.of_device(str(document["device"]), str(document["uuid"]) if "uuid" in document else None)
