"""What the tests of pushes share: the commands, what is read back of them, and a terminal."""

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.commandline import Cli, Result
from tests.scripted import Answer, Asked, Reply, Server

Serve = Callable[..., Server]

HANDLER = "/usr/share/fioconfig/handlers/renew-client-cert"
# The checks have tests of their own; here the EST server need not be there.
GROUP = ("config", "rotate-certs", "-g", "field", "-r", "why", "--no-checks")
DEVICE = ("device", "config", "rotate-certs", "device-1", "-r", "why", "--no-checks")
BOTH = pytest.mark.parametrize("command", [GROUP, DEVICE], ids=["group", "device"])
GROUP_CONFIG = "/ota/factories/acme/device-groups/field/config/"


def value(rotation_id: str, host: str = "localhost") -> str:
    return (
        f"ESTSERVER=https://{host}:8443/.well-known/est\n"
        f"PKEYIDS=01,07\nCERTIDS=03,09\nROTATIONID={rotation_id}\n"
    )


def log(cli: Cli, *target: str) -> list[dict[str, Any]]:
    of_target = ("config", "log", "-g", "field") if not target else ("devices", "config", "log", *target)
    result = cli(*of_target, "--format", "json")
    assert result.code == 0, result.err
    entries: list[dict[str, Any]] = result.json["config"]
    return entries


def file_of(entry: dict[str, Any], name: str = "fio-rotate-certs") -> str | None:
    return next((file["value"] for file in entry["files"] if file["name"] == name), None)


def push(cli: Cli, *command: object) -> Result:
    result = cli(*command)
    assert result.code == 0, result.err
    return result


class Terminal:
    """A command that a person runs: a pseudo-terminal at all three ends."""

    def __init__(self, *command: str) -> None:
        self._end, other = pty.openpty()
        # A session of its own with this terminal in control, so that Ctrl-C typed there is a signal here.
        start = (
            "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
            "from fioctl_rotate.__main__ import main; main()"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", start, *command],
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
        )
        os.close(other)
        self.screen = ""

    def wait_for(self, text: str) -> None:
        while text not in self.screen:
            assert self._read(), f"ended without `{text}`: {self.screen}"

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def end(self) -> int:
        while self._read():
            pass
        os.close(self._end)
        return self.process.wait(120)

    def _read(self) -> bool:
        assert select.select([self._end], [], [], 120)[0], f"nothing more within 120 s: {self.screen}"
        try:
            data = os.read(self._end, 4096)
        except OSError:  # how Linux says that the other side has gone
            return False
        self.screen += data.decode()
        return bool(data)


def changing_patch(answers: Answer, patch: Callable[[Asked], Reply]) -> Answer:
    return lambda asked: patch(asked) if asked.method == "PATCH" else answers(asked)


def put(answers: Answer, value: str, path: str = GROUP_CONFIG, reason: str = "theirs") -> None:
    """Somebody else's push lands."""
    file = {"name": "fio-rotate-certs", "value": value, "unencrypted": True, "on-changed": [HANDLER]}
    body = json.dumps({"reason": reason, "files": [file]}).encode()
    assert answers(Asked("PATCH", path, {"host": "localhost"}, body, 0)).status == 201
