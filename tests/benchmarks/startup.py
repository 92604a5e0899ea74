"""What a command costs that asks little or nothing, over the imports that it cannot do without."""

import sys
from collections.abc import Iterator
from dataclasses import replace

from tests.benchmarks.measuring import Factory, Row, Wanted, commands_in_turn, program, row_of

TARGET = ("-g", "field", "-r", "why", "--server-name", "est.example.com")
PUSH = ("config", "rotate-certs", *TARGET)
SERVED = (
    ("dry run, served", 1.05, (*PUSH, "--no-checks", "--dryrun")),
    ("rotations list, served", 1.05, ("rotations", "list", "-g", "field")),
    ("push to 5 devices", 1.5, (*PUSH, "--no-checks", "-y", "--rotation-id", "bench-{}")),
)


def rows(factory: Factory, runs: int) -> Iterator[Row]:
    """One offline, the others on the Factory; {} in a command is the number of its run."""
    offline = program("config", "rotate-certs", *TARGET, "--dryrun", "--offline", "-f", "acme")
    yield _row("offline dry run", 1.25, offline, "import typer", runs, {})
    for name, wanted, arguments in SERVED:
        factory.counts()
        row = _row(
            name, wanted, program(*arguments), "import typer, httpx, msgspec", runs, factory.environment
        )
        yield replace(row, requests=sum(factory.counts().values()) // (runs + 1))


def _row(
    name: str, wanted: float, command: list[str], imports: str, runs: int, environment: dict[str, str]
) -> Row:
    pairs, memory = commands_in_turn(
        lambda number: [word.format(number) for word in command],
        [sys.executable, "-c", imports],
        runs,
        environment,
    )
    return row_of(name, imports, pairs, "s CPU", Wanted(ratio=wanted), memory=memory)
