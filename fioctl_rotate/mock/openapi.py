"""/openapi.json, made from the table of operations and the messages that they take and give."""

import re
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

import fioctl_rotate
from fioctl_rotate.mock.operation import LIMITS, Operation

_PARAMETERS: dict[str, dict[str, Any]] = {
    "page": {"type": "integer", "minimum": 1},
    "limit": {"type": "integer", "enum": list(LIMITS)},
    **{name: {"type": "string", "enum": ["0", "1"]} for name in ("by-uuid", "mine", "prod", "force")},
}


class ErrorBody(Struct, rename="kebab", kw_only=True, omit_defaults=True):
    """Why a request was refused, in one of the API's two shapes."""

    msg: str = ""
    message: str = ""
    errors: list[str] | dict[str, str] = []


def description(operations: Iterable[Operation]) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    operations = list(operations)
    models = [kind for operation in operations for kind in (operation.takes, operation.gives) if kind]
    _, components = msgspec.json.schema_components(
        [*models, ErrorBody], ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, Any] = {}
    for operation in operations:
        path = operation.path.replace(":path", "")
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Mocked FoundriesFactory: operator API", "version": fioctl_rotate.__version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "OSF-TOKEN"},
                "oauth": {"type": "http", "scheme": "bearer"},
            },
        },
        "security": [{"token": []}, {"oauth": []}],
    }


def _operation(operation: Operation) -> dict[str, Any]:
    names = re.findall(r"{(\w+)", operation.path)
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
    ] + [
        {"name": name, "in": "query", "schema": _PARAMETERS.get(name, {"type": "string"})}
        for name in operation.parameters
    ]
    content = {"application/json": {"schema": _schema(operation.gives or dict)}}
    if operation.gives is str:
        content = {"application/x-pem-file": {"schema": {"type": "string"}}}
    answered: dict[str, Any] = {"description": "Done."}
    if operation.status != 204:
        answered["content"] = content
    described: dict[str, Any] = {
        "operationId": f"{operation.method.lower()} {operation.path}",
        "description": operation.function.__doc__,
        "parameters": parameters,
        "responses": {str(operation.status): answered, **_errors(operation)},
    }
    if operation.takes is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _schema(operation.takes)}},
        }
    if operation.public:
        described["security"] = []
    return described


def _errors(operation: Operation) -> dict[str, Any]:
    statuses = {*operation.errors}
    if not operation.public:
        statuses |= {400, 401, 404} | ({403} if operation.writes else set())
    if operation.takes is not None:
        statuses.add(413)
    refused = {
        "description": "Refused.",
        "content": {"application/json": {"schema": _schema(ErrorBody)}},
    }
    errors: dict[str, Any] = {str(status): refused for status in sorted(statuses)}
    if operation.path.endswith("/certs/") and operation.method == "GET":
        errors["206"] = {
            "description": "The PKI is not set up.",
            "content": {"application/json": {"schema": _schema(operation.gives)}},
        }
    return errors


def _schema(kind: Any) -> Any:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template="#/components/schemas/{name}")
    return schema
