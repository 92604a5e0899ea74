"""`login --from-fioctl`: what fioctl keeps is tried and taken over."""

import datetime
from pathlib import Path

import pytest

from fioctl_rotate.ops.fioctl_config import read
from fioctl_rotate.settings import default_config_file
from tests.commandline import Cli
from tests.login.credentials import (
    CLIENT,
    TokenEndpoint,
    fioctl_yaml,
    kept,
    no_secret,
    server_url,
)
from tests.scripted import Server


@pytest.mark.parametrize("place", ["argument", "variable", "home"])
def test_fioctls_token_is_taken_over(
    cli: Cli,
    api: Server,
    tokens: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    home = Path.home() / ".config" / "fioctl.yaml"
    path = home if place == "home" else tmp_path / "fioctl.yaml"
    fioctl_yaml(path, api, factory="acme", token=tokens["admin"])
    if place == "variable":
        monkeypatch.setenv("FIOCTL_CONFIG", str(path))
    result = cli("login", "--from-fioctl", *([path] if place == "argument" else []))
    assert result.code == 0, result.err
    assert kept() == {"factory": "acme", "token": tokens["admin"], "server": api.url}
    no_secret(result, secrets=(tokens["admin"],))


def test_a_file_is_read_as_fioctl_writes_it_after_its_own_login(tmp_path: Path) -> None:
    path = tmp_path / "fioctl.yaml"
    path.write_text(
        "clientcredentials:\n  access_token: AT\n  client_id: cid\n  client_secret: 007\n"
        '  created: "2026-11-24T15:59:33Z"\n  expires_in: 3600\n  refresh_token: RT\n  token_type: bearer\n'
        "  url: https://app.foundries.io/oauth\nfactory: acme\n"
        'server:\n  insecure_skip_verify: false\n  url: ""\n'
    )
    oauth = {
        "client_id": "cid",
        "client_secret": "007",  # what looks like a number is still the secret as it was typed
        "access_token": "AT",
        "refresh_token": "RT",
        "token_type": "bearer",
        "expires_in": 3600.0,
        "created": "2026-11-24T15:59:33Z",
        "url": "https://app.foundries.io/oauth",
    }
    assert read(path) == ({"factory": "acme", "oauth": oauth}, [])


def test_what_the_mock_writes_for_fioctl_can_be_taken_over(cli: Cli, acme: Path, api: Server) -> None:
    """The mock's fioctl.yaml is read by the real fioctl; so it is by us."""
    token = (acme / "tokens" / "acme.admin").read_text()
    text = f'factory: "acme"\ntoken: "{token}"\nserver:\n  url: "{api.url}"\n'
    (acme / "fioctl.yaml").write_text(text)
    assert read(acme / "fioctl.yaml") == ({"factory": "acme", "token": token, "server": api.url}, [])


def test_flags_beat_fioctls_file_and_variables_fill_its_gaps(
    cli: Cli, api: Server, tokens: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fioctl_yaml(tmp_path / "f.yaml", "https://elsewhere.example", token=tokens["admin"])
    assert "names no factory" in cli("login", "--from-fioctl", path).err
    monkeypatch.setenv("FIOCTL_FACTORY", "acme")
    assert cli("login", "--from-fioctl", path, "--server", api.url).code == 0
    assert kept() == {"factory": "acme", "token": tokens["admin"], "server": api.url}


def test_an_access_token_that_is_good_is_taken_over_as_it_is(
    cli: Cli, oauth: TokenEndpoint, tokens: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server_url(monkeypatch)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    credentials = {**CLIENT, "access_token": tokens["admin"], "refresh_token": "canary-refresh",
                   "expires_in": 3600, "created": now, "url": f"{url}/oauth", "token_type": "bearer"}  # fmt: skip
    path = fioctl_yaml(tmp_path / "f.yaml", url, factory="acme", clientcredentials=credentials)
    result = cli("login", "--from-fioctl", path, "-v")
    assert result.code == 0, result.err
    assert kept() == {"factory": "acme", "server": url, "oauth": credentials}
    assert oauth.forms == []
    no_secret(result, secrets=(tokens["admin"],))


def test_a_first_access_token_is_got_with_the_client_secret(
    cli: Cli, oauth: TokenEndpoint, tokens: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server_url(monkeypatch)
    path = fioctl_yaml(
        tmp_path / "f.yaml", url, factory="acme", clientcredentials={**CLIENT, "url": f"{url}/oauth/"}
    )
    result = cli("login", "--from-fioctl", path, "-v")
    assert result.code == 0, result.err
    assert oauth.forms == [{**CLIENT, "grant_type": "client_credentials"}]
    credentials = kept()["oauth"]
    assert (credentials["access_token"], credentials["refresh_token"]) == (
        tokens["admin"],
        "canary-new-refresh",
    )
    assert f"POST {url}/oauth/token/: 200" in result.err
    no_secret(result, secrets=(tokens["admin"],))


@pytest.mark.parametrize(
    ("document", "code", "words"),
    [
        ("", 2, "not a settings file of fioctl"),
        ("- canary", 2, "not a settings file of fioctl"),
        ("token: 'canary", 2, "is not YAML, line 1"),
        ("a: 1\n\ttoken: canary", 2, "is not YAML, line 2"),
        ("token: !!python/object/apply:os.system ['true']", 2, "`token` is not a string"),
        ("factory: acme", 2, "neither a token nor client credentials"),
        ("factory: acme\nclientcredentials: {client_secret: canary}", 2, "neither a token nor client"),
        ("server: x\ntoken: canary", 2, "`server` is not a table"),
        ("clientcredentials: {client_id: a, expires_in: soon}", 2, "`expires_in` is not a number"),
        ("token: canary\nfactory: acme\nserver: {insecure_skip_verify: true}", 5, "CACERT"),
        ("Token: canary\nFactory: acme\nServer: {Insecure_Skip_Verify: 'yes'}", 5, "insecure_skip_verify"),
    ],
)
def test_a_file_of_fioctl_that_cannot_be_taken_over_is_refused(
    cli: Cli, tmp_path: Path, document: str, code: int, words: str
) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(document)
    result = cli("login", "--from-fioctl", path)
    assert (result.code, result.out) == (code, "")
    assert words in result.err
    assert not default_config_file().exists()
    no_secret(result)


def test_a_file_of_fioctl_that_is_not_there_is_an_error(cli: Cli, tmp_path: Path) -> None:
    result = cli("login", "--from-fioctl")
    assert (result.code, result.err) == (
        2,
        f"error: cannot read {Path.home()}/.config/fioctl.yaml: No such file or directory\n",
    )
    (tmp_path / "f.yaml").write_bytes(b"\xff")
    assert "is not YAML" in cli("login", "--from-fioctl", tmp_path / "f.yaml").err


def test_extra_headers_are_left_behind_and_said_so(
    cli: Cli, api: Server, tokens: dict[str, str], tmp_path: Path
) -> None:
    path = fioctl_yaml(
        tmp_path / "f.yaml", api, factory="acme", token=tokens["admin"], extraheaders={"X-A": "canary"}
    )
    result = cli("login", "--from-fioctl", path)
    assert result.code == 0
    assert f"warning: `extraheaders` of {path} is ignored" in result.err
    no_secret(result)
