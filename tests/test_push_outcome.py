"""What is said about a push is true, whatever happens on the way: bad answers, cuts, others' pushes, signals.

Each fault happens to the real command, before a mocked Factory whose log is the truth.
"""

import dataclasses
import gzip
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commandline import Cli
from tests.pushing import (
    BOTH,
    DEVICE,
    GROUP,
    GROUP_CONFIG,
    Serve,
    Terminal,
    changing_patch,
    push,
    put,
    value,
)
from tests.scripted import Answer, Asked, Drop, Hang, Reply

OURS, SEEN, THEIRS = value("certs-1"), value("certs-0"), value("certs-9")
PUSH = (*GROUP, "--rotation-id", "certs-1", "--format", "json")

Step = Callable[["Factory", Asked], None]
Ending = Reply | Exception


class Factory:
    """The mocked Factory behind a fault, and what a fault can do to it."""

    def __init__(self, answers: Answer) -> None:
        self.answers = answers
        self.late: list[Callable[[], object]] = []

    def values(self) -> list[str | None]:
        """The entry in each configuration of the group's log, newest first."""
        reply = self.answers(Asked("GET", GROUP_CONFIG, {"host": "localhost"}, b"", 0))
        files = [
            {file["name"]: file["value"] for file in c["files"]} for c in json.loads(reply.body)["config"]
        ]
        return [of_entry.get("fio-rotate-certs") for of_entry in files]


def land(factory: Factory, asked: Asked) -> None:
    factory.answers(asked)


def land_later(factory: Factory, asked: Asked) -> None:
    factory.late.append(lambda: factory.answers(asked))


def land_without_handler(factory: Factory, asked: Asked) -> None:
    body = asked.json
    del body["files"][0]["on-changed"]
    factory.answers(dataclasses.replace(asked, body=json.dumps(body).encode()))


def theirs(factory: Factory, _: Asked) -> None:
    put(factory.answers, THEIRS)


def many_others(factory: Factory, _: Asked) -> None:
    for number in range(10, 22):
        put(factory.answers, value(f"certs-{number}"))


def deletion(factory: Factory, _: Asked) -> None:
    path = f"{GROUP_CONFIG}fio-rotate-certs/"
    assert factory.answers(Asked("DELETE", path, {"host": "localhost"}, b"", 0)).status < 300


def another_file(factory: Factory, _: Asked) -> None:
    body = json.dumps({"files": [{"name": "other", "value": "x"}]}).encode()
    factory.answers(Asked("PATCH", GROUP_CONFIG, {"host": "localhost"}, body, 0))


def pieces(*parts: bytes) -> Iterator[bytes]:
    yield from parts
    raise ConnectionError("cut")


@dataclasses.dataclass(frozen=True)
class Fault:
    """What happens at the PATCH, how it is answered, and what must be said about it."""

    name: str
    outcome: str
    steps: tuple[Step, ...]
    ending: Callable[[], Ending]
    replaced: str | None = None
    read_back: Callable[[], Ending] | None = None


def status(code: int, outcome: str, *steps: Step) -> Fault:
    headers = {"Location": "https://elsewhere.example/"} if 300 <= code < 400 else {}
    return Fault(
        f"{code}{' landed' if steps else ''}", outcome, steps, lambda: Reply(code, {"msg": "no"}, headers)
    )


CUTS: dict[str, Callable[[], Ending]] = {
    "no answer": Drop,
    "an answer in time": Hang,
    "half a status line": lambda: Reply(raw=b"HTTP/1."),
    "no HTTP": lambda: Reply(raw=b"\x15\x03\x01\x00\x02\x02\x46"),
    "a status beyond all": lambda: Reply(raw=b"HTTP/1.1 99999 What\r\n\r\n"),
    "half a header": lambda: Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Le"),
    "a header without end": lambda: Reply(raw=b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000),
    "half a body": lambda: Reply(200, headers={"Content-Length": "100"}, pieces=pieces(b"{")),
    "no chunk": lambda: Reply(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "broken gzip": lambda: Reply(200, b"not gzip", {"Content-Encoding": "gzip"}),
    "half of gzip": lambda: Reply(200, gzip.compress(b"{}" * 99)[:20], {"Content-Encoding": "gzip"}),
    "an encoding that nobody knows": lambda: Reply(200, b"x", {"Content-Encoding": "zopfli"}),
}  # fmt: skip
# What a server may say to a push that it has taken; nobody needs to understand it.
GARBAGE: dict[str, Callable[[], Ending]] = {
    "not JSON": lambda: Reply(201, b"<html>"),
    "not UTF-8": lambda: Reply(200, b"\xff\xfe", {"Content-Type": "application/json; charset=x-none"}),
    "nested without end": lambda: Reply(200, b"[" * 100_000),
    "nothing": lambda: Reply(204),
}  # fmt: skip
ACCEPTED = lambda: Reply(201, {})  # noqa: E731  a name for one of the endings above
UNREADABLE: dict[str, Callable[[], Ending]] = {
    "500": lambda: Reply(500),
    "403": lambda: Reply(403),
    "404": lambda: Reply(404),
    "not JSON": lambda: Reply(200, b"<html>"),
    "dropped": Drop,
}  # fmt: skip

FAULTS = [
    # Refused for good, where it hasn't landed all the same.
    *(status(code, "not-landed") for code in (301, 302, 307, 308, 400, 401, 403, 404, 405, 409, 412, 413, 429)),
    # A server's own failure, or a proxy's, or an answer that says nothing: it may arrive yet.
    *(status(code, "unknown") for code in (200, 201, 204, 206, 299, 408, 425, 500, 502, 503, 504, 599)),
    *(status(code, "landed", land) for code in (202, 206, 302, 400, 403, 404, 408, 409, 429, 500, 502, 504)),
    *(Fault(f"without {name}, lost", "unknown", (), ending) for name, ending in CUTS.items()),
    *(Fault(f"without {name}, landed", "landed", (land,), ending) for name, ending in CUTS.items()),
    *(Fault(f"answer {name}", "landed", (land,), ending) for name, ending in GARBAGE.items()),
    Fault("late after 504", "unknown", (land_later,), lambda: Reply(504)),
    Fault("late after no answer", "unknown", (land_later,), Drop),
    # Others.
    Fault("theirs in between", "landed", (theirs, land), ACCEPTED, replaced="rotation certs-9"),
    Fault("theirs after it", "replaced", (land, theirs), ACCEPTED),
    Fault("theirs before and after it", "replaced", (theirs, land, theirs), ACCEPTED, "rotation certs-9"),
    Fault("theirs, and ours refused", "not-landed", (theirs,), lambda: Reply(409)),
    Fault("theirs, and ours cut", "unknown", (theirs,), Drop),
    Fault("deleted in between", "landed", (deletion, land), ACCEPTED, "a deletion of fio-rotate-certs"),
    Fault("deleted after it", "replaced", (land, deletion), ACCEPTED),
    Fault("another file after it", "landed", (land, another_file), ACCEPTED),
    Fault("another file in between", "landed", (another_file, land), ACCEPTED),
    Fault("the same from another job", "landed", (land, another_file, land), ACCEPTED),
    Fault("landed without its handler", "not-landed", (land_without_handler,), ACCEPTED),
    Fault("landed, pushed out of the log", "unknown", (land, many_others), lambda: Reply(502)),
    Fault("refused, and the log full of others", "unknown", (many_others,), lambda: Reply(409)),
    # Reading back fails.
    *(Fault(f"landed, read back {n}", "unknown", (land,), ACCEPTED, None, e) for n, e in UNREADABLE.items()),
    Fault("refused, read back 500", "unknown", (), lambda: Reply(403), read_back=lambda: Reply(500)),
]  # fmt: skip

SAYS = {
    "landed": "watch it with",
    "replaced": "was replaced since: group field has",
    "not-landed": "did not land",
    "unknown": ("may still arrive", "whether it landed is not known"),
}


def check_truth(told: dict[str, Any], values: list[str | None]) -> None:
    """What is said about the push, compared with the log, which is the truth."""
    landed = OURS in values
    outcome = told["outcome"]
    assert told["pushed"] is {"landed": True, "replaced": True, "not-landed": False, "unknown": None}[outcome]
    if outcome == "landed":
        assert values[0] == OURS
    if outcome == "replaced":
        assert landed
        assert values[0] != OURS
    below = next((v for v in values[values.index(OURS) :] if v != OURS), None) if landed else SEEN
    if outcome in ("landed", "replaced"):
        assert (told["replaced"] is not None) == (below != SEEN)


def ending_of(make: Callable[[], Ending]) -> Reply:
    made = make()
    if isinstance(made, Exception):
        raise made
    return made


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_what_is_said_about_a_push_is_true(
    cli: Cli, serve: Serve, acme_answers: Answer, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    factory, healthy = Factory(acme_answers), threading.Event()
    put(acme_answers, SEEN)

    def answer(asked: Asked) -> Reply:
        if healthy.is_set():
            return acme_answers(asked)
        if asked.method == "PATCH":
            for step in fault.steps:
                step(factory, asked)
            return ending_of(fault.ending)
        if fault.read_back and server.sent("PATCH") and asked.path.startswith(GROUP_CONFIG):
            return ending_of(fault.read_back)
        return acme_answers(asked)

    if fault.ending is CUTS["an answer in time"]:
        monkeypatch.setenv("FIOCTL_ROTATE_TIMEOUT", "4")
    server = serve(answer)
    result = cli(*PUSH)
    told = result.json
    assert (told["outcome"], told["replaced"]) == (fault.outcome, fault.replaced), result.err
    assert result.code == (0 if fault.outcome == "landed" else 1)
    says = SAYS[fault.outcome]
    assert any(text in result.err for text in ((says,) if isinstance(says, str) else says)), result.err
    assert len(server.sent("PATCH")) == 1
    check_truth(told, factory.values())

    for deliver in factory.late:
        deliver()
    assert not (fault.outcome == "not-landed" and OURS in factory.values()) or "handler" in fault.name
    # What is said to repeat it does no harm: at most one push is there, and it isn't pushed over another one.
    healthy.set()
    before = factory.values()
    again = cli(*shlex.split(told["repeat"])[1:])
    assert again.code == 0 or (again.code == 5 and factory.values() == before), again.err
    if again.code == 0:
        assert factory.values()[0] == OURS


@BOTH
@pytest.mark.parametrize("failure", [Reply(502, b"Oops"), Drop()], ids=["502", "cut"])
def test_a_push_that_landed_although_it_seems_to_have_failed_is_found(
    cli: Cli, serve: Serve, acme_answers: Answer, command: tuple[str, ...], failure: Ending
) -> None:
    def patch(asked: Asked) -> Reply:
        acme_answers(asked)
        return ending_of(lambda: failure)

    server = serve(changing_patch(acme_answers, patch))
    result = push(cli, *command, "--rotation-id", "certs-1")
    assert "it landed anyway" in result.err
    assert result.out.startswith("pushed rotation certs-1")
    assert len(server.sent("PATCH")) == 1


def test_a_server_that_is_gone_by_then_was_sent_nothing(cli: Cli, serve: Serve, acme_answers: Answer) -> None:
    asked_log = 0

    def answer(asked: Asked) -> Reply:
        nonlocal asked_log
        asked_log += asked.path.startswith(GROUP_CONFIG)
        if asked_log == 2:  # the last reading before the push
            server.close()
        return acme_answers(asked)

    server = serve(answer)
    result = cli(*PUSH)
    assert (result.code, result.json["outcome"], result.json["pushed"]) == (1, "not-landed", False)
    assert "cannot be reached" in result.json["problem"]


def test_what_is_refused_says_why_and_how_to_repeat_it(cli: Cli, serve: Serve, acme_answers: Answer) -> None:
    server = serve(changing_patch(acme_answers, lambda _: Reply(409, {"msg": "a key change is open"})))
    result = cli(*DEVICE, "--rotation-id", "certs-1")
    assert (result.code, result.out) == (1, "")
    assert "did not land" in result.err
    assert "answered 409" in result.err
    assert "a key change is open" in result.err
    repeat = (
        f"`fioctl-rotate device config rotate-certs device-1 -r why --server-name localhost --rotation-id certs-1 "
        f"-f acme --server {server.url} --no-checks` repeats it safely"
    )
    assert repeat in result.err


def test_who_was_replaced_can_push_again_under_another_id(
    cli: Cli, serve: Serve, acme_answers: Answer
) -> None:
    def patch(asked: Asked) -> Reply:
        acme_answers(asked)
        put(acme_answers, THEIRS)
        return Reply(201)

    factory, server = Factory(acme_answers), serve(changing_patch(acme_answers, patch))
    result = cli(*GROUP, "--rotation-id", "certs-1")
    assert result.code == 1
    assert "landed, and was replaced since: group field has rotation certs-9 now" in result.err
    server.close()
    serve(acme_answers)
    again = shlex.split(result.err.split("`")[3])[1:]
    assert "--rotation-id" in again
    assert "certs-1" not in again
    again[again.index("--server") + 1] = os.environ["FIOCTL_ROTATE_SERVER"]
    push(cli, *again, "--no-checks")
    assert factory.values()[1:] == [THEIRS, OURS]


# --- Signals ---

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
# The moment when the signal comes, and what must be said about the push.
MOMENTS = {
    "before": None,
    "sending, lost": "unknown",
    "sending, landed": "landed",
    "reading back": "landed",
    "reading back, which hangs": "unknown",
    "reading back, which hangs, twice": "unknown",
}


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_ends_with_its_code_and_what_is_known(
    serve: Serve, acme_answers: Answer, moment: str, number: signal.Signals
) -> None:
    factory, waits = Factory(acme_answers), threading.Event()
    put(acme_answers, SEEN)

    def hang() -> None:
        waits.set()
        raise Hang

    def answer(asked: Asked) -> Reply:
        sent = bool(server.sent("PATCH"))
        if moment == "before" and not sent:
            hang()
        if asked.method == "PATCH":
            if moment != "sending, lost":
                acme_answers(asked)
            if moment.startswith("sending"):
                hang()
            return Reply(201)
        if sent and moment.startswith("reading") and (not waits.is_set() or "hangs" in moment):
            hang()
        return acme_answers(asked)

    server = serve(answer)
    process = subprocess.Popen(
        [sys.executable, "-m", "fioctl_rotate", *PUSH],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    assert waits.wait(60)
    process.send_signal(number)
    said = ""
    if moment.endswith("twice"):
        assert process.stderr is not None
        while not said.endswith("3 s at most\n"):
            line = process.stderr.readline()
            assert line, said
            said += line
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    err = said + err
    assert process.returncode == CODES[number], err
    assert "Traceback" not in err
    if MOMENTS[moment] is None:
        assert (out, factory.values()) == ("", [SEEN])
        return
    told = json.loads(out)
    assert told["outcome"] == MOMENTS[moment]
    check_truth(told, factory.values())
    assert "interrupted; reading back whether the push landed, 3 s at most" in err
    assert ("repeats it safely" in err) == (told["outcome"] == "unknown")


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_signal_ends_a_question_at_once(acme: Path, acme_answers: Answer, number: signal.Signals) -> None:
    terminal = Terminal(*GROUP)
    terminal.wait_for("Push it? [y/N]")
    terminal.process.send_signal(number)
    assert terminal.end() == CODES[number]
    assert Factory(acme_answers).values() == []


# --- Streams ---


def run_with(**streams: Any) -> subprocess.CompletedProcess[str]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.run([sys.executable, "-m", "fioctl_rotate", *PUSH], text=True, **streams)


@pytest.fixture
def closed_pipe() -> Iterator[int]:
    read_end, write_end = os.pipe()
    os.close(read_end)
    yield write_end
    os.close(write_end)


def test_a_stdout_that_nobody_reads_hides_nothing(acme: Path, acme_answers: Answer, closed_pipe: int) -> None:
    done = run_with(stdout=closed_pipe)
    assert done.returncode == 1
    assert "rotation certs-1 landed: group field has it; stdout cannot be written: Broken pipe" in done.stderr
    assert Factory(acme_answers).values() == [OURS]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_hides_nothing(acme: Path, acme_answers: Answer) -> None:
    with Path("/dev/full").open("w") as full:
        done = run_with(stdout=full)
    assert done.returncode == 1
    assert "rotation certs-1 landed: group field has it; stdout cannot be written: No space" in done.stderr
    assert Factory(acme_answers).values() == [OURS]


def test_a_signal_with_a_stderr_that_nobody_reads_is_read_back(
    serve: Serve, acme_answers: Answer, closed_pipe: int
) -> None:
    waits = threading.Event()

    def patch(asked: Asked) -> Reply:
        acme_answers(asked)
        waits.set()
        raise Hang

    serve(changing_patch(acme_answers, patch))
    process = subprocess.Popen(
        [sys.executable, "-m", "fioctl_rotate", *PUSH, "-y"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert waits.wait(60)
    process.stderr.close()
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    told = json.loads(process.stdout.read())
    process.stdout.close()
    process.wait(60)
    assert told["outcome"] == "landed"
    assert Factory(acme_answers).values() == [OURS]
