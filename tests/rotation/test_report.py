"""The HTML report: self-contained, escaped, and with everything that happened; and the CSV beside it."""

import asyncio
import base64
import csv
import hashlib
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from fioctl_rotate.ops.curves import drawn
from fioctl_rotate.rotation.progress import STARTED, STEPS

EVIL = "</td><script>alert(1)</script>\x1b[31m"


class Page(HTMLParser):
    """What a browser would make of the page: its elements, its text, and its scripts."""

    VOID = frozenset({"meta", "line", "path", "br", "input"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.open, self.misplaced = [], [], "", [], []
        self.script, self.summaries, self.sections = "", [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "summary":
            self.summaries.append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.misplaced.append(tag)

    def handle_data(self, data):
        if "script" in self.open:
            self.script += data
        elif "style" not in self.open:
            self.text += data
        if "summary" in self.open:
            self.summaries[-1] += data
        if "h2" in self.open:
            self.sections.append(data)


@pytest.fixture
def report(rotations, tmp_path):
    def call(code=0):
        file = tmp_path / "report.html"
        result = rotations("report", "certs-1", "--html", file, "--force")
        assert result.code == code, result
        return Page(file.read_text("utf-8"))

    return call


def rotate_all_ways(world):
    world.add("well", "slow", "broken", "silent", "stuck")
    world.add("old", lmp="4.0.1-3-88")
    world.wait(minutes=1)
    asyncio.run(world.push())
    world.wait(seconds=3)
    world.rotate("well")
    world.rotate("broken", fail=2, words=EVIL)
    world.rotate("slow", fail=1, words="EST is down")
    world.wait(minutes=5)
    world.rotate("slow")
    world.rotate("stuck", clock=timedelta(days=-2000))
    world.wait(minutes=20)
    world.come_back("well", "slow")


def test_report_tells_what_happened(recent, report):
    rotate_all_ways(recent)
    page = report()
    assert "2 of 6 done, 1 finalized, 1 failing, 2 pending" in page.text
    assert "EST is down" in page.text
    assert page.summaries[0] == f"1 failing at 2/5: {STEPS[1]}: </td><script>alert(1)</script>\\x1b[31m"
    assert page.summaries[1:] == [
        "1 finalized: has the new certificate; it is not known yet whether the gateway accepts it",
        "1 pending (unsupported): LmP 4.0.1-3-88 is older than 90, the first that can rotate",
        "1 pending: has not begun yet",
        "2 done",
    ]
    assert "2 of the times cannot be right" in page.text
    assert re.search(r"begun \(4\)finalized \(3\)done \(2\)", page.text)


def test_report_begins_with_what_needs_attention_and_lists_each_device_once(recent, report):
    rotate_all_ways(recent)
    page = report()
    assert page.sections == [
        *("What can be done", "Not done", "Progress over time", "How long the steps took"),
        *("Failures that devices recovered from", "Done"),
    ]
    for name in ("well", "broken", "silent", "stuck", "old"):
        assert len(re.findall(rf"^{name}$|>{name}<", page.text, re.MULTILINE)) <= 1


def test_report_of_a_device_that_tries_a_failed_step_again_does_not_say_that_it_recovered(recent, report):
    recent.add("trying", "over")
    asyncio.run(recent.push())
    recent.rotate("trying", "over", fail=2)
    recent.wait(seconds=60)
    recent.tell("trying", STARTED)
    recent.tell("over", STARTED)
    recent.tell("over", STEPS[1])
    page = report()
    assert "1: over" in page.text
    assert page.summaries == [
        f"1 running 3/5: {STEPS[2]} (attempt 2)",
        f"1 running 2/5: {STEPS[1]} (attempt 2)",
    ]


def test_report_loads_nothing_and_runs_its_own_script_alone(recent, report):
    recent.add("bad")
    recent.wait(minutes=1)
    asyncio.run(recent.push())
    recent.rotate("bad", fail=1, words=EVIL)
    page = report()
    assert page.tags.count("script") == 1
    assert not {"link", "img", "iframe", "object", "form", "a"} & set(page.tags)
    assert not {"src", "href", "action"} & {name for name, _ in page.attributes}
    assert not any(name.startswith("on") for name, _ in page.attributes)
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in value)
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert (page.open, page.misplaced) == ([], [])


def test_report_of_a_rotation_that_nobody_began_has_no_plot(recent, report):
    recent.add("a")
    asyncio.run(recent.push())
    page = report()
    assert "svg" not in page.tags
    assert "0 of 1 done" in page.text


def test_report_of_an_empty_group_is_written_and_is_no_success(recent, report):
    asyncio.run(recent.push())
    assert "group field has no devices" in report(code=1).text


def test_report_names_people(recent, report):
    recent.add("a")
    asyncio.run(recent.push())
    users = asyncio.run(users_of(recent))
    assert users
    assert any(f" by {user.name}" in report().text for user in users)


async def users_of(world):
    async with world.api() as api:
        return await api.users()


def test_report_of_many_devices_groups_them_and_stays_small(recent, report, rotations, tmp_path, monkeypatch):
    monkeypatch.setattr("fioctl_rotate.ops.pages._MOST_ROWS", 5)
    recent.add(*(f"d{number:03}" for number in range(40)))
    asyncio.run(recent.push())
    page = report()
    assert page.summaries == ["40 pending: has not begun yet"]
    assert len(re.findall(r"d0\d\d", page.text)) == 5
    assert "35 more like these have no row here" in page.text
    rotations("report", "certs-1", "--csv", tmp_path / "all.csv")
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 41


def test_report_shows_each_failed_attempt_as_failed(recent, report):
    recent.add("bad")
    asyncio.run(recent.push())
    for _ in range(3):
        recent.rotate("bad", fail=2)
        recent.wait(minutes=1)
    marks = [value for name, value in report().attributes if name == "class" and value in {"", " bad", "new"}]
    assert marks == ["", " bad", "new", " bad", "new", " bad"]


def test_report_has_spaces_around_commands(recent, report):
    recent.add("back", "not-back")
    asyncio.run(recent.push())
    recent.rotate("not-back")
    assert "EST server's CA with fioctl-rotate keys ca show --just-device-cas." in report().text


@pytest.mark.parametrize(
    ("counts", "rows"),
    [
        ([], []),
        ([3], [3]),
        ([900], [500]),
        ([900, 3], [497, 3]),
        ([3, 900, 900], [3, 248, 249]),
        ([900, 400, 20], [240, 240, 20]),
        ([1000] * 50, [10] * 50),
    ],
)
def test_rows_are_shared_so_that_no_group_is_without(counts, rows):
    from fioctl_rotate.ops.pages import rows_of

    assert rows_of(counts) == rows


def test_csv_has_every_device_and_no_formula(recent, rotations, tmp_path):
    recent.add("bad", "well")
    asyncio.run(recent.push())
    recent.rotate("bad", fail=1, words="=1+1")
    file = tmp_path / "all.csv"
    assert rotations("report", "certs-1", "--csv", file).code == 0
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["name"], row["state"], row["step"]) for row in rows] == [
        ("bad", "failing", "1"),
        ("well", "pending", "0"),
    ]
    assert rows[0]["why"] == f"{STEPS[0]}: =1+1"


@pytest.mark.parametrize("name", ["=x", "+x", "-x", "@x"])
def test_cell_of_a_csv_is_never_a_formula(name):
    from fioctl_rotate.ops.report import _cell

    assert _cell(name) == f"'{name}"


def test_report_does_not_overwrite_unless_forced(well, rotations, tmp_path):
    file = tmp_path / "report.html"
    file.write_text("mine")
    result = rotations("report", "certs-1", "--html", file)
    assert (result.code, "already exists" in result.err, file.read_text()) == (2, True, "mine")
    assert "hint: --force overwrites it" in result.err
    assert rotations("report", "certs-1", "--html", file, "--force").code == 0
    assert "2 of 2 done" in file.read_text()


def test_report_on_stdout_is_the_page_alone(well, rotations):
    result = rotations("report", "certs-1", "--html", "-")
    assert (result.code, result.out.rstrip().endswith("</html>")) == (0, True), result.err
    assert "2 of 2 done" in result.err


def test_report_needs_a_file(well, rotations):
    assert rotations("report", "certs-1").code == 2


def test_times_that_cannot_be_right_are_counted_at_the_edges_of_the_plot():
    first = datetime(2026, 11, 25, tzinfo=UTC)
    times = [first - timedelta(days=9), first + timedelta(minutes=5), first + timedelta(days=9)]
    (curve,) = drawn({"begun": times}, 4, first, first + timedelta(minutes=10)).curves
    heights = re.findall(r"[0-9.]+ ([0-9.]+)|V([0-9.]+)", curve.path)
    assert [float("".join(height)) for height in heights] == [75, 50, 25]
