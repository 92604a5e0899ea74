"""The plan of a push: what is sent to whom, and what is there now. It is shown, saved and applied unchanged.

Plain values and the standard library only, because an offline dry run uses this too.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fioctl_rotate.errors import Refused, UsageError
from fioctl_rotate.rotation import commands
from fioctl_rotate.rotation import entry as entries
from fioctl_rotate.rotation.entry import FILE_NAME, HANDLER, Entry
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.value import Value

if TYPE_CHECKING:
    from fioctl_rotate.checks import Check
    from fioctl_rotate.rotation.stages import Stages

VERSION = 3


class RotationRequest(Value):
    """What an operator asks for, as typed; None is what they left out."""

    reason: str
    server_name: str | None = None
    port: int = entries.DEFAULT_PORT
    resource: str = entries.DEFAULT_RESOURCE
    pkey_ids: str = entries.DEFAULT_PKEY_IDS
    cert_ids: str = entries.DEFAULT_CERT_IDS
    rotation_id: str | None = None

    def check(self) -> None:
        """Raise UsageError for what is wrong in any Factory, before ours is asked."""
        # An empty value, as from an unset variable, must not be replaced by the default.
        self.entry(
            "localhost" if self.server_name is None else self.server_name,
            "certs-0" if self.rotation_id is None else self.rotation_id,
        )
        if not self.reason.strip():
            raise UsageError("the reason is empty", hint="say with --reason why the certificates are rotated")

    def entry(self, server_name: str, rotation_id: str) -> Entry:
        """The entry that this makes with that EST server and that id."""
        return entries.make_entry(
            server_name=server_name,
            port=self.port,
            resource=self.resource,
            pkey_ids=self.pkey_ids,
            cert_ids=self.cert_ids,
            rotation_id=rotation_id,
        )


class CurrentEntry(Value):
    """What a scope has now: its present `fio-rotate-certs` file (as in the API), and all ids in its log."""

    file: Mapping[str, Any] | None
    ids: frozenset[str] = frozenset()

    @property
    def value(self) -> str | None:
        """The present entry's value."""
        return None if self.file is None else str(self.file.get("value", ""))

    @property
    def rotation_id(self) -> str | None:
        """The ROTATIONID that devices read from it, "" where it has none; None without an entry."""
        return None if self.value is None else entries.rotation_id_of(self.value)


class Made(Value):
    """Who made a plan (None if the token may not read its user), when (RFC 3339 in UTC), with which version."""

    by: str | None
    at: str
    version: str


class NotFollowing(Value):
    """How many devices will not follow for one reason, and the names of the first few."""

    reason: str
    count: int
    devices: tuple[str, ...]

    def __str__(self) -> str:
        more = f" and {self.count - len(self.devices)} more" if self.count > len(self.devices) else ""
        return f"{self.count} {self.reason} ({', '.join(self.devices)}{more})"


class Plan(Value):
    """A push as it would be sent.

    Fields:
        current: what the scope has now; None where the Factory was not asked.
        devices, members: how many devices follow the scope, and the digest of their uuids; None where not known.
        of_group: the group whose entry a device no longer sees once it has one of its own.
        stages: where it begins with some devices of the group; `fleet_wide` is then the value of the fleet-wide
            entry, None where there is none.
        checks: what was checked when the plan was made; `allow` are the names of checks that may fail.
        not_following: the devices that will not follow, as far as they are known.
    """

    factory: str
    server: str
    scope: Scope
    entry: Entry
    reason: str
    current: CurrentEntry | None = None
    devices: int | None = None
    of_group: str | None = None
    stages: "Stages | None" = None
    fleet_wide: str | None = None
    members: str | None = None
    checks: "tuple[Check, ...]" = ()
    allow: tuple[str, ...] = ()
    not_following: tuple[NotFollowing, ...] = ()
    made: Made | None = None

    @property
    def rotation_id(self) -> str:
        """The ROTATIONID, under which devices report."""
        return self.entry.rotation_id

    @property
    def body(self) -> dict[str, Any]:
        """The exact body of the PATCH that pushes it."""
        return request_body(self.entry, self.reason)

    @property
    def already_there(self) -> bool:
        """Whether the scope has exactly this entry, handler included."""
        return self.has_entry(self.current.file if self.current else None)

    def has_entry(self, file: Mapping[str, Any] | None) -> bool:
        """Whether `file` (as in the API) is exactly the plan's entry, handler included."""
        return file is not None and all(
            file.get(key) == value for key, value in self.body["files"][0].items()
        )

    def at(self, now: CurrentEntry) -> "Plan":
        """The plan with what its scope has now: ready to push, or already there.

        Raises Refused if the scope's entry has changed since the plan was made, and as `check_id`.
        """
        before = self.current.file if self.current else None
        plan = self.replace(current=now)
        if not plan.already_there:
            if now.file != before:
                raise Refused(
                    f"{self.scope} has another {FILE_NAME} than when the plan was made",
                    hint="make a new plan and review it: somebody has pushed or deleted one since",
                )
            plan.check_id()
        return plan

    def check_id(self) -> None:
        """Raise Refused for an id that is not a new rotation: in use with other content, or in the log already."""
        if self.current is None or self.already_there or self.rotation_id not in self.current.ids:
            return
        hint = "give another --rotation-id, or leave it out"
        if self.current.rotation_id == self.rotation_id:
            raise Refused(
                f"{self.scope} has rotation {self.rotation_id} with other content: devices that finished it "
                "would not rotate again",
                hint=hint,
            )
        raise Refused(f"rotation {self.rotation_id} is an older one in the log of {self.scope}", hint=hint)

    def document(self) -> dict[str, Any]:
        """The plan as JSON.

        `{factory, server, target, current, request, checks, allow, not-following, made}`; `current` is null where
        the Factory was not asked, else `{"file": …}` with null for no entry.
        """
        target = {
            **self.scope.document(),
            "of-group": self.of_group,
            "devices": self.devices,
            "members": self.members,
        }
        staged = {"stages": self.stages.document(), "fleet-wide": self.fleet_wide} if self.stages else {}
        return {
            "factory": self.factory,
            "server": self.server,
            "target": {key: value for key, value in target.items() if value is not None},
            "current": None if self.current is None else {"file": self.current.file},
            "request": self.body,
            **staged,
            "checks": [
                {"name": check.name, "status": str(check.status), "message": check.message}
                for check in self.checks
            ],
            "allow": list(self.allow),
            "not-following": [
                {"reason": of.reason, "count": of.count, "devices": list(of.devices)}
                for of in self.not_following
            ],
            "made": self.made and {"by": self.made.by, "at": self.made.at, "version": self.made.version},
        }

    @property
    def digest(self) -> str:
        """The digest of everything in the plan."""
        return digest_of(without_nulls(self.document()))

    @property
    def mark(self) -> str:
        """Twelve hex digits, in the reason of each write: a digest of what must not change once it was started."""
        staged = self.stages.document() if self.stages else {}
        fixed = {
            key: value for key, value in staged.items() if key in ("clear-group", "clear-fleet", "early")
        }
        before = [self.current.value if self.current else None, self.fleet_wide]
        target = [self.factory, self.scope.document(), self.entry.render(), self.reason]
        return digest_of([*target, *before, fixed])[7:19]

    def changes(self) -> list[str]:
        """How the new value differs from the present one, line by line, as `- old` and `+ new`."""
        old = (self.current.value or "").splitlines() if self.current else []
        new = self.entry.render().splitlines()
        return [f"- {line}" for line in old if line not in new] + [
            f"+ {line}" for line in new if line not in old
        ]

    @property
    def compared(self) -> str:
        """What the push would change, in a sentence; `changes` has the lines of a change."""
        kind = self.scope.kind
        if self.current is None:
            return "Not compared with what is there now: the Factory was not asked."
        if self.already_there:
            return f"The {kind} already has exactly this entry: a push would send nothing."
        if self.current.file is None:
            return f"The {kind} has no {FILE_NAME} now."
        return f"Compared with what the {kind} has now:"

    def older_rotation_warnings(self) -> list[str]:
        """Warnings about older rotations by which an early device can rotate again; none if these are deleted."""
        if self.stages is None or self.stages.clear_group or self.stages.clear_fleet:
            return []
        older = {
            "--clear-older": self.current.value if self.current else None,
            "--clear-fleet-wide": self.fleet_wide,
        }
        return [
            f"An early device that reboots before it is settled rotates again, by rotation {older_id} at "
            f"{entries.parse_value(value)['ESTSERVER']}; {option} deletes that entry first."
            for option, value in older.items()
            if value is not None and (older_id := entries.rotation_id_of(value))
        ]

    @property
    def factory_options(self) -> list[str]:
        """The options that name the plan's Factory."""
        return commands.factory_options(self.factory, self.server)

    def command(self, rotation_id: str | None = None) -> str:
        """The command line that pushes exactly this plan, or the same under another `rotation_id`."""
        entry = self.entry
        words = [*self.scope.config_command("rotate-certs"), "-r", self.reason, "--server-name", entry.host]
        for option, value, default in (
            ("--est-port", str(entry.port), str(entries.DEFAULT_PORT)),
            ("--est-resource", entry.resource, entries.DEFAULT_RESOURCE),
            ("--hsm-pkey-ids", ",".join(entry.pkey_ids), entries.DEFAULT_PKEY_IDS),
            ("--hsm-cert-ids", ",".join(entry.cert_ids), entries.DEFAULT_CERT_IDS),
        ):
            if value != default:
                words += [option, value]
        for name in self.allow:
            words += ["--allow", name]
        return shlex.join([*words, "--rotation-id", rotation_id or self.rotation_id, *self.factory_options])


def make_plan(
    request: RotationRequest,
    *,
    factory: str,
    server: str,
    scope: Scope,
    est_host: str,
    unix_seconds: int,
    current: CurrentEntry | None = None,
    taken: Iterable[str] = (),
    devices: int | None = None,
    members: str | None = None,
    of_group: str | None = None,
    allow: tuple[str, ...] = (),
) -> Plan:
    """The plan for `request`; `taken` are ids in use, besides the scope's. Raises UsageError or Refused."""
    used = set(taken) | (set(current.ids) if current else set())
    rotation_id = request.rotation_id or entries.new_rotation_id(unix_seconds, used)
    entry = request.entry(est_host, rotation_id)
    plan = Plan(
        factory,
        server,
        scope,
        entry,
        request.reason,
        current,
        devices,
        of_group,
        members=members,
        allow=allow,
    )
    plan.check_id()
    return plan


def request_body(entry: Entry, reason: str) -> dict[str, Any]:
    """The body of the PATCH, as fioctl sends it."""
    return {
        "reason": reason,
        "files": [
            {"name": FILE_NAME, "value": entry.render(), "unencrypted": True, "on-changed": [HANDLER]},
        ],
    }


def without_nulls(value: Any) -> Any:
    """`value` without the keys whose value is null: TOML has no null."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [without_nulls(item) for item in value]
    return value


def digest_of(value: object) -> str:
    """The digest of a document, the same for any order of its keys."""
    # Imported here: an offline dry run needs no digest, and these two take a tenth of its start.
    import hashlib
    import json

    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def members_digest(uuids: Iterable[str]) -> str:
    """The digest of the devices that follow a scope."""
    return digest_of(sorted(uuids))
