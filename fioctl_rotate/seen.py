"""The names that this machine saw last, for completion: groups, devices, rotation ids and profiles.

One small file in the user's cache folder, with the newest names of a few Factories. Everything works without it.
Standard library only, because completion reads it.
"""

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fioctl_rotate.folders import NAME, no_home

_MOST = {"groups": 500, "devices": 1000, "rotations": 50}
_MOST_FACTORIES = 8
_LARGEST = 1 << 20


class Seen:
    """The names that a command saw of one Factory. `groups` is the whole list, or None where it was not read."""

    def __init__(self) -> None:
        self.groups: list[str] | None = None
        self.devices: dict[str, None] = {}
        self.rotations: dict[str, None] = {}

    def add_devices(self, names: Iterable[str]) -> None:
        """Add device names until there are as many as are kept."""
        for name in names:
            if len(self.devices) >= _MOST["devices"]:
                return
            self.devices[name] = None


def cache_file() -> Path:
    """`fioctl-rotate/seen.json` in XDG_CACHE_HOME or ~/.cache. Raises FileNotFoundError without a home."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(base) if base else Path.home() / ".cache"
    except RuntimeError as error:
        raise no_home() from error
    return folder / NAME / "seen.json"


def load() -> dict[str, Any]:
    """`{profiles: [name], factories: [{factory, server, groups, devices, rotations}]}`, the newest Factory first.

    A part that is missing or not valid is empty.
    """
    known: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, RecursionError), cache_file().open("rb") as file:
        known = json.loads(file.read(_LARGEST))
    factories = known.get("factories") if isinstance(known, dict) else None
    profiles = known.get("profiles") if isinstance(known, dict) else None
    return {
        "profiles": _names(profiles),
        "factories": [
            {"factory": str(entry.get("factory")), "server": str(entry.get("server"))}
            | {kind: _names(entry.get(kind)) for kind in _MOST}
            for entry in (factories if isinstance(factories, list) else [])
            if isinstance(entry, dict)
        ],
    }


def remember(factory: str, server: str, seen: Seen, profiles: Iterable[str]) -> None:
    """Keep what a command saw. It is not an error if the folder cannot be written."""
    known = load()
    others = [e for e in known["factories"] if (e["factory"], e["server"]) != (factory, server)]
    mine: dict[str, Any] = next((e for e in known["factories"] if e not in others), {})
    entry = {
        "factory": factory,
        "server": server,
        "groups": mine.get("groups", []) if seen.groups is None else seen.groups[: _MOST["groups"]],
        "devices": [*dict.fromkeys([*seen.devices, *mine.get("devices", [])])][: _MOST["devices"]],
        "rotations": [*dict.fromkeys([*seen.rotations, *mine.get("rotations", [])])][: _MOST["rotations"]],
    }
    new = {"profiles": sorted(profiles), "factories": [entry, *others][:_MOST_FACTORIES]}
    if new == known:
        return
    with contextlib.suppress(OSError):
        path = cache_file()
        temporary = path.with_suffix(f".{os.getpid()}")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(new))
            temporary.chmod(0o600)
            temporary.replace(path)
        temporary.unlink(missing_ok=True)


def _names(value: object) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
