"""One connection that speaks HTTP/1.1 (RFC 9112), and the call that is on it. I/O by its transport."""

import asyncio
import functools
import random
import socket
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import aiohappyeyeballs
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from yarl import URL

from consumer.core.replies import Answered, AttemptEnd, NoAnswer
from consumer.core.values import Frozen
from consumer.gateway import common
from consumer.gateway.common import HEADERS, name, unpacked

IDLE_SECONDS = 15.0
"""Longest wait of a connection for its next call: there are as many as were of use lately."""

FRAMING_BYTES = 512 * 1024
"""Bytes of a reply beside its body, at most: heads, trailer, the frames of chunks."""

KNOWN_HEADS = 64
"""Heads of replies that are remembered of a platform, at most."""

_HEAD_ENDS = b"\r\n\r\n"
_FRAMES = frozenset({b"content-length", b"transfer-encoding"})
_HEEDED = _FRAMES | {b"date", b"retry-after", b"content-encoding"}

_Addresses = Sequence[aiohappyeyeballs.AddrInfoType]


class Owner(Protocol):
    """Whose connections they are (`pool.HttpGateway`).

    Attributes:
        connections: that are open.
        read_seconds: longest silence while a reply is awaited or read.
        max_reply_bytes: of a reply's body that are read.
        renewals: how often all connections have become too old at once.

    """

    connections: "set[Connection]"
    read_seconds: float
    max_reply_bytes: int
    renewals: int

    @property
    def on_date(self) -> Callable[[str], None]:
        """Is told each new `Date` of a reply's head."""


class Called(Protocol):
    """A call that a connection is for (`pool.Call`).

    Attributes:
        deadline: on the event loop's clock.

    """

    body: bytes
    deadline: float
    connection: "Connection | None"

    def end(self, end: AttemptEnd) -> None:
        """So it went."""

    def send_again(self) -> None:
        """The connection was stale: it goes on another one."""


class Site:
    """Where a URL leads: what each request there begins with, and the connections that wait for a call.

    Attributes:
        idle: the one used last comes last, and is taken first; so those that are too many grow old.
        heads: of replies that came in one piece, and what was read in them. Most of a second are alike.

    """

    def __init__(self, url: str) -> None:
        """Raises ValueError for what is no URL of HTTP."""
        parts = URL(url)
        if parts.scheme not in ("http", "https") or not parts.raw_host or not parts.port:
            raise ValueError(url)
        self.host, self.port = parts.raw_host, parts.port
        self.is_secure = parts.scheme == "https"
        headers = {"Host": parts.host_port_subcomponent, **HEADERS}
        lines = [f"POST {parts.raw_path_qs} HTTP/1.1", *(f"{key}: {value}" for key, value in headers.items())]
        self.request_begins = "\r\n".join([*lines, "Content-Length: "]).encode()
        self.idle: list[Connection] = []
        self.heads: dict[bytes, Head] = {}
        self._looking_up: asyncio.Future[_Addresses] | None = None
        self._looked_up_at = 0.0

    def kept(self, now: float) -> "Connection | None":
        """A connection that has answered before, as far as is known still open."""
        while self.idle:
            connection = self.idle.pop()
            if connection.is_usable(now):
                return connection
            connection.close()
        return None

    def forget(self, connection: "Connection") -> None:
        """It waits for no call any more, if it did."""
        if connection in self.idle:
            self.idle.remove(connection)

    def remember(self, reply: bytes, read: Answered) -> None:
        """A reply that came in one piece, and nothing more with it: its head, if its body is as it came."""
        ends = reply.find(_HEAD_ENDS) + len(_HEAD_ENDS)
        if ends >= len(_HEAD_ENDS) and reply[ends:] == read.body:
            if len(self.heads) >= KNOWN_HEADS:
                self.heads.clear()
            self.heads[reply[:ends]] = Head(read.status, len(read.body), read.retry_after)

    async def addresses(self, seconds: float) -> _Addresses:
        """Looked up once for all who ask within so many seconds, and by one thread at a time. Raises OSError."""
        loop = asyncio.get_running_loop()
        looking_up = self._looking_up
        if looking_up is None or (looking_up.done() and loop.time() >= self._looked_up_at + seconds):
            look_up: Callable[[], _Addresses] = functools.partial(
                socket.getaddrinfo, self.host, self.port, type=socket.SOCK_STREAM
            )
            looking_up = self._looking_up = loop.run_in_executor(None, look_up)
            looking_up.add_done_callback(asyncio.Future.exception)  # even if nobody waits for it any more
            self._looked_up_at = loop.time()
        return await asyncio.shield(looking_up)

    def forget_addresses(self) -> None:
        """They led nowhere. One that is still under way is waited for: many of them would take all threads there are."""
        if self._looking_up is not None and self._looking_up.done():
            self._looking_up = None


class Head(Frozen):
    """What a reply's head says: its status, the bytes of its body, and when to come again."""

    status: int
    length: int
    retry_after: str | None


class Connection(asyncio.Protocol):
    """One connection, and the call that it is for at a time.

    Attributes:
        lost: done when it is closed.

    """

    def __init__(self, owner: Owner, site: Site, lifetime: float) -> None:
        self._owner = owner
        self._site = site
        self._loop = asyncio.get_running_loop()
        self._call: Called | None = None
        self._calls = 0
        self._received = 0
        self._status: int | None = None  # until the head of what is no interim reply has come
        self._body: list[bytes] = []
        self._headers: dict[bytes, bytes] = {}
        self._parser = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            # Folded and bare lines, as old servers write them. There is nobody behind us whom they could mislead.
            lenient_headers=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._used_at = self._loop.time()
        # Not all connections, of all members of a fleet, end at the same moment.
        self._retires_at = self._used_at + lifetime * random.uniform(0.8, 1.0)  # noqa: S311  # jitter, not cryptography
        self._renewals = owner.renewals

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """By the event loop: it is open."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by class
        self._owner.connections.add(self)

    # -- The request ---------------------------------------------------------------------------------

    def take(self, call: Called, now: float) -> None:
        """Post it; the connection is usable."""
        self._calls += 1
        self._used_at = now
        self._received = 0
        self._call = call
        call.connection = self
        body = call.body
        self._transport.write(b"%b%d\r\n\r\n%b" % (self._site.request_begins, len(body), body))

    def is_usable(self, now: float) -> bool:
        """For another call."""
        is_young = now < self._retires_at and self._renewals == self._owner.renewals
        return is_young and not self._transport.is_closing()

    # -- The reply -----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """By the event loop: some of a reply, or all of it."""
        if self._call is None:
            self._transport.abort()  # nobody has asked
            return
        self._used_at = self._loop.time()
        if not self._received:
            ends = data.find(_HEAD_ENDS) + len(_HEAD_ENDS)
            head = self._site.heads.get(data[:ends])
            if head is not None and len(data) == ends + head.length:
                self._received = len(data)
                self._answer(Answered(head.status, data[ends:], head.retry_after), keeps=True)
                return
            self._begin_to_read()
        self._received += len(data)
        wrong = ""
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            wrong = f"{name(error)} ({error})"  # of a set of words, nothing that came
        if self._complete or self._room <= 0:
            keeps = self._complete and self._keeps and not wrong
            end = self._reply()
            if keeps and self._received == len(data) and isinstance(end, Answered) and end.status != 408:
                self._site.remember(data, end)
            self._answer(end, keeps=keeps)
        elif wrong:
            self.give_up(NoAnswer(f"reset: {wrong}"))
        elif self._received > self._owner.max_reply_bytes + FRAMING_BYTES:
            self.give_up(NoAnswer("reset: more head than any reply has"))

    def _begin_to_read(self) -> None:
        self._status = None
        self._complete = self._keeps = False
        self._room = self._owner.max_reply_bytes
        self._body = []
        self._headers = {}

    def on_message_begin(self) -> None:
        """By the parser, as the next ones."""
        if self._complete:
            raise HttpParserError  # a second reply to one request: the parser stops here

    def on_header(self, field: bytes, value: bytes) -> None:
        """One of the head, or of a trailer."""
        field = field.lower()
        if field in _HEEDED and self._status is None:  # else it is a trailer
            self._headers.setdefault(field, value.strip())  # cut in two, it comes with its blanks

    def on_headers_complete(self) -> None:
        """Of a reply, or of an interim one before it."""
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._headers.clear()
        else:  # also of no class that there is: it is for the reply table (RFC 9110, 15)
            self._status = status
            date = self._headers.get(b"date")
            if date is not None:
                self._owner.on_date(date.decode("latin-1"))

    def on_body(self, part: bytes) -> None:
        """Some of it, without the frames of chunks."""
        self._body.append(part)
        self._room -= len(part)

    def on_message_complete(self) -> None:
        """A whole reply, or an interim one."""
        if self._status is not None:  # else it was an interim reply
            self._complete = True
            self._keeps = self._parser.should_keep_alive()

    def _reply(self) -> AttemptEnd | None:
        """The call's end that was read. None: it is none of this call's."""
        if self._status == 408 and self._calls > 1:
            # Said to the connection, for want of a request, and not of this one (RFC 9110, 15.5.9).
            return None
        assert self._status is not None, "interim replies have no body, and complete nothing"
        headers = self._headers
        retry_after = headers.get(b"retry-after")
        words = None if retry_after is None else retry_after.decode("latin-1")
        body: bytes | None
        body = received = b"".join(self._body)
        if b"content-encoding" in headers or self._room < 0:
            encoding = headers.get(b"content-encoding", b"")
            body = unpacked(received, encoding, self._owner.max_reply_bytes)
        return NoAnswer("reset: not unpacked") if body is None else Answered(self._status, body, words)

    def _answer(self, end: AttemptEnd | None, *, keeps: bool) -> None:
        call = self._call
        # Whether it has become too old is looked at by whoever wants it next, and every so often. A reply that came
        # before the whole request was out leaves the rest of it in the way.
        if keeps and end is not None and call is not None and not self._transport.get_write_buffer_size():
            self._call = None
            self._site.idle.append(self)
            call.end(end)
        else:
            self.give_up(end)

    # -- The end -------------------------------------------------------------------------------------

    def heed_time(self, now: float) -> None:
        """End a call that takes too long, or the connection if it has been of no use for too long."""
        if self._call is not None:
            if now >= self._call.deadline or now - self._used_at >= self._owner.read_seconds:
                self.give_up(NoAnswer("timeout"))
        elif now - self._used_at >= IDLE_SECONDS or not self.is_usable(now):
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """By the event loop: it is closed, by whomever."""
        self._owner.connections.discard(self)
        self._site.forget(self)
        self.lost.set_result(None)
        if self._call is None:
            return
        if exc is None and self._received and self._status is not None and _FRAMES.isdisjoint(self._headers):
            self._answer(self._reply(), keeps=False)
        elif (
            self._calls > 1
            and not self._received
            and self._loop.time() - self._used_at < common.STALE_SECONDS
        ):
            self._resolve(None)
        else:
            self._resolve(NoAnswer("reset: " + ("ServerDisconnected" if exc is None else name(exc))))

    def give_up(self, end: AttemptEnd | None) -> None:
        """The call, if there is one, ends so (None: see `_resolve`); whatever else comes on this connection is for nobody."""
        self._resolve(end)
        self._site.forget(self)
        self._transport.abort()

    def abandon(self) -> None:
        """Nobody waits for its call any more."""
        self._call = None
        self.give_up(None)

    def close(self) -> None:
        """It is of no use any more; no call is on it."""
        self._site.forget(self)
        self._transport.close()

    def _resolve(self, end: AttemptEnd | None) -> None:
        """The call, if there is one, ends so. None: a kept connection was closed before anything of a reply came."""
        call, self._call = self._call, None
        if call is None:
            return
        if end is None:
            call.send_again()
        else:
            call.end(end)
