"""A plan as the document in its file, and read back from it: types are checked, and a digest of everything."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from fioctl_rotate.errors import UsageError
from fioctl_rotate.rotation.entry import Entry
from fioctl_rotate.rotation.plan import (
    VERSION,
    CurrentEntry,
    Made,
    NotFollowing,
    Plan,
    digest_of,
    without_nulls,
)
from fioctl_rotate.rotation.scope import Scope

if TYPE_CHECKING:
    from fioctl_rotate.checks import Check
    from fioctl_rotate.rotation.stages import Stages

T = TypeVar("T")
_KINDS = {str: "text", int: "number", list: "list", dict: "table"}


def to_file(plan: Plan) -> dict[str, Any]:
    """The plan as a file keeps it: its document without nulls, and the digest of that, which shows changes."""
    return {
        **without_nulls(plan.document()),
        "plan": {"version": VERSION, "digest": plan.digest},
    }


def from_file(document: Mapping[str, Any]) -> tuple[Plan, bool]:
    """The plan in a file, and whether it is intact: whether the file's digest matches everything in it.

    Raises UsageError where the file is not a plan, or holds what the command line would not accept.
    """
    head = _field(document, "plan", dict)
    version = _field(head, "version", int)
    if version != VERSION:
        raise UsageError(
            f"the plan is of version {version}, and this program reads version {VERSION}",
            hint="make a new plan, or apply it with the program that made it",
        )
    request = _field(document, "request", dict)
    plan = _plan_in(document, request)
    if request != plan.body:
        raise UsageError("the plan's request is not one that rotate-certs would make")
    rest = {key: value for key, value in document.items() if key != "plan"}
    # The second comparison finds what is in the file, but not read into the plan.
    return plan, _field(head, "digest", str) == plan.digest == digest_of(rest)


def _plan_in(document: Mapping[str, Any], request: Mapping[str, Any]) -> Plan:
    target = _field(document, "target", dict)
    files = _field(request, "files", list)
    value = _field(files[0] if files and isinstance(files[0], dict) else {}, "value", str)
    names = [_field(target, key, str, None) for key in ("group", "device", "uuid")]
    if not names[0] and not (names[1] and names[2]):
        raise _not_a_plan("a `group`, or a `device` and its `uuid`, in `target`")
    return Plan(
        _field(document, "factory", str),
        _field(document, "server", str),
        Scope.from_document(target),
        Entry.parse(value),
        _field(request, "reason", str),
        CurrentEntry(_field(_field(document, "current", dict), "file", dict, None)),
        _field(target, "devices", int, None),
        _field(target, "of-group", str, None),
        _stages(document),
        _field(document, "fleet-wide", str, None),
        _field(target, "members", str, None),
        _checks(document),
        tuple(_texts(document, "allow")),
        _not_following(document),
        _made(document),
    )


def _field(table: Mapping[str, Any], key: str, kind: type[T], default: Any = ...) -> T:
    """The value of a key, or `default`. Raises UsageError if its type is not exactly `kind`, or it is missing."""
    value = table.get(key, default)
    if type(value) is kind or (value is default and default is not ...):
        return cast("T", value)
    raise _not_a_plan(f"`{key}` as a {_KINDS[kind]}")


def _texts(table: Mapping[str, Any], key: str) -> list[str]:
    values = _field(table, key, list)
    if not all(isinstance(value, str) for value in values):
        raise _not_a_plan(f"`{key}` as a list of texts")
    return values


def _tables(document: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    values = _field(document, key, list)
    if not all(isinstance(value, dict) for value in values):
        raise _not_a_plan(f"`{key}` as a list of tables")
    return values


def _not_a_plan(expected: str) -> UsageError:
    return UsageError(f"the file is not a plan: expected {expected}")


def _checks(document: Mapping[str, Any]) -> "tuple[Check, ...]":
    # An offline dry run does without it.
    from fioctl_rotate.checks import Check, Status

    def status(text: str) -> Status:
        if text not in list(Status):
            raise _not_a_plan(f"`status` as one of {', '.join(Status)}")
        return Status(text)

    return tuple(
        Check(_field(t, "name", str), status(_field(t, "status", str)), _field(t, "message", str))
        for t in _tables(document, "checks")
    )


def _not_following(document: Mapping[str, Any]) -> tuple[NotFollowing, ...]:
    return tuple(
        NotFollowing(_field(t, "reason", str), _field(t, "count", int), tuple(_texts(t, "devices")))
        for t in _tables(document, "not-following")
    )


def _made(document: Mapping[str, Any]) -> Made | None:
    made: dict[str, Any] | None = _field(document, "made", dict, None)
    if made is None:
        return None
    return Made(_field(made, "by", str, None), _field(made, "at", str), _field(made, "version", str))


def _stages(document: Mapping[str, Any]) -> "Stages | None":
    if "stages" not in document:
        return None
    # An offline dry run does without it.
    from fioctl_rotate.rotation.stages import stages_from

    try:
        return stages_from(document["stages"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _not_a_plan("valid stages") from error
