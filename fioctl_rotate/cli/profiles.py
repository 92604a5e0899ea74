"""`profiles`: the profiles of the settings file."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fioctl_rotate.cli import common
from fioctl_rotate.cli.common import Result, Table, option
from fioctl_rotate.cli.completion import names
from fioctl_rotate.settings import (
    DEFAULT_PROFILE,
    DEFAULT_SERVER,
    Flags,
    chosen_profile,
    default_config_file,
    load_file,
    named_config_file,
    profile_values,
)

app = common.group("The profiles of the settings file: list them, choose one.")

ConfigOption = Annotated[
    str | None, option("-c --config FILE", "Settings file, TOML [env: FIOCTL_ROTATE_CONFIG].")
]


@app.command("list", epilog="Example: fioctl-rotate profiles list")
def list_profiles(config: ConfigOption = None) -> Result:
    """List the profiles, each with its Factory and server, and which of them is used."""
    path = _settings_file(config)
    file = load_file(path)
    current = chosen_profile(Flags(), os.environ, file) or DEFAULT_PROFILE
    own = profile_values(file, None, path)
    profiles = {DEFAULT_PROFILE: own} if own or not file["profiles"] else {}
    found = [_shown(name, values) for name, values in (profiles | file["profiles"]).items()]
    rows = [
        ("*" if p["profile"] == current else "", p["profile"], p["factory"], p["at"], p["login"])
        for p in found
    ]
    return Result(
        {"settings-file": str(path), "current": current, "profiles": found},
        [Table(("USED", "PROFILE", "FACTORY", "AT", "LOGIN"), rows)],
    )


@app.command("use", epilog="Example: fioctl-rotate profiles use work")
def use(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Profile; `default` is the top level of the file.",
            autocompletion=names("profiles"),
        ),
    ],
    config: ConfigOption = None,
) -> Result:
    """Choose the profile that commands use, unless --profile or FIOCTL_ROTATE_PROFILE names another."""
    from fioctl_rotate.ops.settings_file import changing

    path = _settings_file(config)
    file = load_file(path)
    default = name == DEFAULT_PROFILE and name not in file["profiles"]
    values = profile_values(file, None if default else name, path)
    with changing(path, None) as document:
        document.pop("profile", None)
        if not default:
            document["profile"] = name
    shown = _shown(name, values)
    line = f"using profile {name}: factory {shown['factory'] or 'not named'} at {shown['at']}"
    variable = os.environ.get("FIOCTL_ROTATE_PROFILE")
    notes = [f"FIOCTL_ROTATE_PROFILE names {variable}, and overrides this"] if variable else []
    return Result({"settings-file": str(path), **shown}, [line], notes)


def _settings_file(config: str | None) -> Path:
    return named_config_file(Flags(config=config), os.environ) or default_config_file()


def _shown(name: str, values: Mapping[str, Any]) -> dict[str, str | None]:
    login = "API token" if "token" in values else "OAuth" if "oauth" in values else None
    mock = values.get("mock")
    return {
        "profile": name,
        "factory": values.get("factory"),
        "at": f"mock {mock}" if mock else values.get("server", DEFAULT_SERVER),
        "login": login,
    }
