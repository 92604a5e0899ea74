"""Commands that run on while a test does something else, as processes of their own."""

import json
import os
import signal
import subprocess
import sys
from types import TracebackType
from typing import IO, Any
from urllib.parse import urlsplit

FREE = ("--port", 0, "--est-port", 0, "--gateway-port", 0)
"""Options of `mock init`, `clone` and `serve`: free ports."""

HEAVY = {
    "asyncio",
    "cryptography",
    "hashlib",
    "httpx",
    "msgspec",
    "platformdirs",
    "pydantic",
    "rich",
    "sqlite3",
    "stamina",
    "starlette",
    "tomllib",
    "uvicorn",
    "yaml",
}
"""What takes long to import."""


class Process:
    """A command under way; `lines` reads its stdout."""

    lines: IO[str]

    def __init__(self, *argv: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fioctl_rotate", *map(str, argv)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        self.lines = self._process.stdout

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def document(self) -> Any:
        """The JSON object that it prints next, over several lines."""
        return json.loads("".join(iter(self.lines.readline, "}\n")) + "}")

    def interrupt(self) -> tuple[int, str, str]:
        """Ctrl-C; its exit code, the rest of stdout, and stderr."""
        self._process.send_signal(signal.SIGINT)
        out, err = self._process.communicate(timeout=120)
        return self._process.returncode, out, err


def est_port(served: Any) -> str:
    """The port of the EST server in what `mock serve --format json` printed."""
    return str(urlsplit(served["est"]).port)


def imported(*arguments: str, **environment: str) -> tuple[str, set[str]]:
    """What the command printed, and which of the heavy packages it imported, in a process of its own."""
    # The modules go to another stream than stdout and stderr, which belong to the command.
    read_end, write_end = os.pipe()
    code = (
        f"import atexit, os, sys; atexit.register(lambda: os.write({write_end}, ' '.join(sys.modules).encode()));"
        "from fioctl_rotate.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | environment,
        pass_fds=[write_end],
        capture_output=True,
        text=True,
    )
    os.close(write_end)
    with os.fdopen(read_end) as modules:
        names = {name.partition(".")[0] for name in modules.read().split()}
    assert done.returncode == 0, done.stderr
    assert "typer" in names, "the list of modules is there"
    return done.stdout, names & (HEAVY | {"dataclasses"})
