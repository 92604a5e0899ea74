"""nginx in front of the EST server, as in the examples."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "est"


def started_nginx(
    directory: Path, tls: tuple[Path, Path], changes: Mapping[str, str] = MappingProxyType({})
) -> tuple[subprocess.Popen[bytes], int]:
    """nginx with the example's configuration, once it takes connections, and its port.

    It passes requests to est.sock in the directory. `changes` are made to the configuration's text.
    """
    example = (EXAMPLES / "nginx.conf").read_text()
    folders = "".join(
        f"{name}_temp_path {directory}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    for _ in range(5):  # nginx cannot choose a port itself, so another program may take this one
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        text = example
        for old, new in (
            ("/run/fioctl-rotate-est/est.sock", f"{directory}/est.sock"),
            ("listen 8443 ssl", f"listen 127.0.0.1:{port} ssl"),
            ("/etc/fioctl-rotate/est-tls.pem", str(tls[0])),
            ("/etc/fioctl-rotate/est-tls.key", str(tls[1])),
            *changes.items(),
        ):
            assert old in text
            text = text.replace(old, new)
        (directory / "nginx.conf").write_text(
            f"daemon off; master_process off; pid {directory}/pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off; {folders}\n{text}}}\n"
        )
        command = ("nginx", "-p", str(directory), "-e", "stderr", "-c", str(directory / "nginx.conf"))
        proxy = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while proxy.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return proxy, port
            time.sleep(0.05)
    pytest.fail(f"nginx does not start: {subprocess.run([*command, '-t'], capture_output=True, check=False)}")
