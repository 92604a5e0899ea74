"""Fleets of a world on which something happens, and how to read what commands wrote about them."""

import asyncio
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.world import World

WORDS = "Unable to submit certificate signing request: connection refused"
EXPECTED = {
    "done": ("done", 5, None),
    "failing": ("failing", 1, None),
    "failing-late": ("failing", 4, None),
    "finalized": ("finalized", 5, None),
    "never": ("pending", 0, "offline"),
    "old": ("pending", 0, "unsupported"),
    "own": ("pending", 0, "shadowed"),
    "pending": ("pending", 0, None),
    "running": ("running", 3, None),
}
"""The state, step and reason of each device of `make_mixed`."""
WATCH = ["watch", "certs-1", "-g", "field", "--interval", "0.05"]


def make_mixed(world: World) -> None:
    """Rotation certs-1, on whose devices everything happens that can."""
    world.add("done", "finalized", "failing", "failing-late", "running", "pending", "own")
    world.add("old", lmp="4.0.1-3-89")
    world.add("never", seen=False)
    world.wait(minutes=1)
    asyncio.run(world.push("certs-0", device="own"))
    asyncio.run(world.push())
    world.wait(seconds=5)
    world.rotate("done", "finalized")
    world.rotate("failing", fail=1, words=WORDS)
    world.rotate("failing-late", fail=4, words="bad \x1b[31m<words> & more")
    world.rotate("running", upto=2)
    world.wait(minutes=30)
    world.come_back("done")
    world.see("pending", "own", "old")


def make_well(world: World) -> None:
    """Rotation certs-1, which two devices have done."""
    world.add("a", "b")
    world.wait(minutes=1)
    asyncio.run(world.push())
    world.wait(seconds=5)
    world.rotate("a", "b")
    world.wait(minutes=20)
    world.come_back("a", "b")


def suite_in(file: Path) -> Any:
    """The first suite of a JUnit file."""
    return ElementTree.parse(file).getroot().find("testsuite")  # noqa: S314  our own file


def outcomes(suite: Any) -> dict[str, str]:
    """How each case of a suite ended, by its name."""
    return {case.get("name"): next((kind.tag for kind in case), "passed") for case in suite}
