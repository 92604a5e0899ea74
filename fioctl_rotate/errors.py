"""The kinds of error, each with its exit code, and how an error is shown."""

import signal


def printable(text: str) -> str:
    """`text` on one line, with control characters (terminal escapes among them) made visible.

    Much of what an error quotes comes from a server or a device, so it is never trusted with the terminal.
    """
    return visible(text.strip())


def visible(text: str) -> str:
    """`text` with control characters made visible; spaces at its ends stay."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, most: int = 2000) -> str:
    """`text`, cut off after `most` characters: it may quote something very long."""
    return text if len(text) <= most else text[:most] + "…"


class Error(Exception):
    """A failure, shown to the user in one line, with an optional hint that says what to do. Exit code 1."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def diagnostics(self) -> str:
        """The line `error: …` and, where there is a hint, the line `hint: …`."""
        lines = [f"error: {shortened(printable(self.message))}"]
        if self.hint:
            lines.append(f"hint: {shortened(printable(self.hint))}")
        return "\n".join(lines)


def message_of(error: Error | OSError) -> str:
    """What `error` says, in one line; for an OSError with the name of its file, where that is known."""
    if isinstance(error, Error):
        return error.message
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


class UsageError(Error):
    """The command line, the environment or the settings are wrong; nothing was sent. Exit code 2."""

    exit_code = 2


class DeviceFailed(Error):
    """Some device's rotation failed. Exit code 3."""

    exit_code = 3


class TimedOut(Error):
    """Time ran out while waiting for devices. Exit code 4."""

    exit_code = 4


class Refused(Error):
    """A check failed, a plan is stale, a root is foreign: nothing (more) was sent. Exit code 5."""

    exit_code = 5


class InProgress(Error):
    """Changes are pending or in progress, and nothing is wrong. Exit code 6, only with --detailed-exitcode."""

    exit_code = 6


class Stopped(Error):
    """A signal ended the command. Exit code: 128 and the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number
