"""Start-up: what is imported for a help, a completion and an offline dry run; and what every command has."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer import Context
from typer.main import get_command

import fioctl_rotate
from fioctl_rotate.cli import app
from fioctl_rotate.seen import Seen, cache_file, load, remember
from fioctl_rotate.settings import default_config_file
from tests.commandline import Cli
from tests.processes import imported
from tests.reference import Leaf, leaves

OFFLINE = (
    "config", "rotate-certs", "-g", "field", "-r", "why", "-f", "acme",
    "--server-name", "est.example.com", "--dryrun", "--offline",
)  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("config", "--help"),
        ("config", "rotate-certs", "--help"),
        ("devices", "--help"),
        ("device", "config", "rotate-certs", "-h"),
        ("rotations", "--help"),
        ("keys", "ca", "create", "--help"),
        ("mock", "--help"),
        ("apply", "--help"),
        OFFLINE,
        (*OFFLINE, "--format", "json"),
        ("device", "config", "rotate-certs", "pump-7", *OFFLINE[4:]),
    ],
    ids=lambda arguments: " ".join(arguments[:4]),
)
def test_what_asks_nobody_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    out, heavy = imported(*arguments)
    assert out
    # A dry run is free of dataclasses, each of which costs half a millisecond; a help may have some.
    assert heavy <= (set() if "--dryrun" in arguments else {"dataclasses"})


def asked_by(shell: str, typed: str) -> dict[str, str]:
    """The environment in which a shell asks what completes `typed`."""
    return {
        "_FIOCTL_ROTATE_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": typed,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split(" ")) - 1),
    }


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("fioctl-rotate ", "rotations"),
        ("fioctl-rotate config ", "rotate-certs"),
        ("fioctl-rotate config log --", "--group"),
    ],
)
def test_completion_imports_nothing_heavy(typed: str, completed: str) -> None:
    out, heavy = imported(**asked_by("bash", typed))
    assert completed in out.split()
    assert heavy <= {"dataclasses"}


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("config log -g ", {"field", "lab"}),
        ("config log -g f", {"field"}),
        ("rotations show ", {"certs-1", "certs-2"}),
        ("devices show device-", {"device-1", "device-2"}),
        ("device config group device-1 la", {"lab"}),
        ("devices list --profile ", {"play", "work"}),
        ("profiles use w", {"work"}),
        ("devices show -f other ", set()),
    ],
)
def test_tab_completes_the_names_that_were_seen_last_and_asks_nobody(
    typed: str, completed: set[str], cli: Cli, acme: Path
) -> None:
    path = default_config_file()
    path.parent.mkdir(parents=True)
    path.write_text('[profiles.work]\nfactory = "a"\n[profiles.play]\nfactory = "b"\n')
    assert cli("config", "device-group", "create", "lab").code == 0
    for number in (1, 2):
        rotate = ("config", "rotate-certs", "-g", "field", "-r", "why", "--rotation-id", f"certs-{number}")
        assert cli(*rotate, "--no-checks").code == 0
    for command in (
        ("devices", "list"),
        ("config", "log", "-g", "field"),
        ("config", "device-group", "list"),
    ):
        assert cli(*command).code == 0
    shutil.rmtree(acme)
    out, heavy = imported(**asked_by("bash", f"fioctl-rotate {typed}"))
    assert set(out.split()) == completed
    assert heavy <= {"dataclasses"}


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"factories": [1, {"groups": 3}], "profiles": "x"}', "null"]
)
def test_a_damaged_cache_completes_nothing_and_is_mended(cli: Cli, acme: Path, content: str) -> None:
    cache_file().parent.mkdir(parents=True, exist_ok=True)
    cache_file().write_text(content)
    assert load() == {"profiles": [], "factories": load()["factories"]}
    assert cli("config", "device-group", "list").code == 0
    assert load()["factories"][0]["groups"] == ["field"]


def test_the_cache_keeps_the_newest_names_of_a_few_factories() -> None:
    for number in range(12):
        seen = Seen()
        seen.add_devices(f"device-{number}-{n}" for n in range(1500))
        remember("acme", f"https://{number}.example", seen, ())
    seen = Seen()
    seen.add_devices(["newest"])
    remember("acme", "https://8.example", seen, ())
    factories = load()["factories"]
    assert [factory["server"][8:-8] for factory in factories] == ["8", "11", "10", "9", "7", "6", "5", "4"]
    assert [len(factory["devices"]) for factory in factories] == [1000] * 8
    assert factories[0]["devices"][:2] == ["newest", "device-8-0"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_name_that_a_shell_would_take_for_more_is_not_offered(
    shell: str, cli: Cli, acme: Path, tmp_path: Path
) -> None:
    assert cli("devices", "list").code == 0
    known = json.loads(cache_file().read_text())
    ran = tmp_path / "ran"
    known["factories"][0]["devices"] = [f"x\\$(touch {ran})", f"x`touch {ran}`", "x y", "x'", "x;y", "x-1.ä"]
    cache_file().write_text(json.dumps(known))
    out, _ = imported(**asked_by(shell, "fioctl-rotate devices show x"))
    assert "x-1.ä" in out
    for sign in "\\$`;":
        assert sign not in out
    assert "x y" not in out


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_tab_shows_whole_sentences(shell: str) -> None:
    out, _ = imported(**asked_by(shell, "fioctl-rotate "))
    assert "The Factory\u2019s root key and certificates." in out
    out, _ = imported(**asked_by(shell, "fioctl-rotate rotations "))
    # typer breaks it into lines of a terminal.
    assert "how the rotation went, what failed and why, who did not follow." in " ".join(out.split())
    assert "..." not in out


def test_completion_can_be_set_up() -> None:
    # typer asks the processes above it which shell it is for; one command alone, bash would hand its process over.
    script = '"$0" -m fioctl_rotate --show-completion; exit $?'
    done = subprocess.run(["bash", "-c", script, sys.executable], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "_FIOCTL_ROTATE_COMPLETE=complete_bash" in done.stdout


def test_the_version_is_printed() -> None:
    assert imported("--version")[0] == f"fioctl-rotate {fioctl_rotate.__version__}\n"


def test_the_help_lists_commands_and_exit_codes() -> None:
    out, _ = imported("--help")
    text = " ".join(out.split())
    for code in (
        "0 done",
        "1 failed",
        "2 wrong usage",
        "3 some device",
        "4 time ran out",
        "5 refused",
        "130 inter",
    ):
        assert code in text
    listed = {line.split()[0] for line in out.split("Commands:")[1].splitlines() if line.startswith("  ")}
    assert {leaf.path[0] for leaf in leaves()} <= listed
    assert "device" not in listed


def test_only_the_command_that_is_typed_is_made() -> None:
    root: Any = get_command(app.root)
    context = Context(root)
    assert root.get_command(context, "config").get_command(context, "rotate-certs") is not None
    assert list(root.commands) == ["config"]
    assert list(root.commands["config"].commands) == ["device-group", "rotate-certs"]
    assert list(root.commands["config"].commands["device-group"].commands) == []


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("rotatoins list", "error: no such command 'rotatoins'. Did you mean 'rotations'?"),
        ("devices lsit", "error: no such command 'lsit'. Did you mean 'list'?"),
        ("devices list-deneid", "error: no such command 'list-deneid'. Did you mean 'list-denied', "),
        ("keys ca rotate-tsl", "error: no such command 'rotate-tsl'. Did you mean 'rotate-tls'"),
        ("config xyzzy", "error: no such command 'xyzzy'.\n"),
    ],
)
def test_a_misspelt_command_is_answered_with_what_was_meant_the_closest_first(
    typed: str, answer: str, cli: Cli
) -> None:
    done = cli(*typed.split())
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(answer)


# --- Every command of the tree ---

ALL = leaves()
# Commands that talk to nobody (they sign with the key at hand), or are what others talk to.
UNCONNECTED = {
    ("demo",),
    ("profiles", "list"),
    ("profiles", "use"),
    ("version",),
    ("completion",),
    ("est", "serve"),
    ("plan", "show"),
    ("plan", "digest"),
    ("est", "keypair"),
    ("keys", "est", "keypair"),
    ("keys", "ca", "sign"),
    *(leaf.path for leaf in ALL if leaf.path[0] == "mock" and leaf.path != ("mock", "clone")),
}
each_command = pytest.mark.parametrize("leaf", ALL, ids=lambda leaf: " ".join(leaf.path))


@each_command
def test_every_command_has_a_help_with_an_example(leaf: Leaf) -> None:
    epilog = leaf.command.epilog or ""
    spellings = {("fioctl-rotate", *leaf.path), ("fioctl-rotate", leaf.path[0].rstrip("s"), *leaf.path[1:])}
    example = epilog.removeprefix("Example: ").split()
    assert epilog.startswith("Example: ")
    assert tuple(example[: len(leaf.path) + 1]) in spellings
    assert leaf.command.help
    for option in leaf.options:
        assert option.help, option.name
    for argument in leaf.arguments:
        assert argument.help, argument.name


@each_command
def test_the_example_stands_on_one_line_so_that_a_pasted_one_keeps_its_dryrun(leaf: Leaf, cli: Cli) -> None:
    assert f"\n  {leaf.command.epilog}\n" in cli(*leaf.path, "--help").out


@pytest.mark.parametrize("group", sorted({leaf.path[:-1] for leaf in ALL if leaf.path[1:]}), ids=" ".join)
def test_a_groups_help_cuts_no_sentence_short(group: tuple[str, ...], cli: Cli) -> None:
    _, commands = cli(*group, "--help").out.split("Commands:")
    assert "..." not in commands


@each_command
def test_every_command_has_the_connection_options_or_talks_to_nobody(leaf: Leaf) -> None:
    assert leaf.connected != (leaf.path in UNCONNECTED)


@each_command
def test_flags_mean_one_thing_everywhere(leaf: Leaf) -> None:
    meaning = {
        "-f": "--factory",
        "-t": "--token",
        "-c": "--config",
        "-v": "--verbose",
        "-g": "--group",
        "-r": "--reason",
        "-u": "--by-uuid",
        "-y": "--yes",
        "-e": "--est-resource",
        "-p": "--est-port",
    }
    for option in leaf.options:
        for short in (name for name in option.opts if name in meaning):
            # `-p` is fioctl's spelling of both, each where it has it.
            paged = short == "-p" and leaf.path[-1] in ("list", "list-denied")
            assert ("--page" if paged else meaning[short]) in option.opts
