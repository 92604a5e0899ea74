"""`demo`: a whole rotation on one screen."""

import contextlib
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fioctl_rotate.cli import common
from fioctl_rotate.cli.common import Table, emit, note, option
from fioctl_rotate.cli.mock_devices import FailOption
from fioctl_rotate.errors import DeviceFailed, Error, UsageError, printable

if TYPE_CHECKING:
    import rich.table
    from rich.live import Live

    from fioctl_rotate.ops.demo import DeviceProof
    from fioctl_rotate.ops.watch import Snapshot
    from fioctl_rotate.rotation.plan import Plan
    from fioctl_rotate.rotation.state import DeviceState


async def demo(
    devices: Annotated[int, option("--devices N", "How many devices rotate.", min=1, max=50)] = 5,
    keep: Annotated[Path | None, option("--keep DIR", "Use DIR, new or empty, and keep it.")] = None,
    fail: FailOption = None,
) -> None:
    """Show a whole rotation on a mocked Factory, from start to proof.

    It makes a PKI, authorizes an EST server, shows a dry run and pushes to a group. The devices rotate over real
    TLS, on free ports of this machine. At the end it proves for each device: the new certificate has the same
    subject, the gateway accepts it, and refuses the old one. Each step shows the command to type for it. Exit code
    0 only if all of this was seen; 3 if a device failed. Nothing is left running.
    """
    from fioctl_rotate.ops import demo as ops
    from fioctl_rotate.rotation.made_to_fail import parse_made_to_fail

    faults = [parse_made_to_fail(text) for text in fail or []]
    with _directory(keep) as directory, _Stage() as stage:
        emit(f"$ D={shlex.quote(str(directory))}")
        proofs = await ops.run(directory, stage, devices=devices, fail=faults)
        stage.close()
        _proof_table(proofs).show()
    failed = [proof for proof in proofs if proof.failed]
    unproven = [proof.name for proof in proofs if not proof.failed and not proof.holds]
    if keep is not None:
        note(f"kept; to use it: export FIOCTL_ROTATE_MOCK={shlex.quote(str(directory))} FIOCTL_FACTORY=demo")
    if unproven:
        raise Error(f"the proof does not hold for {', '.join(unproven)}")
    if failed:
        names = ", ".join(proof.name for proof in failed)
        raise DeviceFailed(f"{names} failed, as --fail says: {failed[0].failed}")
    note(f"all {len(proofs)} devices have rotated" if len(proofs) > 1 else "the device has rotated")


@contextlib.contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="fioctl-rotate-demo-") as name:
            yield Path(name)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise UsageError(f"{keep} is not empty", hint="name a new directory with --keep")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep.resolve()


class _Stage:
    """The demo on the terminal; in a pipe, plain lines, and a device's line only when it changes."""

    def __init__(self) -> None:
        self._console = common.console()
        self._number = 0
        self._live: Live | None = None
        self._shown: dict[str, str] = {}

    def __enter__(self) -> "_Stage":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the live view, so that what follows stands below it."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def step(self, title: str, *commands: str) -> None:
        """Begin a step, with the commands to type for it."""
        from rich.text import Text

        self.close()
        self._number += 1
        self._console.print(Text(f"{self._number}. {title}", style="bold"))
        for command in commands:
            self._console.print(Text(f"$ {command}", style="cyan"), soft_wrap=True)

    def say(self, text: str) -> None:
        """Show what a step did."""
        from rich.text import Text

        self._console.print(Text(f"   {printable(text)}"), soft_wrap=True)

    def plan(self, plan: "Plan") -> None:
        """Show the entry of the dry run."""
        for line in plan.entry.render().splitlines():
            self.say(f"| {line}")

    def progress(self, snapshot: "Snapshot") -> None:
        """Show each device's steps."""
        from rich.live import Live

        if self._console.is_terminal:
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False)
                self._live.start()
            self._live.update(_steps_table(snapshot), refresh=True)
            return
        for state in snapshot.states:
            progress = _where(state)
            if self._shown.get(state.uuid) != progress:
                self._shown[state.uuid] = progress
                self.say(f"{state.name}  {progress}")


def _where(state: "DeviceState") -> str:
    """The state, without a reason for not following: a device that only waits for its stage has none."""
    import msgspec

    from fioctl_rotate.rotation.messages import where

    return where(msgspec.structs.replace(state, reason=None))


def _steps_table(snapshot: "Snapshot") -> "rich.table.Table":
    from rich.text import Text

    from fioctl_rotate.rotation.state import State

    result = common.table((" ", "DEVICE", "STEPS", "STATE"), ())
    for state in snapshot.states:
        done = {State.RUNNING: state.step - 1, State.FAILING: state.step - 1, State.PENDING: 0}.get(
            state.state, 5
        )
        colour = {State.DONE: "green", State.FAILING: "red", State.PENDING: "dim"}.get(state.state, "yellow")
        bar = Text("●" * done + "○" * (5 - done), style=colour)
        result.add_row(Text(" "), Text(state.name), bar, Text(_where(state), style=colour))
    return result


def _proof_table(proofs: "list[DeviceProof]") -> Table:
    def row(proof: "DeviceProof") -> tuple[str, ...]:
        if proof.failed:
            return proof.name, "failed"
        seen = (proof.new_certificate, proof.same_subject, proof.new_accepted, proof.old_refused)
        return proof.name, *("yes" if true else "NO" for true in seen)

    headers = ("DEVICE", "NEW CERTIFICATE", "SAME SUBJECT", "NEW ACCEPTED", "OLD REFUSED")
    return Table(headers, map(row, proofs))


app = common.single(demo, "fioctl-rotate demo --devices 8 --keep ./rehearsal")
