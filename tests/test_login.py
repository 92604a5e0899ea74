"""`login` and `whoami`: credentials are tried, kept for their owner alone, renewed when due, and never shown."""

import base64
import datetime
import json
import os
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import tomli_w
import yaml

from fioctl_rotate.settings import default_config_file
from tests.commandline import Cli, Result
from tests.pushing import Terminal
from tests.scripted import Answer, Asked, Drop, Reply, Server, running_mock

Serve = Callable[..., Server]

CLIENT = {"client_id": "canary-id", "client_secret": "canary-secret"}
LONG_AGO = "2020-01-01T00:00:00Z"


@pytest.fixture
def tokens(acme: Path) -> dict[str, str]:
    """The mock's tokens by role."""
    return {role: (acme / "tokens" / f"acme.{role}").read_text() for role in ("admin", "readonly")}


@pytest.fixture
def api(acme: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The mock with its tokens checked, over HTTP; nothing in the environment names it."""
    with running_mock(acme, authenticate=True) as answer:
        server = serve(answer)
        for name in ("FIOCTL_FACTORY", "FIOCTL_TOKEN", "FIOCTL_ROTATE_SERVER", "FIOCTL_ROTATE_MOCK"):
            monkeypatch.delenv(name, raising=False)
        yield server


class Tokens:
    """A token endpoint before the API: it gives `access`, and remembers what it was asked."""

    def __init__(self, access: str, **more: Any) -> None:
        self.answer: Any = {"access_token": access, "token_type": "bearer", "expires_in": 3600, **more}
        self.status = 200
        self.forms: list[dict[str, str]] = []

    def before(self, answers: Answer) -> Answer:
        def answer(asked: Asked) -> Reply:
            if asked.path != "/oauth/token/":
                return answers(asked)
            assert asked.method == "POST"
            assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
            assert "osf-token" not in asked.headers
            self.forms.append({name: value[0] for name, value in parse_qs(asked.body.decode()).items()})
            if isinstance(self.answer, Exception):
                raise self.answer
            return Reply(self.status, self.answer)

        return answer


@pytest.fixture
def oauth(
    acme: Path, serve: Serve, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Tokens]:
    """The mock behind OAuth at `FIOCTL_ROTATE_SERVER`: its token endpoint gives the mock's admin token."""
    endpoint = Tokens(tokens["admin"], refresh_token="canary-new-refresh")
    with running_mock(acme, authenticate=True) as answer:
        serve(endpoint.before(answer))
        for name in ("FIOCTL_TOKEN", "FIOCTL_ROTATE_MOCK"):
            monkeypatch.delenv(name, raising=False)
        yield endpoint


def kept(path: Path | None = None) -> dict[str, Any]:
    return tomllib.loads((path or default_config_file()).read_text())


def no_secret(*results: Result, secrets: tuple[str, ...] = ()) -> None:
    for result in results:
        for secret in ("canary", *secrets):
            assert secret not in result.out + result.err


# --- login ---


@pytest.mark.parametrize("way", ["variable", "stdin", "flag"])
def test_a_token_is_tried_and_kept_for_its_owner_alone(
    cli: Cli, api: Server, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    token = tokens["admin"]
    if way == "variable":
        monkeypatch.setenv("FIOCTL_TOKEN", token)
    flags = ["-t", token] if way == "flag" else []
    stdin = f"{token}\n" if way == "stdin" else ""
    result = cli("login", "-f", "acme", "--server", f"{api.url}/", "-v", *flags, stdin=stdin)
    assert result.code == 0, result.err
    assert result.out == f"logged in to factory acme at {api.url} as Mock Admin, admin\n"
    assert f"kept in {default_config_file()}" in result.err
    assert kept() == {"factory": "acme", "token": token, "server": api.url}
    assert stat.S_IMODE(default_config_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(default_config_file().parent.stat().st_mode) == 0o700
    no_secret(result, secrets=(token,))
    # And from now on it is all that a command needs.
    monkeypatch.delenv("FIOCTL_TOKEN", raising=False)
    assert cli("devices", "list").code == 0
    assert [asked.headers["osf-token"] for asked in api.asked] == [token] * len(api.asked)


def test_on_a_terminal_it_asks_and_does_not_show_the_token(
    cli: Cli, api: Server, tokens: dict[str, str]
) -> None:
    terminal = Terminal("login")
    terminal.wait_for("Server [https://api.foundries.io]: ")
    terminal.type(f"{api.url}\n")
    terminal.wait_for("Factory: ")
    terminal.type("acme\n")
    terminal.wait_for("Token (not shown): ")
    terminal.type(f"{tokens['readonly']}\n")
    assert terminal.end() == 0, terminal.screen
    assert "https://app.foundries.io/settings/tokens/" in terminal.screen
    assert f"logged in to factory acme at {api.url} as Mock Reader, readonly" in terminal.screen
    assert tokens["readonly"] not in terminal.screen
    assert kept()["token"] == tokens["readonly"]


def test_ctrl_c_at_a_question_keeps_nothing(api: Server) -> None:
    terminal = Terminal("login", "-f", "acme", "--server", api.url)
    terminal.wait_for("Token (not shown): ")
    terminal.type("\x03")
    assert terminal.end() == 130
    assert not default_config_file().exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("-f", "acme", "-t", "canary-wrong"), 1, "401"),
        (("-f", "acme"), 2, "no token given"),
        (("-t", "canary"), 2, "no factory given"),
        (("-f", "acme", "-t", ""), 2, "--token is empty"),
        (("-f", "acme", "-t", "canary", "--mock", "m"), 2, "a mock needs no login"),
        (("-f", "acme", "-t", "canary", "file.yaml"), 2, "goes with --from-fioctl"),
        (("-f", "acme", "-t", "canary", "--server", "http://api.example"), 5, "unencrypted"),
        (("-f", "acme", "-t", "canary", "--server", "api.example"), 2, "not of the form"),
    ],
)
def test_what_does_not_work_is_not_kept(
    cli: Cli, api: Server, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, words: str
) -> None:
    monkeypatch.setenv("FIOCTL_ROTATE_SERVER", api.url)
    result = cli("login", *arguments)
    assert (result.code, result.out) == (code, "")
    assert words in result.err
    assert not default_config_file().exists()
    no_secret(result)


def test_an_empty_token_variable_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIOCTL_TOKEN", "")
    result = cli("login", "-f", "acme", stdin="canary\n")
    assert (result.code, result.err.splitlines()[0]) == (2, "error: FIOCTL_TOKEN is set but empty")


def test_a_factory_that_the_token_does_not_see_is_told_with_those_it_sees(
    cli: Cli, api: Server, tokens: dict[str, str]
) -> None:
    result = cli("login", "-f", "other", "--server", api.url, stdin=tokens["admin"])
    assert (result.code, result.err) == (
        1,
        "error: the token sees no factory other\nhint: factories that it sees: acme\n",
    )
    assert not default_config_file().exists()


@pytest.mark.parametrize("works", ["/device-groups/", "/ota/devices/", "/certs/"])
def test_a_token_that_may_not_read_its_user_is_valid_where_another_call_works(
    cli: Cli, serve: Serve, works: str
) -> None:
    server = serve(lambda asked: Reply(200, {}) if works in asked.path else Reply(403, {"msg": "scope"}))
    result = cli("login", "--server", server.url, "--format", "json")
    assert result.code == 0, result.err
    assert result.json == {
        "factory": "acme",
        "server": server.url,
        "user": None,
        "settings-file": str(default_config_file()),
        "profile": None,
    }
    shown = cli("whoami")
    assert "User:" not in shown.out
    assert "may not read its own user" in shown.err


@pytest.mark.parametrize("command", [["login"], ["whoami"]])
@pytest.mark.parametrize("body", [{"msg": "scope"}, b"<html>blocked by your company</html>"])
def test_a_403_to_everything_is_not_a_login(cli: Cli, serve: Serve, command: list[str], body: Any) -> None:
    server = serve(lambda _: Reply(403, body))
    result = cli(*command, "--server", server.url)
    assert (result.code, result.out) == (1, "")
    assert "answered 403" in result.err
    assert not default_config_file().exists()


def test_an_answer_that_names_no_user_is_not_a_login(cli: Cli, serve: Serve) -> None:
    serve(lambda _: Reply(200, {}))
    result = cli("login")
    assert (result.code, "polis-id" in result.err) == (1, True)
    assert not default_config_file().exists()


def test_a_wrong_token_is_not_told_to_log_in(cli: Cli, api: Server) -> None:
    result = cli("login", "-f", "acme", "--server", api.url, "-t", "canary-wrong")
    assert result.code == 1
    assert "fioctl-rotate login" not in result.err
    assert "https://app.foundries.io/settings/tokens/" in result.err


def test_profiles_are_kept_beside_each_other(
    cli: Cli, api: Server, tokens: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "settings.toml"
    monkeypatch.setenv("FIOCTL_ROTATE_CONFIG", str(path))
    at = ("-f", "acme", "--server", api.url)
    for profile, role in ((None, "admin"), ("work", "readonly"), ("odd name]", "admin"), ("work", "admin")):
        named = ("--profile", profile) if profile else ()
        assert cli("login", *at, *named, stdin=tokens[role]).code == 0
    entry = {"factory": "acme", "server": api.url, "token": tokens["admin"]}
    assert kept(path) == {**entry, "profiles": {"work": entry, "odd name]": entry}}
    assert cli("whoami", "--profile", "odd name]").code == 0
    assert list(path.parent.glob("*.toml")) == [path]


def test_the_rest_of_a_profile_stays_and_a_link_stays_one(
    cli: Cli, api: Server, tokens: dict[str, str], tmp_path: Path
) -> None:
    real, link = tmp_path / "real.toml", tmp_path / "link.toml"
    real.write_text(
        '# mine\ntimeout = 7\nmock = "gone"\n[oauth]\nclient_id = "x"\n[profiles.a]\nfactory = "b"\n'
    )
    link.symlink_to(real)
    assert cli("login", "-f", "acme", "--server", api.url, "-c", link, stdin=tokens["admin"]).code == 0
    assert link.is_symlink()
    assert kept(real) == {
        "timeout": 7,
        "factory": "acme",
        "server": api.url,
        "token": tokens["admin"],
        "profiles": {"a": {"factory": "b"}},
    }


def test_a_settings_file_that_is_none_is_not_overwritten(cli: Cli, api: Server, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("factory = acme")
    result = cli("login", "-f", "acme", "--server", api.url, "-c", path, stdin="canary")
    assert (result.code, "is not TOML" in result.err) == (2, True)
    assert path.read_text() == "factory = acme"
    assert api.asked == []


def test_a_file_that_cannot_be_written_is_told(
    cli: Cli, api: Server, tokens: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "c.toml"
    # What stands in for a folder without the right to write, which does not stop root.
    (tmp_path / ".c.toml.lock").mkdir()
    result = cli("login", "-f", "acme", "--server", api.url, "-c", path, stdin=tokens["admin"])
    assert (result.code, result.err) == (1, f"error: cannot write settings file {path}: Is a directory\n")
    no_secret(result, secrets=(tokens["admin"],))


# --- login --from-fioctl ---


def fioctl_yaml(path: Path, server: Server | str, **document: Any) -> Path:
    url = server if isinstance(server, str) else server.url
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"server": {"url": url, "insecure_skip_verify": False}, **document}))
    return path


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
    from fioctl_rotate.ops.fioctl_config import read

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
    from fioctl_rotate.ops.fioctl_config import read

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
    cli: Cli, oauth: Tokens, tokens: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    cli: Cli, oauth: Tokens, tokens: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        ("token: !!python/object/apply:os.system ['true']", 2, "`token` is not a text"),
        ("factory: acme", 2, "neither a token nor client credentials"),
        ("factory: acme\nclientcredentials: {client_secret: canary}", 2, "neither a token nor client"),
        ("server: x\ntoken: canary", 2, "`server` is not a table"),
        ("clientcredentials: {client_id: a, expires_in: soon}", 2, "`expires_in` is not a number"),
        ("token: canary\nfactory: acme\nserver: {insecure_skip_verify: true}", 5, "CACERT"),
        ("Token: canary\nFactory: acme\nServer: {Insecure_Skip_Verify: 'yes'}", 5, "insecure_skip_verify"),
    ],
)
def test_a_file_of_fioctl_that_cannot_be_taken_over_is_told(
    cli: Cli, tmp_path: Path, document: str, code: int, words: str
) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(document)
    result = cli("login", "--from-fioctl", path)
    assert (result.code, result.out) == (code, "")
    assert words in result.err
    assert not default_config_file().exists()
    no_secret(result)


def test_a_file_of_fioctl_that_is_not_there_is_told(cli: Cli, tmp_path: Path) -> None:
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
    assert f"warning: `extraheaders` of {path} is not taken over" in result.err
    no_secret(result)


# --- An access token in use ---


def server_url(monkeypatch: pytest.MonkeyPatch) -> str:
    url = os.environ["FIOCTL_ROTATE_SERVER"]
    monkeypatch.delenv("FIOCTL_ROTATE_SERVER")
    monkeypatch.delenv("FIOCTL_FACTORY")
    return url


def settings_with(path: Path, server: str, **oauth: Any) -> Path:
    credentials = {**CLIENT, "url": f"{server}/oauth", **oauth}
    profile = {"factory": "acme", "server": server, "oauth": credentials}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tomli_w.dumps({"factory": "untouched", "token": "t", "profiles": {"work": profile}}))
    return path


EXPIRED = {
    "access_token": "canary-old",
    "refresh_token": "canary-refresh",
    "expires_in": 60,
    "created": LONG_AGO,
}


def test_an_expired_access_token_is_refreshed_before_the_first_request_and_kept(
    cli: Cli, oauth: Tokens, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch
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
    assert datetime.timedelta(0) <= age < datetime.timedelta(minutes=1)
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
    cli: Cli, oauth: Tokens, monkeypatch: pytest.MonkeyPatch
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
        (200, b"<html>canary-secret</html>", "something else than an access token"),
        (200, {"token": "canary-x"}, "something else than an access token"),
        (200, Drop(), "broke off"),
    ],
)  # fmt: skip
def test_a_refresh_that_fails_is_told_in_words_and_nothing_is_lost(
    cli: Cli, oauth: Tokens, monkeypatch: pytest.MonkeyPatch, status: int, answer: Any, words: str
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
    ],
)
def test_credentials_that_cannot_be_renewed_are_told(
    cli: Cli,
    oauth: Tokens,
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
    cli: Cli, oauth: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


def test_two_commands_at_once_refresh_once(oauth: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    settings_with(default_config_file(), server_url(monkeypatch), **EXPIRED)
    command = [sys.executable, "-m", "fioctl_rotate", "devices", "list", "--profile", "work"]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate(timeout=30)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert len(oauth.forms) == 1


def test_requests_at_once_in_one_command_refresh_once(
    cli: Cli, oauth: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`rotations show` asks for several devices at once."""
    settings_with(default_config_file(), server_url(monkeypatch), **EXPIRED)
    push = ("config", "rotate-certs", "-g", "field", "-r", "why", "--no-checks", "--rotation-id", "certs-1")
    assert cli(*push, "--profile", "work").code == 0
    assert cli("rotations", "show", "certs-1", "-g", "field", "--profile", "work").code == 0
    assert len(oauth.forms) == 1


# --- whoami ---


def test_whoami_tells_who_where_and_why(
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


def test_whoami_by_oauth(cli: Cli, oauth: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    path = settings_with(default_config_file(), server_url(monkeypatch), **EXPIRED)
    assert f"Login:    OAuth  [{path} [profiles.work]]" in cli("whoami", "--profile", "work").out
