"""Commands that run on while a test does something else, as processes of their own."""

import json
import signal
import subprocess
import sys
from types import TracebackType
from typing import IO, Any

FREE = ("--port", 0, "--est-port", 0, "--gateway-port", 0)
"""The mock's ports for `mock init`: free ones."""


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
        out, err = self._process.communicate(timeout=60)
        return self._process.returncode, out, err
