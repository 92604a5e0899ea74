"""How the on-changed handler `renew-client-cert` reads `fio-rotate-certs`.

The real one is a shell script: it greps the lines of a key, cuts field 2 at `=`, and passes the values, unquoted,
to `fioconfig renew-cert`. This module reads the same, mistakes included, except for the shell's globs.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from fioctl_rotate.device.state_file import COMPLETED_FILE
from fioctl_rotate.errors import Error
from fioctl_rotate.rotation.entry import DEFAULT_CERT_IDS, DEFAULT_PKEY_IDS

FORCE_EXIT = 123  # fioconfig ends before it stores the configuration

_COMPLETED_ID = re.compile(r'"RotationId":.*?[^\\]",')


@dataclass(frozen=True)
class RenewCert:
    """The arguments of `fioconfig renew-cert`."""

    est_server: str
    rotation_id: str
    pkey_ids: list[str]
    cert_ids: list[str]


class HandlerExit(Error):
    """The handler ends with this exit status, which is not 0."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def read_entry(text: str, storage: Path) -> RenewCert | None:
    """What the handler would run for the entry `text`, or None where that rotation is already completed.

    Raises HandlerExit: status 1 where ROTATIONID or ESTSERVER is missing, 123 where the shell makes a number of
    arguments from the values that `renew-cert` does not take.
    """
    rotation_id, est_server = value_of(text, "ROTATIONID"), value_of(text, "ESTSERVER")
    for key, value in (("ROTATIONID", rotation_id), ("ESTSERVER", est_server)):
        if not value:
            raise HandlerExit(f"fio-rotate-certs has no {key}")
    if completed_id(storage) == rotation_id:
        return None
    options, arguments = {"PKEYIDS": DEFAULT_PKEY_IDS, "CERTIDS": DEFAULT_CERT_IDS}, []
    for key in options:
        first, *rest = value_of(text, key).split() or [options[key]]
        options[key] = first
        arguments += rest
    arguments += [*est_server.split(), *rotation_id.split()]
    if len(arguments) not in (1, 2):
        raise HandlerExit(f"renew-cert takes a URL and an id, not {len(arguments)} arguments", FORCE_EXIT)
    return RenewCert(
        arguments[0],
        arguments[1] if len(arguments) == 2 else "",
        options["PKEYIDS"].split(","),
        options["CERTIDS"].split(","),
    )


def value_of(text: str, key: str) -> str:
    """What `grep KEY | cut -d= -f2` inside of `$(…)` gives: field 2 of every line that holds the key anywhere."""
    lines = [line for line in text.split("\n") if key in line]
    return "\n".join(line.split("=")[1] if "=" in line else line for line in lines).rstrip("\n")


def completed_id(storage: Path) -> str | None:
    """The ROTATIONID of the rotation that was completed last, or None where there is none."""
    try:
        text = (storage / COMPLETED_FILE).read_text("utf-8", "replace")
    except FileNotFoundError:
        return None
    found = _COMPLETED_ID.search(text)
    return found.group().split('"')[3] if found else ""
