"""Finds PEM blocks in files, and skips the text around them. Standard library only.

Source: RFC 7468 §2. Programs write text before and between blocks (`openssl x509 -text`, `openssl pkcs12`), editors
write a byte order mark, and people write comments in any language.
"""

import re
from typing import NamedTuple

from fioctl_rotate.errors import Error, printable

_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BEGIN = re.compile(rb"-----BEGIN ([ -,.-~]+(?:-[ -,.-~]+)*)-----")


class Block(NamedTuple):
    """One PEM block: its label, such as CERTIFICATE, and its lines from BEGIN to END as one text."""

    label: str
    pem: bytes


def blocks(pem: str | bytes | None, what: str) -> list[Block]:
    """Every PEM block in `pem`, in order; an empty list where there is none. `what` is its name in errors.

    BEGIN and END must be alone on their lines, as in Go and OpenSSL. Raises Error, with the number of the line, for
    a block whose END is missing or shares its line with something else.
    """
    data = pem.encode("utf-8", "replace") if isinstance(pem, str) else pem or b""
    if data.startswith(_UTF16):
        raise Error(f"{what} is UTF-16 text: expected ASCII or UTF-8")
    found: list[Block] = []
    label, lines = b"", list[bytes]()
    for number, line in enumerate(data.splitlines(), 1):
        line = line.removeprefix(_BOM).rstrip()  # files that were joined may each begin with one
        if not lines:
            if begin := _BEGIN.fullmatch(line):
                label, lines = begin[1], [line]
            continue
        end = b"-----END " + label + b"-----"
        if line.startswith(b"-----") and line != end:
            raise Error(f"{what}, line {number}: expected {_shown(end)} alone on a line, got {_shown(line)}")
        lines.append(line)
        if line == end:
            found.append(Block(label.decode("ascii"), b"\n".join(lines) + b"\n"))
            lines = []
    if lines:
        raise Error(
            f"{what} has no {_shown(b'-----END ' + label + b'-----')}: the end of the file is missing"
        )
    return found


def only_block(pem: str | bytes | None, what: str, label: str) -> bytes:
    """The one PEM block in `pem`, which has this label. Raises Error for any other number or label."""
    found = blocks(pem, what)
    if not found:
        raise Error(f"{what} is not PEM: expected a {label} block")
    if len(found) > 1:
        raise Error(f"{what}: expected one PEM block, got {len(found)}")
    if found[0].label.removeprefix("NEW ") != label:  # RFC 7468 §7: NEW CERTIFICATE REQUEST is an old name
        raise Error(f"{what}: expected a {label} block, got {found[0].label}")
    return found[0].pem


def certificate_blocks(pem: str | bytes | None, what: str) -> str:
    """The CERTIFICATE blocks in `pem` alone, as OpenSSL reads them: ASCII, no other text. Raises Error."""
    found = [block.pem for block in blocks(pem, what) if block.label == "CERTIFICATE"]
    return b"".join(found).decode("ascii", "replace")


def _shown(line: bytes) -> str:
    return printable(line[:80].decode("utf-8", "replace"))
