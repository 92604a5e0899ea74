"""The mocked Factory's operator API as an ASGI app: it checks the token and does the call."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fioctl_rotate.clock import Clock
from fioctl_rotate.mock import openapi, operator_configs, operator_devices, operator_factory
from fioctl_rotate.mock.body import read_body
from fioctl_rotate.mock.operation import BODY_LIMIT, Call, Operation, Pem
from fioctl_rotate.mock.refusals import HANDLED, problem_of
from fioctl_rotate.mock.store import accounts
from fioctl_rotate.mock.store.database import Store

_Endpoint = Callable[[Request], Awaitable[Response]]

OPERATIONS = [
    *operator_factory.operations,
    *operator_configs.operations,
    *operator_devices.operations,
]


def operator_app(
    store: Store,
    *,
    authenticate: bool,
    clock: Clock,
    complain: Callable[[str], None] = lambda _text: None,
    threads: bool = True,
) -> Starlette:
    """The operator API. The caller closes `store` after it.

    Requests need a token in `OSF-TOKEN` or as a Bearer. Without `authenticate` everybody is the administrator: this
    is for a process that can read the mock's directory anyway. `complain` and `threads` are as for `gateway_app`.
    """

    def endpoint(operation: Operation) -> _Endpoint:
        async def answer(request: Request) -> Response:
            body = await read_body(request, BODY_LIMIT) if operation.takes is not None else b""
            if not threads:
                return _answer(operation, request, body)
            # SQLite and cryptography block, so they run beside the event loop.
            return await asyncio.to_thread(_answer, operation, request, body)

        return answer

    def _answer(operation: Operation, request: Request, body: bytes) -> Response:
        with store.transaction() if operation.writes else store.reading() as db:
            caller: accounts.Caller = {}
            if not operation.public:
                caller = (
                    accounts.identify(
                        db, request.headers.get("osf-token"), request.headers.get("authorization")
                    )
                    if authenticate
                    else accounts.administrator(db)
                )
            call = Call(
                operation=operation,
                db=db,
                directory=store.directory,
                caller=caller,
                path=request.path_params,
                query=request.query_params,
                now=clock(),
                url=str(request.url),
                status=operation.status,
            )
            result = operation.run(call, body)
            return _response(call.status, result)

    async def describe(_request: Request) -> Response:
        return _response(200, openapi.description(OPERATIONS))

    def refused(request: Request, error: Exception) -> Response:
        problem = problem_of(request, error, complain)
        return JSONResponse(problem.body(), problem.status, headers=getattr(error, "headers", None))

    app = Starlette(
        routes=[
            Route("/openapi.json", describe),
            *(_route(path, endpoint) for path in dict.fromkeys(operation.path for operation in _ordered())),
        ],
        exception_handlers=dict.fromkeys(HANDLED, refused),
    )
    # A redirect would hide that a client has a wrong path, or does not follow redirects.
    app.router.redirect_slashes = False
    return app


def _route(path: str, endpoint: Callable[[Operation], _Endpoint]) -> Route:
    """One route for all methods of a path, so that another method is answered 405 with the allowed ones."""
    methods = {operation.method: endpoint(operation) for operation in OPERATIONS if operation.path == path}

    async def dispatch(request: Request) -> Response:
        return await methods[request.method](request)

    route = Route(path, dispatch, methods=list(methods))
    route.methods = set(methods)  # without the HEAD that Starlette adds
    return route


def _ordered() -> list[Operation]:
    """The operations, those that end in a file's name last: it may hold slashes, so they match other paths, too."""
    return sorted(OPERATIONS, key=lambda operation: ":path" in operation.path)


def _response(status: int, result: Any) -> Response:
    if result is None:
        return Response(status_code=status)
    if isinstance(result, Pem):
        return Response(result.content, media_type="application/x-pem-file")
    return Response(msgspec.json.encode(result), status_code=status, media_type="application/json")
