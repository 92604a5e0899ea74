"""Every command that the program prints (hints, next steps, examples, plans) works as it is printed."""

import ast
import contextlib
import io
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fioctl_rotate.cli.app import run
from fioctl_rotate.cli.hints import find_command
from fioctl_rotate.pki.keys import generate_key
from tests.commandline import Cli
from tests.reference import Leaf, leaves

PACKAGE = Path(__file__).parents[1] / "fioctl_rotate"
COMMAND = re.compile(r"fioctl-rotate [a-z][^`\n]*")
SERVERS = {("demo",), ("mock", "serve"), ("mock", "devices"), ("est", "serve")}
# Exit codes of a command that works: what it found may be bad news.
WORKS = {0, 3, 4, 5, 6}


def printed(text: str) -> list[str]:
    """The commands in what was printed: up to a backquote, or the end of the line."""
    return [found.rstrip() for found in COMMAND.findall(text)]


# --- As they stand in the source ---


def commands_in_source() -> Iterator[str]:
    """Each command in a string of the package; what is only known when it runs is an X."""
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text()
        for node in ast.walk(ast.parse(source)) if "fioctl-rotate" in source else ():
            text = ""
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            elif isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "X" for part in node.values]
                text = "".join(map(str, parts))
            if not text.startswith("Example: "):  # those are tried below
                yield from printed(text)


@pytest.mark.parametrize("line", sorted(set(commands_in_source())))
def test_each_command_in_a_message_is_one_with_these_options(line: str) -> None:
    words = [word for word in line.replace('"', "").replace("&", "").split()[1:] if word != "X"]
    leaf = find_command(words)
    assert leaf is not None, line
    known = {name for parameter in leaf.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known | {"--help"}


# --- Examples of the help ---


def run_quietly(*words: object) -> str:
    """Run a command that works; what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = run([str(word) for word in words])
    assert code == 0, err.getvalue()
    return out.getvalue()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with all that the examples name: a mock in ./acme, a PKI in ./pki, a CSR, a token, a plan."""
    here = tmp_path_factory.mktemp("prepared")
    at = ("--factory", "acme", "--mock", "./acme")
    rotate = ("-r", "why", "--rotation-id", "certs-1763989200", *at)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setenv("XDG_STATE_HOME", str(here / "state"))
        run_quietly("mock", "init", "./acme", "--factory", "acme", "--group", "field", "--devices", 2)
        run_quietly("devices", "rename", "device-1", "pump-7", *at)
        run_quietly("config", "device-group", "create", "lab", *at)
        run_quietly("config", "rotate-certs", "-g", "field", "--dryrun", "--out", "plan.toml", *rotate)
        for target in (
            ("config", "rotate-certs", "-g", "field"),
            ("device", "config", "rotate-certs", "pump-7"),
        ):
            run_quietly(*target, "--no-checks", *rotate)
        shutil.copytree("acme/pki", "pki")
        Path("token").write_text("secret")
        Path("device-cas.pem").write_text(run_quietly("keys", "ca", "show", "--just-device-cas", *at))
        key = generate_key()
        subject = x509.Name([
            x509.NameAttribute(NameOID.COMMON_NAME, "server.example.com"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "acme"),
        ])  # fmt: skip
        san = x509.SubjectAlternativeName([x509.DNSName("server.example.com")])
        csr = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(san, critical=False)
        Path("server.csr").write_bytes(csr.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
        Path("settings.toml").write_text('[profiles.work]\nfactory = "acme"\nmock = "./acme"\n')
        yield here


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `prepared`, which is the current directory."""
    copy = shutil.copytree(prepared, tmp_path / "here")
    monkeypatch.chdir(copy)
    return copy


def words_of(line: str) -> list[str]:
    program, *words = shlex.split(line.partition(" > ")[0])
    assert program == "fioctl-rotate"
    return words


# What the prepared Factory cannot have: an id that only a server makes, a login, a Factory that is not there yet.
ELSEWHERE = {
    ("login",),
    ("devices", "updates"),
    ("devices", "chown"),
    ("devices", "delete-denied"),
    ("mock", "init"),
}


@pytest.mark.parametrize("leaf", leaves(), ids=lambda leaf: " ".join(leaf.path))
def test_the_example_of_each_command_works(
    leaf: Leaf, here: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = words_of(leaf.command.epilog.removeprefix("Example: "))
    if leaf.path in SERVERS | ELSEWHERE:
        # Taken, but not run.
        assert find_command(words).make_context("fioctl-rotate", words[len(leaf.path) :])
        return
    monkeypatch.setenv("FIOCTL_ROTATE_MOCK", "./acme")
    monkeypatch.setenv("FIOCTL_FACTORY", "acme")
    monkeypatch.setenv("FIOCTL_ROTATE_CONFIG", "settings.toml")
    wait = ("--timeout", "0") if leaf.path[-1] == "watch" else ()
    done = cli(*words, *wait)
    assert done.code in WORKS, done.err


# --- Hints and next steps, with the flags that were typed ---

SAID = [
    # What is typed, and a part of each command that is printed then.
    (
        "mock init ./b --factory b --group g --devices 1 --port 0 --est-port 0 --gateway-port 0",
        ["rotate-certs"],
    ),
    ("mock init ./b --factory b --bare --port 0 --est-port 0 --gateway-port 0", ["keys ca create"]),
    ("mock init ./b --factory b --port 0 --est-port 0 --gateway-port 0", ["device-group create"]),
    ("config rotate-certs -g lab -r why --dryrun", ["rotate-certs"]),
    ("config rotate-certs -g lab -r why --dryrun --out new.toml", ["apply new.toml"]),
    ("config rotate-certs -g lab -r why --no-checks", ["rotations watch"]),
    ("device config rotate-certs pump-7 -r why --dryrun", ["config delete", "rotate-certs"]),
    ("apply plan.toml", ["rotations watch"]),
    ("rotations show certs-1763989200 -g field", []),
    ("devices show nobody", ["devices list"]),
    ("devices lits", ["devices --help"]),
    ("devices delete-denied x", ["devices list-denied"]),
    (
        "config set -g field fio-rotate-certs=x",
        ["config rotate-certs --help", "device config rotate-certs --help"],
    ),
    ("keys ca create ./pki", ["est authorize"]),
    ("est authorize ./nowhere", ["keys ca create"]),
    ("est keypair est.example.com ./pki --filename more.pem", ["est serve --help"]),
    ("rotations list -g nowhere", []),
]


FLAGS = (
    "--mock ./acme --factory acme",
    "-c settings.toml --profile work",
    "--profile work --config settings.toml",
)
# Commands that talk to nobody take no such flags.
ALONE = ("mock ", "est keypair")
TYPED = [
    (f"{line} {flags}", expected)
    for line, expected in SAID
    for flags in ([""] if line.startswith(ALONE) else FLAGS)
]


@pytest.mark.parametrize(("line", "expected"), TYPED, ids=[line for line, _ in TYPED])
def test_what_is_printed_works_as_printed(line: str, expected: list[str], here: Path, cli: Cli) -> None:
    first = cli(*shlex.split(line))
    commands = [command.replace("DIR", "./pki") for command in printed(first.out + "\n" + first.err)]
    for part in expected:
        assert any(part in command for command in commands), first
    for command in commands:
        words = words_of(command)
        if tuple(words[:2]) in SERVERS and "--help" not in words:
            # It would run until Ctrl-C: only what it takes is checked.
            assert find_command(words).make_context("fioctl-rotate", words[2:])
            continue
        wait = ("--timeout", "0") if " watch " in command else ()
        done = cli(*words, *wait)
        assert done.code in WORKS, (command, done.err)
