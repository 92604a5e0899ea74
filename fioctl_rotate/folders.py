"""The user's folders for settings, state and cached names. Some users have none: a container's, without a home."""

from pathlib import Path

NAME = "fioctl-rotate"


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
    from platformdirs import user_state_path

    try:
        return user_state_path(NAME, appauthor=False)
    except RuntimeError as error:
        raise _no_home() from error


def _no_home() -> FileNotFoundError:
    return FileNotFoundError("there is no home directory")
