"""`rotations list`, `show` and `watch`, as an operator or a CI job sees them."""

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from datetime import UTC, datetime
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from fioctl_rotate.cli.app import run
from fioctl_rotate.cli.watching import Pace
from fioctl_rotate.rotation.progress import STEPS

WORDS = "Unable to submit certificate signing request: connection refused"


def suite_in(file):
    return ElementTree.parse(file).getroot().find("testsuite")  # noqa: S314  our own file


@pytest.fixture
def mixed(recent):
    """Rotation certs-1, on whose devices everything happens that can."""
    recent.add("done", "finalized", "failing", "failing-late", "running", "pending", "own")
    recent.add("old", lmp="4.0.1-3-89")
    recent.add("never", seen=False)
    recent.wait(minutes=1)
    asyncio.run(recent.push("certs-0", device="own"))
    asyncio.run(recent.push())
    recent.wait(seconds=5)
    recent.rotate("done", "finalized")
    recent.rotate("failing", fail=1, words=WORDS)
    recent.rotate("failing-late", fail=4, words="bad \x1b[31m<words> & more")
    recent.rotate("running", upto=2)
    recent.wait(minutes=30)
    recent.come_back("done")
    recent.see("pending", "own", "old")
    return recent


@pytest.fixture
def rotations(cli, recent):
    def call(command, *args):
        return cli("rotations", command, *args, "--mock", recent.directory, "-f", "acme")

    return call


EXPECTED = {
    "done": ("done", 5, None),
    "failing": ("failing", 1, None),
    "failing-late": ("failing", 4, None),
    "finalized": ("finalized", 5, None),
    "never": ("pending", 0, "offline"),
    "old": ("pending", 0, "unsupported"),
    "own": ("pending", 0, "shadowed"),
    "pending": ("pending", 0, None),
    "running": ("running", 3, None),
}


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


def test_show_as_text_says_why_and_what_to_do(mixed, rotations):
    result = rotations("show", "certs-1", "-g", "field")
    assert "1 of 9 done, 1 finalized, 2 failing, 1 running, 4 pending" in result.out
    assert "failing at 1/5  " in result.out
    assert f"{STEPS[0]}: {WORDS}" in result.out
    assert "\x1b" not in result.out
    assert r"bad \x1b[31m<words> & more" in result.out
    assert "has an entry of its own, rotation certs-0" in result.out
    # A device that failed at the first step is out of reach: the URL must work, another push is no help.
    hint = next(line for line in result.err.splitlines() if "step 1" in line)
    assert "the EST server https://est.example.com:8443/.well-known/est must start working" in hint
    assert "another push cannot reach it" in hint


def test_show_filters(mixed, rotations):
    def names(*filters):
        shown = rotations("show", "certs-1", "-g", "field", *filters, "--format", "json").json
        return [device["name"] for device in shown["devices"]]

    assert names("--failed") == ["failing", "failing-late", "finalized"]
    assert names("--pending") == ["never", "old", "own", "pending"]
    assert len(names("--failed", "--pending")) == 7


def test_show_of_one_device(mixed, rotations):
    shown = rotations("show", "certs-1", "--device", "failing", "--format", "json").json
    assert [(d["name"], d["state"]) for d in shown["devices"]] == [("failing", "failing")]
    assert shown["rotation"]["target"] == {"device": "failing", "uuid": "uuid-failing"}
    own = rotations("show", "certs-1", "--device", "own", "--format", "json").json
    assert own["devices"][0]["reason"] == "superseded"


def test_unknown_rotation_is_warned_about(mixed, rotations):
    result = rotations("show", "certs-9", "-g", "field")
    assert result.code == 0
    assert "warning: the configuration log of group field has no rotation certs-9" in result.err


@pytest.mark.parametrize("target", [[], ["-g", "field", "--device", "done"]])
@pytest.mark.parametrize("command", [["list"], ["show", "certs-1"], ["watch", "certs-1"]])
def test_exactly_one_target_is_needed(recent, rotations, command, target):
    result = rotations(*command, *target)
    assert result.code == 2
    assert "name either a group (-g GROUP) or a device (--device DEVICE)" in result.err


def test_unknown_group_and_device_are_told(recent, rotations):
    assert "has no device group `nowhere`" in rotations("show", "certs-1", "-g", "nowhere").err
    assert "has no device with the name `nobody`" in rotations("list", "--device", "nobody").err


def test_list_of_a_group_is_newest_first(mixed, rotations):
    mixed.wait(minutes=1)
    asyncio.run(mixed.push("certs-2"))
    listed = rotations("list", "-g", "field", "--format", "json").json["rotations"]
    assert [(r["id"], r["current"]) for r in listed] == [("certs-2", True), ("certs-1", False)]
    text = rotations("list", "-g", "field").out
    assert text.index("certs-2") < text.index("certs-1")


def test_list_of_a_device_knows_its_own_its_groups_and_its_updates(mixed, rotations):
    mixed.tell("own", "CertRotationStarted", rotation="certs-before")
    listed = rotations("list", "--device", "own", "--format", "json").json["rotations"]
    assert {r["id"]: r["current"] for r in listed} == {
        "certs-0": True,
        "certs-1": False,
        "certs-before": False,
    }


def test_list_without_rotations_says_so(recent, rotations):
    result = rotations("list", "-g", "field")
    assert (result.code, "no rotation is known of group field" in result.err) == (0, True)


def test_junit_has_a_case_a_device(mixed, rotations, tmp_path):
    file = tmp_path / "junit.xml"
    assert rotations("show", "certs-1", "-g", "field", "--junit", file).code == 0
    suite = suite_in(file)
    assert suite.attrib == {"name": "rotation certs-1", "tests": "9", "failures": "5", "skipped": "3"}
    outcome = {case.get("name"): next((kind.tag for kind in case), "passed") for case in suite}
    assert outcome == {
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
    message = suite.find("testcase[@name='failing-late']/failure").get("message")
    assert message == rf"failing at 4/5: {STEPS[3]}: bad \x1b[31m<words> & more"


WATCH = ["watch", "certs-1", "-g", "field", "--interval", "0.05"]


@pytest.fixture
def well(recent):
    recent.add("a", "b")
    recent.wait(minutes=1)
    asyncio.run(recent.push())
    recent.wait(seconds=5)
    recent.rotate("a", "b")
    recent.wait(minutes=20)
    recent.come_back("a", "b")
    return recent


def test_watch_of_a_fleet_all_well_exits_with_0(well, rotations):
    result = rotations(*WATCH, "--exit-status")
    assert result.code == 0
    lines = result.out.splitlines()
    assert [line.split("  ", 1)[1] for line in lines[:2]] == ["a  done", "b  done"]
    assert lines[2].endswith(": 2 of 2 done")


def test_rotation_whose_every_device_is_done_is_to_be_settled(well, rotations):
    settle = "`fioctl-rotate rotations settle certs-1 -g field -f acme --mock "
    for command in (["show", "certs-1", "-g", "field"], WATCH):
        assert settle in rotations(*command).err
    # What a device has from its group is not the device's to settle; what it has for itself is.
    assert "settle" not in rotations("show", "certs-1", "--device", "a").err
    asyncio.run(well.push("certs-2", device="a"))
    well.rotate("a", rotation="certs-2")
    well.wait(minutes=20)
    well.see("a")
    assert "settle certs-2 --device a -f acme --mock " in rotations("show", "certs-2", "--device", "a").err
    assert "settle" not in rotations("show", "certs-1", "--device", "a").err


def test_rotation_that_is_not_done_everywhere_is_not_to_be_settled_yet(mixed, rotations):
    assert "settle" not in rotations("show", "certs-1", "-g", "field").err


def test_watch_with_failures_exits_with_3_only_where_asked(mixed, rotations, tmp_path):
    file = tmp_path / "junit.xml"
    for name in ("pending", "running"):
        mixed.rotate(name)
        mixed.come_back(name)
    watched = rotations(*WATCH, "--exit-status", "--junit", file)
    assert watched.code == 3
    assert "error: not every device is done: 1 of 9 done, 3 finalized, 2 failing, 3 pending" in watched.err
    assert suite_in(file).get("tests") == "9"
    assert rotations(*WATCH).code == 0


def test_watch_in_a_pipe_is_a_line_a_change(mixed, rotations):
    lines = rotations(*WATCH, "--timeout", "0.5").out.splitlines()
    told = [line.split("  ", 2)[1:] for line in lines[:-1]]
    assert [device for device, _ in told] == [name for name in sorted(EXPECTED) if name != "pending"]
    assert ["failing", f"failing at 1/5  {STEPS[0]}: {WORDS}"] in told
    assert ["never", "pending (offline)  never seen"] in told
    assert "1 of 9 done" in lines[-1]


def test_watch_as_json_is_an_object_a_line(mixed, rotations):
    result = rotations(*WATCH, "--timeout", "0.5", "--format", "json")
    objects = [json.loads(line) for line in result.out.splitlines()]
    assert {o["name"]: (o["state"], o["step"], o["reason"]) for o in objects[:-1]} == EXPECTED
    assert {o["kind"] for o in objects[:-1]} == {"device"}
    assert objects[-1]["kind"] == "summary"
    assert objects[-1]["summary"]["total"] == 9


def test_watch_whose_time_runs_out_exits_with_4_and_says_how_to_look_again(mixed, rotations):
    result = rotations(*WATCH, "--timeout", "0.5", "--exit-status")
    assert result.code == 4
    assert "error: time ran out after 0.5 s: 1 of 9 done" in result.err
    assert "look again with: fioctl-rotate rotations show certs-1 -g field -f acme --mock" in result.err


def test_show_proves_with_what_a_watch_saw(recent, rotations):
    recent.add("a")
    recent.wait(minutes=1)
    asyncio.run(recent.push())
    assert rotations(*WATCH, "--timeout", "0.2").code == 4
    recent.wait(seconds=30)
    recent.rotate("a")
    recent.come_back("a")
    shown = rotations("show", "certs-1", "-g", "field", "--format", "json").json
    assert (shown["devices"][0]["state"], shown["devices"][0]["proof"]) == ("done", "public-key")


def test_interrupted_watch_leaves_the_rotation_alone_and_says_how_to_look_again(mixed):
    command = [sys.executable, "-m", "fioctl_rotate", "rotations", *WATCH]
    process = subprocess.Popen(
        [*command, "--mock", mixed.directory, "-f", "acme"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert (
        "the rotation goes on; look again with: fioctl-rotate rotations show certs-1 -g field -f acme --mock"
        in err
    )
    assert "Traceback" not in err


@pytest.fixture
def on_terminal(monkeypatch):
    """Run the command line with a terminal of 80 columns for stdout; returns exit code and lines as last drawn."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments):
        leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        seen = bytearray()

        def read():
            # Linux ends a terminal whose other end has closed with EIO.
            with contextlib.suppress(OSError):
                while chunk := os.read(leader, 65536):
                    seen.extend(chunk)

        reader = threading.Thread(target=read)
        reader.start()
        with os.fdopen(follower, "w") as terminal, contextlib.redirect_stdout(terminal):
            code = run([str(argument) for argument in arguments])
        reader.join()
        os.close(leader)
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
        return code, [line.rstrip() for line in plain.splitlines()]

    return call


def test_live_view_on_a_terminal(mixed, on_terminal):
    code, lines = on_terminal(
        "rotations", *WATCH, "--timeout", "0.5", "--mock", mixed.directory, "-f", "acme"
    )
    assert code == 4
    assert all(len(line) <= 80 for line in lines)
    assert "1 done  1 finalized  2 failing  1 running  4 pending" in lines
    assert "not following: 1 shadowed, 1 unsupported, 1 offline" in lines
    failing = next(line for line in lines if line.startswith("failing "))
    assert "failing at 1/5  Unable to submit certificate signing request" in failing
    assert "next look in 0.05 s; Ctrl-C leaves the rotation alone" in lines


def test_live_view_of_many_failures_leaves_room_and_says_where_the_rest_is(recent, on_terminal):
    names = [f"d{number:02}" for number in range(30)]
    recent.add(*names)
    asyncio.run(recent.push())
    for name in names:
        recent.rotate(name, fail=1)
    _, lines = on_terminal("rotations", *WATCH, "--timeout", "0.5", "--mock", recent.directory, "-f", "acme")
    more = next(line for line in lines if line.startswith("and "))
    assert re.fullmatch(r"and \d+ more: `rotations show` with --failed lists them", more)


def test_live_view_ends_by_itself(well, on_terminal):
    code, lines = on_terminal("rotations", *WATCH, "--mock", well.directory, "-f", "acme")
    assert code == 0
    assert lines[-1] == "nothing more is to be expected"
    assert any(line.endswith("100 %  2 of 2 done") for line in lines)


@pytest.mark.parametrize(
    ("done", "expected"),
    [
        ([0], "no pace yet"),
        ([0, 0], "no pace yet"),
        ([0, 2, 4], "2 a minute, about 3 min left"),
        ([9, 10], "1 a minute"),
    ],
)
def test_pace_and_time_left(done, expected):
    def snapshot(minute, count):
        states = [SimpleNamespace(state="pending", reason=None)] * (10 - count)
        states.append(SimpleNamespace(state="pending", reason="offline"))
        at = datetime(2026, 11, 24, 12, minute, tzinfo=UTC)
        return SimpleNamespace(at=at, states=states, summary=SimpleNamespace(done=count))

    pace = Pace()
    for minute, count in enumerate(done):
        pace.add(snapshot(minute, count))
    assert pace.words(snapshot(len(done) - 1, done[-1])) == expected
