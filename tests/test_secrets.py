"""No secret comes out: every command of the tree is run with secrets that can be recognized, all of it is searched.

The list of commands is the command tree's: a new command fails here until its arguments have a value below. Each
runs against a Factory that is honest, one that redirects, one whose pages go on elsewhere, one whose answers are
cut short, and one that says back what it was sent.
"""

import base64
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tests.commandline import Cli, Result
from tests.reference import Leaf, leaves
from tests.scripted import Answer, Asked, Reply, Server, running_mock

TOKEN, PIN, PASSPHRASE = "canary-t0ken-5e1f", "canary-p1n-77ab", "canary-passphrase-c0de"
OAUTH = {
    "client_id": "someone",
    "client_secret": "canary-client-secret-11",
    "access_token": "canary-access-22",
    "refresh_token": "canary-refresh-33",
}
NEVER = [
    TOKEN,
    PIN,
    PASSPHRASE,
    *(OAUTH[name] for name in ("client_secret", "access_token", "refresh_token")),
    base64.b64encode(OAUTH["access_token"].encode()).decode(),
    "PRIVATE KEY",
]

EXAMPLE = Path(__file__).parents[1] / "examples" / "plan.toml"

# Commands that run until they are told to stop.
ENDLESS = {("demo",), ("est", "serve"), ("mock", "serve"), ("mock", "devices")}
# What fails here for a reason: no EST server runs, the rotation has no end, the group has a device, the device has
# no file of its own, nobody is denied, there is no such owner, and a device would be cut off.
NOT_DONE = {
    "est check",
    "rotations check",
    "rotations watch",
    "config device-group delete",
    "devices config delete",
    "devices delete-denied",
    "devices chown",
    "keys ca revoke-device-ca",
    "keys ca update",
}


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mocked Factory with a device that has a rotation to show; its PKI directory's root key is encrypted."""
    from fioctl_rotate.cli.app import run

    place = tmp_path_factory.mktemp("canaries")
    mock = place / "mock"
    environment = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("FIOCTL_")}
    try:
        made = ("--factory", "acme", "--group", "field", "--devices", "1")
        assert run(["mock", "init", str(mock), *made]) == 0
        push = (
            "-g",
            "field",
            "-r",
            "why",
            "--server-name",
            "localhost",
            "--no-checks",
            "-y",
            "--rotation-id",
            "r-1",
        )
        assert run(["config", "rotate-certs", *push, "--mock", str(mock), "-f", "acme"]) == 0
    finally:
        os.environ.update(environment)
    key = mock / "pki" / "factory_ca.key"
    encrypted = serialization.load_pem_private_key(key.read_bytes(), None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(PASSPHRASE.encode()),
    )
    key.chmod(0o600)
    key.write_bytes(encrypted)
    key.chmod(0o400)
    subprocess.run(
        [
            *("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", place / "a.key", "-out", place / "a.csr"),
            *("-subj", "/CN=a", "-addext", "subjectAltName=DNS:a.b"),
        ],
        check=True,
        capture_output=True,
    )
    (place / "settings.toml").write_text(
        'factory = "acme"\n[oauth]\n' + "".join(f'{name} = "{value}"\n' for name, value in OAUTH.items())
    )
    return place


@pytest.fixture
def place(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the template, and the secrets in the environment."""
    copied = tmp_path / "place"
    shutil.copytree(template, copied)
    monkeypatch.setenv("FIOCTL_FACTORY", "acme")
    monkeypatch.setenv("FIOCTL_TOKEN", TOKEN)
    monkeypatch.setenv("FIOCTL_ROTATE_HSM_PIN", PIN)
    monkeypatch.setenv("FIOCTL_ROTATE_KEY_PASSPHRASE", PASSPHRASE)
    monkeypatch.setenv("FIOCTL_ROTATE_TIMEOUT", "5")
    return copied


def command(leaf: Leaf, place: Path) -> list[str]:
    """The words that call the command, each argument and required option with a value. Fails for an unknown one."""
    pki, out = place / "mock" / "pki", place / "out"
    device = next((place / "mock" / "devices").iterdir()).name
    values: dict[str, object] = {
        **{"file": "fio-rotate-certs", "group": "field", "reason": "why", "device": device},
        **{"dns_name": "a.example.com", "csr": place / "a.csr", "pki_dir": pki, "rotation_id": "r-1"},
        **{
            "url": "https://localhost:1/est",
            "factory": "another",
        },
        **{"plan_file": EXAMPLE if leaf.path[0] == "plan" else out / "plan.toml", "description": "what"},
        **{"files": "motd=hello", "uuids": device, "owner": "nobody", "new_name": "pump", "shell": "bash"},
        "devices": device if leaf.path[0] == "devices" else 1,
        **{
            "root_cert": pki / "factory_ca.pem",
            "tls_cert": pki / "est-tls.pem",
            "tls_key": pki / "est-tls.key",
        },
        **{"ca_cert": pki / "local-ca.pem"},
        "name": {"create": "other", "use": "default"}.get(leaf.path[-1], "field"),
        "directory": {"init": place / "new", "clone": place / "copy"}.get(
            leaf.path[-1], place / "mock" if leaf.path[0] == "mock" else pki
        ),
    }
    special: dict[tuple[str, ...], list[object]] = {
        ("config", "device-group", "update"): ["--name", "third"],
        ("config", "delete"): ["-g", "field"],
        ("keys", "ca", "disable-device-ca"): ["--ca-file", "local-ca.pem"],
        ("keys", "ca", "revoke-device-ca"): ["--ca-file", "local-ca.pem"],
        ("keys", "ca", "add-device-ca"): ["--local-ca", "--local-ca-filename", "second.pem"],
        ("config", "rotate-certs"): ["--server-name", "localhost", "--no-checks"],
        ("devices", "config", "rotate-certs"): [
            *("--server-name", "localhost", "-p", "1", "--allow", "est-reachable"),
        ],
        ("apply",): ["--allow", "est-reachable"],
        ("rotations", "settle"): ["--allow", "not-done"],
        ("rotations", "due"): ["--allow", "unknown"],
        ("rotations", "report"): ["--html", out / "report.html", "--force"],
        ("rotations", "watch"): ["--timeout", "0.3", "--interval", "0.1"],
        ("est", "serve"): [
            *("--tls-cert", pki / "est-tls.pem", "--tls-key", pki / "est-tls.key"),
            *("--ca-key", pki / "local-ca.key"),
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--workers",
            "2",
        ],
        ("mock", "serve"): ["--port", "0", "--est-port", "0", "--gateway-port", "0"],
        ("demo",): ["--devices", "1"],
    }
    words: list[str] = [*leaf.path]
    for parameter in leaf.command.params:
        if parameter.required or (parameter.param_type_name == "argument" and parameter.name in values):
            assert parameter.name in values, (
                f"{' '.join(leaf.path)}: a value for {parameter.name} is missing here"
            )
            option = [] if parameter.param_type_name == "argument" else [parameter.opts[0]]
            words += [*option, str(values[parameter.name])]
        elif leaf.path[0] == "rotations" and parameter.name == "group":
            words += ["-g", "field"]  # one of group and device must be given
    words += [str(word) for word in special.get(leaf.path, [])]
    taken = {option for parameter in leaf.command.params for option in parameter.opts}
    return words + [flag for flag in ("-v", "-y", "-u") if flag in taken and flag not in words]


def listing(place: Path) -> set[Path]:
    return {path for path in place.rglob("*") if path.is_file()}


def assert_silent(place: Path, before: set[Path], said: str, keys: list[str]) -> None:
    """Neither what was said nor a file that was made holds a secret; keys are in key files, for nobody else."""
    for secret in NEVER + keys:
        assert secret not in said, f"{secret} came out"
    for path in listing(place) - before:
        content = path.read_bytes().decode("latin-1")
        private = path.suffix == ".key" or path.name.startswith("pkey")
        if private:
            assert path.stat().st_mode & 0o077 == 0, path
        # The mock's own tokens and state are not this user's secrets; what it was sent by us is.
        for secret in [TOKEN, PIN, PASSPHRASE, *keys] + ([] if private else ["PRIVATE KEY"]):
            assert secret not in content, (path, secret)


def key_lines(place: Path) -> list[str]:
    """A line from the middle of every private key there is: its secret part."""
    return [path.read_text().splitlines()[1] for path in sorted(place.rglob("*.key"))]


# --- Factories that are not as they should be ---


def redirecting(elsewhere: str) -> Callable[[Answer], Answer]:
    return lambda _honest: lambda asked: Reply(302, b"", {"Location": f"{elsewhere}{asked.path}"})


def paging(elsewhere: str) -> Callable[[Answer], Answer]:
    """Whatever is an object names a next page on another server."""
    import json

    def wrap(honest: Answer) -> Answer:
        def answer(asked: Asked) -> Reply:
            reply = honest(asked)
            try:
                body = json.loads(reply.content)
            except ValueError:
                return reply
            if isinstance(body, dict):
                body["next"] = f"{elsewhere}{asked.path}"
            return Reply(reply.status, body, reply.headers)

        return answer

    return wrap


def garbling(_elsewhere: str) -> Callable[[Answer], Answer]:
    return lambda _honest: lambda _asked: Reply(200, b'{"half": [')


def echoing(_elsewhere: str) -> Callable[[Answer], Answer]:
    """Says the request back in its errors, as some gateways do; a plain body is cut in the middle of a token."""

    def answer(asked: Asked) -> Reply:
        if len(asked.path) % 2:
            return Reply(400, {"message": "bad request", "errors": dict(asked.headers)})
        return Reply(400, ("x" * 140 + " ".join(asked.headers.values())).encode())

    return lambda _honest: answer


def honest(_elsewhere: str) -> Callable[[Answer], Answer]:
    return lambda answer: answer


FACTORIES = {
    "honest": honest,
    "redirecting": redirecting,
    "paging": paging,
    "garbling": garbling,
    "echoing": echoing,
}

LEAVES = {" ".join(leaf.path): leaf for leaf in leaves()}


@pytest.fixture
def elsewhere() -> Iterator[Server]:
    with Server(lambda _asked: Reply(200, {})) as server:
        yield server


@pytest.mark.parametrize("kind", FACTORIES)
@pytest.mark.parametrize("name", [name for name, leaf in LEAVES.items() if leaf.connected])
def test_a_command_that_talks_to_a_factory_keeps_its_secrets(
    name: str, kind: str, cli: Cli, place: Path, elsewhere: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "out").mkdir()
    words = command(LEAVES[name], place)
    with running_mock(place / "mock") as real:
        hostile = FACTORIES[kind](elsewhere.url)(real)
        answers = [real]
        with Server(lambda asked: answers[-1](asked)) as factory:
            monkeypatch.setenv("FIOCTL_ROTATE_SERVER", factory.url)
            if name == "apply":
                plan = place / "out" / "plan.toml"
                wish = ("-r", "why", "--server-name", "localhost", "-p", "1", "--rotation-id", "r-2")
                made = cli("config", "rotate-certs", "-g", "field", *wish, "--dryrun", "--out", plan)
                assert made.code == 0, made.err
            answers.append(hostile)
            before, keys = listing(place), key_lines(place)
            results = [cli(*words)]
            if kind in ("honest", "redirecting", "echoing"):
                # A clone that is complete is not made again.
                shutil.rmtree(place / "copy", ignore_errors=True)
                results.append(cli(*words, "--config", place / "settings.toml"))
            sent = [asked.headers for asked in factory.asked]

    for result in results:
        assert result.code != 2, result.err
        assert "defect" not in result.err, result.err
        assert_silent(place, before, result.out + result.err, keys)
    if kind == "honest":
        assert results[0].code == 0 or name in NOT_DONE, results[0].err
    if kind == "honest" and sent:
        assert any(headers.get("osf-token") == TOKEN for headers in sent), "the secret was in use"
        assert any("authorization" in headers for headers in sent) or name == "login"
    assert elsewhere.asked == [], "the token went to another server"


@pytest.mark.parametrize(
    "name", [n for n, leaf in LEAVES.items() if not leaf.connected and leaf.path not in ENDLESS]
)
def test_a_command_that_talks_to_nobody_keeps_its_secrets(name: str, cli: Cli, place: Path) -> None:
    before, keys = listing(place), key_lines(place)
    result = cli(*command(LEAVES[name], place))
    assert result.code == 0, result.err
    assert_silent(place, before, result.out + result.err, keys)


def test_every_endless_command_is_one_of_the_tree() -> None:
    assert {leaf.path for leaf in LEAVES.values()} >= ENDLESS


@pytest.mark.parametrize("name", [" ".join(path) for path in sorted(ENDLESS)])
def test_a_command_that_runs_until_it_is_stopped_keeps_its_secrets(name: str, place: Path) -> None:
    if name == "est serve":
        made = [
            sys.executable,
            "-m",
            "fioctl_rotate",
            "est",
            "keypair",
            "localhost",
            str(place / "mock" / "pki"),
        ]
        subprocess.run(made, check=True, capture_output=True)
    before, keys = listing(place), key_lines(place)
    words = [sys.executable, "-m", "fioctl_rotate", *command(LEAVES[name], place)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        assert running.stdout is not None
        # What it warns of comes first; it runs once it says how it is ended.
        said = ""
        while "Ctrl-C" not in said and (line := running.stdout.readline()):
            said += line
        children = environments(running.pid)
        running.send_signal(signal.SIGINT)
        said += running.communicate(timeout=120)[0]
    assert said
    assert_silent(place, before, said, keys)
    for child, environment in children.items():
        for secret in (TOKEN, PIN, PASSPHRASE):
            assert secret not in environment, f"in the environment of {child}"
    if name == "est serve" and Path("/proc").exists():
        assert children, said


def environments(parent: int) -> dict[str, str]:
    """The environments and command lines of a process's children, by command line."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(status.read_text().rpartition(")")[2].split()[1]) == parent:
                line = status.with_name("cmdline").read_text()
                found[line] = line + status.with_name("environ").read_text()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


WITH_PIN = [
    name
    for name, leaf in LEAVES.items()
    if leaf.path not in ENDLESS and "hsm_pin" in {parameter.name for parameter in leaf.command.params}
]


@pytest.mark.parametrize("name", WITH_PIN)
def test_a_pin_on_the_command_line_is_not_repeated(
    name: str, cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module is none, so this is how it fails."""
    monkeypatch.setenv("FIOCTL_ROTATE_MOCK", str(place / "mock"))
    hsm = ("--hsm-module", place / "none.so", "--hsm-token-label", "acme", "--hsm-pin", "canary-flag-pin")
    result: Result = cli(*command(LEAVES[name], place), *hsm)
    assert result.code in (1, 5)
    assert "canary-flag-pin" not in result.out + result.err


def test_a_token_on_the_command_line_is_not_repeated(cli: Cli, place: Path) -> None:
    """The dry run ends with the command that pushes just this: not with the token in it."""
    with running_mock(place / "mock") as real, Server(real) as factory:
        push = ("-g", "field", "-r", "why", "--server-name", "localhost", "--dryrun", "--server", factory.url)
        result = cli("config", "rotate-certs", *push, "-t", "canary-flag-token", "-v")
    assert result.code == 0, result.err
    assert "canary-flag-token" not in result.out + result.err
