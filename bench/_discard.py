"""Receives uploads and throws them away: what the server takes before any work begins.

The same uvicorn as Earmark's, the body read as Earmark reads it, with no form and no check. One
and the same constant buffer is sent back on GET, for the limit of reading.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

BUFFER = bytes(256 * 1024)
"""As large as the pieces in which recordings are sent."""


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """See ASGI."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body", False):
        pass
    query = scope["query_string"]
    size = int(query) if scope["method"] == "GET" and query else 2
    headers = [(b"content-length", str(size).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    left = size
    while left > len(BUFFER):
        await send({"type": "http.response.body", "body": BUFFER, "more_body": True})
        left -= len(BUFFER)
    await send({"type": "http.response.body", "body": BUFFER[:left]})


def _serve(port: int) -> None:
    config = uvicorn.Config(app, http="httptools", loop="uvloop", lifespan="off", access_log=False)
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    uvicorn.Server(config).run(sockets=[bound])


def main() -> None:
    """Serves it by as many processes as asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--web-processes", type=int, default=1)
    asked = parser.parse_args()
    others = [
        multiprocessing.Process(target=_serve, args=(asked.port,), daemon=True)
        for _ in range(asked.web_processes - 1)
    ]
    for process in others:
        process.start()
    _serve(asked.port)


if __name__ == "__main__":
    main()
