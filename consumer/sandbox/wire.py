"""HTTP replies byte by byte: lawful ones that are seldom met, and wrong ones. Does no I/O but to reset a connection."""

import asyncio
import socket
from collections.abc import Iterable
from http import HTTPStatus
from typing import cast

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
INTERIM = CONTINUE + b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
"""What may come before any reply."""


def reply(
    body: bytes, status: HTTPStatus = HTTPStatus.OK, *, length: int | None = None, close: bool = False
) -> bytes:
    """With another Content-Length than it has, if one is given."""
    lines = [
        b"Content-Type: application/json",
        b"Content-Length: %d" % (len(body) if length is None else length),
    ]
    return _head(lines, status, close=close) + body


def chunked(body: bytes, *, close: bool = False) -> bytes:
    """In two chunks, with a trailer."""
    half = len(body) // 2
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]))
    return (
        _head([b"Transfer-Encoding: chunked", b"Trailer: X-Late"], HTTPStatus.OK, close=close)
        + chunks
        + b"0\r\nX-Late: yes\r\n\r\n"
    )


def reset(transport: asyncio.BaseTransport) -> None:
    """End the connection by RST, without a word more."""
    connection: socket.socket = transport.get_extra_info("socket")
    # SO_LINGER with zero seconds makes close() send RST.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    cast("asyncio.WriteTransport", transport).abort()  # uvloop's is none by class


def _head(lines: Iterable[bytes], status: HTTPStatus, *, close: bool) -> bytes:
    connection = [b"Connection: close"] if close else []
    return b"\r\n".join([f"HTTP/1.1 {status} {status.phrase}".encode(), *lines, *connection, b"", b""])
