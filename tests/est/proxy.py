"""Proxies in front of the EST server, configured as in the examples."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "est"
HEADERS = {"nginx": "X-Client-Cert", "haproxy": "Client-Cert", "envoy": "X-Client-Cert"}
"""The header in which each proxy passes the client's certificate on."""

Changes = Mapping[str, str]


def _changed(example: str, changes: Changes) -> str:
    text = (EXAMPLES / example).read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


def _nginx(directory: Path, tls: tuple[Path, Path], port: int, changes: Changes) -> list[str]:
    folders = "".join(
        f"{name}_temp_path {directory}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    own = {
        "listen 8443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/fioctl-rotate/est-tls.pem": str(tls[0]),
        "/etc/fioctl-rotate/est-tls.key": str(tls[1]),
    }
    (directory / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {directory}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {folders}\n{_changed('nginx.conf', {**own, **changes})}}}\n"
    )
    return ["nginx", "-p", str(directory), "-e", "stderr", "-c", str(directory / "nginx.conf")]


def _haproxy(directory: Path, tls: tuple[Path, Path], port: int, changes: Changes) -> list[str]:
    both, config = directory / "both.pem", directory / "haproxy.cfg"
    both.write_bytes(tls[0].read_bytes() + tls[1].read_bytes())
    own = {
        "bind :8443": f"bind 127.0.0.1:{port}",
        "/etc/fioctl-rotate/est-tls.pem verify": f"{both} verify",
        "/etc/fioctl-rotate/factory_ca.pem": str(directory / "factory_ca.pem"),
        # Only root can become another user.
        "    user haproxy\n": "",
        "    group haproxy": "    ",
    }
    config.write_text(_changed("haproxy.cfg", {**own, **changes}))
    subprocess.run(["haproxy", "-c", "-q", "-f", str(config)], check=True)
    return ["haproxy", "-db", "-f", str(config)]


def _envoy(directory: Path, tls: tuple[Path, Path], port: int, changes: Changes) -> list[str]:
    config = directory / "envoy.yaml"
    own = {
        "address: 0.0.0.0, port_value: 8443": f"address: 127.0.0.1, port_value: {port}",
        "/etc/fioctl-rotate/est-tls.pem": str(tls[0]),
        "/etc/fioctl-rotate/est-tls.key": str(tls[1]),
        "/etc/fioctl-rotate/client-cas.pem": str(directory / "est-ca.pem"),
    }
    config.write_text(_changed("envoy.yaml", {**own, **changes}))
    return ["envoy", "-c", str(config), "--use-dynamic-base-id", "--concurrency", "1"]


_CONFIGURED = {"nginx": _nginx, "haproxy": _haproxy, "envoy": _envoy}


def started_proxy(
    name: str, directory: Path, tls: tuple[Path, Path], changes: Changes = MappingProxyType({})
) -> tuple[subprocess.Popen[bytes], int]:
    """The proxy with its example's configuration, once it takes connections, and its port.

    It passes requests to est.sock in the directory, which has factory_ca.pem and est-ca.pem. `changes` are made to
    the configuration's text.
    """
    changes = {"/run/fioctl-rotate-est/est.sock": f"{directory}/est.sock", **changes}
    for _ in range(5):  # it cannot choose a port itself, so another program may take this one
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = _CONFIGURED[name](directory, tls, port, changes)
        with (directory / "proxy.log").open("wb") as log:
            proxy = subprocess.Popen(command, stdout=log, stderr=log)
        while proxy.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return proxy, port
            time.sleep(0.05)
    pytest.fail(f"{name} does not start: {(directory / 'proxy.log').read_text()}")
