"""A gateway and an EST server of a few lines, over real TLS on loopback, to see devices from the other side."""

import asyncio
import datetime
import email.utils
import json
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from starlette.requests import Request
from starlette.responses import Response

from fioctl_rotate.device.device import Device
from fioctl_rotate.device.new_device import Kind, create_device
from fioctl_rotate.est.server import EstApp
from fioctl_rotate.pki import certificates
from fioctl_rotate.rotation.progress import STEPS
from fioctl_rotate.serving import listen, running
from fioctl_rotate.tls import server_context
from tests.making import Pki, write_pair

HANDLER = "/usr/share/fioconfig/handlers/renew-client-cert"
NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)


class Gateway:
    """What a device talks to. Tests set what it answers, and read what it was asked."""

    def __init__(self, pki: Pki) -> None:
        self.pki = pki
        self.config: dict[str, Any] | None = None
        self.changed = NOW - datetime.timedelta(hours=1)
        self.device_config: dict[str, Any] | None = None
        self.statuses: list[int] = []  # answers given instead of the right ones, first come first served
        self.requests: list[Request] = []
        self.bodies: list[bytes] = []
        self.keys: list[str] = []  # serial of the client certificate, request by request
        self.announced: list[str] = []
        self.uploads: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.reached: Callable[[int, str], Awaitable[None]] | None = None
        self.est_up = True
        self.est_answer: Response | None = None  # given instead of the right one
        self.refuse: dict[str, int] = {}  # status by what is asked, instead of an answer
        self.redirects: dict[str, tuple[int, str]] = {}  # status and Location by path
        self.rfc7030 = False
        self.port = 0

    def entry(self, rotation_id: str, url: str | None = None) -> dict[str, Any]:
        """A `fio-rotate-certs` entry as the gateway serves it."""
        value = f"ESTSERVER={url or self.est_url}\nPKEYIDS=01,07\nCERTIDS=03,09\nROTATIONID={rotation_id}\n"
        return {"Value": value, "OnChanged": [HANDLER], "Unencrypted": True}

    def push(self, rotation_id: str, url: str | None = None, **files: Any) -> None:
        self.change({**(self.config or {}), **files, "fio-rotate-certs": self.entry(rotation_id, url)})

    def change(self, config: dict[str, Any]) -> None:
        """Serve another configuration, which is newer than all that a device has."""
        self.config = config
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        self.changed = max(self.changed, now) + datetime.timedelta(seconds=10)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def est_url(self) -> str:
        return f"{self.url}/.well-known/est"

    def paths(self) -> list[str]:
        return [f"{request.method} {request.url.path}" for request in self.requests]

    def posted(self) -> list[tuple[str, bool]]:
        return [(event["eventType"]["id"], event["event"]["success"]) for event in self.events]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        body = await request.body()
        chain = scope["extensions"]["tls"]["client_cert_chain"]
        self.requests.append(request)
        self.bodies.append(body)
        self.keys.append(f"{x509.load_pem_x509_certificate(chain[0].encode()).serial_number:x}")
        number = len(self.requests)
        if self.reached:
            await self.reached(number, "before")
        response = self.answer(request, body)
        if response is None:
            delivered = False

            async def replay() -> Any:
                nonlocal delivered
                if delivered:
                    return {"type": "http.disconnect"}
                delivered = True
                return {"type": "http.request", "body": body, "more_body": False}

            authority = self.pki.authority()
            await EstApp(
                authority=lambda: authority,
                clock=lambda: datetime.datetime.now(datetime.UTC),
                rfc7030=self.rfc7030,
            )(scope, replay, send)
            return
        if self.reached:
            await self.reached(number, "after")
        await response(scope, receive, send)

    def answer(self, request: Request, body: bytes) -> Response | None:
        what = f"{request.method} {request.url.path}"
        if request.url.path.startswith("/.well-known/est"):
            return self.est_answer if self.est_up else Response("down", 503)
        if request.url.path in self.redirects:
            status, location = self.redirects[request.url.path]
            return Response(status_code=status, headers={"Location": location})
        if what in self.refuse:
            return Response("refused for a test", self.refuse[what])
        if self.statuses:
            status = self.statuses.pop(0)
            if status:
                return Response("made up", status)
        if what == "GET /config":
            if self.config is None:
                return Response(status_code=204)
            date = email.utils.format_datetime(self.changed, usegmt=True).replace("GMT", "UTC")
            since = request.headers.get("if-modified-since")
            if since and email.utils.parsedate_to_datetime(since.replace("UTC", "GMT")) >= self.changed:
                return Response(status_code=304, headers={"Date": date})
            return Response(json.dumps(self.config), headers={"Date": date})
        if what == "GET /config-device":
            if self.device_config is None:
                return Response(status_code=204)
            return Response(json.dumps(self.device_config))
        if what == "PATCH /config":
            upload = json.loads(body)
            self.uploads.append(upload)
            self.device_config = {
                file["name"]: {
                    "Value": file["value"],
                    "OnChanged": file.get("on-changed"),
                    "Unencrypted": file["unencrypted"],
                }
                for file in upload["files"]
            }
            return Response(status_code=201)
        if what == "PATCH /device":
            self.announced.append(json.loads(body)["next_pubkey"])
            return Response("{}")
        if what == "POST /events":
            self.events += json.loads(body)
            return Response("")
        return Response("no such path", 404)


class Bench:
    """Gateway, EST server and devices of one test."""

    def __init__(self, pki: Pki, directory: Path) -> None:
        self.gateway = Gateway(pki)
        self.directory = directory
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def device(self, uuid: str = "uuid-1", kind: Kind | None = None, **options: Any) -> Device:
        directory = self.directory / uuid
        if not directory.exists():
            create_device(
                directory,
                subject=certificates.name(uuid, "acme"),
                gateway=self.gateway.url,
                root_pem=certificates.pem(self.gateway.pki.root),
                ca=self.gateway.pki.ca,
                ca_key=self.gateway.pki.ca_key,
                now=NOW - datetime.timedelta(hours=2),
                kind=kind or Kind(),
            )
        return Device(directory, sleep=self.sleep, **options)

    def run(self, scenario: Callable[[], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            pki = self.gateway.pki
            files = write_pair(self.directory, "server", pki.server())
            context = server_context(*files, certificates.pem(pki.ca), required=True)
            async with running(self.gateway, listen("127.0.0.1", 0), context) as port:
                self.gateway.port = port
                return await scenario()

        return asyncio.run(main())


ALL_WELL = [("CertRotationStarted", True), *((step, True) for step in STEPS)]


def sota(device):
    return tomllib.loads((device.directory / "sota.toml").read_text())


def certificate(device):
    return x509.load_pem_x509_certificate(Path(sota(device)["import"]["tls_clientcert_path"]).read_bytes())


def private_key(device):
    return load_pem_private_key(Path(sota(device)["import"]["tls_pkey_path"]).read_bytes(), None)


def state(device, suffix=""):
    return json.loads((device.directory / f"cert-rotation.state{suffix}").read_text())
