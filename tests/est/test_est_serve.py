"""`est serve`: a process that devices enroll with over mutual TLS, made of files."""

import contextlib
import datetime
import hashlib
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fioctl_rotate.errors import Error
from fioctl_rotate.est.client import decode_certificates
from fioctl_rotate.est.go_duration import parse_go_duration
from fioctl_rotate.pki import certificates
from fioctl_rotate.pki.keys import generate_key, private_key_pem
from fioctl_rotate.serving import listen
from fioctl_rotate.tls import client_context
from tests.est.process import options


def test_a_device_enrolls_and_is_logged(started, enroll, live_pki):
    process = started("--log-format", "json")
    response = enroll(process.url)
    assert (response.status_code, response.headers["content-type"]) == (201, "application/pkcs7-mime")
    (new,) = decode_certificates(response.content)
    new.verify_directly_issued_by(live_pki.ca)
    assert new.not_valid_after_utc - new.not_valid_before_utc == datetime.timedelta(days=3 * 365)
    line = json.loads(process.read())
    assert line.pop("time").endswith("Z")
    assert line.pop("peer").startswith("127.0.0.1:")
    assert 0 < line.pop("seconds") < 20
    ca_id = live_pki.ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    key = new.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert line == {
        "operation": "simplereenroll",
        "device": "uuid-1",
        "factory": "acme",
        "status": 201,
        "outcome": "issued",
        "serial": f"{new.serial_number:x}",
        "not-after": f"{new.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        "key-sha256": hashlib.sha256(key).hexdigest(),
        "issuer-key-id": ca_id.hex(),
    }
    context = client_context(certificates.pem(live_pki.root))
    roots = httpx.get(f"{process.url}/cacerts", verify=context, trust_env=False)
    assert decode_certificates(roots.content) == [live_pki.root]
    assert httpx.post(f"{process.url}/simpleenroll", verify=context, trust_env=False).status_code == 401
    assert process.stop() == 0


def test_options_of_estserver(started, enroll):
    process = started("--cert-duration", "1h30m", "--rfc7030")
    response = enroll(process.url)
    assert response.status_code == 200
    (new,) = decode_certificates(response.content)
    assert new.not_valid_after_utc - new.not_valid_before_utc == datetime.timedelta(minutes=90)
    assert "simplereenroll uuid-1 of acme: 200 issued serial" in process.read()
    assert process.stop(signal.SIGINT) == 0


def refuses(call):
    try:
        call()
    except httpx.TransportError:
        return True
    return False


def test_client_cas_are_read_again_on_sighup(started, enroll, files, live_pki, tmp_path):
    other = type(live_pki).make(now=live_pki.now)
    bundle = tmp_path / "cas.pem"
    bundle.write_text(certificates.pem(live_pki.ca))
    process = started("--client-cas", str(bundle))
    assert refuses(lambda: enroll(process.url, other))
    assert ": handshake: the client certificate is refused: unable to get local issuer" in process.read()
    bundle.write_text(certificates.pem(live_pki.ca) + "\n" + certificates.pem(other.ca))
    assert process.reload() == "files read again"
    assert enroll(process.url, other).status_code == 201
    assert enroll(process.url).status_code == 201, "devices of --ca-cert stay trusted"
    process.read(), process.read()
    bundle.write_text("nothing")
    process.process.send_signal(signal.SIGHUP)
    assert "stay in use" in process.read()
    assert enroll(process.url, other).status_code == 201
    assert process.stop() == 0


def workers_of(pid):
    """The processes that serve; the interpreter's resource tracker is another child."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")


def test_several_processes_share_the_port(started, enroll, live_pki, tmp_path):
    other = type(live_pki).make(now=live_pki.now)
    bundle = tmp_path / "cas.pem"
    bundle.write_text(certificates.pem(live_pki.ca))
    process = started("--workers", "2", "--client-cas", str(bundle))
    for number in range(8):
        assert enroll(process.url, uuid=f"uuid-{number}").status_code == 201
        assert f"uuid-{number} of acme: 201" in process.read()
    bundle.write_text(certificates.pem(other.ca))
    process.process.send_signal(signal.SIGHUP)
    for _ in range(2):
        process.read_until("files read again")
    assert all(enroll(process.url, other).status_code == 201 for _ in range(6))
    assert process.stop() == 0


def wait_for(condition):
    """What `condition` gives once that is true, or the last that it gave in two minutes."""
    deadline, pause = time.monotonic() + 120, threading.Event()
    while not (found := condition()) and time.monotonic() < deadline:
        pause.wait(0.02)
    return found


def both_workers_of(process):
    """The server's two workers, once both have started."""
    return wait_for(lambda: workers if len(workers := workers_of(process.process.pid)) == 2 else None)


@needs_proc
def test_a_worker_that_dies_ends_the_server(started):
    process = started("--workers", "2")
    os.kill(both_workers_of(process)[0], signal.SIGKILL)
    with process.process:
        assert process.process.wait(120) == 1
        assert "a worker process ended by itself: process " in (told := process.process.stderr.read())
        assert "(killed by SIGKILL)" in told


@needs_proc
def test_a_supervisor_that_is_killed_leaves_no_worker(started):
    process = started("--workers", "2")
    workers = both_workers_of(process)

    def port_is_free():
        try:
            listen("127.0.0.1", urlsplit(process.url).port).close()
        except Error:
            return False
        return True

    with process.process:
        process.process.kill()
        try:
            assert wait_for(port_is_free)
        finally:
            for worker in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)


def has_ipv6():
    with contextlib.suppress(Error):
        listen("::1", 0).close()
        return True
    return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_an_ipv6_address_is_in_brackets(started):
    process = started("--host", "::1")
    assert process.url.startswith("https://[::1]:")
    with socket.create_connection(("::1", urlsplit(process.url).port)):
        pass
    assert process.stop() == 0


@pytest.mark.parametrize("name", ["root-cert", "tls-cert", "tls-key", "ca-cert", "ca-key", "client-cas"])
@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN NOTHING-----\n"])
def test_a_file_that_is_not_usable_is_an_error_of_one_line(cli, files, tmp_path, name, content):
    path = tmp_path / "broken.pem"
    if content is not None:
        path.write_bytes(content)
    result = cli("est", "serve", *options({**files, name: path}), "--port", 0)
    assert result.code == 1
    assert result.out == ""
    error = result.err.splitlines()[0]
    assert error.startswith("error: ")
    assert "broken.pem" in error


def test_files_that_do_not_fit(cli, files, live_pki, tmp_path):
    strange = tmp_path / "strange.key"
    strange.write_bytes(private_key_pem(generate_key()))
    result = cli("est", "serve", *options({**files, "ca-key": strange}))
    assert (result.code, "is not the key of" in result.err) == (1, True)
    result = cli("est", "serve", *options({**files, "tls-key": strange}))
    assert (result.code, "strange.key is not the key of" in result.err) == (1, True)
    leaf, key = live_pki.device()
    (tmp_path / "leaf.pem").write_text(certificates.pem(leaf))
    strange.write_bytes(private_key_pem(key))
    result = cli("est", "serve", *options({**files, "ca-cert": tmp_path / "leaf.pem", "ca-key": strange}))
    assert (result.code, "not a CA certificate" in result.err) == (1, True)


def test_a_taken_port_is_an_error_of_one_line(cli, files):
    with listen("127.0.0.1", 0) as taken:
        for workers in (1, 2):
            port = taken.getsockname()[1]
            result = cli(
                "est", "serve", *options(files), "--host", "127.0.0.1", "--port", port, "--workers", workers
            )
            assert result.code == 1
            assert result.err.startswith(f"error: cannot listen on 127.0.0.1:{port}")
            assert "hint: choose another port" in result.err


def test_another_port_is_no_help_for_an_address_that_is_not_here(cli, files):
    # RFC 5737: an address for documentation is nobody's.
    result = cli("est", "serve", *options(files), "--host", "192.0.2.1", "--port", 0)
    assert result.code == 1
    assert result.err.startswith("error: cannot listen on 192.0.2.1:0")
    assert "hint" not in result.err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("26280h", 94_608_000),
        ("1.5h", 5400),
        ("2h45m", 9900),
        ("1m1s500ms", 61.5),
        (".5h", 1800),
        ("+1h", 3600),
    ],
)
def test_durations_as_go_writes_them(text, seconds):
    assert parse_go_duration(text).total_seconds() == seconds


@pytest.mark.parametrize(
    "text",
    ["", "1", "h", "9" * 5000 + "h", "1d", "-1h", "0h", "1h ", "1,5h", "1ns", "9999999999h", "\u0661h"],
)
def test_other_durations_are_wrong_usage(cli, files, text):
    result = cli("est", "serve", *options(files), f"--cert-duration={text}")
    assert result.code == 2
    assert "duration" in result.err
