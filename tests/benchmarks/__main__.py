"""What the program costs, each figure over a floor that is measured in the same run.

    python -m tests.benchmarks [--runs N] [--devices N] [--json FILE] [--estserver PROGRAM]

A floor is what nobody can go below, or how it would be done plainly: the imports that a command cannot do without,
bare requests on one connection, the cryptography alone. Ratios are medians of pairs that are run in turn. The large
Factory is `synthetic.py`, in a process of its own. `--estserver` names the real program of that name, as a peer.
"""

import argparse
import dataclasses
import json
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.benchmarks import client, enrolling, large, simulation, startup
from tests.benchmarks.measuring import Row, running


def everything(home: Path, asked: argparse.Namespace) -> Iterator[Row]:
    """The whole table, row by row."""

    def folder(name: str) -> Path:
        (path := home / name).mkdir()
        return path

    with running(5, folder("few")) as factory:
        yield from startup.rows(factory, asked.runs)
        yield client.row(factory, asked.runs)
    for devices in (asked.devices, 10 * asked.devices, 100 * asked.devices):
        yield from large.rows(devices, folder(f"large-{devices}"))
    yield large.slow(folder("slow"))
    yield from enrolling.rows(folder("est"), asked.runs, asked.estserver)
    for devices in simulation.MADE:
        yield simulation.making(devices, folder(f"making-{devices}"))
        yield simulation.cloning(devices, folder(f"cloning-{devices}"))
    for devices in simulation.ROTATED:
        yield simulation.rotating(devices, folder(f"rotating-{devices}"))


COLUMNS = (
    ("what", "<38"), ("value", ">7"), ("floor", ">7"), ("", "<6"), ("ratio", ">6"), ("wanted", "<14"),
    ("reached", "<7"), ("MB", ">4"), ("requests", ">8"), ("over", "<30"),
)  # fmt: skip


def show(cells: Iterable[str]) -> None:
    """A line of the table."""
    line = "  ".join(f"{cell:{width}}" for cell, (_, width) in zip(cells, COLUMNS, strict=True))
    print(line.rstrip(), flush=True)


def cells(row: Row) -> Iterator[str]:
    """A row's cells, as COLUMNS has them."""
    yield row.name
    yield from (f"{figure:.3f}" if figure < 10 else f"{figure:,.1f}" for figure in (row.value, row.floor))
    yield row.unit
    yield f"{row.ratio:.2f}"
    yield row.wanted.text(row.unit)
    yield {None: "", True: "yes", False: "no"}[row.reached]
    yield "" if row.memory is None else f"{row.memory:.0f}"
    yield "" if row.requests is None else f"{row.requests:,}"
    yield row.floor_name


def processor() -> str:
    """What the machine's processor calls itself."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def main() -> None:
    """Measure, and show the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="What the program costs.")
    parser.add_argument("--runs", type=int, default=9, help="pairs that are measured of each [9]")
    parser.add_argument(
        "--devices", type=int, default=1000, help="of the large Factory, then 10 and 100 times as many [1000]"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON, too")
    parser.add_argument("--estserver", metavar="PROGRAM", help="the real estserver, as a peer of `est serve`")
    asked = parser.parse_args()
    machine = (
        f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} x {processor()}"
    )
    load = os.getloadavg()[0]
    print(f"{machine}, load {load:.1f}")
    show(name for name, _ in COLUMNS)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        # What is measured in this process keeps its files there too.
        os.environ |= {f"XDG_{kind}_HOME": str(Path(name, kind)) for kind in ("CACHE", "CONFIG", "STATE")}
        for row in everything(Path(name), asked):
            show(cells(row))
            rows.append(row)
    if asked.json:
        table = [dataclasses.asdict(row) | {"reached": row.reached} for row in rows]
        document = {"machine": machine, "load": load, "rows": table}
        asked.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
