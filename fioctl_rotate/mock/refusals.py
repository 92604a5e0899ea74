"""How the mock's apps answer a request that they refuse."""

from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request

from fioctl_rotate.mock.problem import Problem
from fioctl_rotate.mock.store.database import StateUnusable

HANDLED = (Problem, HTTPException, StateUnusable)
"""The exceptions that the apps' handlers turn into answers."""


def problem_of(request: Request, error: Exception, complain: Callable[[str], None]) -> Problem:
    """`error`, one of HANDLED, as a Problem.

    A state that cannot be used now (locked for too long, disk full) is 503, so that clients retry; then `complain`
    is called with the reason.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        called = f"{request.method} {request.url.path}"
        allowed = (error.headers or {}).get("Allow")
        return Problem(
            error.status_code, f"this mock has no {called}" + (f", only {allowed}" if allowed else "")
        )
    complain(str(error))
    return Problem(503, str(error))
