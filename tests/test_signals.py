"""More than one Ctrl-C. What a single one does is tested with each command."""

import asyncio
import signal
import subprocess
import sys
import threading

import pytest

from fioctl_rotate.cli.common import run
from fioctl_rotate.signals import kept
from tests.pushing import Serve
from tests.scripted import Asked, Hang, Reply

# It never lets the event loop go on, and so it cannot be cancelled.
BUSY = """
import os, signal
from fioctl_rotate.cli.common import run

async def busy():
    for _ in range(3):
        print("going on", flush=True)
        os.kill(os.getpid(), signal.SIGINT)

run(busy())
"""


def heeding_ctrl_c() -> None:
    """A shell that starts the tests in the background has the programs below it ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("command", [["devices", "list"], ["rotations", "watch", "certs-1", "-g", "field"]])
def test_a_ctrl_c_that_comes_late_does_not_change_how_a_command_ends(
    serve: Serve, command: list[str]
) -> None:
    asked = threading.Event()

    def answer(_: Asked) -> Reply:
        asked.set()
        raise Hang

    serve(answer)
    process = subprocess.Popen(
        [sys.executable, "-m", "fioctl_rotate", *command],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heeding_ctrl_c,
    )
    assert asked.wait(60)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while (line := process.stderr.readline()) != "interrupted\n":
        assert line
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "")


def test_the_second_ctrl_c_cuts_short_what_the_first_one_began() -> None:
    async def work() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            signal.raise_signal(signal.SIGINT)
            ending.append("goes on")
            await asyncio.Event().wait()

    ending: list[str] = []
    with kept(), pytest.raises(KeyboardInterrupt):
        run(work())
    assert ending == ["goes on"]


def test_the_third_ctrl_c_ends_a_command_that_cannot_be_cancelled() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUSY], preexec_fn=heeding_ctrl_c, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGINT
    assert done.stdout == "going on\n" * 3
