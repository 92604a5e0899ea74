"""A plan: its file, its command line, and which ROTATIONIDs it may carry. No command, no network."""

import contextlib
import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fioctl_rotate.checks import Check, Status
from fioctl_rotate.errors import Refused, UsageError
from fioctl_rotate.ops.plan_file import parse_plan, plan_text
from fioctl_rotate.rotation import entry as entries
from fioctl_rotate.rotation.plan import (
    VERSION,
    CurrentEntry,
    Made,
    NotFollowing,
    Plan,
    RotationRequest,
    digest_of,
    make_plan,
    request_body,
)
from fioctl_rotate.rotation.plan_document import from_file, to_file
from fioctl_rotate.rotation.scope import Scope

LABEL = st.from_regex(r"[A-Za-z0-9_]{1,8}", fullmatch=True)
NAME = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,8}", fullmatch=True)
# What a TOML file can hold: any text without lone surrogates.
TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from("\r\n\"'\\\t"), min_size=1, max_size=20)
SLOTS = st.sampled_from(["01,07", "03,09", "10,99"])
SCOPES = st.builds(Scope.of_group, TEXT) | st.builds(Scope.of_device, TEXT, TEXT)
FILES = st.none() | st.fixed_dictionaries(
    {"name": st.just(entries.FILE_NAME), "value": TEXT, "unencrypted": st.booleans()},
    optional={"on-changed": st.lists(TEXT, max_size=2)},
)
CURRENT = FILES.map(CurrentEntry)
CHECKS = st.lists(st.builds(Check, TEXT, st.sampled_from(Status), TEXT), max_size=3).map(tuple)
NOT_FOLLOWING = st.builds(NotFollowing, TEXT, st.integers(0, 99), st.lists(TEXT, max_size=2).map(tuple))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    entry = entries.make_entry(
        server_name=f"{draw(LABEL)}.{draw(LABEL)}.example",
        port=draw(st.integers(1, 65535)),
        resource="/" + draw(NAME),
        pkey_ids=draw(SLOTS),
        cert_ids=draw(SLOTS),
        rotation_id=draw(NAME),
    )
    reason = draw(TEXT.filter(str.strip))
    return Plan(
        draw(TEXT),
        draw(TEXT),
        draw(SCOPES),
        entry,
        reason,
        draw(CURRENT),
        draw(st.integers(0, 10**6)),
        draw(st.none() | TEXT),
        members=draw(st.none() | TEXT),
        checks=draw(CHECKS),
        allow=draw(st.lists(TEXT, max_size=2).map(tuple)),
        not_following=draw(st.lists(NOT_FOLLOWING, max_size=2).map(tuple)),
        made=draw(st.none() | st.builds(Made, st.none() | TEXT, TEXT, TEXT)),
    )


@given(plan=plans())
def test_a_plan_survives_its_file(plan: Plan) -> None:
    read = parse_plan(plan_text(plan).encode(), "plan")
    assert (read.plan, read.intact) == (plan, True)
    assert read.plan.digest == plan.digest


@given(plan=plans())
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(plan: Plan) -> None:
    written = plan_text(plan)
    if "\r" not in written:
        assert parse_plan(b"\xef\xbb\xbf" + written.replace("\n", "\r\n").encode(), "plan").intact


@given(plan=plans(), data=st.data())
def test_a_plan_with_any_character_changed_is_refused(plan: Plan, data: st.DataObject) -> None:
    written = plan_text(plan)
    at = data.draw(st.integers(0, len(written.rstrip()) - 1))
    changed = (
        written[:at]
        + data.draw(st.sampled_from("x0\n \"'=é#"))
        + written[at + data.draw(st.integers(0, 1)) :]
    )
    if changed == written:
        return
    with contextlib.suppress(UsageError):
        assert not parse_plan(changed.encode(), "plan").intact


@pytest.mark.parametrize("line", ["# for group canaries (2 devices)", "   # x", 'extra = "x"'])
def test_nothing_can_be_added_that_a_reviewer_would_read(line: str) -> None:
    """Above all no comment, which TOML does not keep."""
    written = plan_text(PLAIN)
    for changed in (f"{line}\n{written}", written.replace("\n\n", f"\n{line}\n\n", 1), f"{written}{line}\n"):
        read = parse_plan(changed.encode(), "plan")
        assert not read.intact
        with pytest.raises(Refused, match="edited"):
            read.accept(edited=False, digest=None)
        # What is done is what the digest is of, whatever else the file says.
        assert read.accept(edited=True, digest=PLAIN.digest) == PLAIN


def test_a_digest_is_of_the_content_also_where_it_was_edited() -> None:
    changed = plan_text(PLAIN).replace('reason = "why"', 'reason = "another"')
    read = parse_plan(changed.encode(), "plan")
    with pytest.raises(Refused, match="not the one that was approved"):
        read.accept(edited=True, digest=PLAIN.digest)
    assert read.accept(edited=True, digest=read.plan.digest).reason == "another"


PLAIN = make_plan(
    RotationRequest("why"),
    factory="acme",
    server="https://api.foundries.io",
    scope=Scope.of_group("field"),
    est_host="est.example.com",
    unix_seconds=7,
    current=CurrentEntry(None),
    devices=2,
)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("plan",), None, "not a plan"),
        (("plan", "version"), 1, "version 1"),
        (("plan", "digest"), None, "not a plan"),
        (("target",), None, "not a plan"),
        (("target", "group"), None, "not a plan"),
        (("current",), None, "not a plan"),
        (("request",), None, "not a plan"),
        (("request", "files"), [], "not a plan"),
        (("request", "files"), "x", "not a plan"),
        (("request", "reason"), None, "not a plan"),
        (("factory",), None, "not a plan"),
        (("server",), None, "not a plan"),
        (("target",), 1, "not a plan"),
        (("plan",), "x", "not a plan"),
        (("plan", "version"), True, "not a plan"),
        (("target", "devices"), "2", "not a plan"),
        (("target", "members"), 2, "not a plan"),
        (("target",), {"device": "d"}, "not a plan"),
        (("checks",), None, "not a plan"),
        (("checks",), ["x"], "not a plan"),
        (("checks",), [{"name": "est", "status": "fine", "message": ""}], "not a plan"),
        (("allow",), [1], "not a plan"),
        (("not-following",), [{"reason": "offline"}], "not a plan"),
        (("made",), {"at": 1}, "not a plan"),
        (("stages",), {"early": 1}, "not a plan"),
        (("stages",), [], "not a plan"),
    ],
)
def test_what_is_not_a_plan_is_refused_even_where_edits_are_allowed(
    path: tuple[str, ...], value: object, words: str
) -> None:
    document = copy.deepcopy(to_file(PLAIN))
    place = document
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(UsageError, match=words):
        from_file(document)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PATHS = st.sampled_from(
    [
        *((key,) for key in (*to_file(PLAIN), "stages", "fleet-wide", "made")),
        *(("target", key) for key in ("group", "device", "uuid", "devices", "members", "of-group")),
        *(("request", key) for key in ("reason", "files")),
        *(("current", "file"), ("plan", "version"), ("plan", "digest"), ("made", "at")),
    ]
)


@given(path=PATHS, value=VALUES)
def test_any_value_in_any_place_is_a_plan_or_refused(path: tuple[str, ...], value: object) -> None:
    document = copy.deepcopy(to_file(PLAIN))
    place = document
    for key in path[:-1]:
        place = place.setdefault(key, {})
    place[path[-1]] = value
    with contextlib.suppress(UsageError):
        plan, intact = from_file(document)
        assert plan.digest
        assert plan == PLAIN or not intact


def test_a_key_that_is_not_a_plans_is_an_edit_although_the_digest_has_it() -> None:
    document: dict[str, object] = {**to_file(PLAIN), "approved-by": "the boss"}
    rest = {key: value for key, value in document.items() if key != "plan"}
    document["plan"] = {"version": VERSION, "digest": digest_of(rest)}
    assert from_file(document) == (PLAIN, False)


@given(data=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(UsageError):
        parse_plan(data, "plan")


@pytest.mark.parametrize(
    "change",
    [
        {"value": PLAIN.entry.render().replace("https", "http")},
        {"value": PLAIN.entry.render().replace("8443", "84430000")},
        {"value": PLAIN.entry.render().replace("/.well-known/est", "/$(reboot)")},
        {"value": PLAIN.entry.render().replace("01,07", "01,01")},
        {"value": PLAIN.entry.render() + "EXTRA=1\n"},
        {"value": PLAIN.entry.render().replace("ROTATIONID", "ROTATION")},
        {"name": "other"},
        {"unencrypted": False},
        {"on-changed": ["/bin/sh"]},
        {"extra": 1},
    ],
)
def test_an_edit_that_the_command_line_would_refuse_is_refused_in_a_plan_too(
    change: dict[str, object],
) -> None:
    document = copy.deepcopy(to_file(PLAIN))
    document["request"]["files"][0].update(change)
    with pytest.raises(UsageError):
        from_file(document)


@given(plan=plans())
def test_the_command_of_a_plan_makes_the_same_request(plan: Plan) -> None:
    """What is shown to be typed means what was shown: shell words back to a request, and to the same entry."""
    import shlex

    words = shlex.split(plan.command())
    kind = words.index("rotate-certs") + 1
    if words[kind] == "-g" and plan.scope.options[0] == "-g":
        kind += 1
    assert words[kind] == plan.scope.name
    pairs = list(zip(words[kind + 1 :: 2], words[kind + 2 :: 2], strict=True))
    given_options = dict(pairs)
    assert tuple(name for option, name in pairs if option == "--allow") == plan.allow
    entry = entries.make_entry(
        server_name=given_options["--server-name"],
        port=int(given_options.get("--est-port", entries.DEFAULT_PORT)),
        resource=given_options.get("--est-resource", entries.DEFAULT_RESOURCE),
        pkey_ids=given_options.get("--hsm-pkey-ids", entries.DEFAULT_PKEY_IDS),
        cert_ids=given_options.get("--hsm-cert-ids", entries.DEFAULT_CERT_IDS),
        rotation_id=given_options["--rotation-id"],
    )
    assert request_body(entry, given_options["-r"]) == plan.body
    assert given_options["-f"] == plan.factory


def current(present: str | None, *older: str) -> CurrentEntry:
    file = None
    if present is not None:
        file = {**PLAIN.body["files"][0], "value": PLAIN.entry.render().replace("certs-7", present)}
    return CurrentEntry(file, frozenset(older) | ({present} if present else set()))


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (current(None), None),
        (current("certs-6"), None),
        (current("certs-7"), None),  # the very same: already there
        (current("certs-8", "certs-7"), "an older one"),
        (current(None, "certs-7"), "an older one"),
        (
            CurrentEntry({"value": PLAIN.entry.render().replace("8443", "443")}, frozenset({"certs-7"})),
            "with other content",
        ),
    ],
)
def test_an_id_is_new_or_it_is_the_same_push_again(there: CurrentEntry, words: str | None) -> None:
    def plan() -> Plan:
        return make_plan(
            RotationRequest("why", rotation_id="certs-7"),
            factory="acme",
            server="s",
            scope=Scope.of_group("field"),
            est_host="est.example.com",
            unix_seconds=1,
            current=there,
        )

    if words is None:
        assert plan().already_there == (there.value == PLAIN.entry.render())
        return
    with pytest.raises(Refused, match=words):
        plan()


@given(
    taken=st.sets(st.integers(1, 5).map(lambda n: f"certs-{n}")),
    log=st.sets(st.integers(1, 5).map(lambda n: f"certs-{n}")),
    now=st.integers(1, 5),
)
def test_a_generated_id_is_in_nobodys_log(taken: set[str], log: set[str], now: int) -> None:
    plan = make_plan(
        RotationRequest("why"),
        factory="acme",
        server="s",
        scope=Scope.of_device("d", "u"),
        current=CurrentEntry(None, frozenset(log)),
        est_host="est.example.com",
        unix_seconds=now,
        taken=taken,
    )
    assert plan.rotation_id not in taken | log
    assert int(plan.rotation_id.removeprefix("certs-")) >= now
