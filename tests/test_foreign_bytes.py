"""Whatever a server answers and a file holds: a command ends in one line, never in a defect or a traceback.

The inputs are random, and what a real answer or file looks like after a few random changes. Time and memory are
bounded by the program, which its own tests show; here nothing may hang, so the test would not end.
"""

import json
import random
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.answers import ANSWERS
from tests.commandline import Cli, Result
from tests.scripted import Asked, Reply, Server

Serve = Callable[..., Server]

ODD = (
    *(
        b"\x00",
        b"\xff\xfe",
        b"[" * 3000,
        b"{" * 3000,
        b"9" * 5000,
        b"1e999",
        b"-",
        b"null",
        b'"',
        b"\\",
        b"\r\n",
    ),
    *(
        "²".encode(),
        b"\\ud800",
        b"NaN",
        b"<html>",
        b"\x1b[2J",
        b"true",
        b"[]",
        b"{}",
        b":",
        b",",
        b"='",
        b"*a",
        b"&a ",
    ),
)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """`data` after one to four random changes: bytes cut, doubled, turned, and odd ones put in."""
    for _ in range(chance.randint(1, 4)):
        at, end = sorted((chance.randint(0, len(data)), chance.randint(0, len(data))))
        piece = data[at:end]
        data = chance.choice(
            (
                data[:at] + data[end:],
                data[:at] + chance.choice(ODD) + data[at:],
                data[:at] + chance.choice(ODD) + data[end:],
                data[:end] + piece + data[end:],
                data[:at] + bytes((chance.randrange(256),)) + data[at + 1 :],
            )
        )[:50_000]
    return data


def inputs(examples: Sequence[bytes], seed: int, number: int) -> Iterator[bytes]:
    """`number` inputs, a fifth of them random bytes; a seed gives the same ones on every machine."""
    chance = random.Random(seed)  # noqa: S311  not for secrets
    for _ in range(number):
        yield (
            chance.randbytes(chance.randint(0, 300))
            if chance.random() < 0.2
            else mutated(chance.choice(examples), chance)
        )


def ends_well(result: Result, data: bytes) -> None:
    """Done, or one `error:` line for what it is given; nothing else on stderr but notes and warnings."""
    told = f"{data[:3000]!r}\n{result.err[:3000]}"
    assert result.code in (0, 1, 2, 5), told
    assert "unexpected" not in result.err, told
    assert "Traceback" not in result.err, told
    lines = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == (result.code != 0), told
    assert all(len(line) < 2500 for line in lines), told


@pytest.mark.parametrize("command", ANSWERS, ids=" ".join)
def test_any_body_is_read_or_refused_in_one_line(cli: Cli, serve: Serve, command: tuple[str, ...]) -> None:
    examples = [json.dumps(ANSWERS[command], ensure_ascii=escaped).encode() for escaped in (True, False)]
    body, status = b"", 200

    def answer(_: Asked) -> Reply:
        head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\nContent-Type: text/html; charset=x\r\n\r\n"
        return Reply(raw=head.encode() + body)

    serve(answer)
    for number, body in enumerate(inputs(examples, 1, 200)):
        status = (200, 200, 200, 401, 404, 500)[number % 6]
        ends_well(cli(*command), body)


@pytest.mark.parametrize("part", range(4))
def test_any_answer_is_read_or_refused_in_one_line(cli: Cli, serve: Serve, part: int) -> None:
    """The whole answer is changed: status line, headers, body, and where the connection ends."""
    heads = [
        b"Content-Type: application/json\r\nContent-Length: 14\r\nRetry-After: 0\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n",
        b"Location: http://localhost:1/x\r\nDate: Wed, 25 Nov 2026 18:00:00 GMT\r\n",
        b"Retry-After: Wed, 25 Nov 2026 18:00:00 GMT\r\nContent-Encoding: identity\r\n",
    ]
    examples = [
        b"HTTP/1.1 " + status + b"\r\n" + head + b"\r\n" + body
        for status in (b"200 OK", b"206 x", b"302 Found", b"429 Busy", b"503 x", b"100 Continue")
        for head in heads
        for body in (b'{"groups": []}', b'e\r\n{"groups": []}\r\n0\r\n\r\n')
    ]
    data = b""
    serve(lambda _: Reply(raw=data))
    for data in inputs(examples, 10 + part, 100):
        ends_well(cli("config", "device-group", "list"), data)


TOML = [
    b'factory = "acme"\nserver = "http://127.0.0.1:1"\ntoken = "canary"\ntimeout = "1s"\n[oauth]\n'
    b'client_id = "a"\nclient_secret = "b"\nexpires_in = 3600\ncreated = "2020-01-01T00:00:00Z"\n'
    b'[profiles.work]\nfactory = "b"\nmock = "no/such/mock"\ncacert = "no/such/file"\n',
    b'profiles = {work = {factory = "acme", token = "canary", server = "http://x", oauth = {url = "x"}}}\n',
]
YAML = [
    b'clientcredentials:\n  access_token: AT\n  client_id: cid\n  client_secret: "007"\n  expires_in: 3600\n'
    b'  created: "2026-11-24T15:59:33Z"\n  url: http://localhost:1/oauth\nfactory: acme\n'
    b'server:\n  insecure_skip_verify: false\n  url: "http://localhost:1"\n',
    b"factory: acme\ntoken: canary\nserver: {url: 'http://127.0.0.1:1'}\nextraheaders: [a, &x b, *x]\n",
]


@pytest.mark.parametrize("profile", [(), ("--profile", "work")], ids=["default", "profile"])
def test_any_settings_file_is_read_or_refused_in_one_line(
    cli: Cli, serve: Serve, tmp_path: Path, profile: tuple[str, ...]
) -> None:
    serve(lambda _: Reply(raw=b""))  # retries follow each other without a pause
    path = tmp_path / "c.toml"
    for data in inputs(TOML, 2, 200):
        path.write_bytes(data)
        ends_well(cli("whoami", "-c", path, *profile, "--server", "http://localhost:1"), data)


def test_any_file_of_fioctl_is_read_or_refused_in_one_line(cli: Cli, serve: Serve, tmp_path: Path) -> None:
    serve(lambda _: Reply(raw=b""))
    path, settings = tmp_path / "fioctl.yaml", tmp_path / "c.toml"
    for data in inputs(YAML, 3, 200):
        path.write_bytes(data)
        arguments = ("login", "--from-fioctl", path, "-c", settings, "--server", "http://localhost:1")
        ends_well(cli(*arguments, "-f", "acme"), data)


def test_any_answer_for_an_access_token_is_read_or_refused_in_one_line(
    cli: Cli, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = json.dumps(
        {"access_token": "a", "token_type": "bearer", "expires_in": 3600, "refresh_token": "r"}
    )
    body = b""
    server = serve(lambda _: Reply(raw=b"HTTP/1.1 200 x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)))
    monkeypatch.delenv("FIOCTL_TOKEN")
    path = tmp_path / "c.toml"
    text = f'[oauth]\nclient_id = "a"\nclient_secret = "b"\nurl = "{server.url}"\n'
    for body in inputs([example.encode()], 4, 200):
        path.write_text(text)
        ends_well(cli("whoami", "-c", path), body)


LOOKUP = socket.getaddrinfo


def without_dns(host: str | bytes | None, *arguments: Any, **options: Any) -> Any:
    """Look up the names of this machine; no other one exists. A real DNS server may be slow, or know odd names."""
    if host not in ("localhost", "127.0.0.1", b"localhost", b"127.0.0.1"):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return LOOKUP(host, *arguments, **options)


@pytest.mark.parametrize(
    "variable", ["HTTPS_PROXY", "NO_PROXY", "FIOCTL_ROTATE_TIMEOUT", "FIOCTL_TOKEN", "CACERT"]
)
def test_any_variable_is_read_or_refused_in_one_line(
    cli: Cli, serve: Serve, monkeypatch: pytest.MonkeyPatch, variable: str, tls: tuple[ssl.SSLContext, Path]
) -> None:
    serve(lambda _: Reply(raw=b""))
    monkeypatch.setattr("socket.getaddrinfo", without_dns)
    monkeypatch.setenv("SSL_CERT_FILE", str(tls[1]))  # one CA is loaded faster than all that the system has
    monkeypatch.setenv("HTTPS_PROXY", "http://localhost:1")
    examples = [b"http://me:canary@localhost:1", b"localhost,127.0.0.0/8,::1/128,[::1]:443,*.example", b"30s"]
    for data in inputs(examples, 5, 60):
        monkeypatch.setenv(variable, data.replace(b"\0", b"").decode("utf-8", "surrogateescape"))
        ends_well(cli("whoami", "--server", "https://localhost.invalid", "-f", "acme"), data)
