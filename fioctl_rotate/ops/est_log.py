"""Read issued certificates from the log of `est serve --log-format json`."""

from pathlib import Path

import msgspec

from fioctl_rotate.errors import Error
from fioctl_rotate.files import read

_LARGEST = 256 << 20  # bytes of a log: about a million lines


class Issued(msgspec.Struct, rename="kebab", frozen=True):
    """A certificate that the server issued.

    `key_sha256` is the SHA-256 of its public key (SubjectPublicKeyInfo, DER), `issuer_key_id` its authority key
    identifier, both hexadecimal; times are RFC 3339, UTC.
    """

    time: str
    device: str
    key_sha256: str
    not_after: str
    issuer_key_id: str = ""


def read_est_log(path: Path) -> list[Issued]:
    """The certificates in a log, in its order. Other lines are skipped: stderr holds more than the log.

    Raises Error where the file cannot be read, or has no issued certificate.
    """
    found = []
    for line in read(path, most=_LARGEST).splitlines():
        start = line.find(b"{")  # journald and others put something before it
        if b'"issued"' not in line or start < 0:
            continue
        try:
            found.append(msgspec.json.decode(line[start:], type=Issued))
        except (msgspec.DecodeError, RecursionError):
            continue
    if not found:
        raise Error(
            f"{path} has no issued certificate: expected the log of `est serve --log-format json`",
        )
    return found
