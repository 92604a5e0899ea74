"""`whoami`: which Factory, user and server, and why."""

import json
from pathlib import Path

import pytest

from fioctl_rotate.settings import default_config_file
from tests.commandline import Cli
from tests.login.credentials import (
    EXPIRED,
    TokenEndpoint,
    no_secret,
    server_url,
    settings_with,
)
from tests.scripted import Server


def test_whoami_shows_who_where_and_why(
    cli: Cli, api: Server, tokens: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f'token = "{tokens["readonly"]}"\nfactory = "other"\ntimeout = 9\n')
    monkeypatch.setenv("FIOCTL_FACTORY", "acme")
    result = cli("whoami", "--server", api.url, "-c", path, "-v")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == "Factory:  acme  [FIOCTL_FACTORY]"
    assert lines[1] == f"Server:   {api.url}  [--server]"
    assert lines[2].startswith("User:     Mock Reader, readonly (")
    assert lines[3] == f"Login:    API token  [{path}]"
    assert lines[4] == f"Timeout:  9 s  [{path}]"
    told = cli("whoami", "--server", api.url, "-c", path, "--format", "json").json
    assert told["sources"] == {
        "factory": "FIOCTL_FACTORY", "server": "--server", "token": str(path), "timeout": str(path)
    }  # fmt: skip
    assert (told["factory"], told["server"], told["login"]) == ("acme", api.url, "API token")
    assert (told["user"]["name"], told["user"]["role"]) == ("Mock Reader", "readonly")
    assert (told["settings-file"], told["profile"]) == (str(path), None)
    no_secret(result, secrets=(tokens["readonly"],))
    assert tokens["readonly"] not in json.dumps(told)


def test_whoami_of_a_mock(cli: Cli, acme: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIOCTL_TOKEN", "canary")
    result = cli("whoami")
    assert result.code == 0
    assert f"Server:   mock {acme}  [FIOCTL_ROTATE_MOCK]" in result.out
    assert "Login:" not in result.out
    told = cli("whoami", "--format", "json").json
    assert told["login"] is None
    assert told["sources"] == {"factory": "FIOCTL_FACTORY", "mock": "FIOCTL_ROTATE_MOCK"}
    no_secret(result)


def test_whoami_of_a_token_that_is_refused(cli: Cli, api: Server) -> None:
    result = cli("whoami", "-f", "acme", "--server", api.url, "-t", "canary")
    assert (result.code, result.out) == (1, "")
    assert "401" in result.err
    no_secret(result)


def test_whoami_by_oauth(cli: Cli, oauth: TokenEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    path = settings_with(default_config_file(), server_url(monkeypatch), **EXPIRED)
    assert f"Login:    OAuth  [{path} [profiles.work]]" in cli("whoami", "--profile", "work").out
