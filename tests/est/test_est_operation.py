"""What the operator of `est serve` sees and does: reloads, deny list, metrics, warnings, refused connections."""

import json
import re
import socket
import ssl
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography import x509

from fioctl_rotate.est.service import key_digest
from fioctl_rotate.pki import certificates
from fioctl_rotate.pki.keys import private_key_pem
from fioctl_rotate.tls import client_context
from tests.commandline import Cli
from tests.est.process import Process, options
from tests.making import DAY, LEAF, NOW, Pki, certificate

Files = dict[str, Path]
Start = Callable[..., Process]
Enroll = Callable[..., httpx.Response]


def shown_certificate(url: str, root: x509.Certificate) -> x509.Certificate:
    """The certificate that a TLS server shows."""
    parts = urlsplit(url)
    with (
        socket.create_connection((parts.hostname, parts.port)) as sock,
        client_context(certificates.pem(root)).wrap_socket(sock, server_hostname=parts.hostname) as tls,
    ):
        der = tls.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def test_the_deny_list_is_read_again(started: Start, enroll: Enroll, tmp_path: Path) -> None:
    deny = tmp_path / "deny.txt"
    deny.write_text("uuid uuid-2\n")
    process = started("--deny", deny)
    assert enroll(process.url).status_code == 201
    assert enroll(process.url, uuid="uuid-2").status_code == 403
    assert "403 on the deny list: uuid uuid-2" in process.read_until("uuid-2")
    deny.write_text("uuid uuid-1\n")
    assert process.reload() == "files read again"
    assert enroll(process.url).status_code == 403
    assert enroll(process.url, uuid="uuid-2").status_code == 201


@pytest.mark.parametrize("name", ["tls-cert", "tls-key", "root-cert", "ca-cert", "deny"])
def test_a_broken_file_leaves_the_old_ones_in_use_and_is_named(
    started: Start, enroll: Enroll, files: Files, tmp_path: Path, name: str
) -> None:
    files["deny"] = tmp_path / "deny.txt"
    files["deny"].write_text("")
    process = started()
    files[name].write_text("broken")
    told = process.reload()
    assert told.startswith("reload failed, the files from before stay in use: ")
    assert str(files[name]) in told
    assert enroll(process.url).status_code == 201


def test_tls_files_are_read_again(started: Start, files: Files, live_pki: Pki) -> None:
    process = started()
    before = shown_certificate(process.url, live_pki.root)
    new, key = live_pki.server()
    files["tls-cert"].write_text(certificates.pem(new))
    files["tls-key"].write_bytes(private_key_pem(key))
    assert process.reload() == "files read again"
    assert shown_certificate(process.url, live_pki.root) == new != before


def metrics(url: str) -> dict[str, float]:
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    return {name: float(value) for name, value in re.findall(r"^(\w+(?:{.*})?) (\S+)$", text, re.MULTILINE)}


def test_health_and_metrics(started: Start, enroll: Enroll, live_pki: Pki) -> None:
    process = started("--status-port", 0, "--enroll", "off")
    status = process.read().split()[2].removesuffix("/healthz")
    assert status.startswith("http://127.0.0.1:")
    healthy = httpx.get(f"{status}/healthz", trust_env=False)
    assert (healthy.status_code, healthy.text) == (200, "ok\n")
    assert httpx.get(f"{status}/other", trust_env=False).status_code == 404
    assert enroll(process.url).status_code == 201
    with pytest.raises(httpx.TransportError):
        enroll(process.url, Pki.make(owner="u2"))
    context = client_context(certificates.pem(live_pki.root))
    with httpx.Client(verify=context, trust_env=False) as client:
        client.get(f"{process.url}/made-up-{'x' * 99}")
    process.read_until("404")
    seen = metrics(status)
    assert seen['est_requests_total{operation="simplereenroll",status="201"}'] == 1
    assert seen['est_requests_total{operation="other",status="404"}'] == 1
    assert seen["est_connections_refused_total"] == 1
    assert seen['est_request_seconds_count{operation="simplereenroll"}'] == 1
    days = (live_pki.ca.not_valid_after_utc - NOW) / DAY
    assert seen['est_certificate_days_left{certificate="ca"}'] == pytest.approx(days, abs=1)
    assert seen['est_certificate_days_left{certificate="tls"}'] == pytest.approx(days, abs=1)
    assert "made-up" not in " ".join(seen)


def test_an_expired_ca_is_not_healthy(started: Start, files: Files, live_pki: Pki) -> None:
    old = certificate(
        name=live_pki.ca.subject,
        key=live_pki.ca_key,
        signer=live_pki.root_key,
        begins=NOW - 2 * DAY,
        ends=NOW - timedelta(minutes=1),
    )
    files["ca-cert"].write_text(certificates.pem(old))
    process = started("--status-port", 0)
    answer = httpx.get(process.read().split()[2], trust_env=False)
    assert (answer.status_code, answer.text) == (503, "expired: ca\n")


def test_refused_connections_are_lines_of_the_log(started: Start, enroll: Enroll) -> None:
    process = started("--log-format", "json")
    for issuer in (Pki.make(owner="u2"), None):
        try:
            enroll(process.url, issuer)
        except httpx.TransportError:
            continue
    refused, issued = (json.loads(process.read()) for _ in range(2))
    assert (refused["operation"], refused["status"], refused["device"]) == ("connection", 0, "")
    assert refused["outcome"].startswith("handshake: the client certificate is refused")
    assert re.fullmatch(r"127\.0\.0\.1:\d+", refused["peer"])
    assert refused["time"].endswith("Z")
    assert issued["outcome"] == "issued"


def test_a_client_certificate_that_has_expired_is_said(started: Start, enroll: Enroll, live_pki: Pki) -> None:
    process = started()
    old = live_pki.device()
    expired = certificate(
        name=old[0].subject,
        issuer=live_pki.ca.subject,
        key=old[1],
        signer=live_pki.ca_key,
        extensions=(),
        begins=NOW - 9 * DAY,
        ends=NOW - DAY,
    )
    with pytest.raises(httpx.TransportError):
        enroll(process.url, device=(expired, old[1]))
    assert "the client certificate is refused: certificate has expired" in process.read()


def test_two_client_cas_of_one_subject_are_warned_about(
    started: Start, enroll: Enroll, live_pki: Pki, tmp_path: Path
) -> None:
    twin = live_pki.with_another_ca()
    bundle = tmp_path / "cas.pem"
    bundle.write_text(certificates.pem(live_pki.ca, twin.ca, live_pki.ca))
    process = started("--client-cas", bundle)
    warning = process.log[0]
    assert warning.startswith("warning: 2 device CAs have the subject ")
    assert "--behind-proxy" in warning
    # With an AKI, as all that this program signs has one, both work.
    assert [enroll(process.url, issuer).status_code for issuer in (live_pki, twin)] == [201, 201]


def test_other_client_cas_are_not_warned_about(started: Start, tmp_path: Path) -> None:
    bundle = tmp_path / "cas.pem"
    bundle.write_text(certificates.pem(Pki.make(owner="u2").ca, Pki.make(owner="u3").ca))
    assert started("--client-cas", bundle).log[0].startswith("EST server at")


def test_the_key_of_the_server_is_never_certified(
    started: Start, files: Files, live_pki: Pki, enroll: Enroll
) -> None:
    process = started()
    tls_key = live_pki.server()
    files["tls-cert"].write_text(certificates.pem(tls_key[0]))
    files["tls-key"].write_bytes(private_key_pem(tls_key[1]))
    process.reload()
    assert enroll(process.url, key=tls_key[1]).status_code == 403


@pytest.mark.parametrize(
    ("before", "after"),
    [("# Gerät-CAs\n", ""), ("\ufeff", ""), ("", "# Ende\n"), ("subject=/CN=x\r\n", "\r\n")],
)
def test_a_bundle_may_have_text_of_any_kind(
    started: Start, enroll: Enroll, tmp_path: Path, before: str, after: str
) -> None:
    other = Pki.make(owner="u2")
    bundle = tmp_path / "cas.pem"
    bundle.write_text(before + certificates.pem(other.ca) + after, encoding="utf-8")
    assert enroll(started("--client-cas", bundle).url, other).status_code == 201


def test_a_glued_bundle_is_taken_or_blamed_by_its_name(
    cli: Cli, files: Files, live_pki: Pki, tmp_path: Path
) -> None:
    bundle = tmp_path / "glued.pem"
    bundle.write_text((certificates.pem(live_pki.ca) * 2).replace("-----\n-----", "----------"))
    strange = tmp_path / "strange.pem"
    strange.write_text("nothing")
    result = cli("est", "serve", *options({**files, "client-cas": bundle, "deny": strange}))
    assert result.code == 1
    error = result.err.splitlines()[0]
    assert "glued.pem" in error or "strange.pem" in error
    assert "tls.pem" not in error


def test_session_tickets_are_off(started: Start, live_pki: Pki) -> None:
    url = urlsplit(started().url)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = client_context(certificates.pem(live_pki.root))
        context.minimum_version = context.maximum_version = version
        with (
            socket.create_connection((url.hostname, url.port)) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as tls,
        ):
            tls.sendall(b"GET /.well-known/est/cacerts HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while tls.recv(65536):
                pass
            session = tls.session
        assert session is None or not session.has_ticket


def test_a_device_key_is_logged_by_its_digest(started: Start, enroll: Enroll) -> None:
    process = started("--log-format", "json")
    from fioctl_rotate.est.client import decode_certificates

    new = decode_certificates(enroll(process.url).content)[0]
    assert json.loads(process.read())["key-sha256"] == key_digest(new.public_key())


def test_what_devices_will_not_accept_is_said_at_the_start_and_when_files_are_read_again(
    started: Start, files: Files, live_pki: Pki
) -> None:
    assert started().log[0].startswith("EST server at")
    tls, tls_key = live_pki.server()
    files["tls-key"].write_bytes(private_key_pem(tls_key))
    for issuer, signer, ends, expected in (
        (live_pki.root, live_pki.root_key, NOW - DAY, "validity: expired at"),
        (live_pki.ca, live_pki.ca_key, NOW + DAY, "issuer: not the Factory's root"),
    ):
        bad = certificate(
            name=tls.subject,
            issuer=issuer.subject,
            key=tls_key,
            signer=signer,
            extensions=LEAF,
            begins=NOW - 9 * DAY,
            ends=ends,
        )
        files["tls-cert"].write_text(certificates.pem(bad))
        process = started()
        warning = f"warning: devices will not accept {files['tls-cert']}: {expected}"
        assert process.log[0].startswith(warning)
        process.reload()
        assert process.log[-2].startswith(warning)
    # With the CA between it and the root sent along, the last one is good.
    files["tls-cert"].write_text(certificates.pem(bad, live_pki.ca))
    assert started().log[0].startswith("EST server at")
    stranger = Pki.make()
    files["root-cert"].write_text(certificates.pem(stranger.root))
    assert f"{files['ca-cert']} is not signed by" in started().log[0]


def test_an_expired_ca_is_said_at_the_start(started: Start, files: Files, live_pki: Pki) -> None:
    old = certificate(
        name=live_pki.ca.subject,
        key=live_pki.ca_key,
        signer=live_pki.root_key,
        begins=NOW - 9 * DAY,
        ends=NOW - DAY,
    )
    files["ca-cert"].write_text(certificates.pem(old))
    assert "no certificate can be issued" in started().log[0]


def test_a_file_that_cannot_be_used_is_named(cli: Cli, files: Files, tmp_path: Path) -> None:
    for name, error in (("tls-key", "no such file"), ("tls-cert", "cannot be read")):
        wrong = tmp_path / "nothing" if error == "no such file" else tmp_path
        result = cli("est", "serve", *options({**files, name: wrong}))
        assert (result.code, result.err.startswith(f"error: {wrong}"), error in result.err) == (1, True, True)
