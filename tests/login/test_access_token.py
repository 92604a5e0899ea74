"""OAuth access tokens: renewed once they have expired, kept, and never shown."""

import base64
import datetime
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fioctl_rotate.settings import default_config_file
from tests.commandline import Cli
from tests.login.credentials import (
    CLIENT,
    EXPIRED,
    Serve,
    TokenEndpoint,
    fioctl_yaml,
    kept,
    no_secret,
    server_url,
    settings_with,
)
from tests.scripted import Drop, Reply


def test_an_expired_access_token_is_refreshed_before_the_first_request_and_kept(
    cli: Cli, oauth: TokenEndpoint, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server_url(monkeypatch)
    path = settings_with(default_config_file(), url, **EXPIRED)
    results = [cli("devices", "list", "--profile", "work", "-v") for _ in range(2)]
    assert [result.code for result in results] == [0, 0], results[0].err
    assert oauth.forms == [{**CLIENT, "grant_type": "refresh_token", "refresh_token": "canary-refresh"}]
    assert results[0].err.startswith(f"POST {url}/oauth/token/: 200\n")
    document = kept(path)
    assert (document["factory"], document["token"]) == ("untouched", "t")
    credentials = document["profiles"]["work"]["oauth"]
    assert credentials["access_token"] == tokens["admin"]
    assert credentials["refresh_token"] == "canary-new-refresh"
    assert credentials["expires_in"] == 3600
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(credentials["created"])
    assert datetime.timedelta(0) <= age < datetime.timedelta(minutes=10)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    no_secret(*results, secrets=(tokens["admin"],))


def test_the_access_token_goes_as_fioctl_sends_it(
    cli: Cli, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(lambda _: Reply(200, {"groups": []}))
    monkeypatch.delenv("FIOCTL_TOKEN")
    settings_with(default_config_file(), server_url(monkeypatch), access_token="good")
    assert cli("config", "device-group", "list", "--profile", "work").code == 0
    # Beside an API token the access token goes along as it is, expired or not.
    settings_with(default_config_file(), server.url, **EXPIRED)
    assert cli("config", "device-group", "list", "--profile", "work", "-t", "api").code == 0
    alone, beside = (asked.headers for asked in server.asked)
    assert alone["authorization"] == "Bearer " + base64.b64encode(b"good").decode()
    assert "osf-token" not in alone
    assert beside["osf-token"] == "api"
    assert beside["authorization"] == "Bearer " + base64.b64encode(b"canary-old").decode()


def test_a_refresh_without_a_new_refresh_token_keeps_the_old_one(
    cli: Cli, oauth: TokenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    del oauth.answer["refresh_token"]
    path = settings_with(default_config_file(), server_url(monkeypatch), **EXPIRED)
    assert cli("devices", "list", "--profile", "work").code == 0
    assert kept(path)["profiles"]["work"]["oauth"]["refresh_token"] == "canary-refresh"


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (400, {"error": "invalid_grant", "error_description": "canary-refresh is void"},
         "answered 400: invalid_grant, … is void"),
        (401, b"<html>canary-secret</html>", "answered 401\n"),
        (500, {}, "answered 500\n"),
        (302, b"", "answered 302\n"),
        (200, b"<html>canary-secret</html>", "without a valid access token"),
        (200, {"token": "canary-x"}, "without a valid access token"),
        (200, Drop(), "closed the connection before its answer"),
    ],
)  # fmt: skip
def test_a_refresh_that_fails_is_an_error_and_loses_nothing(
    cli: Cli, oauth: TokenEndpoint, monkeypatch: pytest.MonkeyPatch, status: int, answer: Any, words: str
) -> None:
    oauth.status, oauth.answer = status, answer
    path = settings_with(default_config_file(), server_url(monkeypatch), **EXPIRED)
    before = path.read_text()
    result = cli("devices", "list", "--profile", "work", "-v")
    assert (result.code, result.out) == (1, "")
    assert "error: no OAuth access token: " in result.err
    assert words in result.err
    assert path.read_text() == before
    assert len(oauth.forms) == 1
    no_secret(result)


@pytest.mark.parametrize(
    ("credentials", "code", "words"),
    [
        ({**EXPIRED, "refresh_token": ""}, 1, "there is no refresh token"),
        ({**EXPIRED, "client_secret": ""}, 1, "have no client_secret"),
        ({**EXPIRED, "created": "yesterday"}, 2, "which is not a time"),
        ({**EXPIRED, "url": "http://app.example/oauth"}, 5, "secret would travel unencrypted to app.example"),
        ({**EXPIRED, "url": "app.example"}, 2, "not of the form"),
        ({**EXPIRED, "url": "https://u:canary@app.example"}, 2, "not of the form"),
        ({**EXPIRED, "url": "https://[::1"}, 2, "not of the form"),
        ({**EXPIRED, "url": "https://app.example:99999"}, 2, "not of the form"),
    ],
)
def test_credentials_that_cannot_be_renewed_are_an_error(
    cli: Cli,
    oauth: TokenEndpoint,
    monkeypatch: pytest.MonkeyPatch,
    credentials: dict[str, Any],
    code: int,
    words: str,
) -> None:
    settings_with(default_config_file(), server_url(monkeypatch), **credentials)
    result = cli("devices", "list", "--profile", "work")
    assert (result.code, result.out) == (code, "")
    assert words in result.err
    assert oauth.forms == []
    no_secret(result)


def test_a_login_that_fails_after_a_refresh_keeps_what_was_refreshed(
    cli: Cli, oauth: TokenEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server_url(monkeypatch)
    oauth.answer["access_token"] = "canary-not-known-to-the-mock"
    path = fioctl_yaml(
        tmp_path / "f.yaml",
        url,
        factory="acme",
        clientcredentials={**CLIENT, **EXPIRED, "url": f"{url}/oauth"},
    )
    result = cli("login", "--from-fioctl", path)
    assert (result.code, "401" in result.err) == (1, True)
    # The old refresh token may be void by now, so losing the new one would lock its owner out.
    assert kept()["oauth"]["refresh_token"] == "canary-new-refresh"
    no_secret(result)


def test_two_commands_at_once_refresh_once(oauth: TokenEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    settings_with(default_config_file(), server_url(monkeypatch), **EXPIRED)
    command = [sys.executable, "-m", "fioctl_rotate", "devices", "list", "--profile", "work"]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert len(oauth.forms) == 1


def test_requests_at_once_in_one_command_refresh_once(
    cli: Cli, oauth: TokenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`rotations show` asks for several devices at once."""
    settings_with(default_config_file(), server_url(monkeypatch), **EXPIRED)
    push = ("config", "rotate-certs", "-g", "field", "-r", "why", "--no-checks", "--rotation-id", "certs-1")
    assert cli(*push, "--profile", "work").code == 0
    assert cli("rotations", "show", "certs-1", "-g", "field", "--profile", "work").code == 0
    assert len(oauth.forms) == 1
