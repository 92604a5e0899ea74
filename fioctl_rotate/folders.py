"""The user's folders for settings and state. A user without a home directory, as in a container, has none."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

NAME = "fioctl-rotate"

_STATE: ContextVar[Path | None] = ContextVar("state", default=None)


def config_folder() -> Path:
    """The folder of the default settings file. Raises FileNotFoundError where there is no home directory."""
    # Imported here, because few commands need it.
    from platformdirs import user_config_path

    try:
        return user_config_path(NAME, appauthor=False)
    except RuntimeError as error:
        raise no_home() from error


def state_folder() -> Path:
    """The folder for what polls found, and for plans. Raises FileNotFoundError where there is no home directory."""
    if (elsewhere := _STATE.get()) is not None:
        return elsewhere
    from platformdirs import user_state_path

    try:
        return user_state_path(NAME, appauthor=False)
    except RuntimeError as error:
        raise no_home() from error


@contextlib.contextmanager
def state_in(directory: Path) -> Iterator[None]:
    """Use `directory` as the state folder while the block runs: a rehearsal has a state of its own."""
    token = _STATE.set(directory)
    try:
        yield
    finally:
        _STATE.reset(token)


def no_home() -> FileNotFoundError:
    """The error of a user without a home directory."""
    return FileNotFoundError("there is no home directory")
