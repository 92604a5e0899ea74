"""Taking a device's own entry back: when that is safe, and what the device does then. Pure.

A device whose own entry is deleted follows what lies beneath: its group's entry, or the fleet-wide one. It rotates
by that unless it completed that id last (fioconfig compares one id only). So an entry is deleted where nothing lies
beneath, or the id that the device completed; else it is left, or replaced by one with the completed id.
"""

from dataclasses import dataclass
from enum import StrEnum

from fioctl_rotate.rotation.progress import Phase, Progress


class OwnEntryFate(StrEnum):
    """What is done with a device's own entry."""

    DELETE = "delete"
    LEAVE = "leave"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class OwnEntry:
    """A device's own entry, and what decides about it.

    `beneath` is the id of the entry that it follows without its own, None if there is none. `completed` is the id
    that the device completed last, None where that is not known. `fetched` says whether it has fetched its newest
    configuration. `again` is how far it came by the id beneath, if it began that after this entry's rotation.
    """

    rotation_id: str
    beneath: str | None
    completed: str | None
    progress: Progress
    fetched: bool
    again: Phase = Phase.NONE


def fate_of(entry: OwnEntry) -> tuple[OwnEntryFate, str]:
    """What to do with the entry, and a message that says what the device does then."""
    safe = entry.beneath is None or entry.beneath in (entry.completed, entry.rotation_id)
    phase = entry.progress.phase
    # A device that has begun completes this id: with any other id beneath it would rotate again.
    safe_at_end = entry.beneath in (None, entry.rotation_id)
    if entry.again is not Phase.NONE:
        # The id beneath is the one that it completes last: by this entry it would rotate once more.
        text = f"it has rotated, and then again by {entry.beneath}"
        if entry.again is Phase.FAILING:
            text += "; it fetches nothing until its failed step works: bring the EST server of that id back"
        return OwnEntryFate.DELETE, text
    if phase is Phase.FINALIZED or entry.completed == entry.rotation_id:
        if safe:
            return OwnEntryFate.DELETE, "it has rotated, and stays as it is"
        return (
            OwnEntryFate.LEAVE,
            f"it has rotated; without this entry it would rotate again, by {entry.beneath}",
        )
    if phase is Phase.FAILING:
        text = "it fetches nothing until its failed step works: bring the EST server of this id back"
        if safe_at_end:
            return OwnEntryFate.DELETE, text
        return (
            OwnEntryFate.LEAVE,
            f"{text}; without this entry it would then rotate again, by {entry.beneath}",
        )
    if phase is Phase.RUNNING:
        if safe_at_end:
            return OwnEntryFate.DELETE, "it has begun, and will finish"
        return (
            OwnEntryFate.LEAVE,
            f"it has begun, and will finish; without this entry it would then rotate by {entry.beneath}",
        )
    effect = "it may have fetched the entry just now" if entry.fetched else "it has not fetched the entry"
    if entry.beneath == entry.rotation_id:
        return (
            OwnEntryFate.DELETE,
            f"{effect}; it will rotate by the group's or fleet-wide entry, which has the same id",
        )
    if safe:
        return OwnEntryFate.DELETE, f"{effect}, and will not rotate"
    if entry.completed is not None:
        return (
            OwnEntryFate.REPLACE,
            f"{effect}; it gets {entry.completed} instead, which it completed, and will not rotate",
        )
    return OwnEntryFate.DELETE, f"{effect}; it will rotate by {entry.beneath}, as it would have before"
