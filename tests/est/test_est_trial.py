"""`est check --cert`: a re-enrollment as a device does it, and which devices would succeed."""

import gzip
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from fioctl_rotate.est import service
from fioctl_rotate.est.service import Authority
from fioctl_rotate.pki import certificates
from fioctl_rotate.tls import server_context
from tests.commandline import Cli, Result
from tests.est.test_est_server import CLIENT_AUTH, b64, csr
from tests.making import Pki, write_pair
from tests.scripted import Asked, Reply, Server

BARE = "application/pkcs7-mime"
SMIME = f"{BARE}; smime-type=certs-only"


class Trial:
    """An EST server that answers a CSR with `reply(the right body)`, and `est check --cert` against it."""

    def __init__(self, cli: Cli, directory: Path) -> None:
        self.pki = Pki.make()
        self.directory = directory
        self.client = self.pki.device()
        self._cli = cli
        self._files = write_pair(directory, "client", self.client)
        self._server_files = write_pair(directory, "tls", self.pki.server())
        (directory / "factory_ca.pem").write_text(certificates.pem(self.pki.root))

    def check(self, reply: Callable[[bytes], Reply], authority: Authority | None = None) -> Result:
        def answer(asked: Asked) -> Reply:
            if asked.method == "GET":
                return Reply(200, service.cacerts(self.pki.authority()))
            if not asked.body:
                return Reply(401)
            assert b"\n" not in asked.body
            new = service.reenroll(
                authority or self.pki.authority(), asked.body, self.client[0], now=self.pki.now
            )
            return reply(service.certificate_answer(new))

        context = server_context(*self._server_files, certificates.pem(self.pki.ca), required=False)
        with Server(answer, context) as server:
            url = f"{server.url}/est"
            cert, key = self._files
            return self._cli(
                *("est", "check", url, "--pki", self.directory, "--cert", cert, "--key", key),
                *("--format", "json"),
            )


@pytest.fixture
def trial(cli: Cli, tmp_path: Path) -> Trial:
    return Trial(cli, tmp_path)


def statuses(result: Result) -> tuple[str, ...]:
    """How the re-enrollment ended, and whether new and old devices would succeed."""
    found = {check["name"]: check["status"] for check in result.json["checks"]}
    assert result.code == (5 if "fail" in found.values() else 0)
    assert result.json["ok"] is (result.code == 0)
    assert ("issued" in result.json) is (found["reenroll"] == "pass")
    return tuple(found[name] for name in ("reenroll", "lmp-97", "lmp-90") if name in found)


def wrapped(body, ending):
    return ending.join(line.encode() for line in textwrap.wrap(body.decode(), 64))


@pytest.mark.parametrize(
    ("status", "media_type", "change", "expected"),
    [
        (201, BARE, bytes, ("pass", "pass", "pass")),
        (200, BARE, bytes, ("pass", "pass", "warn")),
        (201, SMIME, bytes, ("pass", "pass", "warn")),
        (200, SMIME, bytes, ("pass", "pass", "warn")),
        (200, BARE + "x", bytes, ("pass", "pass", "warn")),
        (201, BARE.upper(), bytes, ("pass", "fail", "fail")),
        (201, "text/plain", bytes, ("pass", "fail", "fail")),
        (201, "", bytes, ("pass", "fail", "fail")),
        (202, BARE, bytes, ("fail", "fail", "fail")),
        (201, BARE, lambda body: wrapped(body, b"\r\n"), ("pass", "pass", "pass")),
        (201, BARE, lambda body: wrapped(body, b" \n"), ("pass", "fail", "fail")),
        (201, BARE, lambda body: body[:-8], ("fail", "fail", "fail")),
        (201, BARE, lambda _: b"", ("fail", "fail", "fail")),
        (400, "text/plain", lambda _: b"no", ("fail", "fail", "fail")),
        (500, "text/plain", lambda _: b"\x1b[31m", ("fail", "fail", "fail")),
    ],
)
def test_which_devices_would_succeed(trial, status, media_type, change, expected):
    headers = {"Content-Type": media_type} if media_type else {}
    assert statuses(trial.check(lambda body: Reply(status, change(body), headers))) == expected


def test_an_answer_that_is_compressed_as_asked_for(trial):
    headers = {"Content-Type": BARE, "Content-Encoding": "gzip"}
    result = trial.check(lambda body: Reply(201, gzip.compress(body), headers))
    assert statuses(result) == ("pass", "pass", "pass")
    assert result.json["issued"]["not-after"].endswith("Z")


def test_an_answer_that_grows_when_it_is_decompressed(trial):
    headers = {"Content-Type": BARE, "Content-Encoding": "gzip"}
    result = trial.check(lambda _: Reply(201, gzip.compress(bytes(1 << 26)), headers))
    assert statuses(result) == ("fail",)
    assert "longer than" in result.out


def test_a_redirect_is_not_followed(trial):
    result = trial.check(lambda _: Reply(307, b"", {"Location": "/elsewhere"}))
    assert statuses(result) == ("fail", "fail", "fail")
    assert "devices would follow the redirect" in result.out


def test_another_subject(trial):
    csr_of_another = b64(csr(certificates.name("uuid-2", "acme")))
    other, _ = trial.pki.device(certificates.name("uuid-2", "acme"))
    new = service.reenroll(trial.pki.authority(), csr_of_another, other, now=trial.pki.now)
    answer = service.certificate_answer(new)
    result = trial.check(lambda _: Reply(201, answer, {"Content-Type": BARE}))
    assert statuses(result) == ("pass", "fail", "fail")
    assert "another subject" in result.out


def test_a_certificate_for_another_key(trial):
    asked = b64(csr(trial.client[0].subject, certificates.DIGITAL_SIGNATURE, CLIENT_AUTH))
    new = service.reenroll(trial.pki.authority(), asked, trial.client[0], now=trial.pki.now)
    answer = service.certificate_answer(new)
    result = trial.check(lambda _: Reply(201, answer, {"Content-Type": BARE}))
    assert statuses(result) == ("pass", "pass", "pass")
    assert "another key" in result.out


@pytest.mark.parametrize("option", ["--cert", "--key"])
def test_one_without_the_other_is_wrong_usage(cli, tmp_path, option):
    result = cli("est", "check", "https://localhost:1/est", option, tmp_path / "x")
    assert (result.code, "must be given together" in result.err) == (2, True)


@pytest.mark.parametrize("broken", ["client.pem", "client.key"])
@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"]
)
def test_files_that_are_not_usable(trial, broken, content):
    (trial.directory / broken).write_bytes(content)
    result = trial.check(lambda body: Reply(201, body, {"Content-Type": BARE}))
    assert (result.code, result.out) == (1, "")
    assert broken in result.err
