"""`profiles`, and which profile of the settings file a command uses."""

import tomllib
from pathlib import Path

import pytest

from fioctl_rotate.settings import default_config_file
from tests.commandline import Cli


@pytest.fixture
def file(cli: Cli, mock_dir: Path) -> Path:
    """The default settings file: three Factories on one mock, `first` at the top level."""
    for name in ("first", "second", "third"):
        assert cli("mock", "init", mock_dir, "-f", name, "--bare").code == 0
    path = default_config_file()
    path.parent.mkdir(parents=True)
    path.write_text(
        f'factory = "first"\nmock = "{mock_dir}"\n'
        f'[profiles.two]\nfactory = "second"\nmock = "{mock_dir}"\n'
        f'[profiles.three]\nfactory = "third"\nmock = "{mock_dir}"\n'
        '[profiles.real]\nfactory = "acme"\ntoken = "canary"\n'
    )
    return path


def factory(cli: Cli, *flags: str) -> str:
    shown = cli("whoami", *flags, "--format", "json")
    assert shown.code == 0, shown.err
    name: str = shown.json["factory"]
    return name


def test_flags_beat_environment_beats_the_file(cli: Cli, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert factory(cli) == "first"
    assert cli("profiles", "use", "two").code == 0
    assert factory(cli) == "second"
    monkeypatch.setenv("FIOCTL_ROTATE_PROFILE", "three")
    assert factory(cli) == "third"
    assert factory(cli, "--profile", "two") == "second"
    assert factory(cli, "--profile", "default") == "first"
    assert factory(cli, "-f", "first") == "first"
    monkeypatch.setenv("FIOCTL_ROTATE_PROFILE", "gone")
    assert "no profile `gone`" in cli("whoami").err


def test_the_one_in_use_is_marked_and_no_token_is_shown(cli: Cli, file: Path, mock_dir: Path) -> None:
    rows = [line.split("\t") for line in cli("profiles", "list").out.splitlines()]
    assert rows[0] == ["USED", "PROFILE", "FACTORY", "AT", "LOGIN"]
    assert rows[1] == ["*", "default", "first", f"mock {mock_dir}"]
    assert rows[4] == ["", "real", "acme", "https://api.foundries.io", "API token"]
    cli("profiles", "use", "real")
    listed = cli("profiles", "list", "--format", "json")
    assert (listed.json["current"], "canary" in listed.out) == ("real", False)


def test_using_one_changes_nothing_else(cli: Cli, file: Path) -> None:
    before = tomllib.loads(file.read_text())
    used = cli("profiles", "use", "two")
    assert used.out.startswith("using profile two: factory second at mock ")
    assert tomllib.loads(file.read_text()) == {"profile": "two", **before}
    assert cli("profiles", "use", "nosuch").code == 2
    assert tomllib.loads(file.read_text())["profile"] == "two"
    assert cli("profiles", "use", "default").code == 0
    assert tomllib.loads(file.read_text()) == before


def test_without_a_file_there_is_the_default_alone(cli: Cli, tmp_path: Path) -> None:
    shown = cli("profiles", "list", "-c", tmp_path / "none.toml", "--format", "json").json
    assert [profile["profile"] for profile in shown["profiles"]] == ["default"]


def test_a_file_that_uses_what_is_not_there_is_refused(cli: Cli, file: Path) -> None:
    file.write_text('profile = "gone"\n' + file.read_text())
    refused = cli("whoami")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("error: no profile `gone` in ")
