"""`est check`: what it sees of a server, and how it ends."""

import datetime
import socket
import ssl
import textwrap

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from fioctl_rotate.est import service
from fioctl_rotate.pki import certificates
from fioctl_rotate.pki.keys import generate_key
from fioctl_rotate.tls import server_context
from tests.making import certificate, dns, write_pair
from tests.scripted import Drop, Reply, Server

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.fixture
def factory_dir(pki, tmp_path):
    directory = tmp_path / "pki"
    directory.mkdir()
    (directory / "factory_ca.pem").write_text(certificates.pem(pki.root))
    return directory


@pytest.fixture
def est_server(pki, tmp_path, factory_dir, cli):
    """`est_server()`: what `est check --format json` says of a server like this, check by check.

    `cacerts` and `post` are its answers to GET and POST: a Reply, or a function that makes one.
    """

    def look(
        names=("localhost",),
        common_name="est",
        issuer=None,
        usage=ExtendedKeyUsageOID.SERVER_AUTH,
        start=NOW - DAY,
        end=NOW + 400 * DAY,
        cacerts=None,
        post=None,
        path="/.well-known/est",
        required=False,
        highest=ssl.TLSVersion.MAXIMUM_SUPPORTED,
    ):
        issuer = issuer or pki
        key = generate_key()
        made = certificate(
            name=certificates.name(common_name, "acme"),
            issuer=issuer.root.subject,
            key=key,
            signer=issuer.root_key,
            extensions=[x509.ExtendedKeyUsage([usage]), *([dns(*names)] if names else [])],
            begins=start,
            ends=end,
        )
        files = write_pair(tmp_path, "tls", (made, key))
        roots = Reply(200, service.cacerts(pki.authority()), {"Content-Type": "application/pkcs7-mime"})

        def answers(asked):
            chosen = {"GET": cacerts or roots, "POST": post or Reply(401)}[asked.method]
            return chosen(asked) if callable(chosen) else chosen

        context = server_context(*files, certificates.pem(pki.ca), required=required)
        context.maximum_version = highest
        with Server(answers, context) as server:
            url = f"{server.url}{path}"
            result = cli("est", "check", url, "--pki", factory_dir, "--format", "json")
        statuses = {check["name"]: check["status"] for check in result.json["checks"]}
        words = {check["name"]: check["message"] for check in result.json["checks"]}
        assert result.json["url"] == url
        failed = "fail" in statuses.values()
        assert result.json["ok"] is not failed
        assert result.code == (5 if failed else 0)
        assert ("error: devices would not rotate" in result.err) is failed
        return statuses, words

    return look


ALL_WELL = dict.fromkeys(("reachable", "chain", "name", "expiry", "endpoint", "cacerts"), "pass")


def test_a_server_that_is_all_right(est_server):
    statuses, _ = est_server()
    assert statuses == ALL_WELL


def test_another_root(est_server, pki):
    statuses, words = est_server(issuer=type(pki).make())
    assert statuses == {**ALL_WELL, "chain": "fail"}
    assert "do not trust" in words["chain"]


@pytest.mark.parametrize("names", [("est.example",), ("*.localhost",), ("localhost.example", "x.localhost")])
def test_another_name(est_server, names):
    statuses, words = est_server(names=names)
    assert statuses == {**ALL_WELL, "name": "fail"}
    assert ", ".join(names) in words["name"]


def test_a_name_in_the_cn_alone_does_not_count(est_server):
    statuses, words = est_server(names=(), common_name="localhost")
    assert statuses == {**ALL_WELL, "name": "fail"}
    assert "no SAN" in words["name"]


def test_one_of_several_names_is_enough(est_server):
    statuses, _ = est_server(names=("est.example", "localhost"))
    assert statuses == ALL_WELL


def test_a_certificate_that_is_not_for_servers(est_server):
    statuses, words = est_server(usage=ExtendedKeyUsageOID.CLIENT_AUTH)
    assert statuses["chain"] == "fail"
    assert "purpose" in words["chain"]


@pytest.mark.parametrize(
    ("start", "end", "status", "word"),
    [
        (NOW - 9 * DAY, NOW - DAY, "fail", "expired on"),
        (NOW + DAY, NOW + 9 * DAY, "fail", "not valid before"),
        (NOW - DAY, NOW + 20 * DAY, "warn", "expires soon"),
        (NOW - DAY, NOW + 400 * DAY, "pass", "valid until"),
    ],
)
def test_its_dates(est_server, start, end, status, word):
    statuses, words = est_server(start=start, end=end)
    assert statuses == {**ALL_WELL, "expiry": status}
    assert word in words["expiry"]


def test_cacerts_of_another_factory(est_server, pki):
    other = type(pki).make()
    statuses, words = est_server(cacerts=Reply(200, service.cacerts(other.authority())))
    assert statuses == {**ALL_WELL, "cacerts": "warn"}
    assert "does not hold the Factory's root" in words["cacerts"]


def test_cacerts_with_more_than_the_root(est_server, pki):
    other = type(pki).make()
    both = service.cacerts(pki.authority(roots=[pki.root, other.root]))
    statuses, words = est_server(cacerts=Reply(200, both))
    assert statuses == {**ALL_WELL, "cacerts": "warn"}
    assert "1 certificate" in words["cacerts"]


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        (Reply(404, b"no"), "404"),
        (Reply(500, b"no device CA\n"), "expected status 200, got 500: no device CA"),
        (Reply(500, b"\x1b[31m" * 10_000), r"got 500: \x1b[31m"),
        (Reply(500, b""), "got 500"),
        (Reply(200, b"<html>\x1b[31m"), "base64"),
        (Reply(200, b""), "PKCS#7"),
        (Reply(302, b"", {"Location": "/elsewhere"}), "302"),
    ],
)
def test_cacerts_that_are_not_valid(est_server, reply, word):
    statuses, words = est_server(cacerts=reply)
    assert statuses == {**ALL_WELL, "cacerts": "warn"}
    assert word in words["cacerts"]


def test_cacerts_with_white_space(est_server, pki):
    lines = textwrap.wrap(service.cacerts(pki.authority()).decode(), 64)
    spaced = " \t\r\n".join(lines).encode()
    statuses, _ = est_server(cacerts=Reply(200, spaced))
    assert statuses == ALL_WELL


@pytest.mark.parametrize(
    "path", ["/.well-known/est", "/.well-known/est/", "/x//y", "/x/../y", "/./x", "/%2e/x"]
)
def test_the_server_is_asked_as_a_device_asks(est_server, pki, path):
    asked = []

    def answer(request):
        asked.append((request.method, request.path))
        return Reply(401) if request.method == "POST" else Reply(200, service.cacerts(pki.authority()))

    est_server(cacerts=answer, post=answer, path=path)
    assert sorted(asked) == [("GET", f"{path}/cacerts"), ("POST", f"{path}/simplereenroll")]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, "pass"),
        (401, "pass"),
        (403, "pass"),
        (404, "fail"),
        (405, "fail"),
        (200, "warn"),
        (201, "warn"),
        (302, "warn"),
        (307, "warn"),
        (500, "warn"),
        (503, "warn"),
    ],
)
def test_the_enrollment_endpoint(est_server, status, expected):
    statuses, message = est_server(post=Reply(status, b"", {"Location": "/elsewhere"}))
    assert statuses == {**ALL_WELL, "endpoint": expected}
    assert str(status) in message["endpoint"]


def test_an_endpoint_that_hangs_up(est_server):
    def hang_up(_asked):
        raise Drop

    statuses, message = est_server(post=hang_up)
    assert statuses == {**ALL_WELL, "endpoint": "warn"}
    assert "no answer" in message["endpoint"]


def test_a_server_that_insists_on_a_client_certificate(est_server):
    statuses, message = est_server(required=True)
    assert statuses == {**ALL_WELL, "cacerts": "warn"}
    assert "asks for a client certificate" in message["endpoint"]


@pytest.mark.parametrize(
    ("changes", "chain"),
    [
        ({}, "pass"),
        ({"names": ("other.example",)}, "fail"),
        ({"end": NOW - DAY, "start": NOW - 2 * DAY}, "fail"),
    ],
)
def test_a_server_that_insists_on_it_before_tls_1_3(est_server, changes, chain):
    statuses, _ = est_server(required=True, highest=ssl.TLSVersion.TLSv1_2, **changes)
    assert statuses == {"reachable": "pass", "chain": chain, "endpoint": "pass"}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://localhost:1/.well-known/est", "refuses connections"),
        ("https://no-such-host.invalid/.well-known/est", "no-such-host.invalid:443"),
        ("http://localhost/.well-known/est", "https://HOST"),
        ("https://localhost:port/x", "https://HOST"),
        ("nothing", "https://HOST"),
    ],
)
def test_what_cannot_be_reached(cli, factory_dir, url, words):
    result = cli("est", "check", url, "--pki", factory_dir)
    assert result.code == 5
    assert result.out.startswith("fail  reachable  ")
    assert words in result.out
    assert len(result.out.splitlines()) == 1


def test_a_server_without_tls(cli, factory_dir):
    with Server(lambda _: Reply(200)) as server:
        url = server.url.replace("http:", "https:")
        result = cli("est", "check", f"{url}/.well-known/est", "--pki", factory_dir)
    assert result.code == 5
    assert "does not speak TLS" in result.out


def test_a_server_that_says_nothing(pki, monkeypatch):
    import asyncio

    from fioctl_rotate.est.probe import probe

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/x"
        (check,) = asyncio.run(probe(url, [pki.root], now=NOW, timeout=0.2))
    assert (check.name, check.status) == ("reachable", "fail")
    assert "in time" in check.message


def test_the_text_is_a_line_a_check(cli, pki, factory_dir):
    result = cli("est", "check", "https://localhost:1/est", "--pki", factory_dir)
    assert result.out == "fail  reachable  localhost:1 refuses connections\n"
    assert result.err.splitlines()[0] == "checked https://localhost:1/est"


def test_the_factory_is_asked_for_what_is_not_given(cli, acme, monkeypatch):
    result = cli("est", "check", "-p", 1)
    assert result.code == 5
    assert "checked https://localhost:1/.well-known/est" in result.err
    result = cli("est", "check", "-p", 1, "-e", "/other", "--server-name", "127.0.0.1")
    assert "checked https://127.0.0.1:1/other" in result.err


def test_for_a_factory_without_est_a_hint_says_how_to_get_it(cli, mock_dir):
    cli("mock", "init", mock_dir, "--factory", "bare", "--bare")
    result = cli("est", "check", "--mock", mock_dir, "--factory", "bare")
    assert result.code == 1
    assert "hint:" in result.err


def test_a_directory_without_a_root(cli, tmp_path):
    result = cli("est", "check", "https://localhost:1/est", "--pki", tmp_path)
    assert result.code == 1
    assert "factory_ca.pem" in result.err


@pytest.mark.parametrize("more", [("--server-name", "h"), ("-p", "1"), ("-e", "/x")])
def test_a_url_and_a_part_of_one_contradict(cli, more):
    result = cli("est", "check", "https://localhost:1/est", *more)
    assert result.code == 2
    assert "URL" in result.err
