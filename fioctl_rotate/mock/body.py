"""Request bodies, read up to a limit."""

from starlette.requests import ClientDisconnect, Request

from fioctl_rotate.mock.problem import Problem


async def read_body(request: Request, limit: int) -> bytes:
    """The body; raises Problem: longer than `limit` bytes (413), the client left before its end (400)."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise Problem(413, f"the body has more than {limit} bytes")
    except ClientDisconnect:
        raise Problem(400, "the body ends early") from None
    return bytes(body)
