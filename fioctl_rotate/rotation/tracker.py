"""A rotation followed over many polls: what is known of each device, and what to ask next. Pure.

A poll calls `begin`; then `take_page` with each page of devices, newest last-seen first, until it wants no more;
then `listed`, which may want the whole list; then `to_ask`. About each of those devices the poll reads the record,
the events and the own entry, where they are wanted, and calls `asked`. The order matters: without it the answers
prove nothing. Only devices that were seen since the last poll, and are not done, are asked about.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from fioctl_rotate.rotation.progress import Phase, from_events, parse_time
from fioctl_rotate.rotation.state import DeviceState, Facts, Rotation, proof_of_new_key
from fioctl_rotate.rotation.summary import States, Summary
from fioctl_rotate.wire import Device, DeviceList, Event

# Up to this many devices, each one's record and own configuration are read at the start, seen or not.
SMALL_FLEET = 200
# After this many polls without news a device that failed or finalized is not expected to get further. At the
# default interval of 15 seconds that is ten minutes, two check-ins of a device.
PATIENCE = 40
# A device is silent if it was seen this often, over PATIENCE polls or this time, and reported nothing.
SIGHTINGS = 3
SILENT_AFTER = timedelta(minutes=10)
# The whole list is read again after this time: a device may have left while another one joined.
WHOLE_LIST_EVERY = timedelta(minutes=10)
# After this many whole lists in a row that miss devices, the list is accepted as it is.
_SHORT_LISTS = 3
# The push and last-seen are both the server's times, perhaps of two of its machines.
_SKEW = timedelta(seconds=5)
_PAGE = 100
_WHOLE_LIST_PAGE = 1000


class Readings(Struct):
    """What earlier polls of a rotation left: the devices' facts by uuid, and the marks of the list.

    `mark` is the newest last-seen of the list, `total` its length, `whole_list` when the whole of it was last read;
    None where no list was read.
    """

    devices: dict[str, Facts] = {}
    mark: datetime | None = None
    total: int | None = None
    whole_list: datetime | None = None


def key_digest(public_key: str | None) -> str | None:
    """A short text that differs where public keys (PEM) do; None for a device that has none yet."""
    return hashlib.sha256("".join(public_key.split()).encode()).hexdigest()[:32] if public_key else None


def before_push(devices: Iterable[Device], records: Iterable[Device]) -> Readings:
    """Readings made before a push: which devices there are, and the old key of those whose record was read."""
    facts = {device.uuid: Facts(device.uuid, name=device.name) for device in devices}
    for record in records:
        key = key_digest(record.public_key)
        facts[record.uuid] = Facts(
            record.uuid, name=record.name, first_key=key, first_key_is_old=key is not None
        )
    return Readings(facts)


class Tracker:
    """What is known of a rotation.

    `readings` are those of an earlier watch, or were made before the push; the tracker continues from them.
    `unsaved` says whether something is known that they do not have.
    """

    def __init__(self, rotation: Rotation, readings: Readings | None = None) -> None:
        kept = readings or Readings()
        self.rotation = rotation
        self.polls = 0
        self.unsaved = False
        self._facts = dict(kept.devices)
        self._mark, self._total, self._whole_list_at = kept.mark, kept.total, kept.whole_list
        self._whole_list = kept.whole_list is None
        self._list_again = False
        self._short_lists = 0
        self._now = datetime.min.replace(tzinfo=UTC)
        self._news: dict[str, int] = {}
        self._sighted: dict[str, int] = {}
        self._asked_events = {
            uuid for uuid, facts in self._facts.items() if facts.progress.phase != Phase.NONE
        }
        self._asked_own_entry: set[str] = set()
        self._seen: list[datetime] = []
        self._listed: set[str] = set()
        self._left = {uuid for uuid, facts in self._facts.items() if facts.left is not None}
        # Devices whose events showed Finalize after the last list was read.
        self._finalized = {uuid for uuid, facts in self._facts.items() if _is_unmarked(facts)}
        # In a small fleet the devices' own entries are read again: they may have changed.
        self._touched = dict.fromkeys(
            uuid
            for uuid, facts in self._facts.items()
            if facts.unread or (self._small and facts.progress.phase == Phase.NONE)
        )
        self._lmp_versions: dict[str, str] = {}
        self._states = States(rotation, self._facts)

    # --- A poll, step by step ---

    def begin(self, now: datetime) -> int:
        """Begin a poll at `now` (aware); returns the size of page to list devices with."""
        self.polls += 1
        self._now = now
        overdue = self._whole_list_at is None or now - self._whole_list_at >= WHOLE_LIST_EVERY
        self._whole_list = self._whole_list or overdue
        self._seen, self._listed = [], set()
        return _WHOLE_LIST_PAGE if self._whole_list else _PAGE

    def take_page(self, page: DeviceList) -> bool:
        """Take a page of devices, newest last-seen first; returns whether the next page is wanted."""
        if not self._whole_list and page.total != self._total:
            # A device joined or left; one that was not seen since the mark is only found in the whole list.
            self._list_again = True
            return False
        self._total = page.total
        reached = False
        for device in page.devices:
            seen = self._take(device)
            # A device that was never seen may stand anywhere in the order: it is not a mark.
            reached = reached or (self._mark is not None and seen is not None and seen < self._mark)
        return self._whole_list or not reached

    def listed(self) -> int:
        """End the list. Returns 0, or the size of page to list all devices with, from the first page on."""
        if not self._list_again:
            return 0
        self._list_again, self._whole_list = False, True
        return _WHOLE_LIST_PAGE

    def to_ask(self) -> list[str]:
        """The uuids of the devices to ask about now."""
        if len(self._listed) == self._total:
            self._take_leavers()
        if self._whole_list:
            self._end_whole_list()
        if self._seen:
            # A device seen while pages are read has a later last-seen than the first page: it comes next time.
            self._mark = max(self._seen) if self._mark is None else max(self._mark, *self._seen)
        for uuid in self._finalized:
            # When Finalize arrived, the device's last-seen moved to that time. So the fleet's newest last-seen,
            # listed after the events that showed Finalize, is not earlier.
            facts = self._facts[uuid]
            if _is_unmarked(facts) and not proof_of_new_key(self.rotation, facts):
                facts.finalized_by = self._mark
                self._changed(uuid)
        self._finalized = set()
        wanted = [
            uuid
            for uuid in self._touched
            if self.wants_record(uuid) or self.wants_events(uuid) or self.wants_own_entry(uuid)
        ]
        self._touched = dict.fromkeys(wanted)
        for uuid in wanted:
            self._facts[uuid].unread = True
            self._states.touch(uuid)
        return wanted

    def wants_record(self, uuid: str) -> bool:
        """Whether its record may have something new: a first key, a changed key, or where the device went.

        In a large fleet most devices take all steps between two polls, and come back. A record read only then
        proves nothing, so "seen again" must be the proof. Of devices seen while they rotate, the record is read
        before their next events.
        """
        facts = self._facts[uuid]
        if proof_of_new_key(self.rotation, facts):
            return False
        if facts.left is not None:
            return facts.left == ""
        if facts.progress.phase == Phase.FINALIZED:
            return self._small or facts.first_key is not None
        # A device that was not seen since the push certainly has its old key.
        return facts.first_key is None and (self._small or uuid in self._asked_events)

    def take_record(self, uuid: str, record: Device | None) -> None:
        """Take the device's record; None where the Factory no longer has the device."""
        facts = self._facts[uuid]
        if facts.left is not None:
            self._take_whereabouts(facts, record)
        if record is None:
            return
        seen, key = parse_time(record.last_seen), key_digest(record.public_key)
        if key != facts.key:
            self._changed(uuid)
        facts.key = key
        facts.lmp_ver = record.lmp_ver or facts.lmp_ver
        if facts.first_key is None and facts.key is not None:
            facts.first_key = facts.key
            pushed = self.rotation.pushed_at
            facts.first_key_is_old = pushed is not None and (seen is None or pushed - seen > _SKEW)
        facts.last_seen = max(filter(None, (facts.last_seen, seen)), default=None)
        self._states.touch(uuid)

    def wants_events(self, uuid: str) -> bool:
        """Whether the device may have new events: seen since the push, and not known to be done."""
        facts = self._facts[uuid]
        return (
            facts.left is None and self._seen_since_push(facts) and not proof_of_new_key(self.rotation, facts)
        )

    def take_events(self, uuid: str, events: Sequence[Event]) -> None:
        """Take the device's events of this rotation, in the order the API gave them."""
        facts = self._facts[uuid]
        self._asked_events.add(uuid)
        progress = from_events(events)
        # A step that fails again and again, an attempt every few seconds, is not news.
        if (progress.step, progress.finalized) != (facts.progress.step, facts.progress.finalized):
            self._news[uuid] = self.polls
        if progress != facts.progress:
            facts.sightings, facts.first_sighting, facts.silent = 0, None, False
            self._sighted.pop(uuid, None)
            facts.progress = progress
            self._changed(uuid)
        elif self._is_silent(facts) != facts.silent:
            facts.silent = not facts.silent
            self._changed(uuid)
        if _is_unmarked(facts):
            self._finalized.add(uuid)
        if not progress.finalized and facts.first_key is not None and not facts.first_key_is_old:
            # The first key was read before these events, so before Finalize: it is the old one.
            facts.first_key_is_old = True
            self._changed(uuid)

    def wants_own_entry(self, uuid: str) -> bool:
        """Whether to read its own entry, once: in a small fleet always, else if it was seen and reports nothing."""
        facts = self._facts[uuid]
        if not self.rotation.scope.shared or uuid in self._asked_own_entry or facts.left is not None:
            return False
        return self._small or (facts.progress.phase == Phase.NONE and self._seen_since_push(facts))

    def take_own_entry(self, uuid: str, rotation_id: str | None) -> None:
        """Take the ROTATIONID of the entry that the device has for itself, None where it has none."""
        self._asked_own_entry.add(uuid)
        if rotation_id != self._facts[uuid].own_entry:
            self._facts[uuid].own_entry = rotation_id
            self._changed(uuid)

    def asked(self, uuid: str) -> None:
        """All that was wanted was read; until this is called, each poll asks about the device again."""
        self._touched.pop(uuid, None)
        self._facts[uuid].unread = False
        self._states.touch(uuid)

    # --- What is known ---

    def refresh(self, now: datetime) -> list[DeviceState]:
        """Bring the states up to date; returns those that have changed since the last time."""
        return self._states.refresh(now)

    def states(self) -> list[DeviceState]:
        """Every device's state, by name, as of the last `refresh`."""
        return self._states.all()

    def summary(self) -> Summary:
        """The counts, as of the last `refresh`."""
        return self._states.summary(self._unlisted)

    def resting(self) -> bool:
        """Whether no device is expected to get any further.

        A failed device may recover, and a finalized one may come back. Each has PATIENCE polls for that, counted
        from its last progress.
        """
        if self._states.moving or (self._unlisted and self._short_lists < _SHORT_LISTS):
            return False
        return all(self.polls - self._news.get(uuid, 0) >= PATIENCE for uuid in self._states.waiting)

    def begun(self) -> bool:
        """Whether any device has reported anything about the rotation."""
        return any(facts.progress.phase != Phase.NONE for facts in self._facts.values())

    def readings(self) -> Readings:
        """What a later poll, perhaps in another process, continues from."""
        return Readings(self._facts, self._mark, self._total, self._whole_list_at)

    # --- Underneath ---

    def _changed(self, uuid: str) -> None:
        self._states.touch(uuid)
        self.unsaved = True

    def _take(self, device: Device) -> datetime | None:
        seen = parse_time(device.last_seen)
        facts = self._facts.get(device.uuid)
        if facts is None:
            facts = self._facts[device.uuid] = Facts(device.uuid)
            news, same_second = True, False
        else:
            # If last-seen has whole seconds, the newest device may have reported more within that second.
            same_second = seen is not None and seen == self._mark and not seen.microsecond
            news = facts.last_seen != seen or facts.left is not None
        if news or same_second:
            self._touched[device.uuid] = None
        if news or facts.name != device.name:
            lmp = device.lmp_ver or facts.lmp_ver
            facts.name, facts.left = device.name, None
            facts.lmp_ver = self._lmp_versions.setdefault(lmp, lmp) if lmp else None
            if seen is not None and seen != facts.last_seen:
                facts.last_seen = seen
                facts.sightings += self._seen_since_push(facts)
            self._left.discard(device.uuid)
            self._changed(device.uuid)
        self._listed.add(device.uuid)
        if seen is not None:
            self._seen.append(seen)
        return seen

    def _take_leavers(self) -> None:
        for uuid in self._facts.keys() - self._listed - self._left:
            self._facts[uuid].left = ""
            self._left.add(uuid)
            self._touched[uuid] = None
            self._changed(uuid)

    def _end_whole_list(self) -> None:
        self._whole_list_at, self.unsaved = self._now, True
        self._short_lists = self._short_lists + 1 if self._unlisted else 0
        # While pages are read, a device may move to a page that was read already.
        self._whole_list = 0 < self._short_lists < _SHORT_LISTS

    def _take_whereabouts(self, facts: Facts, record: Device | None) -> None:
        if record is None:
            facts.left = "deleted"
        elif self.rotation.scope.includes(record.group_name):
            # It is back already; the next list has it.
            facts.left = None
            self._left.discard(facts.uuid)
        else:
            facts.left = f"now in group {record.group_name}" if record.group_name else "now in no group"
        self._changed(facts.uuid)

    def _is_silent(self, facts: Facts) -> bool:
        """Whether the device was seen often enough, and for long enough, without any news."""
        if facts.first_sighting is None:
            facts.first_sighting = facts.last_seen
        first_poll = self._sighted.setdefault(facts.uuid, self.polls)
        waited = self.polls - first_poll >= PATIENCE or (
            facts.last_seen is not None
            and facts.first_sighting is not None
            and facts.last_seen - facts.first_sighting >= SILENT_AFTER
        )
        return facts.sightings >= SIGHTINGS and waited

    @property
    def _unlisted(self) -> int:
        return max(0, (self._total or 0) - (len(self._facts) - len(self._left)))

    @property
    def _small(self) -> bool:
        return len(self._facts) <= SMALL_FLEET

    def _seen_since_push(self, facts: Facts) -> bool:
        pushed = self.rotation.pushed_at
        return facts.last_seen is not None and (pushed is None or pushed - facts.last_seen <= _SKEW)


def _is_unmarked(facts: Facts) -> bool:
    return facts.progress.phase == Phase.FINALIZED and facts.finalized_by is None
