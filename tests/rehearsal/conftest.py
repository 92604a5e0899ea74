"""A plan made against a Factory, and a clone of that: both made once, since a rehearsal changes neither."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fioctl_rotate.cli.app import run
from tests.commandline import Cli, Result
from tests.processes import FREE

DEVICES = 4


@dataclass(frozen=True)
class Rehearsable:
    """The original Factory, its clone, and plans for the original: in stages and plain."""

    original: Path
    clone: Path
    staged: Path
    plain: Path


def quietly(*argv: object) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        assert run([str(argument) for argument in argv]) == 0, out.getvalue()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Rehearsable:
    folder = tmp_path_factory.mktemp("rehearsable")
    found = Rehearsable(folder / "original", folder / "clone", folder / "staged.toml", folder / "plain.toml")
    at = ("--mock", found.original, "-f", "acme")
    quietly("mock", "init", found.original, "-f", "acme", "-g", "field", "--devices", DEVICES, *FREE)
    rotate = ("config", "rotate-certs", "-g", "field", "-r", "yearly", "--dryrun", "--no-checks", *at)
    quietly(*rotate, "--stages", "1", "--stage-timeout", "2h", "--out", found.staged)
    quietly(*rotate, "--out", found.plain)
    quietly("mock", "clone", found.clone, *at, *FREE)
    return found


Rehearse = Callable[..., Result]


@pytest.fixture
def rehearse(cli: Cli, made: Rehearsable) -> Rehearse:
    """`rehearse("--est-fault", "404")`: the plan in stages, on the clone."""

    def call(*argv: object, plan: Path | None = None) -> Result:
        return cli("apply", plan or made.staged, "--rehearse", made.clone, *argv)

    return call


def last_line(result: Result) -> Any:
    """The last of the JSON objects, which is the whole result."""
    return result.lines[-1]
