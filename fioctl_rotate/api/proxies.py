"""Which proxy the environment names for a URL (HTTPS_PROXY, ALL_PROXY), and what NO_PROXY excludes."""

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from fioctl_rotate.errors import UsageError
from fioctl_rotate.settings import is_loopback
from fioctl_rotate.value import Value

_SCHEMES = ("http", "https", "socks5", "socks5h")


class Proxy(Value):
    """A proxy: `url` may hold a password, `name` is for people, `variable` is where it comes from."""

    _secret = frozenset({"url"})

    url: str
    name: str
    variable: str

    def __str__(self) -> str:
        return f"the proxy {self.name} ({self.variable})"


def proxy_for(url: str, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy for `url`; None where there is none, and always for this machine.

    Raises UsageError for a proxy's URL that is not valid, without quoting it: it may hold a password.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    variable, value = _first(environ, f"{parts.scheme}_proxy", "all_proxy")
    if not value or is_loopback(host) or _is_excluded(host, port, _first(environ, "no_proxy")[1]):
        return None
    value = value if "://" in value else f"http://{value}"
    try:
        found = urlsplit(value)
        name = f"{found.scheme}://{found.hostname}" + (f":{found.port}" if found.port else "")
        if re.fullmatch(r"[!-~]+", value) and found.scheme in _SCHEMES and found.hostname:
            return Proxy(value, name, variable)
    except ValueError:
        pass
    raise UsageError(f"{variable} is not a valid proxy URL", hint="expected http://HOST:PORT")


def _first(environ: Mapping[str, str], *names: str) -> tuple[str, str]:
    """The first of these variables that is not empty, lower case before upper case, and its value; else "", ""."""
    for name in names:
        for variable in (name, name.upper()):
            if value := environ.get(variable, "").strip():
                return variable, value
    return "", ""


def _is_excluded(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether NO_PROXY has `host`: as `*`, name, parent domain, address or range; each may have a port."""
    return any(_matches(item.lower(), host, port) for item in re.split(r"[,\s]+", no_proxy))


def _matches(item: str, host: str, port: int | None) -> bool:
    if item == "*":
        return True
    # A port follows a name, an IPv4 address, or an IPv6 address in brackets.
    found = re.fullmatch(
        r"\[(?P<v6>.*)\](?::(?P<p6>\d+))?|(?P<name>[^:]*)(?::(?P<p>\d+))?|(?P<bare>.*)", item
    )
    assert found is not None  # noqa: S101  the last form takes any text
    name = found["v6"] or found["name"] or found["bare"] or ""
    wanted = found["p6"] or found["p"]
    if wanted is not None and wanted != str(port):
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = name.removeprefix("*").removeprefix(".")
        return name != "" and (host == name or host.endswith(f".{name}"))
    try:
        return address in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False
