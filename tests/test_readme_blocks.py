"""Every command block of the README, as it is typed, against a mock.

A test types the blocks of a part of the README one after the other. What it types in place of the README's own text
is in the call, with the reason.
"""

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from fioctl_rotate.est.server import LogRecord
from tests.commandline import Cli, Result
from tests.typed import blocks, calls

NOT_TYPED = {
    "Begin 1": "asks a package registry; .ci/run installs the wheel, and tests/test_demo.py runs the demo",
    "The root key 3": "needs an HSM; tests/pki/test_hsm.py types it for a simulated one",
    "When a device CA is compromised 1": "tests/pki/test_compromised_ca.py types it line by line",
    "Tests 1": "asks a package registry; .ci/run begins with it",
    "How fast 1": "takes minutes; tests/benchmarks/test_small.py has a small form of it",
}
# These go on until Ctrl-C; what they say when they are ready.
READY = {
    ("mock", "serve"): "serving the mocked Factory",
    ("mock", "devices"): "running ",
    ("est", "serve"): "EST server at ",
}
# The usual ports may be taken on this machine.
FREE_PORTS = "--port 0 --est-port 0 --gateway-port 0"
SECONDS = 120


def test_every_block_is_typed_or_has_a_reason_why_not() -> None:
    mine = Path(__file__).read_text()
    assert [name for name in blocks() if f'"{name}"' not in mine] == []
    assert NOT_TYPED.keys() <= blocks().keys()


class Person:
    """Who types the blocks, in an empty directory. What goes on until Ctrl-C is left running."""

    def __init__(self, cli: Cli, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        self.cli, self.directory, self._monkeypatch = cli, directory, monkeypatch
        self._blocks, self._running = blocks(), contextlib.ExitStack()
        # The program is the one that is tested, and not that of a virtual environment here.
        (directory / ".venv" / "bin").mkdir(parents=True)
        (directory / ".venv" / "bin" / "activate").touch()
        monkeypatch.chdir(directory)

    def types(
        self, name: str, *changed: tuple[str, str], stdin: str = "", codes: Mapping[str, Collection[int]] = {}
    ) -> list[Result]:
        """Type a block with some of its text `changed`, each from and to; the results of what has ended.

        `codes` are the exit codes that a command with such a word may have; 0 is what others have.
        """
        block = self._blocks[name]
        for text, other in changed:
            assert text in block, text
            block = block.replace(text, other)
        results = []
        for call in calls(block, Path.cwd(), self.directory / f"calls of {name}"):
            self._monkeypatch.chdir(call.cwd)
            if tuple(call.words[:2]) in READY:
                self._running.enter_context(self._process(call.words, call.environment))
                continue
            for variable in call.environment:
                if variable.startswith("FIOCTL_"):
                    self._monkeypatch.setenv(variable, call.environment[variable])
            result = self.cli(*call.words, stdin=stdin)
            may = next((codes[word] for word in call.words if word in codes), {0})
            assert result.code in may, (call.words, result)
            if call.output:
                call.output.write_text(result.out)
            results.append(result)
        return results

    def stop(self) -> None:
        """Press Ctrl-C wherever something goes on."""
        self._running.close()

    def log(self, command: str) -> str:
        """What a command that goes on has said so far."""
        return (self.directory / f"log of {command}").read_text()

    @contextlib.contextmanager
    def _process(self, words: list[str], environment: dict[str, str]) -> Iterator[None]:
        """A command that goes on, once it is ready."""
        command = " ".join(words[:2])
        with (self.directory / f"log of {command}").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "fioctl_rotate", *words],
                env=environment, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            wait(lambda: READY[words[0], words[1]] in self.log(command) or process.poll() is not None)
            assert process.poll() is None, (words, self.log(command))
            yield
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 0, (words, self.log(command))
        finally:
            process.kill()
            process.wait()


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


@pytest.fixture
def person(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Person]:
    typing = Person(cli, monkeypatch, tmp_path)
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(typing.stop)
        yield typing


@pytest.fixture
def port(person: Person) -> str:
    """The mock of the rehearsal is served, and its devices run; the port of its EST server."""
    person.types("Rehearse it 1", ("mock init ./acme", f"mock init ./acme {FREE_PORTS}"))
    person.types("Rehearse it 2", ("--interval 5", "--interval 0.2"))
    found = re.search(r"EST server +https://localhost:([0-9]+)", person.log("mock serve"))
    assert found
    return found[1]


def test_a_rehearsal_in_three_terminals(person: Person, port: str) -> None:
    quick = ("--soak 20s --interval 2", "--soak 1s --interval 0.2"), ("--soak 20s", "--soak 1s")
    dry, rotated, listed = person.types("Rehearse it 3", ("-g field", f"-g field -p {port}"), *quick)
    assert dry.out.startswith("Would send rotation ")
    assert "done, stage 2 of 2" in rotated.out
    assert "5 of 5\tcurrent, settled" in listed.out


def test_a_plan_is_rehearsed_on_a_clone(person: Person, acme: Path) -> None:
    # A rehearsal of trouble may end with a stage that fails.
    quick = ("--stages 1,5%,25%", "--stages 1,5%,25% --soak 5m --stage-timeout 1h")
    cloned, _, well, *_ = person.types("Rehearse it 5", quick, codes={"--est-fault": {0, 3}})
    assert "2 devices" in cloned.out
    assert "REHEARSAL" in well.out


def test_trouble_is_rehearsed(person: Person, cli: Cli) -> None:
    assert cli("mock", "init", "acme", "-f", "acme", "-g", "field", *FREE_PORTS.split()).code == 0
    assert len(person.types("Rehearse it 4")) == 3
    assert "running 5 device(s)" in person.log("mock devices")
    assert "a fault on purpose: foreign-ca" in person.log("mock serve")


def test_a_group_is_rotated(person: Person, port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = re.search(r"http://\S+", person.log("mock serve"))
    assert server
    monkeypatch.setenv("FIOCTL_ROTATE_SERVER", server[0])
    monkeypatch.setenv("FIOCTL_FACTORY", "acme")
    (Path.home() / "acme-pki").symlink_to(person.directory / "acme" / "pki")
    at_port = ("-g field -r", f"-g field -p {port} -r")
    token = (person.directory / "acme" / "tokens" / "acme.admin").read_text()
    *_, applied = person.types(
        "Rotate a group, in stages 1",
        at_port,
        # Nobody can be asked here whether the present certificate may be replaced.
        ("est authorize ~/acme-pki\n", "est authorize ~/acme-pki -y\n"),
        ("--stages 1,5%,25%", "--stages 1,5%,25% --soak 1s"),
        ("apply plan.toml", "apply plan.toml --interval 0.2"),
        stdin=token,
    )
    assert "done, stage 3 of 3" in applied.out
    another = ("certs-1763989200", "its-id")
    shown, *_ = person.types("Rotate a group, in stages 2", another)
    assert "done, stage 3 of 3" in shown.out
    waited, watched, reported = person.types(
        "Rotate a group, in stages 3",
        at_port,
        another,
        ("--wait", "--rotation-id its-id --wait --interval 0.2"),
    )
    assert "5 of 5 done" in waited.out
    assert "5 of 5 done" in watched.out
    assert reported.out.startswith("wrote rotation.html")
    person.types("Rotate a group, in stages 4", another)

    issued = LogRecord(
        time="2026-11-25T00:00:00Z", operation="simplereenroll", peer="", device="1", outcome="issued"
    )
    (person.directory / "est.json").write_bytes(msgspec.json.encode(issued))
    soon, everybody = person.types("Who must rotate by when 1")
    assert "5 fine" in soon.out
    assert "5 fine" in everybody.out

    monkeypatch.setenv("CI_JOB_ID", "7")
    monkeypatch.setenv("CI_PIPELINE_ID", "8")
    _, followed = person.types("In CI 1", at_port, ("--timeout 7200", "--timeout 7200 --interval 0.2"))
    assert "5 of 5 done" in followed.out


def test_an_est_server_and_the_root_key(
    person: Person, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pki = Path.home() / "acme-pki"
    assert cli("mock", "init", "acme", "-f", "acme", "--bare").code == 0
    monkeypatch.setenv("FIOCTL_ROTATE_MOCK", str(tmp_path / "acme"))
    monkeypatch.setenv("FIOCTL_FACTORY", "acme")
    made, checked = person.types("The root key 1")
    assert made.out.startswith("PKI of acme")
    assert "fail" not in checked.out
    (public := Path.home() / "acme-public").mkdir()
    shutil.copy(pki / "factory_ca.pem", public)
    *_, uploaded = person.types("The root key 2")
    assert "the EST server of acme is localhost" in uploaded.err

    assert cli("config", "device-group", "create", "field").code == 0
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = ("est.example.com", "localhost")  # the name that this machine has for itself
    person.types("Your own EST server 1", here)
    *_, good, dry = person.types(
        "Your own EST server 2",
        ("est serve", f"est serve --port {port}"),
        (f"--server-name {here[0]}", f"--server-name {here[1]} -p {port}"),
    )
    assert f"checked https://localhost:{port}" in good.err
    assert "checks passed" in dry.out
    person.types("Your own EST server 3")
    person.stop()
    # /run is root's.
    person.types("Your own EST server 4", ("/run/est.sock", "est.sock"))
