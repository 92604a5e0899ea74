"""The README says what the program does: its commands and options, and every command line in it."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer import Context
from typer.main import get_command

from fioctl_rotate.cli.app import root
from tests.commandline import Cli
from tests.reference import leaves

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def command_lines() -> list[str]:
    """Every `fioctl-rotate …` in the code blocks of README and examples, continued lines joined."""
    texts = [README, *(path.read_text() for path in sorted((ROOT / "examples").iterdir()) if path.is_file())]
    lines: list[str] = []
    for text in texts:
        joined = text.replace("\\\n", " ")
        lines += re.findall(r"(?:^|[/ ])(fioctl-rotate (?!\()[a-z][^\n|;&`]*)", joined, re.MULTILINE)
    return sorted({line.split("  #")[0].strip() for line in lines})


@pytest.mark.parametrize("line", command_lines())
def test_every_command_line_is_one_the_program_takes(line: str) -> None:
    words = [word for word in shlex.split(re.sub(r"[>$].*", "", line) if ">" in line else line) if word]
    command: Any = get_command(root)
    context: Any = None
    words = words[1:]
    path = ["fioctl-rotate"]
    while hasattr(command, "get_command"):
        context = Context(command, info_name=path[-1], parent=context)
        child = command.get_command(context, words[0])
        if child is None:
            pytest.fail(f"no command {words[0]!r} in {line!r}")
        command, path, words = child, [*path, words[0]], words[1:]
    known = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    given = [word.split("=")[0] for word in words if word.startswith("-") and word != "-"]
    assert [option for option in given if option not in known] == []


def shown_shape(command: str) -> Any:
    """The first shape that the README's table shows for `command`: dicts and lists, None where it says no more."""
    row = next(line for line in README.splitlines() if line.startswith(f"| `{command}`") and "{" in line)
    text = re.search(r"`([\[{][^`]*)`", row)
    assert text
    keys = re.sub(r"[a-z-]+", r'"\g<0>"', text[1])
    return json.loads(re.sub(r'"(?=[,}])', '": null', keys))


def assert_shape(value: Any, shape: Any) -> None:
    if isinstance(shape, dict):
        assert list(value) == list(shape)
        for key, inner in shape.items():
            assert_shape(value[key], inner)
    elif isinstance(shape, list):
        assert value, "something to compare"
        assert_shape(value[0], shape[0])


def test_json_has_the_shapes_that_it_shows(cli: Cli, acme: Path, run_out: Cli) -> None:
    push = ("config", "rotate-certs", "-g", "field", "-r", "why", "--rotation-id", "r-1", "--format", "json")
    view = ("-g", "field", "--format", "json")
    assert_shape(cli(*push, "--dryrun").json, shown_shape("config rotate-certs --dryrun"))
    pushed = cli(*push, "--no-checks").json
    assert_shape(pushed, shown_shape("config rotate-certs"))
    assert pushed["kind"] == "push"
    assert_shape(cli("rotations", "check", *view).json, shown_shape("rotations check"))
    assert_shape(cli("rotations", "list", *view).json, shown_shape("rotations list"))
    state = cli("rotations", "show", "r-1", *view).json
    assert_shape(state, shown_shape("rotations show"))
    watched = run_out(cli, "rotations", "watch", "r-1", *view).lines
    first, *_, last = watched
    assert list(first) == ["at", "kind", *state["devices"][0]]
    assert list(last) == ["at", "kind", "factory", "server", "rotation", "summary", "message"]
    assert "`{at, kind, factory, server, rotation, summary, message}`" in README
    assert (first["kind"], last["kind"]) == ("device", "summary")


def test_every_exit_code_is_explained() -> None:
    from fioctl_rotate.cli.app import EXIT_CODES

    for code in re.findall(r"\b(\d+)[ ,]", EXIT_CODES):
        assert re.search(rf"^\| {code} \|", README, re.MULTILINE), code


def test_both_commands_for_a_fresh_machine_are_there_and_ci_runs_the_second() -> None:
    test_command = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/pytest"
    assert "python3 -m venv .venv && . .venv/bin/activate && pip install -q . && fioctl-rotate demo" in README
    assert test_command in README
    assert test_command in (ROOT / ".ci" / "run").read_text()


def test_every_leaf_has_a_help_with_an_example() -> None:
    for leaf in leaves():
        assert leaf.command.help, leaf.path
        assert "Example: fioctl-rotate " + leaf.path[0].rstrip("s") in (leaf.command.epilog or ""), leaf.path
