"""`rotations list` and `show`, as an operator or a CI job sees them."""

import asyncio
import json
import re

import pytest

from fioctl_rotate.mock.store import device_groups
from fioctl_rotate.rotation.progress import STEPS
from tests.rotation.fleets import EXPECTED, WORDS, outcomes, suite_in


def test_show_as_json_has_a_stable_shape(mixed, rotations):
    shown = rotations("show", "certs-1", "-g", "field", "--format", "json").json
    assert list(shown) == ["factory", "server", "rotation", "at", "summary", "devices"]
    assert shown["rotation"] | {"pushed-at": "", "pushed-by": ""} == {
        "id": "certs-1",
        "target": {"group": "field"},
        "est-server": "https://est.example.com:8443/.well-known/est",
        "pushed-at": "",
        "pushed-by": "",
        "reason": "yearly",
        "current": True,
        "settled": False,
    }
    assert shown["summary"] == {
        "total": 9,
        "done": 1,
        "finalized": 1,
        "failing": 2,
        "running": 1,
        "pending": 4,
        "left": 0,
        "not-following": {"shadowed": 1, "unsupported": 1, "superseded": 0, "offline": 1, "silent": 0},
        "complete": False,
    }
    assert {d["name"]: (d["state"], d["step"], d["reason"]) for d in shown["devices"]} == EXPECTED
    failing = next(device for device in shown["devices"] if device["name"] == "failing")
    assert list(failing) == [
        "uuid", "name", "state", "step", "step-name", "since", "attempts", "message", "reason", "why", "proof",
        "last-seen", "lmp-ver",
    ]  # fmt: skip
    assert (failing["step-name"], failing["message"], failing["attempts"]) == (STEPS[0], WORDS, 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", failing["since"])


def test_show_as_text_says_why_and_what_to_do_with_failing_devices_first(mixed, rotations):
    result = rotations("show", "certs-1", "-g", "field")
    assert "1 of 9 done, 1 finalized, 2 failing, 1 running, 4 pending" in result.out
    rows = [line.split("\t") for line in result.out.splitlines() if "\t" in line]
    assert rows[0] == ["DEVICE", "STATE", "SINCE", "WHY"]
    assert [row[0] for row in rows[1:]] == [
        *("failing", "failing-late", "finalized", "running", "never", "own", "old", "pending", "done"),
    ]
    why = {row[0]: row[-1] for row in rows}
    assert why["failing"] == f"{STEPS[0]}: {WORDS}"
    assert why["failing-late"] == rf"{STEPS[3]}: bad \x1b[31m<words> & more"
    assert why["own"] == "has an entry of its own, rotation certs-0, which comes before its group's"
    # A device that failed at the first step is out of reach: the URL must work, another push does not help.
    hint = next(line for line in result.err.splitlines() if "step 1" in line)
    assert "the EST server https://est.example.com:8443/.well-known/est must start working" in hint
    assert "another push cannot reach it" in hint
    delete = f"device config delete own fio-rotate-certs -f acme --mock {mixed.directory}"
    assert f"`fioctl-rotate {delete}`" in result.err


def test_show_filters(mixed, rotations):
    def names(*filters):
        shown = rotations("show", "certs-1", "-g", "field", *filters, "--format", "json").json
        return {device["name"] for device in shown["devices"]}

    assert names("--failed") == {"failing", "failing-late", "finalized"}
    assert names("--pending") == {"never", "old", "own", "pending"}
    assert len(names("--failed", "--pending")) == 7


def test_show_of_one_device(mixed, rotations):
    shown = rotations("show", "certs-1", "--device", "failing", "--format", "json").json
    assert [(d["name"], d["state"]) for d in shown["devices"]] == [("failing", "failing")]
    assert shown["rotation"]["target"] == {"device": "failing", "uuid": "uuid-failing"}
    own = rotations("show", "certs-1", "--device", "own", "--format", "json").json
    assert own["devices"][0]["reason"] == "superseded"


def test_show_needs_only_the_id(mixed, rotations):
    named = rotations("show", "certs-1", "-g", "field")
    assert rotations("show", "certs-1") == named


def test_id_that_two_groups_have_needs_one_of_them(mixed, rotations):
    with mixed.store.transaction() as db:
        device_groups.create_group(db, "acme", "other", None, author="me", now=mixed.now)
    asyncio.run(mixed.push(group="other"))
    result = rotations("show", "certs-1")
    assert result.code == 2
    assert "certs-1 is a rotation of group field and group other" in result.err
    assert "hint: name one of them with -g GROUP" in result.err


@pytest.mark.parametrize("command", ["show", "watch"])
@pytest.mark.parametrize(
    ("target", "known"),
    [(["-g", "field"], "rotations there: certs-1"), ([], "known: certs-1 (group field)")],
)
def test_id_that_nobody_knows_is_an_error_with_the_known_ones(
    mixed, rotations, tmp_path, command, target, known
):
    file = tmp_path / "junit.xml"
    result = rotations(command, "certs-9", *target, "--junit", file)
    assert (result.code, result.out) == (1, "")
    assert "has a rotation certs-9" in result.err or "has no rotation certs-9" in result.err
    assert known in result.err
    assert command == "show" or set(outcomes(suite_in(file)).values()) == {"failure"}


def test_id_that_no_log_has_any_more_and_devices_have_events_of_is_shown(mixed, rotations):
    mixed.tell("running", "CertRotationStarted", rotation="certs-before")
    shown = rotations("show", "certs-before", "-g", "field", "--format", "json")
    assert shown.code == 0
    states = {device["name"]: device["state"] for device in shown.json["devices"]}
    assert (states["running"], states["pending"]) == ("running", "pending")


@pytest.mark.parametrize("command", [["list"], ["show", "certs-1"], ["watch", "certs-1"]])
def test_group_and_device_together_are_refused(recent, rotations, command):
    result = rotations(*command, "-g", "field", "--device", "done")
    assert result.code == 2
    assert "name either a group (-g GROUP) or a device (--device DEVICE), not both" in result.err


def test_settle_needs_a_target(recent, rotations):
    result = rotations("settle", "certs-1", "-y")
    assert (result.code, "name either a group (-g GROUP) or a device" in result.err) == (2, True)


def test_unknown_group_and_device_are_named(recent, rotations):
    assert "has no device group `nowhere`" in rotations("show", "certs-1", "-g", "nowhere").err
    assert "has no device with the name `nobody`" in rotations("list", "--device", "nobody").err


def test_group_without_devices_is_no_success(recent, rotations, tmp_path):
    asyncio.run(recent.push())
    file = tmp_path / "junit.xml"
    for command in ("show", "watch"):
        result = rotations(command, "certs-1", "--junit", file)
        assert (result.code, "error: group field has no devices" in result.err) == (1, True)
        assert outcomes(suite_in(file)) == {"devices": "failure"}


def test_list_of_a_group_is_newest_first(mixed, rotations):
    mixed.wait(minutes=1)
    asyncio.run(mixed.push("certs-2"))
    listed = rotations("list", "-g", "field", "--format", "json").json["rotations"]
    assert [(r["id"], r["current"], r["done"]) for r in listed] == [
        ("certs-2", True, None),
        ("certs-1", False, None),
    ]
    text = rotations("list", "-g", "field").out
    assert text.index("certs-2") < text.index("certs-1")


def test_list_of_all_groups_counts_who_is_done(mixed, rotations):
    listed = rotations("list", "--format", "json").json["rotations"]
    assert [(r["id"], r["target"], r["done"], r["total"]) for r in listed] == [
        ("certs-1", {"group": "field"}, 1, 9)
    ]
    row = rotations("list").out.splitlines()[1].split("\t")
    assert (row[0], row[1], row[3], row[4]) == ("certs-1", "group field", "1 of 9", "current")
    # What was read then is known of it when another one has replaced it.
    mixed.wait(minutes=1)
    asyncio.run(mixed.push("certs-2"))
    listed = rotations("list", "--format", "json").json["rotations"]
    assert [(r["id"], r["done"], r["total"]) for r in listed] == [("certs-2", 0, 9), ("certs-1", 1, 9)]


def test_list_says_which_rotation_is_settled(well, rotations):
    assert rotations("settle", "certs-1", "-g", "field", "-y").code == 0
    listed = rotations("list", "-g", "field", "--format", "json").json["rotations"]
    assert [(r["id"], r["settled"]) for r in listed] == [("certs-1", True)]
    assert "current, settled" in rotations("list").out


def test_list_of_a_device_knows_its_own_its_groups_and_its_updates(mixed, rotations):
    mixed.tell("own", "CertRotationStarted", rotation="certs-before")
    listed = rotations("list", "--device", "own", "--format", "json").json["rotations"]
    assert {r["id"]: r["current"] for r in listed} == {
        "certs-0": True,
        "certs-1": False,
        "certs-before": False,
    }


def test_list_without_rotations_says_so(recent, rotations):
    assert "group field has no rotation" in rotations("list", "-g", "field").err
    assert "this factory has no rotation" in rotations("list").err


def test_junit_has_a_case_a_device(mixed, rotations, tmp_path):
    file = tmp_path / "junit.xml"
    assert rotations("show", "certs-1", "-g", "field", "--junit", file).code == 0
    suite = suite_in(file)
    counts = {name: suite.get(name) for name in ("name", "tests", "failures", "errors", "skipped")}
    assert counts == {
        "name": "rotation certs-1 of group field",
        "tests": "9",
        "failures": "5",
        "errors": "0",
        "skipped": "3",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp"))
    assert outcomes(suite) == {
        "done": "passed",
        "failing": "failure",
        "failing-late": "failure",
        "finalized": "failure",
        "never": "skipped",
        "old": "skipped",
        "own": "skipped",
        "pending": "failure",
        "running": "failure",
    }
    late = suite.find("testcase[@name='failing-late']/failure")
    assert late.get("message") == rf"failing at 4/5: {STEPS[3]}: bad \x1b[31m<words> & more"
    assert (late.get("type"), late.text) == ("failing", r"bad \x1b[31m<words> & more")
    assert suite.find("testcase[@name='old']/skipped").get("type") == "unsupported"


def test_junit_tells_how_long_a_device_took(recent, rotations, tmp_path):
    recent.add("slow")
    asyncio.run(recent.push())
    recent.tell("slow", "CertRotationStarted")
    recent.wait(seconds=70)
    recent.tell("slow", STEPS[0])
    rotations("show", "certs-1", "--junit", tmp_path / "junit.xml")
    suite = suite_in(tmp_path / "junit.xml")
    assert (suite.get("time"), suite.find("testcase").get("time")) == ("70", "70")


def test_summary_is_added_to_the_file_and_holds_no_markup_of_others(recent, rotations, tmp_path):
    recent.add("bad")
    asyncio.run(recent.push())
    recent.rotate("bad", fail=1, words="a|b <b>*x*</b> [l](http://x)")
    file = tmp_path / "summary.md"
    file.write_text("# Before\n")
    assert rotations("show", "certs-1", "--summary", file).code == 0
    text = file.read_text()
    assert text.startswith("# Before\n## Rotation certs\\-1 of group field\n")
    assert r"a\|b &lt;b&gt;\*x\*&lt;\/b&gt; \[l\]\(http\:\/\/x\)" in text
    assert "**0 of 1 done, 1 failing**" in text


def test_a_command_in_a_summary_names_its_factory(mixed, rotations):
    text = rotations("show", "certs-1", "--summary", "-").out.replace("\\", "")
    assert f"delete own fio-rotate-certs -f acme --mock {mixed.directory}</code>" in text


@pytest.mark.parametrize(("option", "start"), [("--junit", "<?xml"), ("--summary", "## Rotation certs")])
def test_a_file_on_stdout_is_alone_there(mixed, rotations, tmp_path, option, start):
    shown = rotations("show", "certs-1", option, "-")
    assert shown.out.startswith(start)
    assert "failing-late" in shown.err
    rotations("show", "certs-1", option, tmp_path / "file")
    assert shown.out == (tmp_path / "file").read_text()


@pytest.mark.parametrize("other", [("--summary", "-"), ("--format", "json")])
def test_two_things_do_not_go_to_stdout(mixed, rotations, other):
    refused = rotations("show", "certs-1", "--junit", "-", *other)
    assert (refused.code, refused.out) == (2, "")
    assert "stdout" in refused.err


def test_big_json_is_written_a_device_a_line(mixed, rotations):
    out = rotations("show", "certs-1", "--format", "json").out
    lines = [line for line in out.splitlines() if '"uuid"' in line]
    assert len(lines) == len(EXPECTED)
    assert json.loads(lines[0].strip().rstrip(","))["name"] == "failing"
