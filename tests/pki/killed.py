"""Runs a command of ours over and over, each time killed (SIGKILL) a little later, and again to its end.

`python killed.py [--fat] SCRATCH TEMPLATE ARGUMENT…`: TEMPLATE has `mock` and `pki` (or not), each round gets
a copy. A round's first run is killed just before its nth step: a file or directory made, linked, renamed or
removed, a request sent, its answer taken. Prints one JSON object a round; ends with the first round that was not
killed. With --fat, the file system has neither hard links nor modes.
Children are forked from a process that has run the command once, so they import nothing, and a round costs
milliseconds; they run the real command line.
"""

import contextlib
import errno
import gc
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import httpx

from fioctl_rotate.cli.app import run

STEPS = {"os.link", "os.remove", "os.rename", "os.mkdir", "os.chmod", "tempfile.mkstemp", "request", "answer"}


class StepwiseTransport(httpx.ASGITransport):
    """The transport to the in-process mock, its two sides made steps (Python audits files by itself)."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Tell of the request, then of its answer, which is when the mock has committed it."""
        sys.audit("request", request.method)
        response = await super().handle_async_request(request)
        sys.audit("answer", request.method)
        return response


httpx.ASGITransport = StepwiseTransport  # type: ignore[misc]  # in this process and its children alone


def child(arguments: list[str], before: Callable[[], None]) -> int:
    """Run the command in a child; returns what `waitpid` says."""
    pid = os.fork()
    if pid == 0:
        devnull = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(devnull, fd)
        before()
        os._exit(run(arguments))
    return os.waitpid(pid, 0)[1]


def kill_before(step: int, note: Path) -> Callable[[], None]:
    """What a child does first: from then on it counts its steps, and dies before this one."""
    left = step

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event not in STEPS or "/mock/" in str(arguments[0]):  # what the backend does with its own files
            return
        left -= 1
        if left == 0:
            note.write_text(f"{event} {arguments[0]}")
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: sys.addaudithook(hook)


def state(pki: Path) -> dict[str, str]:
    """Every file of the directory: mode and content."""
    if not pki.exists():
        return {}
    return {path.name: f"{path.stat().st_mode & 0o7777:04o} {path.read_text()}" for path in pki.iterdir()}


def fat() -> None:
    """Have hard links and modes refused, as on FAT."""

    def refused(event: str) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            sys.audit(event, *arguments)
            raise PermissionError(errno.EPERM, "Operation not permitted")

        return call

    os.link = refused("os.link")
    os.fchmod = refused("os.fchmod")


def main() -> None:
    if sys.argv[1] == "--fat":
        del sys.argv[1]
        fat()
    scratch, template, arguments = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]

    def fresh(name: str) -> tuple[Path, list[str]]:
        place = scratch / name
        shutil.copytree(template, place)
        return place, [argument.replace("HERE", str(place)) for argument in arguments]

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert run(fresh("first")[1]) == 0
    gc.freeze()
    for step in range(1, 1000):
        place, argv = fresh(str(step))
        note = scratch / f"{step}.step"
        killed = child(argv, kill_before(step, note))
        if not os.WIFSIGNALED(killed):
            print(json.dumps({"step": None, "code": os.waitstatus_to_exitcode(killed), "rounds": step - 1}))
            return
        after = state(place / "pki")
        code = os.waitstatus_to_exitcode(child(argv, lambda: None))
        print(
            json.dumps(
                {
                    "step": note.read_text(),
                    "place": str(place),
                    "killed": after,
                    "code": code,
                    "finished": state(place / "pki"),
                }
            )
        )


if __name__ == "__main__":
    main()
