"""The deny list of an EST server: clients that get no certificate, by uuid, serial number or key."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

from fioctl_rotate.errors import Error
from fioctl_rotate.est.service import key_digest

_KINDS = {
    "uuid": re.compile(r"\S+\Z"),
    "serial": re.compile(r"[0-9a-f]{1,64}\Z"),
    "key": re.compile(r"[0-9a-f]{64}\Z"),
}


@dataclass(frozen=True)
class DenyList:
    """Entries by kind: `uuid` (a certificate's CN), `serial` (hexadecimal), `key` (SHA-256 of the public key)."""

    entries: frozenset[tuple[str, str]] = frozenset()

    def reason(self, certificate: x509.Certificate) -> str | None:
        """Why the certificate is denied, None where it is not."""
        if not self.entries:
            return None
        names = [str(a.value) for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        found = {
            *(("uuid", name) for name in names),
            ("serial", f"{certificate.serial_number:x}"),
            ("key", key_digest(certificate.public_key())),
        } & self.entries
        return " ".join(min(found)) if found else None


def parse_deny_list(text: str, what: str) -> DenyList:
    """The list in `text`: `uuid UUID`, `serial HEX` or `key SHA256` a line; `#` begins a comment.

    Raises Error that names `what` and the line.
    """
    entries = set()
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        kind, *values = fields
        value = values[0].lower() if values and kind != "uuid" else "".join(values[:1])
        if kind == "serial":
            value = value.replace(":", "").lstrip("0")
        if len(values) != 1 or kind not in _KINDS or not _KINDS[kind].match(value):
            raise Error(
                f"{what}, line {number}: expected `uuid UUID`, `serial HEX` or `key SHA256`, got `{line.strip()}`"
            )
        entries.add((kind, value))
    return DenyList(frozenset(entries))


def deny_list_text(uuids: Iterable[str]) -> str:
    """A deny list of devices, as `parse_deny_list` reads it."""
    return "".join(f"uuid {uuid}\n" for uuid in uuids)
