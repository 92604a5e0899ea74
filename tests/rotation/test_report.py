"""The HTML report: self-contained, escaped, and with everything that happened."""

import asyncio
from datetime import timedelta
from html.parser import HTMLParser

import pytest

from fioctl_rotate.rotation.progress import STARTED, STEPS

EVIL = "</td><script>alert(1)</script>\x1b[31m"


class Page(HTMLParser):
    """What a browser would make of the page: its elements, and its text."""

    VOID = frozenset({"meta", "line", "path", "br"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.open, self.misplaced = [], [], "", [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.misplaced.append(tag)

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def report(cli, recent, tmp_path):
    def call(rotation="certs-1"):
        file = tmp_path / "report.html"
        result = cli(
            "rotations",
            "report",
            rotation,
            "-g",
            "field",
            "--html",
            file,
            "--mock",
            recent.directory,
            "-f",
            "acme",
        )
        assert (result.code, result.err) == (0, ""), result
        return Page(file.read_text("utf-8"))

    return call


def test_report_tells_what_happened(recent, report):
    recent.add("well", "slow", "broken", "silent", "stuck")
    recent.add("old", lmp="4.0.1-3-88")
    recent.wait(minutes=1)
    asyncio.run(recent.push())
    recent.wait(seconds=3)
    recent.rotate("well")
    recent.rotate("broken", fail=2, words=EVIL)
    recent.rotate("slow", fail=1, words="EST is down")
    recent.wait(minutes=5)
    recent.rotate("slow")
    recent.rotate("stuck", clock=timedelta(days=-2000))
    recent.wait(minutes=20)
    recent.come_back("well", "slow")
    page = report()
    assert "2 of 6 done, 1 finalized, 1 failing, 2 pending" in page.text
    assert "</td><script>alert(1)</script>\\x1b[31m" in page.text
    assert "got over it: slow" in page.text
    assert "LmP 4.0.1-3-88 is older than 90" in page.text
    assert "shows no sign of it yet" in page.text
    assert "The times are the devices' own" in page.text
    assert "2 of the times cannot be right" in page.text


def test_report_of_a_device_that_tries_a_failed_step_again_does_not_say_that_it_got_over_it(recent, report):
    recent.add("trying", "over")
    asyncio.run(recent.push())
    recent.rotate("trying", "over", fail=2)
    recent.tell("trying", STARTED)
    recent.tell("over", STARTED)
    recent.tell("over", STEPS[1])
    page = report()
    assert "got over it: over" in page.text
    assert "trying; got over it" in page.text


def test_report_loads_nothing_and_runs_nothing(recent, report):
    recent.add("<script>alert(1)<script>")
    recent.wait(minutes=1)
    asyncio.run(recent.push())
    page = report()
    assert not {"script", "link", "img", "iframe", "object", "form", "a"} & set(page.tags)
    assert not {"src", "href", "action"} & {name for name, _ in page.attributes}
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert (page.open, page.misplaced) == ([], [])


def test_report_of_a_rotation_that_nobody_began_has_no_plot(recent, report):
    recent.add("a")
    asyncio.run(recent.push())
    page = report()
    assert "svg" not in page.tags
    assert "0 of 1 done" in page.text


def test_report_of_an_empty_group(recent, report):
    asyncio.run(recent.push())
    assert "0 of 0 done" in report().text
