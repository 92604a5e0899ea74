"""Change one profile of the settings file: the others stay, and no other process's change is lost."""

import contextlib
import copy
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomli_w

from fioctl_rotate.errors import Error
from fioctl_rotate.files import write_atomic
from fioctl_rotate.settings import load_file


@contextlib.contextmanager
def changing(path: Path, profile: str | None) -> Iterator[dict[str, Any]]:
    """The values of a profile (None: the default one). The block changes them; its end writes them (0600).

    Other processes that change the file wait meanwhile. A block that raises writes nothing, nor does one that
    changes nothing. Comments in the file are lost. Raises UsageError where the file is not a settings file, Error
    where it cannot be written.
    """
    path = path.resolve()  # a link to the file stays one
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (path.parent / f".{path.name}.lock").open("w")
    except OSError as error:
        raise Error(f"cannot write settings file {path}: {error.strerror}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        document: dict[str, Any] = {"profiles": {}, **load_file(path)}
        before = copy.deepcopy(document)
        values = document if profile is None else document["profiles"].setdefault(profile, {})
        yield values
        if document == before:
            return
        if not document["profiles"]:
            del document["profiles"]
        write_atomic(path, tomli_w.dumps(document).encode(), 0o600)
