"""Small bodies of requests, read whole and never more than a limit."""

from typing import Annotated

from fastapi import Depends
from starlette.requests import ClientDisconnect, Request

from earmark.errors import Invalid, InvalidError, TooLargeError

MAX_BODY_BYTES = 256 * 1024
"""As much as an upload's metadata may have."""


async def _read(request: Request) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise TooLargeError(MAX_BODY_BYTES)
    except ClientDisconnect:
        raise InvalidError(Invalid("body", "The body ended early.")) from None
    return bytes(body)


Body = Annotated[bytes, Depends(_read)]
"""The whole body of a request, of at most `MAX_BODY_BYTES`. Stand it behind who calls, or a body
is read for nobody."""
