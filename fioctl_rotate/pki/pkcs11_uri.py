"""PKCS#11 URIs: which token, and which key in it. RFC 7512. Standard library only."""

import re
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from fioctl_rotate.errors import UsageError, printable

_TOKEN = ("token", "manufacturer", "serial", "model")
_KEY = ("object", "id", "type")
_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class Pkcs11Uri:
    """The parts of a URI; None where a part is missing. Token and key must match all the others.

    `token` is the token's label, `object` the key's; `module_path` the shared library; the PIN is `pin_value`, or
    is in the file `pin_source`.
    """

    token: str | None = None
    manufacturer: str | None = None
    serial: str | None = None
    model: str | None = None
    object: str | None = None
    id: bytes | None = None
    module_path: str | None = None
    pin_value: str | None = field(default=None, repr=False)
    pin_source: str | None = None


def parse_pkcs11_uri(text: str) -> Pkcs11Uri:
    """The URI in `text`. Raises UsageError, also for unknown attributes: they cannot be matched."""
    scheme, _, rest = text.partition(":")
    if scheme.lower() != "pkcs11":
        raise UsageError(f"not a PKCS#11 URI: expected pkcs11:token=…, got {printable(text)[:80]!r}")
    path, _, query = rest.partition("?")
    found = _attributes(path, ";")
    for name in found:
        if name not in (*_TOKEN, *_KEY):
            raise UsageError(
                f"PKCS#11 URI: the attribute {printable(name)[:40]!r} is not supported",
                hint=f"supported are {', '.join((*_TOKEN, *_KEY))}; after a ?, {', '.join(_QUERY)}",
            )
    kind = found.pop("type", b"private")
    if kind != b"private":
        raise UsageError(
            f"PKCS#11 URI: expected type=private, got type={printable(_text(kind, 'type'))[:40]}"
        )
    key_id = found.pop("id", None)
    # Unknown attributes after the ? are ignored (RFC 7512 §2.3).
    asked = {name: _text(value, name) for name, value in _attributes(query, "&").items() if name in _QUERY}
    uri = Pkcs11Uri(
        **{name: _text(value, name) for name, value in found.items()},
        id=key_id,
        module_path=asked.get("module-path"),
        pin_value=asked.get("pin-value"),
        pin_source=_file(asked.get("pin-source")),
    )
    if uri.pin_value is not None and uri.pin_source is not None:
        raise UsageError("PKCS#11 URI: expected one of pin-source and pin-value, got both")
    return uri


_QUERY = ("module-path", "pin-value", "pin-source")


def _attributes(text: str, separator: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in filter(None, text.split(separator)):
        name, equals, value = part.partition("=")
        raw = value.encode("utf-8", "surrogateescape")
        if not equals or _PERCENT.search(raw):
            raise UsageError(f"PKCS#11 URI: expected NAME=VALUE, got {printable(name)[:40]!r}")
        if name in found:
            raise UsageError(f"PKCS#11 URI: the attribute {printable(name)[:40]!r} is there twice")
        found[name] = unquote_to_bytes(raw)
    return found


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"PKCS#11 URI: {name} is not UTF-8") from error


def _file(source: str | None) -> str | None:
    """The path of a PIN file, from a path or a `file:` URI. Raises UsageError for a program (`|…`): none is run."""
    if source is None:
        return None
    if source.startswith("|"):
        raise UsageError(
            "PKCS#11 URI: pin-source names a program, which is not run",
            hint="give its output as a file: --hsm-pin-file <(program)",
        )
    return source.removeprefix("file://").removeprefix("file:")
