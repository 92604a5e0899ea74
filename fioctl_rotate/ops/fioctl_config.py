"""Read from fioctl's own settings file the settings that we can use, too."""

from pathlib import Path
from typing import Any

import yaml

from fioctl_rotate.errors import Refused, UsageError
from fioctl_rotate.files import read_file
from fioctl_rotate.settings import OAUTH_KEYS

_LARGEST = 64 << 10  # bytes; fioctl's file has less than one KiB, and PyYAML needs a second for 64 KiB


def read(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Our settings (`factory`, `token`, `server`, `oauth`) from fioctl's YAML, and a line for each one left out.

    Raises UsageError where the file cannot be read or has no credentials, Refused where it switches off the check
    of the server's certificate.
    """
    document = _lower(_load(path))
    server = _table(document, "server", path)
    if str(server.get("insecure_skip_verify", "")).lower() not in (
        "",
        "false",
        "no",
        "off",
        "0",
        "f",
        "n",
        "null",
    ):
        raise Refused(
            f"{path} has insecure_skip_verify: anyone on the network path could read the token",
            hint="put the server's CA into a PEM file, name it with CACERT, and delete that line",
        )
    credentials = _table(document, "clientcredentials", path)
    kept = {name: credentials[name] for name in OAUTH_KEYS if credentials.get(name)}
    for name, value in kept.items():
        if not isinstance(value, str):
            raise UsageError(f"{path}: `clientcredentials.{name}` is not a string")
    values: dict[str, Any] = {
        "factory": document.get("factory"),
        "token": document.get("token"),
        "server": server.get("url"),
        "oauth": _with_number(kept, path) if kept.get("client_id") else None,
    }
    for name in ("factory", "token", "server"):
        if not isinstance(values[name], str | None):
            raise UsageError(f"{path}: `{name}` is not a string")
    values = {name: value for name, value in values.items() if value}
    if "token" not in values and "oauth" not in values:
        raise UsageError(
            f"{path} has neither a token nor client credentials", hint="run `fioctl login` first"
        )
    left = ["extraheaders"] if document.get("extraheaders") else []
    return values, [f"`{name}` of {path} is ignored" for name in left]


class _Loader(yaml.BaseLoader):
    """Loads values as strings: a time must not become an object. Refuses aliases: they can grow without limit."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse an alias."""
        if self.check_event(yaml.AliasEvent):
            raise UsageError(f"{self.name} has an alias, which fioctl does not write")
        return super().compose_node(parent, index)


def _load(path: Path) -> dict[str, Any]:
    try:
        text = read_file(path, most=_LARGEST).decode("utf-8-sig")
        document = _Loader(text, str(path)).get_single_data()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not YAML: not UTF-8 at byte {error.start}") from error
    except yaml.YAMLError as error:
        # The parser's own message quotes the line, and with it perhaps a token.
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path} is not YAML{where}") from error
    except (RecursionError, ValueError, OverflowError) as error:  # the last two come from escapes in strings
        raise UsageError(f"{path} is not YAML that can be read") from error
    if not isinstance(document, dict):
        raise UsageError(f"{path} is not a settings file of fioctl: no keys")
    return document


def _lower(document: dict[str, Any]) -> dict[str, Any]:
    """The document with keys in lower case: to fioctl, case does not matter."""
    return {
        str(key).lower(): _lower(value) if isinstance(value, dict) else value
        for key, value in document.items()
    }


def _table(document: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    value = document.get(name) or {}
    if not isinstance(value, dict):
        raise UsageError(f"{path}: `{name}` is not a table")
    return value


def _with_number(credentials: dict[str, str], path: Path) -> dict[str, Any]:
    try:
        return {**credentials, "expires_in": float(credentials.get("expires_in", 0))}
    except ValueError as error:
        raise UsageError(f"{path}: `expires_in` is not a number of seconds") from error
