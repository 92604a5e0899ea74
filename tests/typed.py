"""The README's command blocks as a person types them: bash splits the words, and this process runs the commands."""

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()

# In place of the program: each call leaves its words, its environment, and a mark on stdout.
_INSTEAD = r"""
set -eu
fioctl-rotate() {
    calls=$((calls + 1))
    printf '%s\0' "$@" > "$CALLS/$calls.words"
    env -0 > "$CALLS/$calls.environment"
    echo "<output of call $calls>"
}
calls=0
"""


def blocks() -> dict[str, str]:
    """Every block of commands in the README by its heading and its number there: `Rehearse it 2`."""
    found: dict[str, str] = {}
    for section in re.split(r"^## ", README, flags=re.MULTILINE)[1:]:
        heading = section.partition("\n")[0]
        for number, block in enumerate(
            re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL), 1
        ):
            found[f"{heading} {number}"] = block
    return found


@dataclass(frozen=True)
class Call:
    """The program as it was called: arguments, environment, where, and the file that gets its output."""

    words: list[str]
    environment: dict[str, str]
    cwd: Path
    output: Path | None


def calls(block: str, cwd: Path, scratch: Path) -> Iterator[Call]:
    """The calls of the program in a block that is typed into a shell in `cwd`, in their order."""
    scratch.mkdir()
    subprocess.run(
        ["bash", "-c", _INSTEAD + block], cwd=cwd, env=os.environ | {"CALLS": str(scratch)}, check=True,
        capture_output=True, timeout=120,
    )  # fmt: skip
    for number in range(1, len(list(scratch.glob("*.words"))) + 1):
        words = (scratch / f"{number}.words").read_text().split("\0")[:-1]
        lines = (scratch / f"{number}.environment").read_text().split("\0")[:-1]
        environment = dict(line.split("=", 1) for line in lines)
        now = Path(environment["PWD"])
        mark = f"<output of call {number}>\n".encode()
        output = (file for file in now.iterdir() if file.is_file() and file.read_bytes() == mark)
        yield Call(words, environment, now, next(output, None))
