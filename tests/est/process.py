"""`est serve` as a process of its own."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def options(files: Mapping[str, Path]) -> list[str]:
    return [argument for name, path in files.items() for argument in (f"--{name}", str(path))]


class Process:
    """`est serve` under way, at `url`; `log` are its lines so far."""

    def __init__(self, files: Mapping[str, Path], *more: object) -> None:
        command = [
            sys.executable,
            "-m",
            "fioctl_rotate",
            "est",
            "serve",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
        ]
        self.process = subprocess.Popen(
            [*command, *options(files), *map(str, more)], stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        self.stderr = self.process.stderr
        self.log: list[str] = []
        started = self.read_until("EST server at https://")
        self.url = started.split()[3].rstrip(";").replace("127.0.0.1", "localhost")

    def read(self) -> str:
        """The next line."""
        self.log.append(self.stderr.readline().rstrip("\n"))
        return self.log[-1]

    def read_until(self, text: str) -> str:
        """The next line with this text."""
        while text not in (line := self.read()):
            assert line, f"it ended: {self.log}"
        return line

    def reload(self) -> str:
        """Have it read its files again; what it says to that."""
        self.process.send_signal(signal.SIGHUP)
        return self.read_until("files ")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send it the signal; its exit code."""
        self.process.send_signal(number)
        with self.process:
            self.log += self.stderr.read().splitlines()
            return self.process.wait(120)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self.process.poll() is None:
                self.stop(signal.SIGKILL)
