"""The plan of a push: exactly what goes to whom, and what stands there now. Shown, saved, applied unchanged.

Plain values and the standard library only, because an offline dry run is made of this too.
"""

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fioctl_rotate.errors import Refused, UsageError
from fioctl_rotate.rotation import entry as entries
from fioctl_rotate.rotation.entry import FILE_NAME, HANDLER, Entry

VERSION = 1


@dataclass(frozen=True)
class Target:
    """Whom a push is for: a device group, or one device (then `uuid` and its `group`, where known).

    `devices` is how many devices that is now; None where nobody was asked.
    """

    kind: str
    name: str
    uuid: str | None = None
    group: str | None = None
    devices: int | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    def document(self) -> dict[str, Any]:
        """The target as plans and JSON show it."""
        return {
            key: value
            for key, value in {
                self.kind: self.name,
                "uuid": self.uuid,
                "of-group": self.group,
                "devices": self.devices,
            }.items()
            if value is not None
        }


@dataclass(frozen=True)
class RotationRequest:
    """What an operator asks for, as typed; None is what they left out."""

    reason: str
    server_name: str | None = None
    port: int = entries.DEFAULT_PORT
    resource: str = entries.DEFAULT_RESOURCE
    pkey_ids: str = entries.DEFAULT_PKEY_IDS
    cert_ids: str = entries.DEFAULT_CERT_IDS
    rotation_id: str | None = None

    def check(self) -> None:
        """Refuse (UsageError) what is wrong in itself, before anybody is asked anything."""
        # What is there and empty, as of an unset variable, must not become what is taken where nothing is said.
        self.entry(
            "localhost" if self.server_name is None else self.server_name,
            "certs-0" if self.rotation_id is None else self.rotation_id,
        )
        if not self.reason.strip():
            raise UsageError("the reason is empty", hint="say with --reason why the certificates are rotated")

    def entry(self, server_name: str, rotation_id: str) -> Entry:
        """The entry that this wish makes with that EST server and that id."""
        return entries.make_entry(
            server_name=server_name,
            port=self.port,
            resource=self.resource,
            pkey_ids=self.pkey_ids,
            cert_ids=self.cert_ids,
            rotation_id=rotation_id,
        )


@dataclass(frozen=True)
class CurrentEntry:
    """What a target has now: its present `fio-rotate-certs` file (as in the API), and all ids of its log."""

    file: Mapping[str, Any] | None
    ids: frozenset[str]

    @property
    def value(self) -> str | None:
        """The present entry's value."""
        return None if self.file is None else str(self.file["value"])


@dataclass(frozen=True)
class Plan:
    """A push as it would be sent. `request` is the exact body; `standing` is None where nobody was asked."""

    factory: str
    server: str
    target: Target
    standing: CurrentEntry | None
    request: Mapping[str, Any]

    @property
    def value(self) -> str:
        """The new entry's value."""
        return str(self.request["files"][0]["value"])

    @property
    def reason(self) -> str:
        """The reason that goes with the push."""
        return str(self.request["reason"])

    @property
    def rotation_id(self) -> str:
        """The ROTATIONID, under which devices report."""
        return entries.rotation_id_of(self.value)

    @property
    def est_server(self) -> str:
        """The EST server's URL."""
        return entries.parse_value(self.value)["ESTSERVER"]

    @property
    def already_there(self) -> bool:
        """Whether the target has just this entry, the handler and all."""
        file = self.standing.file if self.standing else None
        return file is not None and all(
            file.get(key) == value for key, value in self.request["files"][0].items()
        )

    def check_id(self) -> None:
        """Refuse an id that would be no new rotation: in use with other content, or an older one's."""
        if self.standing is None or self.already_there or self.rotation_id not in self.standing.ids:
            return
        current = self.standing.value
        if current is not None and entries.rotation_id_of(current) == self.rotation_id:
            raise Refused(
                f"{self.target} has rotation {self.rotation_id} with other content: devices that finished it would "
                "not rotate again",
                hint="give another --rotation-id, or leave it out",
            )
        raise Refused(
            f"rotation {self.rotation_id} is an older one in the log of {self.target}",
            hint="give another --rotation-id, or leave it out",
        )

    def document(self) -> dict[str, Any]:
        """The plan for `--format json`: `{factory, server, target, current, request}`.

        `current` is null where nobody was asked, else `{"file": …}` with null for no entry.
        """
        return {
            "factory": self.factory,
            "server": self.server,
            "target": self.target.document(),
            "current": None if self.standing is None else {"file": self.standing.file},
            "request": self.request,
        }

    def changes(self) -> list[str]:
        """How the new value differs from the present one, line by line, as `- old` and `+ new`."""
        old = (self.standing.value or "").splitlines() if self.standing else []
        new = self.value.splitlines()
        return [f"- {line}" for line in old if line not in new] + [
            f"+ {line}" for line in new if line not in old
        ]

    def command(self) -> str:
        """The command line that pushes just this."""
        values = entries.parse_value(self.value)
        host, port, resource = _split_url(values["ESTSERVER"])
        words = ["fioctl-rotate", *(("config", "rotate-certs", "-g") if self.target.kind == "group" else ())]
        if self.target.kind == "device":
            words += ["device", "config", "rotate-certs"]
        words += [self.target.name, "-r", self.reason, "--server-name", host]
        for option, value, default in (
            ("--est-port", port, str(entries.DEFAULT_PORT)),
            ("--est-resource", resource, entries.DEFAULT_RESOURCE),
            ("--hsm-pkey-ids", values["PKEYIDS"], entries.DEFAULT_PKEY_IDS),
            ("--hsm-cert-ids", values["CERTIDS"], entries.DEFAULT_CERT_IDS),
        ):
            if value != default:
                words += [option, value]
        return shlex.join([*words, "--rotation-id", self.rotation_id, *self._place()])

    def watch_command(self) -> str:
        """The command line that sees the rotation through once it is pushed."""
        option = "-g" if self.target.kind == "group" else "--device"
        words = ["fioctl-rotate", "rotations", "watch", self.rotation_id, option, self.target.name]
        return shlex.join([*words, *self._place()])

    def log_command(self) -> str:
        """The command line that shows what the target has now."""
        words = ["fioctl-rotate", *(("config", "log", "-g") if self.target.kind == "group" else ())]
        if self.target.kind == "device":
            words += ["device", "config", "log"]
        return shlex.join([*words, self.target.name, "-n", "1", *self._place()])

    def _place(self) -> list[str]:
        return place(self.factory, self.server)


def place(factory: str, server: str) -> list[str]:
    """The options that name a Factory, whatever flags and environment say. `server` is a URL, or `mock DIR`."""
    mock = server.removeprefix("mock ")
    return ["-f", factory, *(("--server", server) if mock == server else ("--mock", mock))]


def make_plan(
    wish: RotationRequest,
    *,
    factory: str,
    server: str,
    target: Target,
    standing: CurrentEntry | None,
    est_host: str,
    unix_seconds: int,
    taken: Iterable[str] = (),
) -> Plan:
    """The plan for `wish`; `taken` are ids in use beyond the target's log. Raises UsageError or Refused."""
    used = set(taken) | (set(standing.ids) if standing else set())
    rotation_id = wish.rotation_id or entries.new_rotation_id(unix_seconds, used)
    entry = wish.entry(est_host, rotation_id)
    plan = Plan(factory, server, target, standing, request_body(entry, wish.reason))
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


def to_file(plan: Plan) -> dict[str, Any]:
    """The plan as a file keeps it: its document without nulls, and digests that show a change.

    `current.digest` is over the target's present entry; `plan.digest` over all the rest of the file.
    """
    document = without_nulls(plan.document())
    document["current"] = {
        **document.get("current", {}),
        "digest": _digest(plan.standing and plan.standing.file),
    }
    return {**document, "plan": {"version": VERSION, "digest": _digest(document)}}


def from_file(document: Mapping[str, Any], *, allow_edited: bool = False) -> tuple[Plan, str]:
    """The plan in a file, and the digest of the entry it was made against.

    Raises UsageError where the file is no plan or would not be accepted from the command line, Refused where it
    was edited and `allow_edited` is False.
    """
    rest = {key: value for key, value in document.items() if key != "plan"}
    try:
        head = document["plan"]
        version, digest = head["version"], head["digest"]
        target = _target(document["target"])
        against = str(document["current"]["digest"])
        file = document["current"].get("file")
        request = document["request"]
        value, reason = request["files"][0]["value"], request["reason"]
        plan = Plan(str(document["factory"]), str(document["server"]), target, None, request)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UsageError(f"the file is not a plan: {error} is missing or not what it should be") from error
    if version != VERSION:
        raise UsageError(f"the plan is of version {version}; this program reads version {VERSION}")
    if digest != _digest(rest) and not allow_edited:
        raise Refused(
            "the plan was edited after it was written",
            hint="review it again, then allow it with --edited; or make a new plan",
        )
    if request != _checked_body(value, reason):
        raise UsageError("the plan's request is not one that rotate-certs would make")
    return replace(plan, standing=CurrentEntry(file, frozenset())), against


def digest_of(file: Mapping[str, Any] | None) -> str:
    """The digest of a target's present entry, as plans keep it; of None where it has no entry."""
    return _digest(file)


def _checked_body(value: object, reason: object) -> dict[str, Any]:
    """The body that the command line would make from this value; what it refuses, a plan must not carry either."""
    values = entries.parse_value(str(value))
    host, port, resource = _split_url(values["ESTSERVER"])
    entry = entries.make_entry(
        server_name=host,
        port=int(port),
        resource=resource,
        pkey_ids=values["PKEYIDS"],
        cert_ids=values["CERTIDS"],
        rotation_id=values["ROTATIONID"],
    )
    return request_body(entry, str(reason))


def _target(document: Mapping[str, Any]) -> Target:
    kind = "group" if "group" in document else "device"
    return Target(
        kind, str(document[kind]), document.get("uuid"), document.get("of-group"), document.get("devices")
    )


def _split_url(url: str) -> tuple[str, str, str]:
    """Host, port and resource of an ESTSERVER as `entry.est_url` makes it."""
    authority, slash, path = url.removeprefix("https://").partition("/")
    host, _, port = authority.partition(":")
    if not url.startswith("https://") or not port.isdigit():
        raise UsageError(f"`{url}` is not an EST server's URL of the form https://HOST:PORT/PATH")
    return host, port, slash + path


def without_nulls(value: Any) -> Any:
    """`value` without the keys that are null, which TOML cannot hold."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [without_nulls(item) for item in value]
    return value


def _digest(value: object) -> str:
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
