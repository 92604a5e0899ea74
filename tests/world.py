"""A Factory whose devices do just what a test says, at the times that it says, seen through the operator API."""

import itertools
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import httpx

from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.api.peer import Peer
from fioctl_rotate.mock.new_factory import create
from fioctl_rotate.mock.operator import operator_app
from fioctl_rotate.mock.store import device_groups, device_records, updates
from fioctl_rotate.mock.store.database import Store
from fioctl_rotate.rotation.entry import make_entry
from fioctl_rotate.rotation.plan import request_body
from fioctl_rotate.rotation.progress import STARTED, STEPS
from fioctl_rotate.rotation.scope import Scope

START = datetime(2026, 11, 24, 12, tzinfo=UTC)
EST = "https://est.example.com:8443/.well-known/est"


class World:
    """A mocked Factory `acme` with a group `field`, and its clock `now`, which tests turn."""

    def __init__(self, directory, now=START):
        self.directory = directory
        self.now = now
        self.requests = []
        self.broken = {}
        self.answered = lambda: None
        self.pause = None  # awaited before each request
        create(directory, "acme", now=now)
        self.store = Store(directory)
        self._numbers = itertools.count()
        with self.store.transaction() as db:
            device_groups.create_group(db, "acme", "field", None, author="me", now=now)

    def wait(self, **time):
        self.now += timedelta(**time)

    def add(self, *names, lmp="4.0.20-2-95", seen=True, group="field"):
        with self.store.transaction() as db:
            for name in names:
                row = device_records.register(
                    db, "acme", f"uuid-{name}", f"key of {name}", owner="me", author="me", now=self.now,
                    name=name, group=group,
                )  # fmt: skip
                device_records.report(db, row.uuid, lmp_ver=lmp, target_name="lmp-1", tag="main")
                if seen:
                    device_records.see_device(db, row, self.now)

    def see(self, *names):
        with self.store.transaction() as db:
            for name in names:
                device_records.see_device(
                    db, device_records.find_device(db, "acme", name, by_uuid=False), self.now
                )

    def tell(self, name, kind, success=True, words=None, *, rotation="certs-1", clock=timedelta()):
        """The device posts an event, over its old certificate; `clock` is how wrong its clock is."""
        detail = {"correlationId": rotation, "success": success, "targetName": "lmp-1", "version": "1"}
        event = {
            "id": f"event-{next(self._numbers)}",
            "deviceTime": (self.now + clock).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "eventType": {"id": kind},
            "event": detail | ({"details": words} if words else {}),
        }
        with self.store.transaction() as db:
            updates.keep(db, f"uuid-{name}", [event], self.now)
        self.see(name)

    def rotate(self, *names, upto=5, fail=None, words="HTTP_500 - no", **how):
        """Each device goes through its steps up to `upto`, or to `fail`, which fails with `words`."""
        for name in names:
            self.tell(name, STARTED, **how)
            for number, step in enumerate(STEPS[: fail or upto], 1):
                self.tell(name, step, number != fail, words if number == fail else None, **how)
            if fail:
                self.tell(name, "CertRotationCompleted", **how)

    def come_back(self, *names):
        """The gateway takes each device's new key."""
        with self.store.transaction() as db:
            for name in names:
                device = device_records.find_device(db, "acme", name, by_uuid=False)
                device_records.take_new_key(db, device, f"new key of {name}", self.now)
        self.see(*names)

    @asynccontextmanager
    async def api(self):
        """The API client of the Factory; `broken` has the status to answer with, by a part of the path."""
        app = operator_app(self.store, authenticate=False, clock=lambda: self.now)

        async def answer(scope, receive, send):
            self.requests.append(f"{scope['method']} {scope['path']}")
            if self.pause:
                await self.pause()
            for part, status in self.broken.items():
                if part in scope["path"]:
                    await send({"type": "http.response.start", "status": status, "headers": []})
                    await send({"type": "http.response.body", "body": b""})
                    return
            await app(scope, receive, send)
            self.answered()

        async with Peer("http://mock", lambda: httpx.ASGITransport(app=answer), name="mock") as peer:
            yield FactoryApi(peer, "acme")

    async def push(self, rotation="certs-1", *, device=None, group="field"):
        async with self.api() as api:
            scope = Scope.of_device(device, f"uuid-{device}") if device else Scope.of_group(group)
            await api.config(scope).merge(body(rotation))


def body(rotation):
    entry = make_entry(
        server_name="est.example.com",
        port=8443,
        resource="/.well-known/est",
        pkey_ids="01,07",
        cert_ids="03,09",
        rotation_id=rotation,
    )
    return request_body(entry, "yearly")
