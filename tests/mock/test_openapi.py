"""/openapi.json against the app that it describes, with requests that schemathesis makes up."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from fioctl_rotate.clock import utc_now
from fioctl_rotate.mock import new_factory, openapi
from fioctl_rotate.mock.operator import OPERATIONS, operator_app
from fioctl_rotate.mock.store.database import Store
from tests.mock.mocked import START, Clock, Http, Mock

SCHEMA = schemathesis.openapi.from_dict(openapi.description(OPERATIONS))


def test_it_describes_every_call(mock: Mock) -> None:
    app = operator_app(mock.store, authenticate=True, clock=utc_now)
    described = Http(app)("GET", "/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    calls = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    assert calls == {(operation.method, operation.path.replace(":path", "")) for operation in OPERATIONS}


def test_the_fields_are_the_wires() -> None:
    schemas = openapi.description(OPERATIONS)["components"]["schemas"]
    assert set(schemas["NewConfigFile"]["properties"]) == {"name", "value", "unencrypted", "on-changed"}
    assert schemas["NewConfigFile"]["required"] == ["name"]
    assert set(schemas["CsrRequest"]["properties"]) == {"first-time-init", "ca-csr", "est-tls-csr", "tls-csr"}
    assert "client.pem" in schemas["Registration"]["properties"]
    json.dumps(schemas)


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http]:
    directory: Path = tmp_path_factory.mktemp("openapi") / "mock"
    new_factory.create(directory, "acme", now=START)
    with contextlib.closing(Store(directory)) as store:
        yield Http(operator_app(store, authenticate=False, clock=Clock()))


@SCHEMA.parametrize()
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_whatever_is_asked_is_answered_as_described(case: Any, factory: Http) -> None:
    case.path_parameters = {**(case.path_parameters or {}), "factory": "acme"}
    request = case.as_transport_kwargs(base_url="https://api.test")
    body = request.get("json")
    answer = factory(
        request["method"],
        request["url"],
        json=body if body is not None else None,
        content=request.get("data"),
        params=request.get("params"),
        headers=dict(request.get("headers") or {}),
    )
    case.validate_response(
        schemathesis.Response.from_httpx(answer, verify=False),
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
        ],
    )
