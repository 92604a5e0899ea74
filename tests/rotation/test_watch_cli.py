"""`rotations watch` in a pipe: what it writes, how it ends, and what it leaves however it ends."""

import asyncio
import json
import signal
import subprocess
import sys

import pytest

from fioctl_rotate.rotation.progress import STEPS
from fioctl_rotate.rotation.tracker import PATIENCE
from tests.rotation.fleets import EXPECTED, WATCH, WORDS, outcomes, suite_in
from tests.scripted import Hang, Reply

CHECK_IT = "the rotation goes on; check it with: fioctl-rotate rotations show certs-1 -g field -f acme --mock"


def test_watch_of_a_fleet_all_well_exits_with_0(well, rotations):
    result = rotations(*WATCH, "--exit-status")
    assert result.code == 0
    lines = result.out.splitlines()
    assert [line.split("  ", 1)[1] for line in lines[:2]] == ["a  done", "b  done"]
    assert lines[2].endswith(": 2 of 2 done")


def test_watch_needs_only_the_id(well, rotations):
    result = rotations("watch", "certs-1")
    assert (result.code, "Rotation certs-1 of group field" in result.out) == (0, True)


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


def test_rotation_that_is_settled_is_not_to_be_settled_again(well, rotations):
    assert rotations("settle", "certs-1", "-g", "field", "-y").code == 0
    assert "settle" not in rotations("show", "certs-1").err


def test_rotation_that_is_not_done_everywhere_is_not_to_be_settled_yet(mixed, rotations):
    assert "rotations settle" not in rotations("show", "certs-1", "-g", "field").err


def test_watch_with_failures_exits_with_3_only_where_asked(mixed, rotations, tmp_path):
    file = tmp_path / "junit.xml"
    for name in ("pending", "running"):
        mixed.rotate(name)
        mixed.come_back(name)
    watched = rotations(*WATCH, "--exit-status", "--junit", file)
    assert watched.code == 3
    assert "error: 2 devices failed: 1 of 9 done, 3 finalized, 2 failing, 3 pending" in watched.err
    assert suite_in(file).get("tests") == "9"
    assert rotations(*WATCH).code == 0


def test_failed_is_said_only_of_devices_that_failed(recent, rotations):
    recent.add("never", seen=False)
    asyncio.run(recent.push())
    result = rotations(*WATCH, "--exit-status")
    assert result.code == 3
    assert "error: not every device is done: 0 of 1 done, 1 pending (not following: 1 offline)" in result.err
    assert "failed" not in result.err


class Watching:
    """A watch in a process of its own, whose output is read as it comes."""

    def __init__(self, world, *arguments):
        command = [sys.executable, "-m", "fioctl_rotate", "rotations", *WATCH, *map(str, arguments)]
        self._process = subprocess.Popen(
            [*command, "--mock", world.directory, "-f", "acme"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._out = self._process.stdout

    def lines(self, count):
        return [self._out.readline().rstrip("\n") for _ in range(count)]

    def stop(self, number):
        """Send a signal; returns exit code, further output and stderr."""
        self._process.send_signal(number)
        out, err = self._process.communicate()
        return self._process.returncode, out, err


def test_watch_in_a_pipe_is_a_line_a_change(mixed):
    watching = Watching(mixed)
    told = [line.split("  ", 2)[1:] for line in watching.lines(8)]
    assert [device for device, _ in told] == [name for name in sorted(EXPECTED) if name != "pending"]
    assert ["failing", f"failing at 1/5  {STEPS[0]}: {WORDS}"] in told
    assert ["never", "pending (offline)  never seen"] in told
    mixed.see("pending")
    mixed.tell("pending", "CertRotationStarted")
    (line,) = watching.lines(1)
    assert line.split("  ", 1)[1] == f"pending  running 1/5  {STEPS[0]}"
    _, out, _ = watching.stop(signal.SIGTERM)
    assert "1 of 9 done" in out


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_watch_that_is_stopped_by_a_signal_leaves_summary_and_files(mixed, tmp_path, number, code):
    junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    watching = Watching(mixed, "--format", "json", "--junit", junit, "--summary", summary)
    devices = [json.loads(line) for line in watching.lines(9)]
    assert {o["name"]: (o["state"], o["step"], o["reason"]) for o in devices} == EXPECTED
    assert {o["kind"] for o in devices} == {"device"}
    ended, out, err = watching.stop(number)
    assert (ended, CHECK_IT in err, "Traceback" in err) == (code, True, False)
    last = json.loads(out)
    assert (last["kind"], last["summary"]["total"], last["summary"]["done"]) == ("summary", 9, 1)
    assert outcomes(suite_in(junit))["done"] == "passed"
    assert "1 of 9 done" in summary.read_text()


def test_watch_whose_time_runs_out_exits_with_4_and_says_how_to_check_again(
    mixed, rotations, run_out, tmp_path
):
    file = tmp_path / "junit.xml"
    result = run_out(rotations, *WATCH, "--exit-status", "--junit", file)
    assert "error: time ran out after " in result.err
    assert " s: 1 of 9 done" in result.err
    assert CHECK_IT in result.err
    assert outcomes(suite_in(file))["done"] == "passed"


@pytest.mark.parametrize("target", [["-g", "field"], []])
def test_time_that_runs_out_before_the_first_answer_leaves_summary_and_files(cli, serve, tmp_path, target):
    def answer(_asked):
        raise Hang

    serve(answer)
    junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    files = ("--junit", junit, "--summary", summary)
    result = cli("rotations", "watch", "certs-1", *target, "--timeout", 0.05, "--format", "json", *files)
    assert (result.code, "time ran out after 0.05 s: not read yet" in result.err) == (4, True)
    (last,) = result.lines
    assert (last["kind"], last["message"], last["summary"]["complete"]) == ("summary", "not read yet", False)
    assert last["rotation"]["target"] == ({"group": "field"} if target else {})
    assert outcomes(suite_in(junit)) == {"devices": "failure"}
    assert "not read yet" in summary.read_text()


def test_time_that_runs_out_while_devices_are_read_says_which_were_not(
    cli, serve, well, tmp_path, acme_events
):
    """The list came, and then the server hung: who is there is known, and who did what is not."""
    file = tmp_path / "junit.xml"
    serve(acme_events)
    for seconds in (0.5, 1, 2, 4, 8, 16):
        result = cli("rotations", "watch", "certs-1", "-g", "field", "--timeout", seconds, "--junit", file)
        assert result.code == 4
        if ": not read yet" not in result.err:
            break
    assert "0 of 2 done, 2 pending" in result.err
    failures = {case.get("name"): case.find("failure").get("message") for case in suite_in(file)}
    assert failures == {"a": "pending: not read yet", "b": "pending: not read yet"}


@pytest.fixture
def acme_events(well):
    """The world's answers; requests for a device's events are never answered."""
    from tests.scripted import running_mock

    with running_mock(well.directory) as mock:

        def answer(asked) -> Reply:
            if "/updates/" in asked.path:
                raise Hang
            return mock(asked)

        yield answer


def test_server_that_asks_to_wait_beyond_the_time_is_not_waited_for(cli, serve, tmp_path):
    server = serve(lambda _asked: Reply(429, headers={"Retry-After": "3000"}))
    file = tmp_path / "junit.xml"
    result = cli("rotations", "watch", "certs-1", "-g", "field", "--timeout", 1000, "--junit", file)
    assert (result.code, len(server.asked)) == (4, 1)
    assert set(outcomes(suite_in(file)).values()) == {"failure"}
    assert "Rotation certs-1 of group field" in result.out


def test_wait_after_a_push_leaves_summary_and_files_too(cli, recent, tmp_path):
    recent.add("never", seen=False)
    junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    target = (
        "-g",
        "field",
        "-r",
        "why",
        "--server-name",
        "est.example.com",
        "--no-checks",
        "--rotation-id",
        "r-1",
    )
    place = ("--mock", recent.directory, "-f", "acme", "--wait", "--junit", junit, "--summary", summary)
    result = cli("config", "rotate-certs", *target, *place)
    assert result.code == 3
    assert outcomes(suite_in(junit)) == {"never": "skipped"}
    assert "0 of 1 done" in summary.read_text()


def test_server_that_stays_away_leaves_summary_and_files(cli, serve, tmp_path):
    serve(lambda _asked: Reply(500))
    file = tmp_path / "junit.xml"
    result = cli("rotations", "watch", "certs-1", "-g", "field", "--interval", 0.05, "--junit", file)
    assert (result.code, "answered 500" in result.err) == (1, True)
    assert "answered 500" in suite_in(file).find("testcase/failure").get("message")


def test_show_proves_with_what_a_watch_saw(recent, rotations, run_out):
    recent.add("a")
    recent.wait(minutes=1)
    asyncio.run(recent.push())
    run_out(rotations, *WATCH)
    recent.wait(seconds=30)
    recent.rotate("a")
    recent.come_back("a")
    shown = rotations("show", "certs-1", "-g", "field", "--format", "json").json
    assert (shown["devices"][0]["state"], shown["devices"][0]["proof"]) == ("done", "public-key")


def test_watch_gives_up_on_a_device_that_stays_failed(recent, rotations):
    recent.add("a")
    asyncio.run(recent.push())
    recent.rotate("a", fail=2)
    result = rotations(*WATCH, "-v")
    assert result.err.count("GET http://mock/ota/devices/?") == PATIENCE + 1
