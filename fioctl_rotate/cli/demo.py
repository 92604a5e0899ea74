"""`demo`: a whole rotation on one screen."""

import contextlib
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fioctl_rotate.cli.common import console, emit, note, run, single, table
from fioctl_rotate.errors import DeviceFailed, Error, UsageError, printable

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from fioctl_rotate.ops.demo import Proof
    from fioctl_rotate.ops.watch import Snapshot
    from fioctl_rotate.rotation.plan import Plan


def demo(
    devices: Annotated[
        int, typer.Option("--devices", min=1, max=50, metavar="N", help="How many devices rotate.")
    ] = 5,
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep", metavar="DIR", help="Play in DIR, new or empty, and keep it to look at afterwards."
        ),
    ] = None,
    fail: Annotated[
        str | None,
        typer.Option(
            "--fail", metavar="STEP", help="Make the first device fail at this step: 1 to 5, or its name."
        ),
    ] = None,
) -> None:
    """Show a whole rotation on a mocked Factory, start to proof.

    A PKI is made, an EST server authorized, a dry run shown, a group pushed to; the devices rotate over real TLS on
    free ports of this machine, and each is proven at the end: a new certificate with the same subject, which the
    gateway takes, while it refuses the old one. Each step shows the command to type for it. Exit code 0 only if all
    of that was seen; 3 if a device failed. Nothing is left running.
    """
    from fioctl_rotate.ops import demo as ops
    from fioctl_rotate.rotation.progress import STEPS

    step = _step(fail, STEPS)
    with _directory(keep) as directory, _Stage() as stage:
        emit(f"$ D={shlex.quote(str(directory))}")
        proofs = run(ops.run(directory, stage, devices=devices, fail=step))
        stage.close()
        _show(proofs)
    failed = [proof for proof in proofs if proof.failed]
    unproven = [proof.name for proof in proofs if not proof.failed and not proof.holds]
    if keep is not None:
        note(
            f"kept; look at it with: export FIOCTL_ROTATE_MOCK={shlex.quote(str(directory))} FIOCTL_FACTORY=demo"
        )
    if unproven:
        raise Error(f"the proof does not hold for {', '.join(unproven)}")
    if failed:
        raise DeviceFailed(f"{failed[0].name} failed, as it was told to: {failed[0].failed}")
    note(f"all {len(proofs)} devices have rotated" if len(proofs) > 1 else "the device has rotated")


def _step(text: str | None, steps: tuple[str, ...]) -> str | None:
    if text is None:
        return None
    if text.isdigit() and 1 <= int(text) <= len(steps):
        return steps[int(text) - 1]
    for step in steps:
        if step.lower() == text.lower():
            return step
    names = "; ".join(f"{number} {step}" for number, step in enumerate(steps, 1))
    raise UsageError(f"there is no step `{text}`", hint=names)


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
        self._console = console()
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
        """A step begins."""
        from rich.text import Text

        self.close()
        self._number += 1
        self._console.print(Text(f"{self._number}. {title}", style="bold"))
        for command in commands:
            self._console.print(Text(f"$ {command}", style="cyan"), soft_wrap=True)

    def say(self, text: str) -> None:
        """Something came of it."""
        from rich.text import Text

        self._console.print(Text(f"   {printable(text)}"), soft_wrap=True)

    def plan(self, plan: "Plan") -> None:
        """The dry run's heart: the entry."""
        for line in plan.entry.render().splitlines():
            self.say(f"| {line}")

    def progress(self, snapshot: "Snapshot") -> None:
        """Each device's steps."""
        from rich.live import Live

        from fioctl_rotate.rotation.messages import where

        if self._console.is_terminal:
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False)
                self._live.start()
            self._live.update(_steps_table(snapshot), refresh=True)
            return
        for state in snapshot.states:
            words = where(state)
            if self._shown.get(state.uuid) != words:
                self._shown[state.uuid] = words
                self.say(f"{state.name}  {words}")


def _steps_table(snapshot: "Snapshot") -> "Table":
    from rich.text import Text

    from fioctl_rotate.rotation.messages import where
    from fioctl_rotate.rotation.state import State

    result = table((" ", "DEVICE", "STEPS", "STATE"), ())
    for state in snapshot.states:
        done = {State.RUNNING: state.step - 1, State.FAILING: state.step - 1, State.PENDING: 0}.get(
            state.state, 5
        )
        colour = {State.DONE: "green", State.FAILING: "red", State.PENDING: "dim"}.get(state.state, "yellow")
        bar = Text("●" * done + "○" * (5 - done), style=colour)
        result.add_row(Text(" "), Text(state.name), bar, Text(where(state), style=colour))
    return result


def _show(proofs: "list[Proof]") -> None:
    def word(true: bool) -> str:
        return "yes" if true else "NO"

    rows = [
        (
            "",
            proof.name,
            *(
                ("failed", "", "", "")
                if proof.failed
                else map(
                    word, (proof.new_certificate, proof.same_subject, proof.new_taken, proof.old_refused)
                )
            ),
        )
        for proof in proofs
    ]
    headers = (" ", "DEVICE", "NEW CERTIFICATE", "SAME SUBJECT", "NEW ONE TAKEN", "OLD ONE REFUSED")
    console().print(table(headers, rows))


app = single(demo, "fioctl-rotate demo --devices 8 --keep ./rehearsal")
