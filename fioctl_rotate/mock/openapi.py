"""/openapi.json, made from the operations and the messages that they take and give."""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

import fioctl_rotate
from fioctl_rotate.mock.operation import LIMITS, Operation, Pem, path_parameters

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
    messages = {kind: None for operation in operations for kind in (operation.takes, operation.gives)}
    models = [kind for kind in messages if kind not in (None, Pem)]
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
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in path_parameters(operation.path)
    ] + [
        {"name": name, "in": "query", "schema": _PARAMETERS.get(name, {"type": "string"})}
        for name in operation.parameters
    ]
    answered: dict[str, Any] = {"description": "Done."}
    if operation.gives is Pem:
        answered["content"] = {"application/x-pem-file": {"schema": {"type": "string"}}}
    elif operation.gives is not None:
        answered["content"] = {"application/json": {"schema": _schema(operation.gives)}}
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
