"""HTTP/1.1 for `web` and the sandbox's gateway: requests in, bytes out. Serves on a socket, knows nothing of coupons.

Written for what it costs: a web framework is a tenth of the service's memory; and on a machine of two cores the platform
of a demo runs beside the service, where its request and response objects cost more than all that a gateway does for a call.
"""

import asyncio
import functools
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

IDLE_SECONDS = 75.0
"""After which a connection that nobody uses is closed."""

MOST_HEAD = 64 * 1024
"""Bytes of what comes before a request's body."""

EVERYWHERE = "::"
"""The address that stands for all of this machine's: a pod may have an IPv6 address and no other, or none."""

_NO_HEADERS: Mapping[str, str] = {}
_BACKLOG = 1024


class Request:
    """One request, as it came.

    Attributes:
        accept: the header, empty where there is none.
        query: what stands behind the path.
        refused: the status that answers it whatever it asks for: it was too large.
        expects: it waits for a word before it sends its body (RFC 9110, 10.1.1).

    """

    __slots__ = (
        "accept",
        "body",
        "connection",
        "content_type",
        "expects",
        "method",
        "path",
        "query",
        "refused",
    )

    def __init__(self, connection: "_Connection") -> None:
        self.connection = connection
        self.method = ""
        self.path = ""
        self.query = ""
        self.accept = ""
        self.content_type = ""
        self.body = b""
        self.refused: int | None = None
        self.expects = False


Handler = Callable[[Request], None]
"""Takes a request, and sees to it that its connection replies, or ends, in its own time."""


class _Connection(asyncio.Protocol):
    """One client's connection: one request at a time, each answered before the next one is looked at.

    Attributes:
        transport: to send by hand what no lawful reply is.
        busy: a request is under way, or waits.
        held: it waits for the replies before it to be read.
        used_at: by `time.monotonic()`, when a request was answered last.
        notes: whatever the handler has to remember of this connection.

    """

    transport: asyncio.Transport

    def __init__(self, handle: Handler, most_body: int, connections: set["_Connection"]) -> None:
        """`most_body`: bytes of a request's body."""
        self._handle = handle
        self._most_body = most_body
        self._connections = connections
        self._parser = HttpRequestParser(self)
        self._incoming = Request(self)
        self._parts: list[bytes] = []
        self._room = most_body
        self._room_for_head = float(MOST_HEAD)
        self._waiting: deque[tuple[Request, bool]] = deque()
        self._keeps = True
        self._without_body = False
        self._may_write = True
        self.busy = self.held = False
        self.used_at = time.monotonic()
        self.notes: object = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by class
        self._connections.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._connections.discard(self)

    @property
    def is_open(self) -> bool:
        """The caller has not hung up."""
        return not self.transport.is_closing()

    # -- Requests ------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._room_for_head -= len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            return  # an upgrade is not granted (RFC 9110, 7.8): the request is answered as if it had not asked, and is the last
        except HttpParserError:
            self._refuse(HTTPStatus.BAD_REQUEST)
        if self._room_for_head < 0:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        self._incoming = Request(self)
        self._parts = []
        self._room = self._most_body

    def on_url(self, url: bytes) -> None:
        self._incoming.path += url.decode("latin-1")  # it may come in pieces

    def on_header(self, field: bytes, value: bytes) -> None:
        field = field.lower()
        if field == b"content-type":
            self._incoming.content_type = value.decode("latin-1")
        elif field == b"accept":
            self._incoming.accept = value.decode("latin-1")
        elif field == b"expect":
            self._incoming.expects = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        self._room_for_head = float("inf")
        if self._incoming.expects:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        self._room -= len(part)
        if self._room >= 0:
            self._parts.append(part)

    def on_message_complete(self) -> None:
        request = self._incoming
        request.method = self._parser.get_method().decode("latin-1")
        request.path, _, request.query = request.path.partition("?")
        self._room_for_head = float(MOST_HEAD)
        if self._room < 0:
            request.refused = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        else:
            parts = self._parts
            request.body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._waiting.append(
            (request, self._parser.should_keep_alive() and not self._parser.should_upgrade())
        )
        if not self.busy:
            self._go_on()

    def _go_on(self) -> None:
        """To the next request, once the replies so far are read."""
        self.busy, self.held = True, not self._may_write
        if not self.held:
            self._take()

    def _take(self) -> None:
        request, self._keeps = self._waiting.popleft()
        self._without_body = request.method == "HEAD"
        self._handle(request)

    def _refuse(self, status: HTTPStatus) -> None:
        """What cannot be read on from here; what is under way is cut off."""
        if self.is_open and not self.busy:
            self._keeps = False
            self.reply(status, b"", "text/plain")
        self.transport.close()

    # -- Replies -------------------------------------------------------------------------------------

    def reply(
        self,
        status: int,
        body: bytes,
        content_type: str = "application/json; charset=utf-8",
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> None:
        """Answers the request under way, unless its caller has hung up, and goes on to the next."""
        if self.transport.is_closing():
            return
        lines = _head(status, content_type, int(time.time()))
        if headers:
            lines += "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
        if not self._keeps:
            lines += b"Connection: close\r\n"
        sent = b"" if self._without_body else body
        self.transport.write(b"%bContent-Length: %d\r\n\r\n%b" % (lines, len(body), sent))
        self.done()

    def done(self) -> None:
        """Whatever was to be sent for the request under way is sent."""
        if not self._keeps:
            self.transport.close()
        self.used_at = time.monotonic()
        if self._waiting:  # it stays busy
            # In a turn of its own: else each of many replies would be a call within the one before.
            asyncio.get_running_loop().call_soon(self._go_on)
            return
        self.busy = False

    def pause_writing(self) -> None:
        """The client does not read its replies: nothing more is read from it."""
        self._may_write = False
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """It has read them."""
        self._may_write = True
        self.transport.resume_reading()
        if self.held:
            self._go_on()


@functools.lru_cache(maxsize=64)
def _head(status: int, content_type: str, second: int) -> bytes:
    """The same for all replies of a second."""
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = ""
    date = formatdate(second, usegmt=True)
    return f"HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\nDate: {date}\r\n".encode()


def written(host: str, port: int) -> str:
    """An address as URLs have it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _everywhere(port: int) -> socket.socket:
    """One socket for IPv6 and IPv4: asyncio's own would take IPv6 alone. Without IPv6 it is for IPv4."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            (EVERYWHERE, port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True
        )
    return socket.create_server(("0.0.0.0", port), backlog=_BACKLOG)  # noqa: S104  # all that there is


class Server:
    """Listens, until it is told to stop."""

    def __init__(self, handle: Handler, most_body: int) -> None:
        self._handle = handle
        self._most_body = most_body
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._sweep: asyncio.TimerHandle | None = None

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        """Port 0 takes any free one -> the one that it is. Raises OSError if it cannot."""
        where: dict[str, Any] = (
            {"sock": _everywhere(port)} if host == EVERYWHERE else {"host": host, "port": port}
        )
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self._handle, self._most_body, self._connections),
            backlog=_BACKLOG,
            ssl=tls,
            **where,
        )
        self._close_idle()
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self, patience: float) -> None:
        """No longer listens; requests under way are cut off after so many seconds."""
        server, self._server = self._server, None
        if server is None:
            return
        if self._sweep is not None:
            self._sweep.cancel()
        server.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while True:
            for connection in list(self._connections):
                if not connection.busy:
                    connection.transport.close()
            if loop.time() >= deadline or not any(each.busy and each.is_open for each in self._connections):
                break
            await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.transport.abort()
        while self._connections:  # noqa: ASYNC110  # a turn or two of the loop: nothing is waited for
            await asyncio.sleep(0)

    def _close_idle(self) -> None:
        now = time.monotonic()
        for connection in list(self._connections):
            if (connection.held or not connection.busy) and now - connection.used_at > IDLE_SECONDS:
                connection.transport.abort()  # a client that has not read its replies by now never will
        self._sweep = asyncio.get_running_loop().call_later(IDLE_SECONDS / 5, self._close_idle)
