"""Whatever an EST server, or its client, sends: an Error or a 400, within limits, and nothing else."""

import asyncio
import base64
import contextlib
import functools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fioctl_rotate.checks import Status
from fioctl_rotate.errors import Error
from fioctl_rotate.est import client as est_client
from fioctl_rotate.est import service
from fioctl_rotate.est.client import (
    Answer,
    NoAnswer,
    accepted,
    address_of,
    build_csr,
    decode_certificates,
    send,
)
from fioctl_rotate.est.deny import parse_deny_list
from fioctl_rotate.est.enroll_policy import Enroll
from fioctl_rotate.est.probe import probe
from fioctl_rotate.pki.certificates import pem
from fioctl_rotate.pki.keys import generate_key
from fioctl_rotate.tls import client_context, server_context
from tests.making import NOW, Pki, write_pair

SOME = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
MANY = settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])

PKI = Pki.make()
DEVICE, _ = PKI.device()
CSR = base64.b64decode(build_csr(generate_key(), DEVICE))
ANSWER = base64.b64decode(service.certificate_answer(DEVICE))


@st.composite
def mutated(draw: st.DrawFn, original: bytes) -> bytes:
    """`original` with some bytes changed, cut out or doubled."""
    data = bytearray(original)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, max(len(data) - 1, 0)))
        end = draw(st.integers(start, min(start + 20, len(data))))
        data[start:end] = draw(st.sampled_from([b"", bytes(data[start:end]) * 2]) | st.binary(max_size=8))
    return bytes(data)


def encoded(der: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return der.map(base64.b64encode) | st.binary(max_size=200)


@MANY
@given(encoded(mutated(ANSWER)), st.sampled_from([200, 201, 400]), st.text(max_size=30))
def test_any_answer_is_accepted_or_refused_with_a_message(body: bytes, status: int, media_type: str) -> None:
    with contextlib.suppress(Error):
        decode_certificates(body)
    for only_201 in (True, False):
        for kind in (media_type, "application/pkcs7-mime"):
            with contextlib.suppress(Error):
                accepted(Answer(status, kind, body), DEVICE, only_201=only_201)


def test_a_certificate_whose_extensions_cannot_be_read_is_refused() -> None:
    digital_signature = bytes.fromhex("03020780")  # a BIT STRING; with the tag 0 it is nothing
    body = base64.b64encode(ANSWER.replace(digital_signature, bytes.fromhex("00020780")))
    assert decode_certificates(body)[0].subject == DEVICE.subject
    with pytest.raises(Error, match="must have KeyUsage digitalSignature"):
        accepted(Answer(200, "application/pkcs7-mime", body), DEVICE, only_201=False)


@MANY
@given(encoded(mutated(CSR)), st.sampled_from(list(Enroll)))
def test_any_csr_is_signed_or_refused(body: bytes, policy: Enroll) -> None:
    authority = PKI.authority()
    for sign in (
        functools.partial(service.enroll, policy=policy),
        service.reenroll,
    ):
        refused = None
        try:
            sign(authority, body, DEVICE, now=NOW).verify_directly_issued_by(PKI.ca)
        except service.EstError as error:
            refused = error
        assert refused is None or (refused.status in (400, 403) and "\n" not in refused.message)


@MANY
@given(st.text(max_size=60) | st.text("htps:/.%2e?#@[]\\ü1", max_size=30).map("https://".__add__))
def test_any_url_has_a_target_or_is_refused(url: str) -> None:
    with contextlib.suppress(Error):
        assert address_of(url).host


@MANY
@given(st.text(max_size=80) | st.text("uidserialkey #0af\n:", max_size=60))
def test_any_deny_list_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(Error):
        assert len(parse_deny_list(text, "deny.txt").entries) <= len(text.splitlines())


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(context: ssl.SSLContext, handler: Handler) -> AsyncIterator[str]:
    """A TLS server on localhost that talks as `handler` does; gives its URL."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await handler(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}/est"


@pytest.fixture
def context(tmp_path):
    return server_context(*write_pair(tmp_path, "tls", PKI.server()), pem(PKI.ca), required=False)


@pytest.fixture
def asked(context):
    """`asked(handler)`: what `send` gives, or how it fails, with a deadline of `deadline` seconds."""

    def ask(handler: Handler, deadline: float = 20.0) -> Answer:
        async def work() -> Answer:
            async with serving(context, handler) as url:
                return await send(
                    "POST", f"{url}/x", context=client_context(pem(PKI.root)), deadline=deadline
                )

        return asyncio.run(work())

    return ask


@SOME
@given(
    st.binary(max_size=200)
    | mutated(
        b"HTTP/1.1 201 Created\r\nContent-Type: application/pkcs7-mime\r\nContent-Encoding: gzip\r\n"
        b"Content-Length: 20\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"
    )
)
def test_any_bytes_are_an_answer_or_none(asked, data: bytes) -> None:
    async def handler(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    with contextlib.suppress(NoAnswer):
        asked(handler)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/pkcs7-mime\r\n"


def test_an_answer_without_end_is_cut(asked) -> None:
    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"\r\n")
        while True:
            writer.write(b"A" * 65536)
            await writer.drain()

    with pytest.raises(NoAnswer, match="longer than"):
        asked(flood)


@pytest.mark.parametrize("beginning", [b"", HEAD, HEAD + b"\r\n"])
def test_an_answer_that_trickles_has_an_end(asked, beginning: bytes) -> None:
    """A byte now and then, for ever: the deadline is for the whole exchange."""

    async def trickle(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        while not writer.is_closing():
            writer.write(b"A")
            await writer.drain()
            await asyncio.sleep(0.02)

    with pytest.raises(NoAnswer, match="in time"):
        asked(trickle, 0.5)


def test_headers_without_end_are_cut(asked) -> None:
    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        while True:
            writer.write(b"X: " + b"a" * 65536)
            await writer.drain()

    with pytest.raises(NoAnswer):
        asked(flood)


def test_a_probe_of_a_server_that_trickles_ends(context) -> None:
    async def trickle(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            writer.write(b"A")
            await writer.drain()
            await asyncio.sleep(0.02)

    async def work():
        async with serving(context, trickle) as url:
            return await probe(url, [PKI.root], now=NOW, timeout=5.0)

    checks = {check.name: check.status for check in asyncio.run(work())}
    assert (checks["endpoint"], checks["cacerts"]) == (Status.WARN, Status.WARN)


def test_the_limit_is_enough_for_many_roots() -> None:
    answer = service.cacerts(PKI.authority(roots=[Pki.make().root for _ in range(20)]))
    assert len(answer) < est_client.MAX_ANSWER / 10
