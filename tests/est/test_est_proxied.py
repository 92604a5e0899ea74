"""The EST server behind a proxy that ends TLS: whom it believes, and the whole way through a real nginx."""

import base64
import datetime
import shutil
import subprocess
import sys
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from fioctl_rotate.est.client import build_csr
from fioctl_rotate.est.proxied import client_from_header
from fioctl_rotate.pki import certificates
from fioctl_rotate.pki.keys import generate_key
from fioctl_rotate.tls import client_context
from tests.est.proxy import EXAMPLES, HEADERS, started_proxy
from tests.making import NOW, Pki, certificate, write_pair

HEADER = "X-Client-Cert"
FOR_CLIENTS = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])


def escaped(made: x509.Certificate) -> str:
    """As nginx's `$ssl_client_escaped_cert`."""
    return quote(certificates.pem(made), safe="")


def sequence(made: x509.Certificate) -> str:
    """As in RFC 9440."""
    return f":{base64.b64encode(made.public_bytes(Encoding.DER)).decode()}:"


@pytest.fixture(scope="module")
def own() -> Pki:
    return Pki.make()


@pytest.fixture
def ask(own, est_with):
    """`ask(header, *values)`: the answer to a re-enrollment of `client` with these header values."""

    def post(header, *values, client=None, named=HEADER, authorities=(), now=NOW):
        est = est_with(
            own.authority(), client_of=client_from_header(named, lambda: [own.ca, *authorities], lambda: now)
        )
        est.now = now
        body = build_csr(generate_key(), client) if client else b""
        headers = [("Content-Type", "application/pkcs10"), *((header, value) for value in values)]
        return est.request("POST", "simplereenroll", chain=[], content=body, headers=headers)

    return post


def test_both_forms(own, ask):
    client, _ = own.device()
    assert ask(HEADER, escaped(client), client=client).status_code == 201
    assert ask("client-cert", sequence(client), named="Client-Cert", client=client).status_code == 201


def test_a_device_ca_is_enough_as_an_anchor_also_one_of_two_with_one_subject(own, ask):
    twin = own.with_another_ca()
    key = generate_key()
    # Without an AKI: OpenSSL would try one of the two CAs alone.
    bare = certificate(
        name=certificates.name("uuid-1", "acme"),
        issuer=twin.ca.subject,
        key=key,
        signer=twin.ca_key,
        extensions=[FOR_CLIENTS],
    )
    assert own.ca.subject == twin.ca.subject
    for authorities in ([twin.ca], [twin.ca, own.with_another_ca().ca]):
        assert ask(HEADER, escaped(bare), client=bare, authorities=authorities).status_code == 201
    assert ask(HEADER, escaped(bare), client=bare).status_code == 403


@pytest.mark.parametrize("values", [[], [""], [" "]])
def test_no_certificate(ask, values):
    assert ask(HEADER, *values).status_code == 401


def test_the_header_of_another_name_is_not_read(own, ask):
    client, _ = own.device()
    assert ask("X-Other", escaped(client)).status_code == 401
    assert ask("Client-Cert", sequence(client)).status_code == 401


@pytest.mark.parametrize("named", [HEADER, "Client-Cert"])
def test_the_other_form_and_what_is_no_certificate_are_refused(own, ask, named):
    client, _ = own.device()
    wrong = [
        sequence(client),
        certificates.pem(client).replace("\n", " "),
        escaped(client) * 2,
        "%",
        "x",
        "::",
    ]
    wrong += [escaped(client)[:-40], "%2D" * 50, sequence(client)[:-1], f":{sequence(client)}:", ":!:"]
    for value in wrong:
        if named == "Client-Cert" and value == sequence(client):
            value = escaped(client)
        response = ask(named, value, named=named)
        assert response.status_code == 400, value
        assert named in response.text


def test_two_certificates_in_one_request_are_refused(own, ask):
    client, _ = own.device()
    response = ask(HEADER, escaped(client), escaped(client), client=client)
    assert (response.status_code, "got 2" in response.text) == (400, True)


def test_clients_that_are_not_trusted(own, ask):
    other = Pki.make(owner="u2")
    stranger, _ = other.device()
    server, _ = own.server()
    for_servers = certificate(
        issuer=own.ca.subject,
        signer=own.ca_key,
        extensions=[x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])],
    )
    without_usage = certificate(issuer=own.ca.subject, signer=own.ca_key, extensions=[])
    forged = certificate(issuer=own.ca.subject, extensions=[FOR_CLIENTS])
    for client in (stranger, server, for_servers, without_usage, forged, own.ca, own.root):
        response = ask(HEADER, escaped(client))
        assert (response.status_code, "refused" in response.text) == (403, True), client
        assert response.text.count("\n") == 1


def test_a_client_certificate_that_has_expired_is_refused_with_the_date(own, ask):
    client, _ = own.device()
    response = ask(HEADER, escaped(client), now=client.not_valid_after_utc + datetime.timedelta(seconds=1))
    assert response.status_code == 403
    assert f"expired on {client.not_valid_after_utc:%Y-%m-%d}" in response.text
    early = ask(HEADER, escaped(client), now=client.not_valid_before_utc - datetime.timedelta(days=1))
    assert early.status_code == 403


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--behind-proxy",), "must be given together"),
        (("--client-cert-header", "X"), "must be given together"),
        (("--behind-proxy", "--client-cert-header", "X", "--host", "::"), "loopback or a UNIX socket"),
        (("--behind-proxy", "--client-cert-header", "X", "--host", "192.0.2.1"), "loopback or a UNIX socket"),
        (("--behind-proxy", "--client-cert-header", "X", "--tls-cert", "x", "--tls-key", "y"), "give either"),
        (("--behind-proxy", "--client-cert-header", "X-Forwarded-Client-Cert"), "may hold several"),
        (("--tls-cert", "x"), "give either"),
        ((), "give either"),
        (("--tls-cert", "x", "--tls-key", "y", "--unix-socket", "z"), "--unix-socket needs --behind-proxy"),
    ],
)
def test_options_that_contradict(cli, tmp_path, arguments, message):
    files = ("--root-cert", "r", "--ca-cert", "c", "--ca-key", "k")
    result = cli("est", "serve", *files, *arguments)
    assert (result.code, message in result.err) == (2, True), result.err


@pytest.fixture(
    params=[
        pytest.param(
            name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed")
        )
        for name in HEADERS
    ]
)
def proxied(request, own, tmp_path):
    """The EST server behind a proxy; gives the URL for devices."""
    ca = write_pair(tmp_path, "est-ca", (own.ca, own.ca_key))
    (tmp_path / "factory_ca.pem").write_text(certificates.pem(own.root))
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "fioctl_rotate", "est", "serve", "--behind-proxy"),
            *("--client-cert-header", HEADERS[request.param], "--unix-socket", str(tmp_path / "est.sock")),
            *("--root-cert", str(tmp_path / "factory_ca.pem")),
            *("--ca-cert", str(ca[0]), "--ca-key", str(ca[1])),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    processes: list[subprocess.Popen[Any]] = [server]
    try:
        assert server.stderr.readline().startswith(f"EST server at unix:{tmp_path}/est.sock")
        proxy, port = started_proxy(request.param, tmp_path, write_pair(tmp_path, "est-tls", own.server()))
        processes.append(proxy)
        yield f"https://localhost:{port}/.well-known/est"
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(120)
        server.stderr.close()


def test_a_device_re_enrolls_through_a_proxy(proxied, own, cli, tmp_path):
    def check(*identity):
        return cli("est", "check", proxied, "--pki", tmp_path, "--format", "json", *identity)

    cert, key = write_pair(tmp_path, "device", own.device())
    result = check("--cert", cert, "--key", key)
    assert {check["status"] for check in result.json["checks"]} == {"pass"}, result.out
    assert result.json["issued"]["serial"]

    # Who has no key of the certificate, or a certificate of another CA, gets none.
    cert, key = write_pair(tmp_path, "stranger", Pki.make(owner="u2").device())
    result = check("--cert", cert, "--key", key)
    assert result.code == 5
    assert "answers 403" in result.out


def test_what_a_client_puts_into_the_header_is_overwritten(proxied, own, tmp_path):
    victim, _ = own.device()
    headers = {
        "Content-Type": "application/pkcs10",
        HEADER: escaped(victim),
        "X_Client_Cert": escaped(victim),
        "Client-Cert": sequence(victim),
    }
    with httpx.Client(verify=client_context(certificates.pem(own.root)), trust_env=False) as client:
        response = client.post(
            f"{proxied}/simplereenroll", content=build_csr(generate_key(), victim), headers=headers
        )
    assert response.status_code == 401


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", ["est-server.socket", "est-server.service", "est-server-workers.service"])
def test_the_units_are_valid(unit):
    result = subprocess.run(
        ["systemd-analyze", "verify", str(EXAMPLES / unit)], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
