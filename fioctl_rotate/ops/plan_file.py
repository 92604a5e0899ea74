"""A plan's file: TOML that people read, with a digest that shows whether it is what was reviewed."""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fioctl_rotate.errors import Refused, UsageError
from fioctl_rotate.files import read_file, write_atomic
from fioctl_rotate.folders import state_folder
from fioctl_rotate.rotation.plan import Plan
from fioctl_rotate.rotation.plan_document import from_file, to_file
from fioctl_rotate.toml import parse_toml

_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_MOST_BYTES = 16 << 20  # a plan in stages lists its devices


@dataclass(frozen=True)
class PlanFile:
    """A plan that was read from a file, and whether the file is exactly as it was written."""

    plan: Plan
    intact: bool

    def accept(self, *, edited: bool, digest: str | None) -> Plan:
        """The plan, if it may be applied.

        Raises Refused where it was edited, or has another digest; UsageError where `digest` is not a digest.
        """
        if not self.intact and not edited:
            raise Refused(
                "the plan was edited after it was written",
                hint="review it again, then allow it with --edited; or make a new plan",
            )
        if digest is not None and not _DIGEST.fullmatch(digest):
            raise UsageError(
                f"--digest: expected sha256: and 64 hexadecimal digits, got `{digest}`",
                hint="`fioctl-rotate plan digest PLAN` prints it, in the job that makes the plan",
            )
        if digest is not None and digest != self.plan.digest:
            raise Refused(
                f"the plan is not the one that was approved: expected {digest}, got {self.plan.digest}",
                hint="`fioctl-rotate plan show PLAN` shows what this one would do",
            )
        return self.plan


def read_plan(path: Path) -> PlanFile:
    """The plan in the file at `path`; `-` reads stdin. Raises UsageError where there is none."""
    try:
        data = read_file(path, most=_MOST_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read plan {path}: {error.strerror}") from error
    return parse_plan(data, f"plan {path}")


def parse_plan(data: bytes, what: str) -> PlanFile:
    """The plan in a file's bytes; `what` is what errors call it. Raises UsageError where there is none.

    A byte order mark and other line endings are allowed. Anything else that is in the file but not in the plan,
    such as a comment, could mislead a reviewer: it counts as an edit.
    """
    document = parse_toml(data, what)
    try:
        plan, intact = from_file(document)
    except UsageError as error:
        raise UsageError(f"{what}: {error.message}", hint=error.hint) from error
    text = data.decode("utf-8-sig").replace("\r\n", "\n").rstrip("\n")
    return PlanFile(plan, intact and text == plan_text(plan).rstrip("\n"))


def write_plan(path: Path, plan: Plan) -> None:
    """Write the plan's file, for `apply`; `-` writes it to stdout."""
    write_atomic(path, plan_text(plan).encode(), 0o644)


def keep_plan(plan: Plan) -> Path:
    """Store a plan in stages that has no file, so that `apply` can continue it; returns where. Raises OSError."""
    path = state_folder() / "plans" / f"{plan.rotation_id}-{plan.mark}.toml"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_plan(path, plan)
    return path


def kept_plan(plan: Plan) -> Path | None:
    """The path of a stored plan of the same rotation, which may have other devices; None where there is none."""
    with contextlib.suppress(OSError):
        for path in sorted((state_folder() / "plans").glob(f"{plan.rotation_id}-*.toml")):
            with contextlib.suppress(UsageError):
                kept = read_plan(path).plan
                of = (kept.rotation_id, kept.factory, kept.server, kept.scope)
                if of == (plan.rotation_id, plan.factory, plan.server, plan.scope):
                    return path
    return None


def plan_text(plan: Plan) -> str:
    """The plan's file."""
    return to_toml(to_file(plan))


def to_toml(document: Mapping[str, Any]) -> str:
    """A document as TOML; the entry's value spans lines, so that it can be read and compared."""
    import tomllib

    import tomli_w

    text = tomli_w.dumps(document, multiline_strings=True)
    # In multi-line strings tomli-w writes CR LF as LF. If an entry has CR LF, use single-line strings.
    return text if tomllib.loads(text) == document else tomli_w.dumps(document)
