"""A PKI directory in which anything can be anything: each command ends in one line that names the file."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commandline import Cli

NAMES = ("factory_ca.key", "factory_ca.pem", "local-ca.key", "local-ca.pem", "online-crt", "tls-crt")


def mutated(path: Path) -> None:
    """A few bytes set, cut or added; the same ones for a file of the same name."""
    chance = random.Random(path.name)  # noqa: S311  no secret
    data = bytearray(path.read_bytes())
    for _ in range(4):
        at = chance.randrange(len(data))
        data[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
    path.unlink()
    path.write_bytes(data)


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "mutated": mutated,
    "empty": replaced(Path.touch),
    "a directory": replaced(Path.mkdir),
    "a pipe": replaced(os.mkfifo),
    "a device": replaced(lambda path: path.symlink_to("/dev/zero")),
    "a dangling link": replaced(lambda path: path.symlink_to("nowhere")),
    "a loop": replaced(lambda path: path.symlink_to(path.name)),
    "binary": replaced(lambda path: path.write_bytes(bytes(range(256)) * 9)),
    "huge": replaced(lambda path: path.write_bytes(b"A" * (2 << 20))),
    "UTF-16": replaced(lambda path: path.write_text("-----BEGIN CERTIFICATE-----", "utf-16")),
    "no end": replaced(lambda path: path.write_text("-----BEGIN CERTIFICATE-----\n")),
}
COMMANDS = {
    "check": ("keys", "check"),
    "create": ("keys", "ca", "create"),
    "authorize": ("est", "authorize"),
    "add-device-ca": ("keys", "ca", "add-device-ca", "--online-ca"),
    "disable-device-ca": ("keys", "ca", "disable-device-ca", "--dry-run", "--ca-file", "local-ca.pem"),
    "rotate-tls": ("keys", "ca", "rotate-tls"),
    "keypair": ("est", "keypair", "est.example.com"),
}


@pytest.fixture
def damaged(acme: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """`damaged(damage, name)`: the Factory's PKI directory with one file damaged."""
    monkeypatch.setattr("fioctl_rotate.files._PATIENCE", 0.05)

    def make(damage: str, name: str) -> Path:
        directory = tmp_path / "damaged"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(acme / "pki", directory)
        DAMAGES[damage](directory / name)
        return directory

    return make


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_command_ends_in_one_line(damage: str, damaged: Callable[[str, str], Path], cli: Cli) -> None:
    for name in NAMES:
        for command in COMMANDS.values():
            directory = damaged(damage, name)
            others = {path.name: path.read_bytes() for path in directory.iterdir() if path.name != name}

            result = cli(*command, directory)

            assert result.code in (0, 1, 5), (name, command, result)
            for text in ("unexpected", "Traceback", "defect"):
                assert text not in result.out + result.err, (name, command, result)
            if command == COMMANDS["check"]:
                assert "factory_ca.pem" in result.out, "no fault ends the checks early"
                assert "Factory root" in result.out or name == "factory_ca.pem"
            if name == "factory_ca.pem":
                assert result.code != 0, (command, result)
                assert name in result.out + result.err or "has none" in result.err
            kept = {path.name: path.read_bytes() for path in directory.iterdir() if path.name in others}
            replaced_here = {"tls-crt", "online-crt"}  # kept as .bak
            assert {n: d for n, d in kept.items() if n not in replaced_here} == {
                n: d for n, d in others.items() if n not in replaced_here
            }, (name, command)
