"""Watching a fleet on which everything happens, for real; tests/benchmarks/bench_fleet.py has 200 of them."""

import asyncio
from xml.etree import ElementTree

from fioctl_rotate.rotation.progress import STEPS
from tests.whole_fleet import ROLES, WORDS, whole_fleet

WATCH = ["rotations", "watch", "certs-1", "-g", "field", "--exit-status", "--interval"]


def check_everything(fleet, watched, shown, text, junit, page):
    """Every device in the right state with the right words, in each form.

    A device that retries its failed step just now is rightly shown as running.
    """
    expected = fleet.expected()

    def told(devices):
        return {d["name"]: ("failing" if again(d) else d["state"], d["step"], d["reason"]) for d in devices}

    def again(device):
        return device["state"] == "running" and device["attempts"] > 1

    assert watched.code == 3, watched
    devices = {line["name"]: line for line in watched.lines if line["kind"] == "device"}
    assert told(devices.values()) == expected
    assert told(shown.json["devices"]) == expected
    for name, role in fleet.roles.items():
        row = next(line for line in text.out.splitlines() if line.startswith(f"{name}\t"))
        state, step, reason = expected[name]
        if state == "failing" and "(attempt " in row:
            continue
        words = f"{state} at {step}/5" if state == "failing" else f"{state} ({reason})" if reason else state
        assert words in row
        if role.startswith("fails-"):
            assert f"{STEPS[step - 1]}: {WORDS}" in row
    cases = {case.get("name"): next((kind.tag for kind in case), "passed") for case in junit}
    outcome = {"done": "passed", "pending": "skipped"}
    assert cases == {name: outcome.get(state, "failure") for name, (state, _, _) in expected.items()}
    assert watched.lines[-1]["summary"]["done"] == shown.json["summary"]["done"]
    assert f"{shown.json['summary']['done']} of {len(expected)} done" in page
    assert WORDS in page


async def see_it_through(directory, counts, *, check_in=1.0, interval=0.05, live=False):
    """Push, watch to the end, and show it again in each form; returns what was seen.

    A watch of many short looks begins when the devices have come to their ends, lest it gives up before a slow
    machine gets there; a `live` one begins at once.
    """
    async with whole_fleet(directory, counts, check_in=check_in) as fleet:
        pushed = await fleet.push()
        assert pushed.code == 0, pushed.err
        if not live:
            await fleet.at_their_ends()
        junit, page = directory / "junit.xml", directory / "report.html"
        watched = await fleet.run(*WATCH, interval, "--format", "json", "--junit", junit)
        show = ["rotations", "show", "certs-1", "-g", "field"]
        shown = await fleet.run(*show, "--format", "json")
        text = await fleet.run(*show)
        report = await fleet.run("rotations", "report", "certs-1", "-g", "field", "--html", page)
        assert (shown.code, text.code, report.code) == (0, 0, 0), (shown.err, text.err, report.err)
    suite = ElementTree.parse(junit).getroot().find("testsuite")  # noqa: S314  our own file
    return fleet, watched, shown, text, suite, page.read_text("utf-8")


def test_fleet_on_which_everything_happens(tmp_path):
    counts = dict.fromkeys(ROLES, 1) | {"well": 2}
    check_everything(*asyncio.run(see_it_through(tmp_path / "mock", counts)))


def test_fleet_all_well(tmp_path):
    async def run():
        async with whole_fleet(tmp_path / "mock", {"well": 3, "slots": 1}, check_in=0.3) as fleet:
            await fleet.push()
            impatient = await fleet.run(*WATCH, 1, "--timeout", "0")
            return impatient, await fleet.run(*WATCH, 1)

    impatient, watched = asyncio.run(run())
    assert (impatient.code, "error: time ran out after 0 s" in impatient.err) == (4, True)
    assert watched.code == 0
    assert watched.out.splitlines()[-1].endswith(": 4 of 4 done")
