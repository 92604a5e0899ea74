"""The plain push of a rehearsal in a process of its own: beside the rollout in stages, on another core."""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import msgspec

from fioctl_rotate.errors import Error
from fioctl_rotate.folders import state_in
from fioctl_rotate.ops.plan_file import parse_plan, plan_text
from fioctl_rotate.ops.rehearsal_play import RehearsalOptions, play
from fioctl_rotate.ops.rehearsed import Played
from fioctl_rotate.rotation.plan import Plan

_SIZE = 8  # bytes of the length that is sent before a task


class _Task(msgspec.Struct, kw_only=True):
    """What the other process has to do. Folders are paths, the plan is the text of its file."""

    source: str
    copy: str
    state: str
    plan: str
    options: RehearsalOptions


class _Answer(msgspec.Struct, kw_only=True):
    """The result, or the error; `refused` are connections that would have left this machine."""

    played: Played | None = None
    refused: list[str] = []
    error: str = ""


async def play_in_child(
    source: Path, copy: Path, state: Path, plan: Plan, options: RehearsalOptions
) -> tuple[Played, list[str]]:
    """Run `play` in a process of its own, which ends with this one.

    Returns the result, and the connections that were refused there. Raises Error.
    """
    task = _Task(source=str(source), copy=str(copy), state=str(state), plan=plan_text(plan), options=options)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None  # noqa: S101  both are pipes
    assert process.stdout is not None  # noqa: S101
    data = msgspec.msgpack.encode(task)
    try:
        # Its stdin stays open. When this process is killed, that stdin closes, and the child ends.
        process.stdin.write(len(data).to_bytes(_SIZE, "big") + data)
        with contextlib.suppress(ConnectionError):  # the child has ended already: reported below
            await process.stdin.drain()
        data = await process.stdout.read()
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        answer = msgspec.msgpack.decode(data, type=_Answer)
    except msgspec.MsgspecError as error:
        raise Error(
            f"the process for the plain push ended early, with status {process.returncode}"
        ) from error
    if answer.played is None:
        raise Error(f"the plain push could not be rehearsed: {answer.error}")
    return answer.played, answer.refused


async def _work(task: _Task) -> _Answer:
    refused: list[str] = []
    try:
        with state_in(Path(task.state)):
            plan = parse_plan(task.plan.encode(), "the plan").plan
            played = await play(
                Path(task.source), Path(task.copy), plan, task.options, refused=refused.append
            )
    except Error as error:
        return _Answer(error=error.message)
    return _Answer(played=played, refused=refused)


def main() -> None:
    """Read a task from stdin, write the answer to stdout. Ends when stdin is closed."""
    stdin = sys.stdin.buffer
    task = msgspec.msgpack.decode(stdin.read(int.from_bytes(stdin.read(_SIZE), "big")), type=_Task)

    def end_with_parent() -> None:
        os.read(stdin.fileno(), 1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    sys.stdout.buffer.write(msgspec.msgpack.encode(asyncio.run(_work(task))))


if __name__ == "__main__":
    main()
