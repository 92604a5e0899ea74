"""What all tests share: a clean environment, and the command line run in this process."""

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fioctl_rotate.cli.app import run


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Result]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No setting of the machine or its user reaches a test."""
    for name in (
        "FIOCTL_FACTORY",
        "FIOCTL_TOKEN",
        "FIOCTL_CONFIG",
        "FIOCTL_ROTATE_SERVER",
        "FIOCTL_ROTATE_MOCK",
        "FIOCTL_ROTATE_CONFIG",
        "FIOCTL_ROTATE_TIMEOUT",
        "FIOCTL_ROTATE_HSM_PIN",
        "CACERT",
        "TOKEN_HEADER",
    ):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / ".state"))
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
def mock_dir(tmp_path: Path) -> Path:
    return tmp_path / "mock"
