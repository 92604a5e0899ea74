"""Devices that cannot work: each is named, says so at once and once, and the others go on."""

import asyncio
import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from fioctl_rotate.device.device import Device, StartOutcome
from fioctl_rotate.device.renew_cert import RotationFailed
from fioctl_rotate.device.runner import claimed, run_devices
from fioctl_rotate.errors import Error, Refused
from fioctl_rotate.ops.mock_devices import run_mock_devices
from fioctl_rotate.rotation.progress import STEPS
from tests.device.bench import Bench, sota

Damage = Callable[[Path], object]

FILES = (
    *("sota.toml", "pkey.pem", "client.pem", "root.crt", "current-target"),
    *("config.encrypted", "cert-rotation.state", "cert-rotation.state.completed"),
)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def half(path: Path) -> None:
    text = path.read_bytes() if path.exists() else b"{}"
    path.write_bytes(text[: len(text) // 2])


KINDS: dict[str, Damage] = {
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(missing_ok=True),
    "a folder": folder,
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe\x00\x80"),
    "half": half,
    "nested": lambda path: path.write_bytes(b"[" * 100_000),
    "another type": lambda path: path.write_bytes(b"[1, 2]"),
}
VALUES: tuple[Any, ...] = (None, "", "a\0b", "/nowhere", 7, -(2**62), 0.5, True, ["x"], {"x": "y"})
KEYS = (
    *("tls.server", "tls.pkey_source", "import.tls_cacert_path", "import.tls_pkey_path"),
    *("import.tls_clientcert_path", "simulation.lmp", "simulation.clock_offset", "simulation.strict_est"),
)


def set_value(directory: Path, key: str, value: Any) -> None:
    tables = sota(Device(directory))
    table, _, name = key.partition(".")
    if value is None:
        del tables[table][name]
    else:
        tables[table][name] = value
    (directory / "sota.toml").write_text(tomli_w.dumps(tables))


def set_table(directory: Path, table: str) -> None:
    (directory / "sota.toml").write_text(tomli_w.dumps(sota(Device(directory)) | {table: 7}))


def secrets_as_file(directory: Path) -> None:
    shutil.rmtree(directory / "secrets")
    (directory / "secrets").write_text("")


def damages() -> dict[str, Damage]:
    """All of them, by what they do; each is called with a device's directory."""
    found: dict[str, Damage] = {"secrets: a file": secrets_as_file}
    for file, (kind, damage) in itertools.product(FILES, KINDS.items()):
        found[f"{file}: {kind}"] = partial(
            lambda file, damage, directory: damage(directory / file), file, damage
        )
    for key, value in itertools.product(KEYS, VALUES):
        found[f"{key} = {value!r}"] = partial(set_value, key=key, value=value)
    for table in ("tls", "import", "simulation"):
        found[f"{table} is not a table"] = partial(set_table, table=table)
    return found


def test_whatever_is_damaged_the_others_go_on(bench: Bench) -> None:
    outcomes: dict[str, list[StartOutcome | Error]] = {}
    found = damages()

    async def scenario() -> None:
        bench.gateway.push("certs-1")
        devices = [bench.device("sound")]
        for number, damage in enumerate(found.values()):
            device = bench.device(f"damaged-{number}")
            damage(device.directory)
            devices.append(device)
        stop = asyncio.Event()

        def checked_in(uuid: str, outcome: StartOutcome | Error) -> None:
            outcomes.setdefault(uuid, []).append(outcome)
            if len(outcomes) == len(devices):
                stop.set()

        await run_devices(devices, interval=3600, stop=stop, at_once=8, checked_in=checked_in)

    bench.run(scenario)
    assert outcomes["sound"][0] is StartOutcome.ROTATED
    hurt = {
        name: outcome
        for number, name in enumerate(found)
        if isinstance(outcome := outcomes[f"damaged-{number}"][0], Error)
    }
    assert len(hurt) == 114
    # A device that cannot read what it needs says which file it is.
    for name, error in hurt.items():
        if not isinstance(error, RotationFailed) and "/nowhere" not in name:
            assert "damaged-" in error.message, (name, error)
    # What is left of a rotation counts as one; the rest a device does without, as fioconfig does.
    assert isinstance(hurt["cert-rotation.state: half"], RotationFailed)
    assert not [name for name in hurt if name.startswith("current-target")]


def test_a_damaged_device_is_named_once_and_the_others_rotate(bench: Bench) -> None:
    problems: list[tuple[str, str]] = []
    events: list[tuple[str, str]] = []
    rounds = 0

    async def scenario() -> None:
        nonlocal rounds
        base = bench.directory / "devices"
        bench.directory = base
        for uuid in ("a", "b", "c"):
            bench.device(uuid)
        (base / "b" / "sota.toml").write_text("")
        bench.gateway.push("certs-1")
        stop = asyncio.Event()

        async def reached(_number: int, _moment: str) -> None:
            nonlocal rounds
            rounds += 1
            if rounds > 60:
                stop.set()

        bench.gateway.reached = reached
        await run_mock_devices(
            base.parent,
            {"a": "a", "b": "b", "c": "c"},
            intervals={"a": 0.01, "b": 0.01, "c": 0.01},
            stop=stop,
            observe=lambda uuid, event, _error: events.append((uuid, event)),
            problem=lambda *problem: problems.append(problem),
        )

    bench.run(scenario)
    assert [uuid for uuid, event in events if event == STEPS[-1]].count("a") == 1
    assert {uuid for uuid, _ in events} == {"a", "c"}
    ((uuid, message),) = problems
    assert (uuid, "b/sota.toml: tls.pkey_source is missing" in message) == ("b", True)


def test_a_problem_is_reported_at_the_first_failed_request(bench: Bench) -> None:
    """Not when the last of the retries has failed, 51 seconds later."""
    slept: list[list[str]] = []
    problems: list[str] = []

    async def sleep(_seconds: float) -> None:
        slept.append(list(problems))

    async def scenario() -> None:
        bench.gateway.statuses = [500, 0]
        device = bench.device()
        device = Device(
            device.directory, sleep=sleep, problem=lambda _uuid, message: problems.append(message)
        )
        assert await device.check_in() is StartOutcome.UNCHANGED

    bench.run(scenario)
    (message,) = problems
    assert message.endswith("/config: the gateway answers 500: made up")
    assert slept == [[message]]


def test_two_processes_do_not_run_one_device(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    program = (
        "import pathlib, sys\n"
        "from fioctl_rotate.device.runner import claimed\n"
        "base = pathlib.Path(sys.argv[1])\n"
        "with claimed(base, [base / 'a']):\n"
        "    print('has it', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "has it\n"
        with (
            pytest.raises(Refused, match="another `mock devices` runs device a"),
            claimed(tmp_path, [tmp_path / "b", tmp_path / "a"]),
        ):
            pass
        with claimed(tmp_path, [tmp_path / "b"]):
            pass
    with claimed(tmp_path, [tmp_path / "a", tmp_path / "b"]):
        pass


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Error, match="missing"), claimed(tmp_path / "missing", []):
        pass
