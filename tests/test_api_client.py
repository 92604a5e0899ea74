"""Talking to the operator API when it does not answer as it should: words, exit codes, and where the token goes."""

import copy
import datetime
import email.utils
import itertools
import json
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import stamina
from cryptography import x509

from fioctl_rotate.pki import certificates
from tests.answers import ANSWERS
from tests.commandline import Cli, Result
from tests.making import certificate
from tests.scripted import Answer, Asked, Drop, Hang, Reply, Server, running_mock

Serve = Callable[..., Server]
ROTATE = ("config", "rotate-certs", "-g", "field", "-r", "why", "--no-checks")
LIST = ("config", "device-group", "list")
OWN_EST = ("--server-name", "est.example.com")
NOW = datetime.datetime.now(datetime.UTC)


def ends_in_one_line(result: Result, code: int, *words: str) -> None:
    """The command ended with `code`, in one `error:` line and at most one `hint:` line, and showed no secret."""
    assert result.code == code, result.err
    assert result.out == ""
    lines = [line for line in result.err.splitlines() if line.startswith(("error: ", "hint: "))]
    assert [line.split(":")[0] for line in lines] in (["error"], ["error", "hint"]), result.err
    for word in words:
        assert word in "\n".join(lines)
    assert "Traceback" not in result.err
    assert "canary" not in result.err


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(200, b"<html><title>Sign in</title></html>"), ["not JSON", "Sign in", "address of the operator"]),
        (Reply(200, b'{"groups": [{"name": "fie'), ["not JSON", '{"groups"']),
        (Reply(200, b""), ["not JSON", "empty body"]),
        (Reply(200, b'{"groups": [{"name": "\xff"}]}'), ["not JSON"]),
        (Reply(200, b"[" * 100_000), ["not understood"]),
        (Reply(200, b'{"total": ' + b"[" * 100_000), ["not JSON"]),
        (Reply(500, b"[" * 100_000), ["500", "[[[["]),
        (Reply(200, {"groups": [{"name": 7}]}), ["not understood", "$.groups[0].name"]),
        (Reply(200, {"groups": "none"}), ["not understood", "$.groups"]),
        (Reply(401, {"msg": "no such token"}), ["401", "no such token", "FIOCTL_TOKEN", "fioctl-rotate login"]),
        (Reply(403, {"message": "scope missing", "errors": {"scope": "devices:read"}}), ["403", "scope missing",
                                                                     "scope: devices:read", "may not do this"]),
        (Reply(404, {"errors": ["a", "b"]}), ["404", "a; b"]),
        (Reply(418, b"[1, 2]"), ["418", "[1, 2]"]),
        (Reply(429, {"msg": "slow down"}), ["429", "slow down", "busy"]),
        (Reply(500, b"<h1>Oops</h1>"), ["500", "Oops"]),
        (Reply(502, b"x" * 5000), ["502", "x…"]),
        (Reply(503, b"\x1b]0;owned\x07"), ["503", "\\x1b"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("verbose", [[], ["-v"]])
def test_an_answer_that_cannot_be_used_is_an_error_and_nothing_is_sent(
    cli: Cli, serve: Serve, reply: Reply, words: list[str], verbose: list[str]
) -> None:
    server = serve(lambda _: reply)
    ends_in_one_line(cli(*ROTATE, *OWN_EST, *verbose), 1, *words)
    assert {asked.method for asked in server.asked} == {"GET"}
    # Reading is tried again where that may help.
    server.asked.clear()
    ends_in_one_line(cli(*LIST, *verbose), 1, *words)
    assert len(server.asked) == (4 if reply.status == 429 or reply.status >= 500 else 1)


@pytest.mark.parametrize("how", [Drop, Hang])
def test_no_answer_is_an_error(
    cli: Cli, serve: Serve, monkeypatch: pytest.MonkeyPatch, how: type[Exception]
) -> None:
    def answer(_: Asked) -> Reply:
        raise how

    monkeypatch.setenv("FIOCTL_ROTATE_TIMEOUT", "0.2")
    server = serve(answer)
    words = {Drop: "closed the connection before its answer", Hang: "did not answer within"}[how]
    ends_in_one_line(cli(*LIST), 1, server.url, words)
    assert len(server.asked) == 4


def test_a_server_that_is_not_there_is_an_error(
    cli: Cli, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(lambda _: Reply())
    server.__exit__()
    ends_in_one_line(cli("devices", "list"), 1, server.url, "cannot be reached")


def test_reading_goes_on_after_failures_that_pass(cli: Cli, serve: Serve) -> None:
    replies = iter([Reply(500), Reply(429), Reply(502), Reply(200, {"groups": [{"name": "field"}]})])
    serve(lambda _: next(replies))
    result = cli(*LIST, "--format", "json")
    assert (result.code, result.err) == (0, "")
    assert result.json["groups"][0]["name"] == "field"


def test_retrying_says_nothing_unless_asked(serve: Serve) -> None:
    replies = iter([Reply(500), Reply(200, {"groups": []})] * 2)
    serve(lambda _: next(replies))

    def told(*options: str) -> str:
        # In a process of its own, because pytest takes what is logged in this one.
        command = [sys.executable, "-m", "fioctl_rotate", "config", "device-group", "list", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stderr

    assert told() == ""
    assert [line.rsplit(": ", 1)[1] for line in told("-v").splitlines()] == ["500", "200"]


@pytest.mark.parametrize("form", ["seconds", "date", "nonsense"])
def test_retry_after_is_obeyed(cli: Cli, serve: Serve, form: str) -> None:
    def wish() -> str:
        later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=3)
        return {"seconds": "2", "date": email.utils.format_datetime(later, usegmt=True), "nonsense": "soon"}[
            form
        ]

    count = itertools.count()
    server = serve(
        lambda _: Reply(200, {"groups": []}) if next(count) else Reply(429, b"", {"Retry-After": wish()})
    )
    with stamina.set_testing(False):
        assert cli(*LIST).code == 0
    waited = server.asked[1].at - server.asked[0].at
    # A date has whole seconds, so up to one of the three is cut off.
    assert waited >= {"seconds": 1.99, "date": 1.9, "nonsense": 0.1}[form]


def test_a_write_that_fails_is_not_sent_twice(cli: Cli, serve: Serve, acme_answers: Answer) -> None:
    server = serve(lambda asked: Reply(500) if asked.method == "POST" else acme_answers(asked))
    ends_in_one_line(cli("config", "device-group", "create", "more"), 1, "500")
    assert len(server.sent("POST")) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_and_the_token_stays(cli: Cli, serve: Serve, status: int) -> None:
    elsewhere = Server(lambda _: Reply(200, {"groups": []}))
    with elsewhere:
        serve(lambda asked: Reply(status, b"", {"Location": f"{elsewhere.url}{asked.path}"}))
        ends_in_one_line(cli(*LIST, "-v"), 1, "redirects", elsewhere.url, "not followed")
    assert elsewhere.asked == []


def test_a_page_named_twice_is_an_error_not_a_loop(cli: Cli, serve: Serve) -> None:
    server = serve(
        lambda asked: Reply(
            200, {"devices": [], "total": 9, "next": f"http://{asked.headers['host']}/ota/devices/?page=2"}
        )
    )
    ends_in_one_line(cli("devices", "list"), 1, "names the same page twice")
    assert len(server.asked) == 2


def test_pages_are_followed_to_the_last(cli: Cli, serve: Serve) -> None:
    def answer(asked: Asked) -> Reply:
        page = int(asked.path.partition("page=")[2] or 1)
        following = f"http://{asked.headers['host']}/ota/devices/?factory=acme&limit=1&page={page + 1}"
        devices = [{"uuid": f"u{page}", "name": f"d{page}"}]
        return Reply(200, {"devices": devices, "total": 3, "next": following if page < 3 else None})

    server = serve(answer)
    result = cli("devices", "list", "--format", "json")
    assert [device["name"] for device in result.json["devices"]] == ["d1", "d2", "d3"]
    assert [asked.path.partition("?")[2] for asked in server.asked][1:] == [
        "factory=acme&limit=1&page=2",
        "factory=acme&limit=1&page=3",
    ]


def test_the_token_goes_in_its_header(cli: Cli, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(lambda _: Reply(200, {"groups": []}))
    assert cli(*LIST).code == 0
    monkeypatch.setenv("TOKEN_HEADER", "X-Token")
    assert cli(*LIST, "-t", "canary-other").code == 0
    first, second = (asked.headers for asked in server.asked)
    assert first["osf-token"] == "canary-token"
    assert second["x-token"] == "canary-other"
    assert "osf-token" not in second
    assert first["user-agent"].startswith("fioctl-rotate/")
    assert "authorization" not in first


def test_a_proxy_for_the_world_does_not_get_what_is_for_this_machine(
    cli: Cli, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Server(lambda _: Reply(200, {"groups": []}))
    with proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        server = serve(lambda _: Reply(200, {"groups": []}))
        assert cli(*LIST).code == 0
    assert len(server.asked) == 1
    assert proxy.asked == []


def test_names_are_escaped_in_paths(cli: Cli, serve: Serve) -> None:
    server = serve(lambda _: Reply(404, {"msg": "none"}))
    assert cli("devices", "show", "../factories/x?y#z").code == 1
    assert server.asked[0].path == "/ota/devices/..%2Ffactories%2Fx%3Fy%23z/?factory=acme"


@pytest.mark.parametrize("name", ["", ".", ".."])
@pytest.mark.parametrize(
    "command", [("config", "device-group", "delete"), ("devices", "show"), ("devices", "config", "log")]
)
def test_a_name_that_would_make_another_path_is_refused(
    cli: Cli, serve: Serve, command: tuple[str, ...], name: str
) -> None:
    # `DELETE …/device-groups/../` is `DELETE` of the factory.
    server = serve(lambda _: Reply(200, {}))
    result = cli(*command, name)
    assert (result.code, result.err) == (2, f"error: `{name}` is not a valid name\n")
    assert server.asked == []


# --- What is not there ---


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("config", "rotate-certs", "-g", "nope", "-r", "why"), ["no device group `nope`", "groups there: field"]),
        (("config", "log", "-g", "nope"), ["no device group `nope`", "groups there: field"]),
        (("config", "delete", "-g", "nope", "x"), ["no device group `nope`"]),
        (("config", "delete", "-g", "field", "x"), ["no file `x`", "files there: none"]),
        (("devices", "list", "-g", "nope"), ["no device group `nope`"]),
        (("device", "config", "rotate-certs", "nope", "-r", "why"), ["no device with the name `nope`", "-u takes"]),
        (("devices", "config", "rotate-certs", "device-1", "-u", "-r", "why"), ["no device with the uuid"]),
        (("devices", "show", "nope"), ["no device with the name `nope`", "devices list"]),
        (("devices", "updates", "nope"), ["no device with the name"]),
        (("devices", "config", "log", "nope"), ["no device with the name"]),
        (("devices", "config", "delete", "device-1", "x"), ["no file `x`"]),
        (("config", "device-group", "create", "field"), ["409", "already exists"]),
        (("config", "device-group", "delete", "field"), ["409", "2 devices"]),
        (("config", "device-group", "delete", "nope"), ["404", "nope"]),
        (("config", "device-group", "update", "nope", "-n", "x"), ["404", "nope"]),
        (("config", "rotate-certs", "-g", "field", "-r", "why", "-f", "other"), ["404", "other"]),
    ],
)  # fmt: skip
def test_what_is_not_there_is_answered_with_what_is(
    cli: Cli, acme: Path, command: tuple[str, ...], words: list[str]
) -> None:
    before = cli("config", "log", "-g", "field", "--format", "json").out
    ends_in_one_line(cli(*command), 1, *words)
    assert cli("config", "log", "-g", "field", "--format", "json").out == before


def test_a_read_only_token_may_read_and_not_push(
    cli: Cli, acme: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_mock(acme, authenticate=True) as answer:
        serve(answer)
        monkeypatch.setenv("FIOCTL_TOKEN", (acme / "tokens" / "acme.readonly").read_text())
        assert cli(*ROTATE, "--dryrun").code == 0
        refused = cli(*ROTATE)
        ends_in_one_line(refused, 1, "403", "may only read")
        monkeypatch.setenv("FIOCTL_TOKEN", "canary-unknown")
        ends_in_one_line(cli(*ROTATE), 1, "401", "not known")
    monkeypatch.delenv("FIOCTL_TOKEN")
    monkeypatch.delenv("FIOCTL_ROTATE_SERVER")
    assert cli("config", "log", "-g", "field", "--mock", acme).out == ""


# --- The EST server's name ---


def test_without_a_pki_the_hint_names_the_command_that_makes_one(cli: Cli, tmp_path: Path) -> None:
    mock = ("-f", "acme", "--mock", tmp_path / "mock")
    assert cli("mock", "init", tmp_path / "mock", "-f", "acme", "--bare").code == 0
    assert cli("config", "device-group", "create", "field", *mock).code == 0
    ends_in_one_line(cli(*ROTATE, *mock), 1, "no PKI", "fioctl-rotate keys ca create DIR")
    assert cli("keys", "ca", "create", tmp_path / "pki", *mock).code == 0
    ends_in_one_line(
        cli(*ROTATE, *mock), 1, "authorized no EST server", "fioctl-rotate est authorize DIR", "--server-name"
    )
    assert cli("keys", "est", "authorize", tmp_path / "pki", *mock).code == 0
    assert "https://localhost:8443" in cli(*ROTATE, *mock).out


def test_a_pki_of_the_year_2021_is_nulls(cli: Cli, serve: Serve, acme_answers: Answer) -> None:
    nulls = {"root-crt": None, "ca-crt": None, "est-tls-crt": None, "tls-crt": None}
    serve(lambda asked: Reply(200, nulls) if asked.path.endswith("/certs/") else acme_answers(asked))
    ends_in_one_line(cli(*ROTATE), 1, "no PKI")


def est_certificate(names: list[str] | None) -> str:
    if names is None:
        return certificates.pem(certificate())
    san = x509.SubjectAlternativeName(
        [x509.DNSName(name) for name in names] or [x509.RFC822Name("a@example.com")]
    )
    return certificates.pem(certificate(extensions=[san]))


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        (lambda: est_certificate(None), ["expected one DNS name, got none", "--server-name"]),
        (lambda: est_certificate([]), ["expected one DNS name, got none", "--server-name"]),
        (
            lambda: est_certificate(["a.example", "b.example"]),
            ["expected one DNS name, got a.example, b.example"],
        ),
        (lambda: "no certificate", ["is not PEM"]),
        (lambda: " ", ["authorized no EST server"]),
        (lambda: est_certificate(["*.example.com"]), ["*.example.com"]),
    ],
)
def test_an_est_certificate_without_exactly_one_name_is_no_address(
    cli: Cli, serve: Serve, acme_answers: Answer, certificate: Callable[[], str], words: list[str]
) -> None:
    certs = {"root-crt": "-", "est-tls-crt": certificate()}
    server = serve(lambda asked: Reply(200, certs) if asked.path.endswith("/certs/") else acme_answers(asked))
    result = cli(*ROTATE)
    ends_in_one_line(result, result.code, *words)
    assert result.code in (1, 2)
    assert server.sent("PATCH") == []


def test_certificates_go_up_as_fioctl_sends_them(
    cli: Cli, serve: Serve, acme: Path, acme_answers: Answer
) -> None:
    server = serve(acme_answers)
    assert cli("est", "authorize", acme / "pki", "-y").code == 0
    (sent,) = server.sent("PATCH")
    nothing = {"created-by": "", "created-at": "", "updated-by": "", "updated-at": ""}
    body = sent.json
    assert body.pop("est-tls-crt").startswith("-----BEGIN CERTIFICATE-----")
    assert body == {"change-meta": nothing}


# --- TLS ---


def test_cacert_is_trusted_beside_the_systems_roots(
    cli: Cli, serve: Serve, tls: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, root = tls
    server = serve(lambda _: Reply(200, {"groups": []}), context)
    ends_in_one_line(cli(*LIST), 1, server.url, "certificate verify failed")
    assert server.asked == []
    monkeypatch.setenv("CACERT", str(root))
    assert cli(*LIST).code == 0


@pytest.mark.parametrize("content", [None, b"no certificate", b"\xff\xfe"])
def test_a_cacert_that_is_not_valid_is_refused(
    cli: Cli, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("CACERT", str(path))
    server = serve(lambda _: Reply(200, {"groups": []}))
    ends_in_one_line(cli(*LIST), 2, "CACERT", str(path))
    assert server.asked == []


def test_nulls_count_as_missing(cli: Cli, serve: Serve) -> None:
    """As Go's JSON reads them, which fioctl is written in; a server in Go writes them for empty lists."""
    serve(
        lambda asked: Reply(
            200,
            {"devices": [{"uuid": "u", "name": None, "group": {"id": None, "name": "field"}}], "total": None}
            if asked.path.startswith("/ota/devices/?")
            else {"groups": None},
        )
    )
    listed = cli("devices", "list", "--format", "json")
    assert (listed.code, listed.json["devices"][0]["group"]["name"]) == (0, "field")
    assert cli(*LIST, "--format", "json").json["groups"] == []


# Without these an answer says nothing.
NEEDED = {"uuid", "polis-id"}


def paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to each field in a document."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from paths(item, (*path, key))


def changed(document: Any, path: tuple[str | int, ...], *, absent: bool) -> Any:
    """A copy of the document in which one field is null, or absent."""
    copied = place = copy.deepcopy(document)
    for key in path[:-1]:
        place = place[key]
    if absent:
        del place[path[-1]]
    else:
        place[path[-1]] = None
    return copied


@pytest.mark.parametrize("absent", [False, True], ids=["null", "absent"])
@pytest.mark.parametrize("command", ANSWERS, ids=" ".join)
def test_whatever_field_is_null_or_absent_a_command_shows_the_rest(
    cli: Cli, serve: Serve, command: tuple[str, ...], absent: bool
) -> None:
    sent: Any = None
    serve(lambda asked: Reply(200, [] if asked.path.endswith("/users/") else sent))
    for path in paths(ANSWERS[command]):
        sent = changed(ANSWERS[command], path, absent=absent)
        assert absent or "null" in json.dumps(sent)
        result = cli(*command)
        null_item = isinstance(path[-1], int) and not absent
        if null_item or path[-1] in NEEDED or (path[-1] == "name" and "files" in path):
            ends_in_one_line(result, 1, "is not understood", f"{path[-1]}")
        else:
            assert (result.code, result.err) == (0, ""), (path, result.err)
