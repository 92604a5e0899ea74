"""What all tests share: a clean environment, and the command line run in this process."""

import asyncio
import contextlib
import gc
import io
import os
import shutil
import signal
import ssl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import stamina
from hypothesis import HealthCheck, settings

from fioctl_rotate.cli.app import run
from fioctl_rotate.ops.rollout import roll_out
from fioctl_rotate.ops.watch import Watch
from fioctl_rotate.pki import certificates
from tests.commandline import Cli, Result
from tests.making import Pki, write_pair
from tests.scripted import Answer, Server, running_mock


def pytest_configure() -> None:
    """Let tests send signals: in a shell's background, or under nohup, programs start with some ignored.

    And keep their files in memory where it has room: they sync thousands of small ones, which takes a tenth of the
    time of all tests on disk.
    """
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    if "TMPDIR" not in os.environ and _has_room(Path("/dev/shm")):
        os.environ["TMPDIR"] = tempfile.tempdir = "/dev/shm"


def _has_room(directory: Path) -> bool:
    """Whether tests can write 1 GB here and run what they wrote. A container often allows 64 MB and no programs."""
    if not os.access(directory, os.W_OK):
        return False
    volume = os.statvfs(directory)
    return volume.f_bavail * volume.f_frsize > 10**9 and not volume.f_flag & os.ST_NOEXEC


def pytest_collection_finish() -> None:
    """Spare the garbage collector what stays to the end: modules and thousands of collected tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def pytest_xdist_auto_num_workers() -> int:
    """Two workers a core, 16 at most: half of the suite's time its tests wait for servers, devices and programs."""
    return min(2 * (os.cpu_count() or 1), 16)


# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


# What the program reads besides FIOCTL_*; proxies are taken in either case.
OTHER_SETTINGS = {
    *("CACERT", "TOKEN_HEADER", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No setting of the machine or its user reaches a test."""
    for name in list(os.environ):
        if name.startswith("FIOCTL_") or name.upper() in OTHER_SETTINGS:
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / ".local" / "state"))
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run the command line in this process, with pipes for stdin, stdout and stderr.

    `cli("devices", "list", "--mock", directory)`: arguments of any type are made strings.
    """

    def call(*argv: object, stdin: str = "") -> Result:
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([str(argument) for argument in argv])
        return Result(code, out.getvalue(), err.getvalue())

    return call


@pytest.fixture
def run_out(monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`run_out(cli, "rotations", "watch", "-g", "field")`: the time of the command ends at its first pause.

    So what it has read and sent by then does not depend on the speed of this machine.
    """
    limits: list[asyncio.Timeout] = []

    def timeout_at(_when: float | None) -> asyncio.Timeout:
        limits.append(asyncio.timeout(None))
        return limits[-1]

    async def pause(_seconds: float) -> None:
        limits[-1].reschedule(asyncio.get_running_loop().time())
        await asyncio.Event().wait()

    def call(command: Cli, *argv: object) -> Result:
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "timeout_at", timeout_at)
            for polling in (roll_out, Watch.until_resting):
                assert polling.__kwdefaults__
                patch.setitem(polling.__kwdefaults__, "sleep", pause)
            return command(*argv, "--timeout", "1h")

    return call


@pytest.fixture
def mock_dir(tmp_path: Path) -> Path:
    return tmp_path / "mock"


@pytest.fixture(scope="session")
def made_acme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `acme` copies: making one anew for each test took a seventh of the time of all tests."""
    directory = tmp_path_factory.mktemp("made") / "mock"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(directory.parent))
        command = ["mock", "init", str(directory), "--factory", "acme", "--group", "field", "--devices", "2"]
        assert run(command) == 0
    return directory


@pytest.fixture
def acme(made_acme: Path, mock_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mocked Factory `acme` with two devices in the group `field`, named by the environment."""
    shutil.copytree(made_acme, mock_dir)
    for settings_file in mock_dir.glob("devices/*/sota.toml"):
        settings_file.write_text(settings_file.read_text().replace(str(made_acme), str(mock_dir)))
    monkeypatch.setenv("FIOCTL_FACTORY", "acme")
    monkeypatch.setenv("FIOCTL_ROTATE_MOCK", str(mock_dir))
    return mock_dir


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """`serve(answer)`: an operator API on loopback that answers so; the environment names it, with a token.

    Attempts follow each other without a pause; a test of the pause switches that off.
    """
    with contextlib.ExitStack() as stack, stamina.set_testing(True, attempts=100, cap=True):

        def start(answer: Answer, context: ssl.SSLContext | None = None) -> Server:
            server = stack.enter_context(Server(answer, context))
            monkeypatch.setenv("FIOCTL_FACTORY", "acme")
            monkeypatch.setenv("FIOCTL_TOKEN", "canary-token")
            monkeypatch.setenv("FIOCTL_ROTATE_SERVER", server.url)
            monkeypatch.delenv("FIOCTL_ROTATE_MOCK", raising=False)
            return server

        yield start


@pytest.fixture
def acme_answers(acme: Path) -> Iterator[Answer]:
    """The answers of the mocked Factory `acme`, for a script that changes some of them."""
    with running_mock(acme) as answer:
        yield answer


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's context for `localhost`, and the file with its root."""
    pki = Pki.make()
    (tmp_path / "root.pem").write_text(certificates.pem(pki.root))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*write_pair(tmp_path, "server", pki.server()))
    return context, tmp_path / "root.pem"
