"""Summaries in Markdown: of dry runs, checks and due dates; values from elsewhere stay text in them."""

import itertools
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from fioctl_rotate import wire
from fioctl_rotate.clock import utc_now
from fioctl_rotate.errors import printable
from fioctl_rotate.mock.store.config_levels import Level, change
from fioctl_rotate.mock.store.database import Store
from fioctl_rotate.ops import markdown
from tests.commandline import Cli
from tests.pushing import log, push

RENDERER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
PLAN = ("config", "rotate-certs", "-g", "field", "--rotation-id", "certs-1", "--dryrun")
# Nothing listens there.
NOWHERE = ("--server-name", "localhost", "-p", "1")


def parts(page: str) -> list[tuple[str, str]]:
    """What a page shows: each heading, paragraph, cell and block with the name of its element, as plain text."""
    tokens = RENDERER.parse(page)
    shown = []
    for before, token in itertools.pairwise(tokens):
        if token.type == "inline":
            kinds = {child.type for child in token.children or ()}
            assert kinds <= {"text", "html_inline", "strong_open", "strong_close"}, kinds
            text = "".join(child.content for child in token.children or () if child.type == "text")
            shown.append((before.tag, text))
        elif token.type == "fence":
            shown.append((f"fence {token.info}", token.content))
    return shown


@given(st.text(), st.text(alphabet="`|\\<>&*_[]()#!~-=+.:/@\n\t a0"))
def test_any_value_is_text_and_nothing_else(value: str, other: str) -> None:
    tokens = RENDERER.parse(markdown.table(("A", "B"), [(value, other)]) + f"\n{markdown.text(other)}\n")
    _, _, first, second, *below = [token for token in tokens if token.type == "inline"]
    expected = [printable(value), printable(other)]
    # An empty line below is not a paragraph.
    for token, text in zip((first, second, *below), [*expected, expected[1]], strict=False):
        assert {child.type for child in token.children or ()} <= {"text"}
        assert "".join(child.content for child in token.children or ()) == text


def test_a_dry_run_has_all_that_a_reviewer_needs(cli: Cli, acme: Path, tmp_path: Path) -> None:
    file, plan = tmp_path / "summary.md", tmp_path / "plan.toml"
    file.write_text("# Before\n")
    strange = wire.ConfigFile(name="fio-rotate-certs", value="````\nROTATIONID=r-0\n<b>", unencrypted=True)
    with closing(Store(acme)) as store, store.transaction() as db:
        change(db, Level("group", "1"), [strange], reason="x", author="me", now=utc_now(), replace=False)
    asked = ("-r", "a|b <b>", *NOWHERE, "--allow", "lifetimes", "--stages", "1")
    push(cli, *PLAN, *asked, "--summary", file, "--out", plan)
    shown = parts(file.read_text())
    assert [text for tag, text in shown if tag in ("h1", "h2")] == [
        "Before",
        "Dry run: rotation certs-1 to group field",
    ]
    text = push(cli, "plan", "show", plan).out
    digest = next(line for line in text.splitlines() if line.startswith("Digest: "))
    for fact in ("Reason: a|b <b>", "Devices: 2", f"Factory: acme at mock {acme}", digest):
        assert ("p", fact) in shown
    [(_, block)] = [(tag, text) for tag, text in shown if tag == "fence diff"]
    assert block.splitlines()[0] == "- ````"
    assert "+ ROTATIONID=certs-1" in block.splitlines()
    cells = [text for tag, text in shown if tag == "td"]
    assert cells[:2] == ["1 of 2", "device-1"]
    assert cells[6:9] == ["fail", "est-reachable", "localhost:1 refuses connections"]
    assert ("p", "A push is refused because of est-reachable") in shown
    assert ("p", "Allowed to fail: lifetimes") in shown
    assert any(text.startswith("An early device that reboots") and "r-0" in text for _, text in shown)


def test_an_offline_dry_run_has_one_too(cli: Cli, tmp_path: Path) -> None:
    shown = push(cli, *PLAN, "-r", "why", *NOWHERE, "-f", "acme", "--offline", "--summary", "-").out
    assert ("p", "Devices: not known") in parts(shown)
    assert ("p", "Not compared with what is there now: the Factory was not asked.") in parts(shown)


@pytest.mark.parametrize(
    ("command", "code", "title"),
    [
        (("rotations", "check", "-g", "field"), 0, "Check of group field before a rotation"),
        (("rotations", "check", "-g", "field", *NOWHERE), 5, "Check of group field before a rotation"),
        (("est", "check", *NOWHERE), 5, "Check of EST server https://localhost:1/.well-known/est"),
        (("keys", "check", "mock/pki"), 0, "Check of PKI directory mock/pki"),
    ],
)
def test_checks_have_one(
    cli: Cli, acme: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], code: int, title: str
) -> None:
    monkeypatch.chdir(acme.parent)
    result = cli(*command, "--summary", "-")
    assert result.code == code, result.err
    shown = parts(result.out)
    assert shown[0] == ("h2", title)
    checks = cli(*command, "--format", "json").json["checks"]
    cells = [text for tag, text in shown if tag == "td"]
    assert sorted(cells[1::3]) == sorted(check["name"] for check in checks)
    passed = sum(check["status"] == "pass" for check in checks)
    assert shown[1][1].startswith(f"{passed} of {len(checks)} checks passed")


def test_a_command_in_a_check_is_code(cli: Cli, acme: Path) -> None:
    out = cli("rotations", "check", "-g", "field", "--summary", "-").out
    assert "<code>fioctl\\-rotate mock serve " in out


def test_due_dates_have_one(cli: Cli, acme: Path) -> None:
    result = cli("rotations", "due", "-g", "field", "--summary", "-")
    assert result.code == 3
    shown = parts(result.out)
    assert shown[:2] == [
        ("h2", "Certificates of group field in factory acme"),
        ("p", "2 devices: 0 expired, 0 due, 2 unknown, 0 fine"),
    ]
    assert [text for tag, text in shown if tag == "td"][:2] == ["device-1", "unknown"]


def test_a_long_table_is_cut_and_says_so() -> None:
    page = markdown.table(("Device",), [(f"device-{number}",) for number in range(150)])
    shown = parts(page)
    assert len([text for tag, text in shown if tag == "td"]) == 100
    assert shown[-1] == ("p", "and 50 more")


@pytest.mark.parametrize(("name", "wrong"), [("", "is a folder"), ("none/s.md", "is missing")])
def test_a_file_that_cannot_be_written_is_an_error_before_anything_is_sent(
    cli: Cli, acme: Path, tmp_path: Path, name: str, wrong: str
) -> None:
    push = (*PLAN[:-1], "-r", "why", "--no-checks", "--wait", "--timeout", "0")
    refused = cli(*push, "--summary", tmp_path / name)
    assert (refused.code, wrong in refused.err) == (2, True)
    assert log(cli) == []


def test_a_push_without_a_wait_has_none(cli: Cli, acme: Path, tmp_path: Path) -> None:
    result = cli(*PLAN[:-1], "-r", "why", "--summary", tmp_path / "summary.md")
    assert (result.code, result.out) == (2, "")
    assert "--summary needs --dryrun, --wait, or a plan in stages" in result.err
