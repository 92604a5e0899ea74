"""A device as far as a rollout in stages goes: what fioconfig was seen to do, without keys and certificates.

It fetches when something changed after the time of modification of what it stores. It runs the handler for a
changed entry, and rotates when the entry's id is not the one that it completed last. It stores what it fetched only
where it did not rotate: after a rotation it still stores the configuration of before. A reboot writes again what is
stored, as if it had changed.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from fioctl_rotate.rotation.entry import make_entry, rotation_id_of
from fioctl_rotate.rotation.progress import STARTED, STEPS

BEGIN = datetime(2026, 11, 24, 12, tzinfo=UTC)


def value_of(rotation_id: str) -> str:
    """An entry with that id, at an EST server of its own."""
    return make_entry(
        server_name=f"{rotation_id}.example.com", port=8443, resource="/.well-known/est",
        pkey_ids="01,07", cert_ids="03,09", rotation_id=rotation_id,
    ).render()  # fmt: skip


class Gateway(Protocol):
    """The Factory as a device sees it. `down` are the ids whose EST server does not work."""

    now: datetime
    down: set[str]

    def connect(self, name: str, *, new_key: bool) -> bool:
        """The device connects, with `new_key` for the first time with the key that it announced.

        It is seen, unless the gateway does not trust its certificate's CA: False then.
        """

    def fetch(self, name: str, since: datetime) -> tuple[str | None, datetime] | None:
        """The entry that the device gets and when its configuration changed; None where not after `since`."""

    def post(self, name: str, rotation_id: str, kind: str, *, success: bool = True) -> None:
        """The device posts an event."""

    def announce(self, name: str) -> None:
        """The device announces its next key: its configuration is locked from now on."""

    def write_own(self, name: str) -> None:
        """The device writes its own configuration anew, where it has one."""


@dataclass
class ModelDevice:
    """A device; `ahead` is by how much its clock is ahead. `rotated` are the ids that it completed, in order."""

    name: str
    gateway: Gateway
    ahead: timedelta = timedelta()
    completed: str | None = None
    stored: str | None = None
    stored_at: datetime = BEGIN - timedelta(days=1)
    file: str | None = None
    resuming: str | None = None
    locked: bool = False
    rotated: list[str] = field(default_factory=list)

    def check_in(self) -> None:
        """One start of fioconfig and its check-in; after a rotation it starts anew at the next one."""
        if not self.gateway.connect(self.name, new_key=self.locked):
            return
        self.locked = False
        if self.resuming is not None:
            self._rotate(self.resuming)
            return
        fetched = self.gateway.fetch(self.name, self.stored_at)
        if fetched is None:
            return
        entry, changed = fetched
        if not self._handle(entry):
            self.stored, self.stored_at = entry, changed

    def reboot(self) -> None:
        """`extract`, early at boot: the stored files are written anew, and count as changed.

        So an older entry that is stored starts its rotation afresh, whatever rotation was stuck before.
        """
        self.file = None
        self._handle(self.stored)

    def _handle(self, entry: str | None) -> bool:
        changed, self.file = entry != self.file, entry
        rotation_id = None if entry is None else rotation_id_of(entry)
        if not changed or rotation_id is None or rotation_id == self.completed:
            return False
        self._rotate(rotation_id)
        return True

    def _rotate(self, rotation_id: str) -> None:
        if self.locked and not self.gateway.connect(self.name, new_key=True):
            return
        self.locked = False
        post = self.gateway.post
        post(self.name, rotation_id, STARTED)
        self.resuming = None
        if rotation_id in self.gateway.down:
            post(self.name, rotation_id, STEPS[0], success=False)
            self.resuming = rotation_id
            return
        post(self.name, rotation_id, STEPS[0])
        self.gateway.announce(self.name)
        post(self.name, rotation_id, STEPS[1])
        post(self.name, rotation_id, STEPS[2])
        self.gateway.write_own(self.name)
        post(self.name, rotation_id, STEPS[3])
        self.resuming, self.completed, self.locked = None, rotation_id, True
        self.rotated.append(rotation_id)
        # It still stores what it had before, and takes it for the newest by its own clock.
        self.stored_at = self.gateway.now + self.ahead
        post(self.name, rotation_id, STEPS[4])
