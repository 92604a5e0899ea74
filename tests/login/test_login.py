"""`login`: credentials are tried, kept for their owner alone, and never shown."""

import stat
from pathlib import Path
from typing import Any

import pytest

from fioctl_rotate.settings import default_config_file
from tests.commandline import Cli
from tests.login.credentials import (
    Serve,
    kept,
    no_secret,
)
from tests.pushing import Terminal
from tests.scripted import Reply, Server


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
        (("-f", "acme", "-t", "canary", "file.yaml"), 2, "needs --from-fioctl"),
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


def test_a_factory_that_the_token_does_not_see_is_answered_with_those_it_sees(
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


def test_a_file_that_is_not_a_settings_file_is_not_overwritten(cli: Cli, api: Server, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("factory = acme")
    result = cli("login", "-f", "acme", "--server", api.url, "-c", path, stdin="canary")
    assert (result.code, "is not TOML" in result.err) == (2, True)
    assert path.read_text() == "factory = acme"
    assert api.asked == []


def test_a_file_that_cannot_be_written_is_an_error(
    cli: Cli, api: Server, tokens: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "c.toml"
    # What stands in for a folder without the right to write, which does not stop root.
    (tmp_path / ".c.toml.lock").mkdir()
    result = cli("login", "-f", "acme", "--server", api.url, "-c", path, stdin=tokens["admin"])
    assert (result.code, result.err) == (1, f"error: cannot write settings file {path}: Is a directory\n")
    no_secret(result, secrets=(tokens["admin"],))
