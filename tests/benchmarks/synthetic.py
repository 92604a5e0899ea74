"""An operator API of a large Factory, in a process of its own: it answers from memory, as fast as Python can.

    python -m tests.benchmarks.synthetic DEVICES [done|none] [LATENCY]

It prints its URL. The Factory is `acme`; its devices are in the group `field`, whose newest entry is the rotation
`certs-1`. With `done` every device has been through it. LATENCY, in seconds, is how long each answer takes. It
counts requests: GET /count gives the number since the last time, and how many were for each kind. POST /see/N has
N more devices be seen. It takes pushes to the group and to devices; no device follows them.
"""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

ENTRY = "ESTSERVER=https://est.example.com:8443/.well-known/est\nPKEYIDS=01,07\nCERTIDS=03,09\nROTATIONID=certs-1\n"
STEPS = (
    "CertRotationStarted",
    "Generate new certificate",
    "Lock device configuration on server",
    "Update local configuration with new key",
    "Update device specific configuration on server with new key",
    "Finalize aktualizr configuration",
)
# All of it happened in the last hours, so no device is offline: seen, push, steps, seen, and seen once more.
HOURS_AGO = [
    f"{datetime.now(UTC) - timedelta(hours=hours):%Y-%m-%dT%H:%M:%S}" for hours in (3.5, 3, 2.9, 2, 1)
]
PUSHED, BEGUN = HOURS_AGO[1], f"{HOURS_AGO[2]}Z"
SEEN_BEFORE, SEEN_AFTER, SEEN_AGAIN = (f"{HOURS_AGO[index]}.%06dZ" for index in (0, 3, 4))


def encode(value: object) -> bytes:
    return json.dumps(value).encode()


def config_log(pushes: Sequence[object]) -> bytes:
    """A log of pushes, the files of each, the oldest first."""
    entry = {"created-at": PUSHED, "created-by": "p", "reason": "why"}
    newest = [entry | {"files": files} for files in reversed(pushes[-10:])]
    return encode({"config": newest, "total": len(newest), "next": None})


class Api:
    """The answers."""

    def __init__(self, devices: int, done: bool) -> None:
        self.done = done
        self.counts: Counter[str] = Counter()
        self.pushes: list[object] = [[{"name": "fio-rotate-certs", "value": ENTRY, "unencrypted": True}]]
        self.own_pushes: dict[str, list[object]] = {}
        self.names = [f"device-{number:06}" for number in range(devices)]
        # Newest first, as a list by last-seen is asked for.
        self.seen_before = SEEN_AFTER if done else SEEN_BEFORE
        self.listed = [
            self._listed(name, self.seen_before % (999_999 - number))
            for number, name in enumerate(self.names)
        ]
        self.seen = 0
        self.events = encode(
            [
                {
                    "deviceTime": BEGUN,
                    "eventType": {"id": step},
                    "event": {"version": "1", "success": True},
                }
                for step in STEPS
            ]
            if done
            else []
        )

    def answer(self, method: str, target: str, body: bytes) -> tuple[str, bytes]:
        """The kind of request, and the body of its answer."""
        url = urlsplit(target)
        parts = url.path.strip("/").split("/")
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if parts == ["count"]:
            counts, self.counts = self.counts, Counter()
            return "", encode(counts)
        if parts[0] == "see":
            self._see(int(parts[1]))
            return "", b"{}"
        if parts[1] == "devices":
            return self._devices(method, parts[2:], query, body)
        match parts[3:]:
            case ["certs"]:
                return "certs", encode({"root-crt": "", "est-tls-crt": ""})
            case ["users", "self"]:
                return "user", encode({"polis-id": "p", "name": "n", "role": "admin"})
            case ["device-groups"]:
                return "groups", encode({"groups": [{"id": 1, "name": "field"}]})
            case ["device-groups", _, "config"] if method == "PATCH":
                self.pushes.append(json.loads(body)["files"])
                return "push", b"{}"
            case ["device-groups", _, "config"]:
                return "group config", config_log(self.pushes)
        return "fleet config", config_log(())

    def _listed(self, name: str, seen: str) -> bytes:
        return encode(
            {"uuid": f"uuid-{name}", "name": name, "device-group": "field", "last-seen": seen,
             "lmp-ver": "4.0.20-2-95", "target-name": "lmp-1", "tag": "main", "status": "OK", "is-prod": False}
        )  # fmt: skip

    def _see(self, count: int) -> None:
        """The oldest devices are seen, and become the newest."""
        for _ in range(count):
            name = self.names[len(self.names) - 1 - self.seen]
            self.seen += 1
            self.listed.pop()
            self.listed.insert(0, self._listed(name, SEEN_AGAIN % self.seen))

    def _devices(self, method: str, rest: list[str], query: dict[str, str], body: bytes) -> tuple[str, bytes]:
        if not rest:
            limit, page = int(query.get("limit", 500)), int(query.get("page", 1))
            chosen = self.listed[(page - 1) * limit : page * limit]
            more = page * limit < len(self.listed)
            kept = "&".join(f"{name}={value}" for name, value in query.items() if name != "page")
            following = f'"http://api/ota/devices/?{kept}&page={page + 1}"' if more else "null"
            head = f'"total": {len(self.listed)}, "next": {following}'
            return "devices", b'{"devices": [' + b",".join(chosen) + b"], " + head.encode() + b"}"
        if rest[1:2] == ["updates"]:
            if len(rest) > 2:
                return "events", self.events if rest[2] == "certs-1" else b"[]"
            update = {"correlation-id": "certs-1", "target": "lmp-1", "version": "1", "time": BEGUN}
            return "updates", encode({"updates": [update] if self.done else [], "total": 1, "next": None})
        if rest[1:2] == ["config"]:
            if method == "PATCH":
                self.own_pushes.setdefault(rest[0], []).append(json.loads(body)["files"])
            return "device config", config_log(self.own_pushes.get(rest[0], ()))
        name = rest[0].removeprefix("uuid-")
        key = f"{'new' if self.done else 'old'} key of {name}"
        device = {"uuid": f"uuid-{name}", "name": name, "factory": "acme", "public-key": key,
                  "last-seen": self.seen_before % 0, "lmp-ver": "4.0.20-2-95"}  # fmt: skip
        return "device", encode(device)


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, kept open."""

    transport: asyncio.Transport

    def __init__(self, api: Api, latency: float) -> None:
        self.api, self.latency = api, latency
        self.data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, end, body = self.data.partition(b"\r\n\r\n")
        if not end:
            return
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        if len(body) < length:
            return
        self.data = body[length:]
        method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
        kind, answer = self.api.answer(method, target, body[:length])
        if kind:
            self.api.counts[kind] += 1
        sent = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer)
        if self.latency:
            asyncio.get_running_loop().call_later(self.latency, self.transport.write, sent)
        else:
            self.transport.write(sent)


async def main() -> None:
    """Serve until killed."""
    devices, state, latency, *_ = (*sys.argv[1:], *("1000", "none", "0")[len(sys.argv) - 1 :])
    api = Api(int(devices), state == "done")
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(api, float(latency)), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
