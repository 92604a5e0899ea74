"""Request bodies, read up to a limit."""

from starlette.requests import Request

from fioctl_rotate.mock.problem import Problem


async def read_body(request: Request, limit: int) -> bytes:
    """The body; raises Problem (413) as soon as more than `limit` bytes have come."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise Problem(413, f"the body has more than {limit} bytes")
    return bytes(body)
