"""How the mock's apps answer what they refuse."""

from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request

from fioctl_rotate.mock.problem import Problem
from fioctl_rotate.mock.store.database import StateUnusable

HANDLED = (Problem, HTTPException, StateUnusable)
"""What the apps' exception handlers take."""


def problem_of(request: Request, error: Exception, complain: Callable[[str], None]) -> Problem:
    """The problem that an app's exception handler was called with.

    A state that cannot be used now (locked for too long, disk full) is 503: clients try again; `complain` gets it.
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
