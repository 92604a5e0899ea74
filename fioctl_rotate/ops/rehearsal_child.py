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
from fioctl_rotate.ops.rehearsal_play import Wanted, play
from fioctl_rotate.ops.rehearsed import Played
from fioctl_rotate.rotation.plan import Plan

_SIZE = 8  # bytes in which the length of a task is written


class _Task(msgspec.Struct, kw_only=True):
    """What the other process has to do; folders as they are named."""

    source: str
    place: str
    state: str
    plan: str
    wanted: Wanted


class _Answer(msgspec.Struct, kw_only=True):
    """What came of it, or why nothing did; `refused` are connections that would have left this machine."""

    played: Played | None = None
    refused: list[str] = []
    error: str = ""


async def play_in_child(
    source: Path, place: Path, state: Path, plan: Plan, wanted: Wanted
) -> tuple[Played, list[str]]:
    """`play` in a process of its own, which ends with this one; and the connections that were refused there.

    Raises Error.
    """
    task = _Task(source=str(source), place=str(place), state=str(state), plan=plan_text(plan), wanted=wanted)
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
        # Its stdin stays open: where this process is killed it ends, and so does the child.
        process.stdin.write(len(data).to_bytes(_SIZE, "big") + data)
        with contextlib.suppress(ConnectionError):  # it has ended already, which is told below
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
                Path(task.source), Path(task.place), plan, task.wanted, refused=refused.append
            )
    except Error as error:
        return _Answer(error=error.message)
    return _Answer(played=played, refused=refused)


def main() -> None:
    """Read a task from stdin, write the answer to stdout. Ends where stdin does."""
    stdin = sys.stdin.buffer
    task = msgspec.msgpack.decode(stdin.read(int.from_bytes(stdin.read(_SIZE), "big")), type=_Task)

    def end_with_parent() -> None:
        os.read(stdin.fileno(), 1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    sys.stdout.buffer.write(msgspec.msgpack.encode(asyncio.run(_work(task))))


if __name__ == "__main__":
    main()
