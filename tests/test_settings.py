"""Where settings come from, which of them wins, and which are refused before anything is sent."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fioctl_rotate.errors import Refused, UsageError
from fioctl_rotate.settings import Flags, load_file, resolve
from tests.commandline import Cli
from tests.scripted import Reply, Server

Serve = Callable[..., Server]


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


# --- Flags beat environment beat file ---

LEVELS = st.tuples(*[st.sampled_from(["", "one", "two"])] * 3)


@pytest.mark.parametrize(
    ("key", "variable"),
    [("factory", "FIOCTL_FACTORY"), ("token", "FIOCTL_TOKEN"), ("server", "FIOCTL_ROTATE_SERVER")],
)
@given(values=LEVELS)
def test_the_nearest_level_that_says_something_wins(
    tmp_path_factory: pytest.TempPathFactory, key: str, variable: str, values: tuple[str, str, str]
) -> None:
    def named(value: str, level: str) -> str:
        return f"https://{level}-{value}" if key == "server" else f"{level}-{value}"

    flag, environment, file = (
        named(value, level) if value else None
        for value, level in zip(values, ("flag", "variable", "file"), strict=True)
    )
    path = tmp_path_factory.mktemp("settings") / "config.toml"
    rest = "" if key == "token" else 'token = "t"\n'
    path.write_text(rest + (f'{key} = "{file}"\n' if file else ""))
    environ = {variable: environment} if environment else {}
    given: dict[str, Any] = {key: flag}
    flags = Flags(**given, config=str(path))
    if key == "token" and not any(values):
        with pytest.raises(UsageError, match="no token and no mock"):
            resolve(flags, environ)
        return
    settings = resolve(flags, environ)
    winner, source = next(
        ((v, s) for v, s in ((flag, f"--{key}"), (environment, variable), (file, str(path))) if v),
        ("https://api.foundries.io", "default") if key == "server" else (None, None),
    )
    assert getattr(settings, key) == winner
    assert settings.sources.get(key) == source


def test_a_mock_at_a_nearer_level_beats_a_server_and_the_other_way_round(tmp_path: Path) -> None:
    config = write(tmp_path / "c.toml", 'server = "https://file"\ntoken = "t"\n')
    assert resolve(Flags(config=config), {"FIOCTL_ROTATE_MOCK": "dir"}).destination == "mock dir"
    nearer = resolve(Flags(config=config, server="https://flag/"), {"FIOCTL_ROTATE_MOCK": "dir"})
    assert (nearer.mock, nearer.server) == (None, "https://flag")


@pytest.mark.parametrize("level", ["flags", "environment", "file"])
def test_a_mock_and_a_server_on_one_level_contradict_each_other(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, level: str
) -> None:
    flags: list[str] = []
    if level == "flags":
        flags = ["--mock", "dir", "--server", "https://api.example"]
    elif level == "environment":
        monkeypatch.setenv("FIOCTL_ROTATE_MOCK", "dir")
        monkeypatch.setenv("FIOCTL_ROTATE_SERVER", "https://api.example")
    else:
        flags = ["-c", write(tmp_path / "c.toml", 'mock = "dir"\nserver = "https://api.example"\n')]
    result = cli("devices", "list", "-f", "acme", "-t", "canary", *flags)
    assert result.code == 2
    assert "both a mock (dir) and a server (https://api.example)" in result.err
    assert "canary" not in result.err


def test_a_mock_beats_a_token_and_says_so(cli: Cli, acme: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIOCTL_TOKEN", "canary")
    result = cli("devices", "list")
    assert result.code == 0
    assert result.err == f"talking to the mock in {acme} (FIOCTL_ROTATE_MOCK); the token is not used\n"


def test_a_mock_needs_no_token_not_even_a_full_variable(
    cli: Cli, acme: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIOCTL_TOKEN", "")
    assert cli("devices", "list").code == 0


def test_the_default_file_and_its_profiles(cli: Cli, acme: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fioctl_rotate.settings import default_config_file

    monkeypatch.delenv("FIOCTL_FACTORY")
    monkeypatch.delenv("FIOCTL_ROTATE_MOCK")
    path = default_config_file()
    path.parent.mkdir(parents=True)
    write(path, f'factory = "other"\nmock = "{acme}"\n[profiles.work]\nfactory = "acme"\nmock = "{acme}"\n')
    assert "no factory other" in cli("devices", "list").err
    assert cli("devices", "list", "--profile", "work").code == 0
    unknown = cli("devices", "list", "--profile", "play")
    assert (unknown.code, unknown.err) == (
        2,
        f"error: no profile `play` in {path}\nhint: profiles there: work\n",
    )
    # A profile is taken whole: it inherits nothing of the default one.
    write(path, f'factory = "acme"\nmock = "{acme}"\n[profiles.work]\nfactory = "acme"\n')
    assert "no token and no mock" in cli("devices", "list", "--profile", "work").err


# --- What is refused ---


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("factory = acme", "is not TOML"),
        ("[", "is not TOML"),
        ("\x00", "is not TOML"),
        ('factroy = "acme"', "unknown key `factroy`"),
        ("factory = 1", "`factory` is not a string"),
        ("timeout = 0", "timeout `0` is too short"),
        ('timeout = "soon"', "timeout `soon`"),
        ("timeout = nan", "timeout `nan`"),
        ("oauth = 1", "`oauth` is not a table"),
        ("[oauth]\nclient = 1", "`oauth` has an unknown key: client"),
        ("profiles = 1", "`profiles` is not a table"),
        ("[profiles]\nwork = 1", "`profiles.work` is not a table"),
        ("[profiles.work]\nfactroy = 1", "profile work: unknown key `factroy`"),
    ],
)
def test_a_settings_file_that_is_not_valid_is_an_error(
    cli: Cli, tmp_path: Path, text: str, words: str
) -> None:
    path = write(tmp_path / "c.toml", text)
    result = cli("devices", "list", "-c", path)
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert words in result.err
    assert result.out == ""


def test_a_settings_file_that_cannot_be_read_is_an_error(cli: Cli, tmp_path: Path) -> None:
    assert cli("devices", "list", "-c", tmp_path / "none").err == f"error: no settings file {tmp_path}/none\n"
    assert "cannot read settings file" in cli("devices", "list", "-c", tmp_path).err
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    assert "is not TOML" in cli("devices", "list", "-c", tmp_path / "bytes").err


@given(text=st.text(st.sampled_from('abt=."[]\n0#{},factoryoauthprofiles \x00é'), max_size=40))
def test_any_file_is_settings_or_an_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("settings") / "config.toml"
    path.write_text(text, "utf-8")
    with contextlib.suppress(UsageError):
        assert "profiles" in load_file(path)


def test_an_empty_token_variable_is_named(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIOCTL_TOKEN", "")
    config = write(tmp_path / "c.toml", 'token = "t"\n')
    result = cli("devices", "list", "-f", "acme", "-c", config)
    assert (result.code, result.err.splitlines()[0]) == (2, "error: FIOCTL_TOKEN is set but empty")


@pytest.mark.parametrize("token", ["canary\n", "can ary", " canary", "canáry", "canary\x1b"])
def test_a_token_that_cannot_go_over_http_is_refused_and_not_shown(
    cli: Cli, serve: Serve, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    server = serve(lambda _: Reply(200, {"groups": []}))
    monkeypatch.setenv("FIOCTL_TOKEN", token)
    result = cli("config", "device-group", "list", "-v")
    assert result.code == 2
    assert result.err.startswith(
        "error: the token (FIOCTL_TOKEN) has a character that is not allowed in a token\n"
    )
    assert "ary" not in result.err
    assert server.asked == []


def test_a_header_for_the_token_that_is_not_valid_is_refused(
    cli: Cli, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(lambda _: Reply(200, {"groups": []}))
    monkeypatch.setenv("TOKEN_HEADER", "my token:")
    result = cli("config", "device-group", "list")
    assert (result.code, result.err) == (2, "error: TOKEN_HEADER `my token:` is not the name of a header\n")
    assert server.asked == []


@pytest.mark.parametrize("option", ["--factory", "--token", "--server", "--mock", "--config", "--profile"])
def test_an_option_that_is_there_but_empty_is_refused(cli: Cli, acme: Path, option: str) -> None:
    result = cli("devices", "list", option, "")
    assert (result.code, result.err.splitlines()[0]) == (2, f"error: {option} is empty")


def test_without_token_and_mock_the_hint_says_how_to_get_either(cli: Cli) -> None:
    result = cli("devices", "list", "-f", "acme")
    assert result.code == 2
    for way in ("FIOCTL_TOKEN", "fioctl-rotate login", "mock init DIR", "--mock DIR"):
        assert way in result.err


def test_without_a_factory_the_hint_says_how_to_name_it(cli: Cli, mock_dir: Path) -> None:
    result = cli("devices", "list", "--mock", mock_dir)
    assert (result.code, result.err) == (
        2,
        "error: no factory given\nhint: name it with --factory or FIOCTL_FACTORY\n",
    )


@pytest.mark.parametrize("seconds", ["0", "-1", "inf", "nan", "soon", "1e999"])
def test_a_timeout_that_is_not_valid_is_refused(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, seconds: str
) -> None:
    monkeypatch.setenv("FIOCTL_ROTATE_TIMEOUT", seconds)
    assert cli("devices", "list", "-f", "a", "-t", "t").code == 2


# --- The server ---


@pytest.mark.parametrize(
    "server",
    [
        "http://api.foundries.io",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://192.168.0.1",
        "HTTP://[2001:db8::1]:80",
    ],
)
def test_a_token_goes_over_plain_http_to_this_machine_alone(cli: Cli, server: str) -> None:
    result = cli("devices", "list", "-f", "acme", "-t", "canary", "--server", server)
    assert result.code == 5
    assert "the token would travel unencrypted" in result.err
    assert "https://" in result.err
    assert "canary" not in result.err


@pytest.mark.parametrize(
    "server", ["http://localhost:1", "http://127.0.0.1:1", "http://127.9.9.9", "http://[::1]:1"]
)
def test_this_machine_is_reached_over_plain_http(server: str) -> None:
    assert resolve(Flags(server=server, token="t"), {}).server == server


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("api.foundries.io", "not of the form"),
        ("ftp://api.foundries.io", "not of the form"),
        ("https://", "not of the form"),
        ("https://a?b=c", "not of the form"),
        ("https://a:port", "not of the form"),
        ("https://[::1", "not of the form"),
        ("https://a/\nb", "https://a/\\nb is not valid"),
        ("https://xn--a.com", "https://xn--a.com is not valid"),
        ("https://me:canary@a", "must not carry a user or a password"),
        ("https://me:canary@a:port?b", "must not carry a user or a password"),
    ],
)
def test_a_servers_url_that_is_not_valid_is_refused(cli: Cli, server: str, words: str) -> None:
    result = cli("devices", "list", "-f", "acme", "-t", "t", "--server", server)
    assert result.code == 2
    assert words in result.err
    assert "canary" not in result.err


@given(host=st.from_regex(r"[a-z0-9.:\[\]-]{1,20}", fullmatch=True))
def test_whatever_the_host_a_token_never_leaves_unencrypted(host: str) -> None:
    try:
        settings = resolve(Flags(server=f"http://{host}", token="t"), {})
    except (UsageError, Refused):
        return
    import ipaddress
    from urllib.parse import urlsplit

    name = str(urlsplit(settings.server).hostname)
    assert name == "localhost" or ipaddress.ip_address(name).is_loopback


def test_a_server_below_a_path_is_reached_there(cli: Cli, serve: Serve) -> None:
    server = serve(lambda _: Reply(200, {"groups": []}))
    assert cli("config", "device-group", "list", "--server", f"{server.url}/base/").code == 0
    assert server.asked[0].path == "/base/ota/factories/acme/device-groups/"


def test_a_user_without_a_home_needs_none(cli: Cli, acme: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user may have neither HOME nor an entry in the list of users."""
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("os.getuid", lambda: 54321)
    monkeypatch.chdir(acme)
    before = set(acme.iterdir())
    assert cli("devices", "list").code == 0
    push = ("config", "rotate-certs", "-g", "field", "-r", "why", "--rotation-id", "r-1", "--no-checks")
    assert cli(*push).code == 0
    for command in (
        ("rotations", "show", "r-1", "-g", "field"),
        ("rotations", "due", "-g", "field", "--allow", "unknown"),
    ):
        done = cli(*command)
        assert "home" not in done.err, done.err
        assert done.code == 0, done.err
    for words in (("profiles", "list"), ("devices", "list", "--profile", "work"), ("login", "--from-fioctl")):
        refused = cli(*words)
        assert (refused.code, refused.out) == (2, "")
        assert refused.err.startswith("error: there is no home directory")
    assert set(acme.iterdir()) == before
