"""HTTP/1.1 over connections of our own, one call at a time on each. Decides nothing but whether the request was sent."""

import asyncio
import functools
import random
import socket
import ssl
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Self, cast

import aiohappyeyeballs
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from msgspec import Struct
from msgspec.structs import replace
from yarl import URL

from consumer.core.replies import Answered, AttemptEnd, NoAnswer, NotSent
from consumer.gateway.common import (
    HEADERS,
    RETIRE_SECONDS,
    Caller,
    Posting,
    name,
    read_again,
    system_context,
    unpacked,
)

IDLE_SECONDS = 15.0
"""Longest wait of a connection for its next call: there are as many as were of use lately."""

NAME_SECONDS = 10.0
"""Age from which a name's addresses are looked up again."""

FRAMING_BYTES = 512 * 1024
"""Bytes of a reply beside its body, at most: heads, trailer, the frames of chunks."""

KNOWN_HEADS = 64
"""Heads of replies that are remembered of a platform, at most."""

_HEAD_ENDS = b"\r\n\r\n"
_FRAMES = frozenset({b"content-length", b"transfer-encoding"})
_HEEDED = _FRAMES | {b"date", b"retry-after", b"content-encoding"}

_Addresses = Sequence[aiohappyeyeballs.AddrInfoType]


class HttpGateway(Posting):
    """The platform over HTTP. Enter it (`async with`) to use it, leave it to close its connections."""

    def __init__(
        self,
        *,
        connect_seconds: float = 5.0,
        read_seconds: float | None = None,
        total_seconds: float = 15.0,
        max_reply_bytes: int = 64 * 1024,
        lifetime_seconds: float = 60.0,
        retire_seconds: float = RETIRE_SECONDS,
        tls: Callable[[], ssl.SSLContext | None] = lambda: None,
        on_date: Callable[[str], None] = lambda _date: None,
        on_tls: Callable[[str | None], None] = lambda _problem: None,
    ) -> None:
        """Times in seconds: to connect, of silence while a reply is awaited or read, of a whole call.

        After `lifetime_seconds` a connection takes no more calls: a name that leads elsewhere by then, and files
        that `tls` reads, are heeded. `tls` gives None for the system's CAs, and raises OSError or ValueError for
        files that cannot be used: then the ones before are kept. `on_tls` is told why, or None where they are good.
        Where a handshake fails, they are read again after `retire_seconds`. `on_date` is told each reply's `Date`.
        """
        self.read_seconds = float("inf") if read_seconds is None else read_seconds
        self.max_reply_bytes = max_reply_bytes
        self.on_date = on_date
        self.connections: set[_Connection] = set()
        self.renewals = 0
        self._connect_seconds = connect_seconds
        self._total_seconds = total_seconds
        self._lifetime_seconds = lifetime_seconds
        self._retire_seconds = retire_seconds
        self._tls = tls
        self._on_tls = on_tls
        self._context: ssl.SSLContext | None = None
        self._context_read_at = self._context_retires_at = 0.0
        self._sites: dict[str, _Site] = {}
        self._connecting: set[asyncio.Timeout] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._read_certificates()
        self._watch_times()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop, self._loop = self._loop, None
        assert loop is not None, "entered before"
        self._watch.cancel()
        for patience in self._connecting:
            patience.reschedule(loop.time())
        lost = [connection.lost for connection in self.connections]
        for connection in list(self.connections):
            connection.give_up(NoAnswer("reset: the gateway was closed"))
        if lost:
            await asyncio.wait(lost)

    # -- A call --------------------------------------------------------------------------------------

    def start(self, url: str, body: bytes, caller: Caller) -> "_Call":
        """Post one signed form; a kept connection that had gone stale is replaced at once, once, by a new one."""
        if self._loop is None:
            raise RuntimeError("the gateway is not open: use `async with`")
        now = self._loop.time()
        site = self._sites.get(url)
        if site is None:
            try:
                site = self._sites[url] = _Site(url)
            except ValueError:
                call = _Call(self, None, body, now, caller)
                call.end(NotSent("InvalidURL"))
                return call
        call = _Call(self, site, body, now + self._total_seconds, caller)
        kept = site.kept(now)
        if kept is None:
            call.go_on_new()
        else:
            kept.take(call, now)
        return call

    # -- Connections ---------------------------------------------------------------------------------

    async def connect(self, site: "_Site", deadline: float) -> "_Connection":
        """A connection that nothing was sent on. Raises OSError or ValueError where there is none."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            raise ConnectionAbortedError
        patience = asyncio.timeout_at(min(loop.time() + self._connect_seconds, deadline))
        try:
            async with patience:
                self._connecting.add(patience)
                return await self._open(site)
        except ssl.SSLError:
            # The certificates may be others by now; but they are not read more often than every few seconds.
            self._context_retires_at = min(
                self._context_retires_at, self._context_read_at + self._retire_seconds
            )
            raise
        except OSError:
            site.forget_addresses()
            raise
        finally:
            self._connecting.discard(patience)

    async def _open(self, site: "_Site") -> "_Connection":
        addresses = await site.addresses(min(NAME_SECONDS, self._lifetime_seconds))
        connected = await aiohappyeyeballs.start_connection(
            addresses,
            happy_eyeballs_delay=0.25,
            interleave=1,  # so long one is tried alone (RFC 8305, 5)
        )
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: _Connection(self, site, self._lifetime_seconds),
            sock=connected,
            ssl=self._certificates() if site.is_secure else None,
            server_hostname=site.host.rstrip(".") if site.is_secure else None,
        )
        return connection

    def _certificates(self) -> ssl.SSLContext:
        if asyncio.get_running_loop().time() >= self._context_retires_at:
            self._read_certificates()
        return self._context or system_context()

    def _read_certificates(self) -> None:
        self._context = read_again(self._tls, self._context, self._on_tls)
        self._context_read_at = asyncio.get_running_loop().time()
        self._context_retires_at = self._context_read_at + self._lifetime_seconds

    def renew(self) -> None:
        """Certificates are others now: the next call gets a connection of its own."""
        self._context_retires_at = 0.0
        self.renewals += 1

    def _watch_times(self) -> None:
        """All times are looked at every so often: a timer for each call would cost more than the call's parsing."""
        loop = asyncio.get_running_loop()
        for connection in list(self.connections):
            connection.heed_time(loop.time())
        shortest = min(self.read_seconds, self._total_seconds)
        self._watch = loop.call_later(min(0.1, shortest / 10), self._watch_times)


class _Call(Struct, eq=False):
    """One call, on whatever connections it takes.

    Attributes:
        site: None for a URL that cannot be one.
        deadline: on the event loop's clock.
        caller: None once it was told, or waits no longer.
        connection: that it is on now.
        is_second: its first sending may have arrived.

    """

    gateway: HttpGateway
    site: "_Site | None"
    body: bytes
    deadline: float
    caller: Caller | None
    connection: "_Connection | None" = None
    connecting: "asyncio.Task[None] | None" = None
    is_second: bool = False

    def go_on_new(self) -> None:
        """Send it on a connection that nothing was sent on."""
        self.connecting = asyncio.get_running_loop().create_task(self._connect())

    def send_again(self) -> None:
        """Its kept connection was stale, and so may be whatever else is kept. The first sending may have arrived all the same."""
        self.connection = None
        self.is_second = True
        self.go_on_new()

    async def _connect(self) -> None:
        assert self.site is not None, "else there is nowhere to connect to"
        try:
            connection = await self.gateway.connect(self.site, self.deadline)
        except (OSError, ValueError) as error:  # UnicodeError of a name that cannot be one, among others
            self.end(NotSent(name(error)))
            return
        except Exception as bug:  # noqa: BLE001  # it is the caller's to tell
            caller, self.caller = self.caller, None
            if caller is not None:
                caller.failed(bug)
            return
        finally:
            self.connecting = None
        now = asyncio.get_running_loop().time()
        if self.caller is None:
            connection.close()
        elif connection.is_usable(now):
            connection.take(self, now)
        else:
            self.end(NotSent("ServerDisconnected"))

    def end(self, end: AttemptEnd) -> None:
        """So it went."""
        caller, self.caller, self.connection = self.caller, None, None
        if caller is None:
            return
        if self.is_second:
            if isinstance(end, NotSent):
                end = NoAnswer(f"reset: {end.error}")
            elif isinstance(end, Answered):
                end = replace(end, resent=True)
        caller.answered(end)

    def cancel(self) -> None:
        """Nobody waits for it any more, and nobody is told. It may have arrived."""
        self.caller = None
        if self.connecting is not None:
            self.connecting.cancel()
        if self.connection is not None:
            self.connection.abandon()


class _Site:
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
        self.idle: list[_Connection] = []
        self.heads: dict[bytes, _Head] = {}
        self._looking_up: asyncio.Future[_Addresses] | None = None
        self._looked_up_at = 0.0

    def kept(self, now: float) -> "_Connection | None":
        """A connection that has answered before, as far as is known still open."""
        while self.idle:
            connection = self.idle.pop()
            if connection.is_usable(now):
                return connection
            connection.close()
        return None

    def forget(self, connection: "_Connection") -> None:
        """It waits for no call any more, if it did."""
        if connection in self.idle:
            self.idle.remove(connection)

    def remember(self, reply: bytes, read: Answered) -> None:
        """A reply that came in one piece, and nothing more with it: its head, if its body is as it came."""
        ends = reply.find(_HEAD_ENDS) + len(_HEAD_ENDS)
        if ends >= len(_HEAD_ENDS) and reply[ends:] == read.body:
            if len(self.heads) >= KNOWN_HEADS:
                self.heads.clear()
            self.heads[reply[:ends]] = _Head(read.status, len(read.body), read.retry_after)

    async def addresses(self, seconds: float) -> _Addresses:
        """Looked up once for all who ask within so many seconds. Raises OSError."""
        loop = asyncio.get_running_loop()
        looking_up = self._looking_up
        if looking_up is None or loop.time() >= self._looked_up_at + seconds:
            look_up: Callable[[], _Addresses] = functools.partial(
                socket.getaddrinfo, self.host, self.port, type=socket.SOCK_STREAM
            )
            looking_up = self._looking_up = loop.run_in_executor(None, look_up)
            looking_up.add_done_callback(asyncio.Future.exception)  # even if nobody waits for it any more
            self._looked_up_at = loop.time()
        return await asyncio.shield(looking_up)

    def forget_addresses(self) -> None:
        """They led nowhere."""
        self._looking_up = None


class _Head(NamedTuple):
    """What a reply's head says: its status, the bytes of its body, and when to come again."""

    status: int
    length: int
    retry_after: str | None


class _Connection(asyncio.Protocol):
    """One connection, and the call that it is for at a time.

    Attributes:
        lost: done when it is closed.

    """

    def __init__(self, gateway: HttpGateway, site: _Site, lifetime: float) -> None:
        self._gateway = gateway
        self._site = site
        self._loop = asyncio.get_running_loop()
        self._call: _Call | None = None
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
        self._renewals = gateway.renewals

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by class
        self._gateway.connections.add(self)

    # -- The request ---------------------------------------------------------------------------------

    def take(self, call: "_Call", now: float) -> None:
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
        is_young = now < self._retires_at and self._renewals == self._gateway.renewals
        return is_young and not self._transport.is_closing()

    # -- The reply -----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
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
        elif self._received > self._gateway.max_reply_bytes + FRAMING_BYTES:
            self.give_up(NoAnswer("reset: more head than any reply has"))

    def _begin_to_read(self) -> None:
        self._status = None
        self._complete = self._keeps = False
        self._room = self._gateway.max_reply_bytes
        self._body = []
        self._headers = {}

    def on_message_begin(self) -> None:
        if self._complete:
            raise HttpParserError  # a second reply to one request: the parser stops here

    def on_header(self, field: bytes, value: bytes) -> None:
        field = field.lower()
        if field in _HEEDED and self._status is None:  # else it is a trailer
            self._headers.setdefault(field, value.strip())  # cut in two, it comes with its blanks

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._headers.clear()
        else:  # also of no class that there is: it is for the reply table (RFC 9110, 15)
            self._status = status
            date = self._headers.get(b"date")
            if date is not None:
                self._gateway.on_date(date.decode("latin-1"))

    def on_body(self, part: bytes) -> None:
        self._body.append(part)
        self._room -= len(part)

    def on_message_complete(self) -> None:
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
            body = unpacked(received, encoding, self._gateway.max_reply_bytes)
        return NoAnswer("reset: not unpacked") if body is None else Answered(self._status, body, words)

    def _answer(self, end: AttemptEnd | None, *, keeps: bool) -> None:
        call = self._call
        if (
            keeps
            and end is not None
            and call is not None
            # A reply that came before the whole request was out leaves the rest of it in the way.
            and not self._transport.get_write_buffer_size()
            and self.is_usable(self._used_at)
        ):
            self._call = None
            self._site.idle.append(self)
            call.end(end)
        else:
            self.give_up(end)

    # -- The end -------------------------------------------------------------------------------------

    def heed_time(self, now: float) -> None:
        """End a call that takes too long, or the connection if it has been of no use for too long."""
        if self._call is not None:
            if now >= self._call.deadline or now - self._used_at >= self._gateway.read_seconds:
                self.give_up(NoAnswer("timeout"))
        elif now - self._used_at >= IDLE_SECONDS or not self.is_usable(now):
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gateway.connections.discard(self)
        self._site.forget(self)
        self.lost.set_result(None)
        if self._call is None:
            return
        if exc is None and self._received and self._status is not None and _FRAMES.isdisjoint(self._headers):
            self._answer(self._reply(), keeps=False)
        elif self._calls > 1 and not self._received:
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
