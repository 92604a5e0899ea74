"""What an EST server tells its operator: metrics in Prometheus' text form, and whether it is healthy."""

import datetime
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response

from fioctl_rotate.est.server import CONNECTION, OPERATIONS, LogRecord


class Status:
    """Counts what is logged, and is the ASGI app of `/metrics` and `/healthz`.

    `expiries` returns when the server's certificates end, by name (`ca`, `tls`); `clock` returns aware UTC time.
    """

    def __init__(
        self, expiries: Callable[[], Mapping[str, datetime.datetime]], clock: Callable[[], datetime.datetime]
    ) -> None:
        self._expiries = expiries
        self._clock = clock
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "est_requests",
            "Requests by operation and status.",
            ("operation", "status"),
            registry=self._registry,
        )
        self._refused = Counter(
            "est_connections_refused", "Connections refused before a request.", registry=self._registry
        )
        self._seconds = Histogram(
            "est_request_seconds", "Time to answer a request.", ("operation",), registry=self._registry
        )
        self._days = Gauge(
            "est_certificate_days_left",
            "Days until a certificate ends.",
            ("certificate",),
            registry=self._registry,
        )

    def count(self, record: LogRecord) -> None:
        """Count a request, or a connection that was refused."""
        if (record.operation, record.status) == (CONNECTION, 0):
            self._refused.inc()
            return
        # Only known names: a client chooses the path.
        operation = record.operation if record.operation in OPERATIONS else "other"
        self._requests.labels(operation, str(record.status)).inc()
        self._seconds.labels(operation).observe(record.seconds)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        await self._response(scope["path"])(scope, receive, send)

    def _response(self, path: str) -> Response:
        left = {name: end - self._clock() for name, end in self._expiries().items()}
        if path == "/metrics":
            for name, duration in left.items():
                self._days.labels(name).set(duration / datetime.timedelta(days=1))
            return Response(generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
        if path == "/healthz":
            expired = [name for name, duration in left.items() if duration <= datetime.timedelta(0)]
            if expired:
                return PlainTextResponse(f"expired: {', '.join(expired)}\n", 503)
            return PlainTextResponse("ok\n")
        return PlainTextResponse("this port has /healthz and /metrics\n", 404)
