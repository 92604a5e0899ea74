"""The user's folders for settings, state and cached names. Some users have none: a container's, without a home."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

NAME = "fioctl-rotate"

_STATE: ContextVar[Path | None] = ContextVar("state", default=None)


def config_folder() -> Path:
    """Where the settings file is by default. Raises FileNotFoundError where there is no home."""
    # Only those who need it pay for the import.
    from platformdirs import user_config_path

    try:
        return user_config_path(NAME, appauthor=False)
    except RuntimeError as error:
        raise _no_home() from error


def state_folder() -> Path:
    """Where what was polled is kept. Raises FileNotFoundError where there is no home."""
    if (elsewhere := _STATE.get()) is not None:
        return elsewhere
    from platformdirs import user_state_path

    try:
        return user_state_path(NAME, appauthor=False)
    except RuntimeError as error:
        raise _no_home() from error


@contextlib.contextmanager
def state_in(directory: Path) -> Iterator[None]:
    """Have `directory` be the state folder while the block runs: what a rehearsal reads and leaves is its own."""
    token = _STATE.set(directory)
    try:
        yield
    finally:
        _STATE.reset(token)


def _no_home() -> FileNotFoundError:
    return FileNotFoundError("there is no home directory")
