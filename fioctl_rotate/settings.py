"""A command's settings: flags win over the environment, and that over the settings file.

Standard library only, because an offline dry run reads them too. The file is TOML; its top level holds the
default profile, `[profiles.NAME]` others:

    factory = "acme"                # FIOCTL_FACTORY, --factory
    token = "…"                     # FIOCTL_TOKEN, --token
    server = "https://api.foundries.io"   # FIOCTL_ROTATE_SERVER, --server
    mock = "DIR"                    # FIOCTL_ROTATE_MOCK, --mock
    cacert = "FILE"                 # CACERT: extra trust anchors, PEM
    timeout = 30                    # FIOCTL_ROTATE_TIMEOUT, how long to wait for an answer; 30, "30s", "2m"
    profile = "work"                # FIOCTL_ROTATE_PROFILE, --profile; written by `profiles use`
    [oauth]                         # what fioctl keeps as clientcredentials; written by `login --from-fioctl`
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from fioctl_rotate.duration import parse_duration
from fioctl_rotate.errors import Refused, UsageError
from fioctl_rotate.folders import config_folder
from fioctl_rotate.value import Value

DEFAULT_SERVER = "https://api.foundries.io"
DEFAULT_TIMEOUT = 30.0
TOKENS_PAGE = "https://app.foundries.io/settings/tokens/"
LOGIN_HINT = (
    f"set FIOCTL_TOKEN to an API token of {TOKENS_PAGE}, run `fioctl-rotate login`, "
    "or rehearse on a mock: `fioctl-rotate mock init DIR --factory NAME`, then `--mock DIR`"
)

DEFAULT_PROFILE = "default"
"""What the top level of the settings file is called."""

PIN_VARIABLE = "FIOCTL_ROTATE_HSM_PIN"
PASSPHRASE_VARIABLE = "FIOCTL_ROTATE_KEY_PASSPHRASE"  # noqa: S105  the variable's name

_STRINGS = ("factory", "token", "server", "mock", "cacert")
OAUTH_KEYS = (
    "client_id",
    "client_secret",
    "access_token",
    "refresh_token",
    "token_type",
    "expires_in",
    "created",
    "url",
)


class Flags(Value):
    """What the command line says; None where it says nothing."""

    factory: str | None = None
    token: str | None = None
    server: str | None = None
    mock: str | None = None
    config: str | None = None
    profile: str | None = None
    verbose: bool = False


class Settings(Value):
    """All settings of a command. `sources` says where each came from, for people.

    A command talks to `mock` if that is not None, else to `server`.
    """

    _secret = frozenset({"token", "oauth"})

    factory: str | None
    token: str | None
    server: str
    mock: Path | None
    cacert: str | None
    token_header: str
    timeout: float
    verbose: bool
    oauth: Mapping[str, Any] | None
    config_file: Path | None
    profile: str | None
    sources: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def require_factory(self) -> str:
        """The factory's name. Raises UsageError where there is none."""
        if not self.factory:
            raise UsageError("no factory given", hint="name it with --factory or FIOCTL_FACTORY")
        return self.factory

    @property
    def destination(self) -> str:
        """What a command talks to, for people: a URL, or `mock DIR`."""
        return f"mock {self.mock}" if self.mock else self.server


def default_config_file() -> Path:
    """The default settings file: `fioctl-rotate/config.toml` in the user's configuration folder.

    Raises UsageError where there is no home directory.
    """
    try:
        return config_folder() / "config.toml"
    except FileNotFoundError as error:
        raise UsageError(
            f"{error}, so there is no settings file", hint="set HOME, or name a file with --config"
        ) from error


def named_config_file(flags: Flags, environ: Mapping[str, str]) -> Path | None:
    """The settings file that flags or environment name, or None."""
    named = flags.config or environ.get("FIOCTL_ROTATE_CONFIG")
    return Path(named) if named else None


def resolve(flags: Flags, environ: Mapping[str, str] | None = None, *, offline: bool = False) -> Settings:
    """Merge flags, environment (default: the process's) and file into Settings.

    `offline` means that nothing will be asked of a server, so no token is needed. Raises UsageError for
    contradictions, an unreadable file, an unknown key, an empty token variable; Refused for a token that would
    travel over plain http.
    """
    environ = os.environ if environ is None else environ
    refuse_empty(flags)
    path = named_config_file(flags, environ)
    if path is not None and not path.exists():
        raise UsageError(f"no settings file {path}")
    # An offline command that knows its factory needs nothing from the default file.
    known = offline and (flags.factory or environ.get("FIOCTL_FACTORY"))
    if path is None and flags.profile is None and not environ.get("FIOCTL_ROTATE_PROFILE"):
        if known:
            return merge(flags, environ, {}, None, offline=True)
        try:
            path = default_config_file()
        except UsageError:  # without a home directory there is no such file
            return merge(flags, environ, {}, None, offline=offline)
    path = path or default_config_file()
    file = load_file(path)
    profile = chosen_profile(flags, environ, file)
    values = profile_values(file, profile, path)
    return merge(flags.replace(profile=profile), environ, values, path, offline=offline)


def chosen_profile(flags: Flags, environ: Mapping[str, str], file: Mapping[str, Any]) -> str | None:
    """The profile to use: by flag, by environment, or by the key `profile` of the settings file.

    None is the file's top level, which is also called `default`.
    """
    profile = flags.profile or environ.get("FIOCTL_ROTATE_PROFILE") or file.get("profile")
    return None if profile == DEFAULT_PROFILE and profile not in file["profiles"] else profile


def profile_values(file: Mapping[str, Any], profile: str | None, path: Path) -> dict[str, Any]:
    """The values of a profile of the settings file at `path`. Raises UsageError where there is no such profile."""
    if profile is None:
        return {key: value for key, value in file.items() if key not in ("profiles", "profile")}
    if profile not in file["profiles"]:
        known = ", ".join(sorted(file["profiles"])) or "none"
        raise UsageError(f"no profile `{profile}` in {path}", hint=f"profiles there: {known}")
    return dict(file["profiles"][profile])


def merge(
    flags: Flags,
    environ: Mapping[str, str],
    values: Mapping[str, Any],
    path: Path | None,
    *,
    offline: bool = False,
) -> Settings:
    """Settings from flags, environment and the `values` of a profile of the settings file `path`.

    Raises as `resolve` does.
    """
    sources: dict[str, str] = {}
    source = f"{path}" + (f" [profiles.{flags.profile}]" if flags.profile else "")

    def pick(key: str, flag: str | None, variable: str) -> str | None:
        for value, origin in (
            (flag, f"--{key}"),
            (environ.get(variable), variable),
            (values.get(key), source),
        ):
            if value:
                sources[key] = origin
                return str(value)
        return None

    factory = pick("factory", flags.factory, "FIOCTL_FACTORY")
    mock, server = _mock_or_server(flags, environ, values, source, sources)
    if "@" in server:
        # The message does not quote the URL: it may hold a password.
        raise UsageError("the server's URL must not carry a user or a password")
    token = pick("token", flags.token, "FIOCTL_TOKEN")
    token_header = environ.get("TOKEN_HEADER") or "OSF-TOKEN"
    notes: tuple[str, ...] = ()
    oauth = values.get("oauth")
    if mock is not None:
        if token is not None:
            notes = (f"talking to the mock in {mock} ({sources['mock']}); the token is not used",)
            del sources["token"]
        token, oauth = None, None
    elif not offline:
        if flags.token is None and environ.get("FIOCTL_TOKEN") == "":
            raise UsageError("FIOCTL_TOKEN is set but empty", hint="unset it, or put a token in it")
        if token is None and oauth is None:
            raise UsageError("no token and no mock given", hint=LOGIN_HINT)
        _check_server(server)
        _check_header(token, sources.get("token"), token_header)
        if oauth is not None:
            sources["oauth"] = source
    return Settings(
        factory=factory,
        token=token,
        server=server,
        mock=mock,
        cacert=pick("cacert", None, "CACERT"),
        token_header=token_header,
        timeout=_timeout(pick("timeout", None, "FIOCTL_ROTATE_TIMEOUT")),
        verbose=flags.verbose,
        oauth=oauth,
        config_file=path,
        profile=flags.profile,
        sources=sources,
        notes=notes,
    )


def load_file(path: Path) -> dict[str, Any]:
    """The settings file's content, checked; {} where there is no file. Raises UsageError."""
    # An offline command that knows its Factory reads no file.
    from fioctl_rotate.toml import read_toml

    values = read_toml(path, "settings file") if path.exists() else {}
    profiles = values.pop("profiles", {})
    profile = values.pop("profile", None)
    _check_keys(values, str(path))
    if profile is not None:
        _check_text("profile", profile, str(path))
        values["profile"] = profile
    if not isinstance(profiles, dict):
        raise UsageError(f"settings file {path}: `profiles` is not a table")
    for name, profile in profiles.items():
        if not isinstance(profile, dict):
            raise UsageError(f"settings file {path}: `profiles.{name}` is not a table")
        _check_keys(profile, f"{path}, profile {name}")
    return {**values, "profiles": profiles}


def refuse_empty(flags: Flags) -> None:
    """Refuse (UsageError) an option whose value is empty."""
    # `--mock "$DIR"` with an unset DIR must not become a push to the real Factory.
    for name, value in vars(flags).items():
        if value == "":
            raise UsageError(f"--{name} is empty", hint="leave it out, or give it a value")


def _check_keys(values: Mapping[str, Any], where: str) -> None:
    for key, value in values.items():
        if key in _STRINGS:
            _check_text(key, value, where)
        elif key == "timeout":
            _timeout(value)
        elif key == "oauth":
            if not isinstance(value, dict):
                raise UsageError(f"settings file {where}: `oauth` is not a table")
            unknown = set(value) - set(OAUTH_KEYS)
            if unknown:
                raise UsageError(f"settings file {where}: `oauth` has an unknown key: {sorted(unknown)[0]}")
            for name, item in value.items():
                if name != "expires_in":
                    _check_text(f"oauth.{name}", item, where)
                elif not isinstance(item, int | float):
                    raise UsageError(f"settings file {where}: `oauth.expires_in` is not a number of seconds")
        else:
            known = ", ".join((*_STRINGS, "timeout", "oauth", "profile", "profiles"))
            raise UsageError(f"settings file {where}: unknown key `{key}`", hint=f"known keys: {known}")


def _check_text(key: str, value: object, where: str) -> None:
    if not isinstance(value, str):
        raise UsageError(f"settings file {where}: `{key}` is not a string")
    if any(ord(character) < 32 for character in value):
        raise UsageError(f"settings file {where}: `{key}` has a control character")


def _mock_or_server(
    flags: Flags,
    environ: Mapping[str, str],
    values: Mapping[str, Any],
    source: str,
    sources: dict[str, str],
) -> tuple[Path | None, str]:
    """The mock's directory or None, and the server; adds to `sources`. The highest level that names one decides."""
    levels = (
        (flags.mock, flags.server, "--mock", "--server"),
        (
            environ.get("FIOCTL_ROTATE_MOCK"),
            environ.get("FIOCTL_ROTATE_SERVER"),
            "FIOCTL_ROTATE_MOCK",
            "FIOCTL_ROTATE_SERVER",
        ),
        (values.get("mock"), values.get("server"), source, source),
    )
    for mock, server, mock_source, server_source in levels:
        if mock and server:
            both = mock_source if mock_source == server_source else f"{mock_source} and {server_source}"
            raise UsageError(
                f"both a mock ({mock}) and a server ({server}) are given, by {both}", hint="give one of them"
            )
        if mock:
            sources["mock"] = mock_source
            return Path(mock), DEFAULT_SERVER
        if server:
            sources["server"] = server_source
            return None, server.rstrip("/")
    sources["server"] = "default"
    return None, DEFAULT_SERVER


def _check_server(server: str) -> None:
    parts = split_url(server)
    if parts is None or parts.query or parts.fragment:
        raise UsageError(f"the server's URL {server} is not of the form https://HOST[:PORT]")
    host = str(parts.hostname)
    if parts.scheme == "http" and not is_loopback(host):
        raise Refused(
            f"the token would travel unencrypted to {host}",
            hint="use https://; http:// is accepted for this machine only",
        )


def _check_header(token: str | None, source: str | None, name: str) -> None:
    """Refuse (UsageError) what HTTP cannot carry: the HTTP client's own error would quote the token."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UsageError(f"TOKEN_HEADER `{name}` is not the name of a header")
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise UsageError(
            f"the token ({source}) has a character that is not allowed in a token",
            hint="check it for white space and line breaks",
        )


def split_url(url: str) -> SplitResult | None:
    """The parts of `url`; None if it is not an http or https URL with a host and a valid port."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return None
    return parts if valid else None


def is_loopback(host: str) -> bool:
    """Whether `host`, in lower case, is `localhost` or a loopback address."""
    import ipaddress

    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _timeout(value: object) -> float:
    """Seconds from a setting, which in the file may be a number or a text."""
    return DEFAULT_TIMEOUT if value is None else parse_duration(str(value), name="timeout", shortest=0.001)
