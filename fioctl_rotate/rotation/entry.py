"""The configuration entry `fio-rotate-certs`: built, rendered, parsed and checked.

The device reads it with a shell script that greps the line of each key, cuts field 2 at `=` and uses the value
unquoted (fioconfig: renew-client-cert). What that script would cut short or misread is refused here, before it is
sent, because a device that took a wrong EST URL cannot be corrected by a second push.
"""

import ipaddress
import posixpath
import re
import shlex
from urllib.parse import unquote

from fioctl_rotate.errors import UsageError
from fioctl_rotate.hostname import host_name_fault
from fioctl_rotate.value import Value

FILE_NAME = "fio-rotate-certs"
HANDLER = "/usr/share/fioconfig/handlers/renew-client-cert"
DEFAULT_RESOURCE = "/.well-known/est"
DEFAULT_PORT = 8443
DEFAULT_PKEY_IDS = "01,07"
DEFAULT_CERT_IDS = "03,09"

KEYS = ("ESTSERVER", "PKEYIDS", "CERTIDS", "ROTATIONID")

# Characters on which no shell acts: none for quoting, expansion, globs or redirection, and no white space.
_RESOURCE = re.compile(r"[A-Za-z0-9/._~%+@:,-]+\Z")
# What Go's URL parser, and so the device, refuses.
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PORT = re.compile(r"[0-9]{1,5}\Z")
_SLOT = re.compile(r"[0-9]{2}\Z")
_ROTATION_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*\Z")


class Entry(Value):
    """A `fio-rotate-certs` entry that a device reads as it is meant.

    `host`, `port` and `resource` are those of the EST server, `pkey_ids` and `cert_ids` PKCS#11 slot ids.
    """

    host: str
    port: int
    resource: str
    pkey_ids: tuple[str, str]
    cert_ids: tuple[str, str]
    rotation_id: str

    @classmethod
    def parse(cls, value: str) -> "Entry":
        """The entry with this value. Raises UsageError for a value that `render` never gives."""
        fields = parse_value(value)
        host, port, resource = split_est_server(fields["ESTSERVER"])
        entry = make_entry(
            server_name=host,
            port=port,
            resource=resource,
            pkey_ids=fields["PKEYIDS"],
            cert_ids=fields["CERTIDS"],
            rotation_id=fields["ROTATIONID"],
        )
        if entry.render() != value:
            raise UsageError(f"the value of {FILE_NAME} is not one that rotate-certs makes")
        return entry

    @property
    def est_server(self) -> str:
        """ESTSERVER: the EST server's URL, to which a device adds the operation."""
        return _url(self.host, self.port, self.resource)

    def render(self) -> str:
        """The value, byte for byte as fioctl makes it: four lines, each ending with a line feed."""
        return (
            f"ESTSERVER={self.est_server}\n"
            f"PKEYIDS={','.join(self.pkey_ids)}\n"
            f"CERTIDS={','.join(self.cert_ids)}\n"
            f"ROTATIONID={self.rotation_id}\n"
        )


def est_url(server_name: str, port: int = DEFAULT_PORT, resource: str = DEFAULT_RESOURCE) -> str:
    """An ESTSERVER from what an operator typed, every part checked. Raises UsageError as `make_entry` does."""
    if not 1 <= port <= 65535:
        raise UsageError(f"EST port {port} is not between 1 and 65535")
    return _url(ascii_host(server_name), port, _checked_resource(resource))


def split_est_server(url: str) -> tuple[str, int, str]:
    """Host, port and resource of an ESTSERVER `https://HOST:PORT/PATH`, unchanged.

    Raises UsageError where it has another form.
    """
    authority, slash, path = url.removeprefix("https://").partition("/")
    host, _, port = authority.partition(":")
    if not url.startswith("https://") or not _PORT.match(port):
        raise UsageError(f"`{url}` is not an EST server's URL of the form https://HOST:PORT/PATH")
    return host, int(port), slash + path


def reenroll_url(est_server: str) -> str:
    """The URL to which a device posts its CSR: the text of ESTSERVER, then the operation (fioconfig: estStep).

    The device does not tidy the path, so only this function makes the URL. `est.client.send` sends it unchanged.
    """
    return f"{est_server}/simplereenroll"


def ascii_host(server_name: str) -> str:
    """The host as a URL carries it: a DNS name in ASCII form (IDNA 2008), or an IPv4 address.

    Raises UsageError for anything else. The brackets of an IPv6 address are a pattern to the device's shell, which
    replaces them by the name of a file that matches.
    """
    name = server_name
    if not name:
        raise UsageError("the EST server's name is empty")
    if "://" in name:
        raise UsageError(f"EST server name `{name}` has a scheme; give the bare name", hint=_hint_of(name))
    if "/" in name:
        raise UsageError(
            f"EST server name `{name}` has a path; the path goes to --est-resource", hint=_hint_of(name)
        )
    if _is_ipv6(name.strip("[]")):
        raise UsageError(
            f"EST server name `{name}` is an IPv6 address, whose brackets the device's shell takes as a pattern",
            hint="use a DNS name",
        )
    if ":" in name:
        raise UsageError(
            f"EST server name `{name}` has a port; the port goes to --est-port", hint=_hint_of(name)
        )
    if any(c.isspace() for c in name):
        raise UsageError(f"EST server name `{name}` has white space, where the device's handler would cut it")
    if "=" in name:
        raise UsageError(f"EST server name `{name}` has a `=`, where the device's handler would cut it")
    ascii_name = name if name.isascii() else _idna(name)
    fault = None if _is_ipv4(ascii_name) else host_name_fault(ascii_name, underscore=True)
    if fault:
        raise UsageError(f"EST server name `{name}` is not a DNS name or an IPv4 address: {fault}")
    _refuse_key_names(ascii_name, f"EST server name `{name}`")
    return ascii_name


def new_rotation_id(unix_seconds: int, taken: set[str]) -> str:
    """`certs-<unix seconds>`, with seconds added until the id is not in `taken`.

    Two rotations in one second must not share an id: to a device equal ids are one rotation.
    """
    while f"certs-{unix_seconds}" in taken:
        unix_seconds += 1
    return f"certs-{unix_seconds}"


def check_rotation_id(rotation_id: str) -> str:
    """Returns `rotation_id`. Raises UsageError if devices or the API refuse it (dg-satellite: correlation ids)."""
    if not _ROTATION_ID.match(rotation_id):
        raise UsageError(
            f"rotation id `{rotation_id}` is not valid: expected letters, digits, `_` and `-`, and not `-` first"
        )
    if len(rotation_id) > 128:
        raise UsageError(f"rotation id `{rotation_id}` is longer than 128 characters")
    _refuse_key_names(rotation_id, f"rotation id `{rotation_id}`")
    return rotation_id


def check_slots(text: str, option: str) -> tuple[str, str]:
    """The two slot ids of `text` (`01,07`); a device takes the first that is not its present one.

    Raises UsageError unless these are two different ids of two digits. `00` is refused: it crashes the device.
    """
    ids = text.split(",")
    if len(ids) != 2 or not all(_SLOT.match(slot) for slot in ids):
        raise UsageError(f"{option}: expected two slot ids of two digits, such as 01,07, got `{text}`")
    if ids[0] == ids[1]:
        raise UsageError(f"{option} `{text}` names one slot twice; a device needs another one to change to")
    if "00" in ids:
        raise UsageError(f"{option} `{text}` has slot 00, on which fioconfig crashes")
    return ids[0], ids[1]


def make_entry(
    *, server_name: str, port: int, resource: str, pkey_ids: str, cert_ids: str, rotation_id: str
) -> Entry:
    """An entry from what an operator typed, every part checked.

    Raises UsageError for what a device's handler would cut or misread, and for what wedges a device.
    """
    host, port, resource = split_est_server(est_url(server_name, port, resource))
    return Entry(
        host=host,
        port=port,
        resource=resource,
        pkey_ids=check_slots(pkey_ids, "--hsm-pkey-ids"),
        cert_ids=check_slots(cert_ids, "--hsm-cert-ids"),
        rotation_id=check_rotation_id(rotation_id),
    )


def slot_warnings(entry: Entry) -> list[str]:
    """Warnings about an entry's slot ids, each for an id that a device reads as something else than it seems.

    fioconfig turns an id into bytes digit by digit, so only `01` to `09` mean one byte of that value.
    """
    return [
        f"slot id {slot}: a device reads it as the two bytes 0x0{slot[0]} 0x0{slot[1]}; only 01 to 09 mean one byte"
        for slot in (*entry.pkey_ids, *entry.cert_ids)
        if not slot.startswith("0")
    ]


def parse_value(value: str) -> dict[str, str]:
    """The four values as the device's handler reads them: the first line that holds the key, field 2 at `=`.

    A missing key gives "". This reads any value, not only those we would send. The handler joins the fields of all
    matching lines; here the first is enough to tell one rotation from another.
    """
    result = {}
    for key in KEYS:
        line = next((line for line in value.split("\n") if key in line), "")
        fields = line.split("=")
        # `cut -f2` gives the whole line where the delimiter is missing.
        result[key] = fields[1] if len(fields) > 1 else line
    return result


def settle_reason(rotation_id: str) -> str:
    """The reason in the log for settling a rotation, which sends its entry again, unchanged."""
    return f"settle rotation {rotation_id}"


def rotation_id_of(value: str) -> str:
    """The ROTATIONID that a device reads from the entry's value, "" where there is none."""
    return parse_value(value)["ROTATIONID"]


def _url(host: str, port: int, resource: str) -> str:
    return f"https://{host}:{port}{resource}"


def _checked_resource(resource: str) -> str:
    if not resource or resource == "/":
        raise UsageError("the EST resource is empty", hint=f"leave it out for {DEFAULT_RESOURCE}")
    if not resource.startswith("/"):
        resource = "/" + resource
    for character, reason in (
        ("?", "a query"),
        ("#", "a fragment"),
        ("=", "a `=`, where the device's handler would cut it"),
    ):
        if character in resource:
            raise UsageError(f"EST resource `{resource}` has {reason}")
    if any(c.isspace() for c in resource):
        raise UsageError(
            f"EST resource `{resource}` has white space, where the device's handler would cut it"
        )
    if not _RESOURCE.match(resource):
        wrong = next(c for c in resource if not _RESOURCE.match(c))
        raise UsageError(f"EST resource `{resource}` has a `{wrong}`, which the device's shell would act on")
    if _BAD_ESCAPE.search(resource):
        raise UsageError(
            f"EST resource `{resource}` has a `%` that is not followed by two hexadecimal digits"
        )
    _refuse_other_paths(resource)
    _refuse_key_names(resource, f"EST resource `{resource}`")
    return resource


def _refuse_other_paths(resource: str) -> None:
    """Refuse a path that servers or clients would tidy: a device asks for it unchanged."""
    segments = [unquote(segment) for segment in resource.split("/")[1:]]
    if segments[-1] == "":
        fault = "ends in `/`: devices would ask for `//simplereenroll`"
    elif "" in segments:
        fault = "has `//`"
    elif "." in segments or ".." in segments:
        fault = "has a segment `.` or `..`"
    else:
        return
    right = posixpath.normpath("/" + "/".join(segment for segment in segments if segment))
    hint = f"--est-resource {shlex.quote(right)}" if right != "/" else f"leave it out for {DEFAULT_RESOURCE}"
    raise UsageError(f"EST resource `{resource}` {fault}", hint=hint)


def _refuse_key_names(value: str, what: str) -> None:
    for key in KEYS:
        if key in value:
            raise UsageError(
                f"{what} holds `{key}`, so the device's handler would take it for the line of that key"
            )


def _idna(name: str) -> str:
    import idna

    try:
        return idna.encode(name, uts46=True).decode()
    except idna.IDNAError as error:
        raise UsageError(f"EST server name `{name}` has no ASCII form: {error}") from error


def _is_ipv4(name: str) -> bool:
    try:
        ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def _is_ipv6(name: str) -> bool:
    try:
        ipaddress.IPv6Address(name)
    except ValueError:
        return False
    return True


def _hint_of(name: str) -> str:
    """The options to use instead of a URL that was typed as the server name."""
    rest = name.split("://", 1)[-1]
    authority, slash, path = rest.partition("/")
    host, _, port = authority.partition(":")
    parts = [f"--server-name {host}"]
    if port.isdigit():
        parts.append(f"--est-port {port}")
    if slash and path:
        parts.append(f"--est-resource /{path}")
    return " ".join(parts)
