"""The outcome of a push, found from the configuration log that is read after it. Pure.

The log is the evidence, not the answer to the push: an answer can get lost, or come from a proxy. The API has no
conditional write, so somebody else's push can land between our last reading of the log and our push. Then the entry
right below ours is not the one that we saw.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import msgspec

from fioctl_rotate.rotation.entry import FILE_NAME, rotation_id_of
from fioctl_rotate.rotation.plan import Plan, without_nulls
from fioctl_rotate.wire import Config

LOG_LENGTH = 10  # the API keeps so many entries of a log

File = Mapping[str, Any]


class OutcomeKind(StrEnum):
    """The ways that a push can end."""

    ALREADY_THERE = "already-there"  # nothing was sent
    LANDED = "landed"
    REPLACED = "replaced"  # it landed, and something else has replaced it since
    NOT_LANDED = "not-landed"
    UNKNOWN = "unknown"


_PUSHED = {OutcomeKind.LANDED: True, OutcomeKind.REPLACED: True, OutcomeKind.UNKNOWN: None}


@dataclass(frozen=True)
class Outcome:
    """How a push ended.

    `found` says what the scope has now, None where that cannot be read. `replaced` names an entry that came between
    our last reading and our push, and was replaced by it, None where there was none. `problem` is an error on the
    way.
    """

    kind: OutcomeKind
    found: str | None = None
    replaced: str | None = None
    problem: str | None = None

    @property
    def in_force(self) -> bool:
        """Whether the scope has the entry now."""
        return self.kind in (OutcomeKind.LANDED, OutcomeKind.ALREADY_THERE)

    def message(self, plan: Plan) -> str:
        """The outcome in one line."""
        what, where = f"rotation {plan.rotation_id}", str(plan.scope)
        between = f"; it replaced {self.replaced}, which came in between" if self.replaced else ""
        if self.kind is OutcomeKind.ALREADY_THERE:
            return f"{where} has {what} already: nothing was sent"
        if self.kind is OutcomeKind.LANDED:
            return f"{what} landed: {where} has it{between}"
        if self.kind is OutcomeKind.REPLACED:
            return f"{what} landed, and was replaced since: {where} has {self.found} now{between}"
        reason = f" ({self.problem})" if self.problem else ""
        if self.kind is OutcomeKind.NOT_LANDED:
            return f"{what} did not land{reason}" + (f": {where} has {self.found}" if self.found else "")
        if self.found is None:
            return f"{what} was sent to {where}, and whether it landed is not known{reason}"
        return f"{what} is not there yet, and may still arrive{reason}: {where} has {self.found}"

    def document(self) -> dict[str, Any]:
        """`{outcome, pushed, changed, found, replaced, problem}` as JSON; `pushed` is null where unknown.

        `changed` is the same value, under the name that pipelines expect.
        """
        pushed = _PUSHED.get(self.kind, False)
        return {
            "outcome": str(self.kind),
            "pushed": pushed,
            "changed": pushed,
            "found": self.found,
            "replaced": self.replaced,
            "problem": self.problem,
        }

    def with_problem(self, problem: str | None) -> "Outcome":
        """The same outcome, reached in spite of `problem`, or because of it."""
        return replace(self, problem=problem)


def judge(
    plan: Plan, before: Sequence[Config], after: Sequence[Config], *, refused: bool, accepted: bool = False
) -> Outcome:
    """The outcome of the push of `plan`, by the scope's log `before` and `after` it (newest first).

    `refused` says that the server refused the push for good, `accepted` that it accepted the push. In both cases,
    if the newest entry has the same id with other content, the push did not land and cannot arrive later.
    """
    entries = [entry_in(config) for config in after]
    newest = entries[0] if entries else None
    found = _describe(newest, plan)
    ours = [plan.has_entry(entry) for entry in entries]
    if not any(ours):
        changed = newest is not None and rotation_id_of(str(newest.get("value", ""))) == plan.rotation_id
        if (changed and (accepted or refused)) or (refused and _reaches_back(after, before)):
            return Outcome(OutcomeKind.NOT_LANDED, found)
        return Outcome(OutcomeKind.UNKNOWN, found)
    first = ours.index(True)
    below = next((index for index in range(first, len(ours)) if not ours[index]), len(ours))
    seen = entry_in(before[0]) if before else None
    # A full log may have lost the entry that was below; then nothing is reported as replaced.
    beyond = seen if len(entries) >= LOG_LENGTH else None
    replaced = entries[below] if below < len(entries) else beyond
    kind = OutcomeKind.LANDED if first == 0 else OutcomeKind.REPLACED
    if replaced == seen:
        return Outcome(kind, found)
    return Outcome(
        kind, found, f"a deletion of {FILE_NAME}" if replaced is None else _describe(replaced, plan)
    )


def entry_in(config: Config) -> File | None:
    """The file `fio-rotate-certs` of a configuration, as the API has it, without nulls."""
    file = next((file for file in config.files or [] if file.name == FILE_NAME), None)
    return None if file is None else without_nulls(msgspec.to_builtins(file))


def _describe(file: File | None, plan: Plan) -> str:
    """What a scope has, as a short text; `plan` is the push that was sent."""
    if file is None:
        return f"no {FILE_NAME}"
    rotation_id = rotation_id_of(str(file.get("value", "")))
    if not rotation_id:
        return f"a {FILE_NAME} without ROTATIONID"
    changed = rotation_id == plan.rotation_id and not plan.has_entry(file)
    return f"rotation {rotation_id}" + (" with other content" if changed else "")


def _reaches_back(after: Sequence[Config], before: Sequence[Config]) -> bool:
    """Whether the log `after` the push holds everything since `before`."""
    if not before:
        return len(after) < LOG_LENGTH
    return _identity(before[0]) in map(_identity, after)


def _identity(config: Config) -> tuple[object, ...]:
    # Without `applied_at`: it changes when the device has fetched the configuration.
    return config.created_at, config.created_by, config.reason, config.files
