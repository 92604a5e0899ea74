"""Reads TOML that somebody else wrote, with limits on time and memory."""

from pathlib import Path
from typing import Any

from fioctl_rotate.errors import UsageError, printable
from fioctl_rotate.files import read_file

# tomllib's time grows with the square of the parts of a dotted key; this many steps take about a second.
_MOST_STEPS = 5_000_000
_DEEPEST = 50


def read_toml(path: Path, what: str, *, most: int = 1 << 20) -> dict[str, Any]:
    """The TOML file at `path`, of at most `most` bytes; errors name it by `what` and `path`.

    Raises UsageError where it cannot be read or is not TOML.
    """
    try:
        data = read_file(path, most=most)
    except OSError as error:
        raise UsageError(f"cannot read {what} {path}: {error.strerror}") from error
    return parse_toml(data, f"{what} {path}")


def parse_toml(data: bytes, what: str) -> dict[str, Any]:
    """The TOML in `data`, UTF-8 with or without a byte order mark; errors name it by `what`. Raises UsageError."""
    # Imported here, because not every command reads TOML.
    import tomllib

    try:
        text = data.decode("utf-8-sig")
        if sum(line.count(".") ** 2 for line in text.split("\n")) > _MOST_STEPS:
            raise UsageError(f"{what} cannot be read: too many dots on one line")
        values = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} is not TOML: not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise UsageError(f"{what} cannot be read: nested too deeply") from error
    except tomllib.TOMLDecodeError as error:
        hint = 'put text in quotes: key = "text"' if "Invalid value" in str(error) else None
        raise UsageError(f"{what} is not TOML: {printable(str(error))[:200]}", hint=hint) from error
    except ValueError as error:
        raise UsageError(f"{what} cannot be read: a number or a date is out of range") from error
    if _depth(values) > _DEEPEST:
        raise UsageError(f"{what} cannot be read: nested too deeply")
    return values


def _depth(value: object) -> int:
    """How deep tables and arrays are nested. Not recursive: dotted keys can nest too deep for that."""
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return depth
