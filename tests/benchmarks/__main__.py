"""What the program costs, each figure over a floor that is measured in the same run.

    python -m tests.benchmarks [--runs N] [--devices N] [--json FILE]

A floor is what nobody can go below: the imports that a command cannot do without, or bare requests on one
connection. Ratios are medians of pairs that are run in turn. The large Factory is `synthetic.py`, in a process of
its own. Other benchmarks are run by pytest; each module `bench_*.py` says how.
"""

import argparse
import dataclasses
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import client
from tests.benchmarks.measuring import Factory, Row, bare_requests, in_turn, program, running

TARGET = ("-g", "field", "-r", "why", "--server-name", "est.example.com")
PUSH = ("config", "rotate-certs", *TARGET, "--no-checks")


def start_up(factory: Factory, runs: int) -> Iterator[Row]:
    """What a command costs that asks little or nothing."""
    python = [sys.executable, "-c"]
    offline = program("config", "rotate-certs", *TARGET, "--dryrun", "--offline", "-f", "acme")
    floor = [*python, "import typer"]
    yield in_turn("offline dry run", lambda _: offline, "import typer", floor, runs=runs, wanted=1.25)
    imports = "import typer, httpx, msgspec"
    for name, wanted, arguments in (
        ("dry run, served", 1.05, (*PUSH, "--dryrun")),
        ("rotations list, served", 1.05, ("rotations", "list", "-g", "field")),
        ("push to 5 devices", 1.5, (*PUSH, "-y", "--rotation-id", "bench-{}")),
    ):
        factory.counts()
        row = in_turn(
            name,
            lambda number, arguments=arguments: program(*(word.format(number) for word in arguments)),  # type: ignore[misc]  # a default binds it now
            imports,
            [*python, imports],
            runs=runs,
            wanted=wanted,
            environment=factory.environment,
        )
        yield dataclasses.replace(row, requests=sum(factory.counts().values()) // (runs + 1))


def large(devices: int, home: Path) -> Iterator[Row]:
    """What reading a Factory costs whose devices are all done; the floor is a bare request a device."""
    with running(devices, home) as factory:
        floor = bare_requests(factory.url, min(devices, 5000)) * devices / min(devices, 5000)
        factory.counts()
        for name in ("first show", "show again"):
            cost = factory.run("rotations", "show", "certs-1", "-g", "field")
            yield Row(
                f"{name}, {devices:,} devices", "a bare request a device", cost.cpu, floor, cost.cpu / floor,
                "s CPU", None, cost.memory, cost.requests,
            )  # fmt: skip


def show(row: Row) -> None:
    """A line of the table."""
    wanted = "" if row.wanted is None else f"{row.wanted:.2f}"
    memory = "" if row.memory is None else f"{row.memory:.0f}"
    requests = "" if row.requests is None else f"{row.requests:,}"
    print(
        f"{row.name:<34}{row.floor_name:<30}{row.value:>9.3f}{row.floor:>9.3f} {row.unit:<7}"
        f"{row.ratio:>7.2f}{wanted:>8}{memory:>8}{requests:>10}",
        flush=True,
    )


def main() -> None:
    """Measure, and show the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="What the program costs.")
    parser.add_argument("--runs", type=int, default=9, help="pairs that are measured of each [9]")
    parser.add_argument(
        "--devices", type=int, default=1000, help="of the large Factory, and ten times as many [1000]"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON, too")
    asked = parser.parse_args()
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}"
    print(machine)
    print(
        f"{'':<34}{'over':<30}{'value':>9}{'floor':>9} {'':<7}{'ratio':>7}{'wanted':>8}{'MB':>8}{'requests':>10}"
    )
    rows: list[Row] = []

    def take(found: Iterator[Row]) -> None:
        for row in found:
            show(row)
            rows.append(row)

    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        with running(5, home) as factory:
            take(start_up(factory, asked.runs))
            take(iter([client.row(factory, asked.runs)]))
        for devices in (asked.devices, 10 * asked.devices):
            (folder := home / str(devices)).mkdir()
            take(large(devices, folder))
    if asked.json:
        document = {"machine": machine, "rows": [dataclasses.asdict(row) for row in rows]}
        asked.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
