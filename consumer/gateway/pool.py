"""Connections of our own to the platform: opened, kept, and given to calls, one call at a time on each. Does I/O.

Decides nothing but whether a request was sent.
"""

import asyncio
import ssl
from types import TracebackType
from typing import Self

import aiohappyeyeballs
from msgspec import Struct
from msgspec.structs import replace

from consumer.core.replies import Answered, AttemptEnd, NoAnswer, NotSent
from consumer.gateway.common import Caller, Options, Posting, name, system_context
from consumer.gateway.http1 import Connection, Site

NAME_SECONDS = 10.0
"""Age from which a name's addresses are looked up again."""


class HttpGateway(Posting):
    """The platform over HTTP. Enter it (`async with`) to use it, leave it to close its connections."""

    def __init__(self, options: Options | None = None) -> None:
        options = options or Options()
        self.read_seconds = float("inf") if options.read_seconds is None else options.read_seconds
        self.max_reply_bytes = options.max_reply_bytes
        self.on_date = options.on_date
        self.connections: set[Connection] = set()
        self.renewals = 0
        self._options = options
        self._total_seconds = options.total_seconds
        self._context: ssl.SSLContext | None = None
        self._context_read_at = self._context_retires_at = 0.0
        self._sites: dict[str, Site] = {}
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
            if not patience.expired():
                patience.reschedule(loop.time())
        lost = [connection.lost for connection in self.connections]
        for connection in list(self.connections):
            connection.give_up(NoAnswer("reset: the gateway was closed"))
        if lost:
            await asyncio.wait(lost)

    # -- A call --------------------------------------------------------------------------------------

    def start(self, url: str, body: bytes, caller: Caller) -> "Call":
        """Post one signed form; a kept connection that had gone stale is replaced at once, once, by a new one."""
        if self._loop is None:
            raise RuntimeError("the gateway is not open: use `async with`")
        now = self._loop.time()
        site = self._sites.get(url)
        if site is None:
            try:
                site = self._sites[url] = Site(url)
            except ValueError:
                call = Call(self, None, body, now, caller)
                call.end(NotSent("InvalidURL"))
                return call
        call = Call(self, site, body, now + self._total_seconds, caller)
        kept = site.kept(now)
        if kept is None:
            call.go_on_new()
        else:
            kept.take(call, now)
        return call

    # -- Connections ---------------------------------------------------------------------------------

    async def connect(self, site: Site, deadline: float) -> Connection:
        """A connection that nothing was sent on. Raises OSError or ValueError where there is none."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            raise ConnectionAbortedError
        patience = asyncio.timeout_at(min(loop.time() + self._options.connect_seconds, deadline))
        try:
            async with patience:
                self._connecting.add(patience)
                return await self._open(site)
        except ssl.SSLError:
            # The certificates may be others by now; but they are not read more often than every few seconds.
            self._context_retires_at = min(
                self._context_retires_at, self._context_read_at + self._options.retire_seconds
            )
            raise
        except OSError:
            site.forget_addresses()
            raise
        finally:
            self._connecting.discard(patience)

    async def _open(self, site: Site) -> Connection:
        addresses = await site.addresses(min(NAME_SECONDS, self._options.lifetime_seconds))
        connected = await aiohappyeyeballs.start_connection(
            addresses,
            happy_eyeballs_delay=0.25,
            interleave=1,  # so long one is tried alone (RFC 8305, 5)
        )
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(self, site, self._options.lifetime_seconds),
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
        self._context = self._options.read_certificates(self._context)
        self._context_read_at = asyncio.get_running_loop().time()
        self._context_retires_at = self._context_read_at + self._options.lifetime_seconds

    def renew(self) -> None:
        """Certificates are others now: the next call gets a connection of its own."""
        self._context_retires_at = 0.0
        self.renewals += 1

    def _watch_times(self) -> None:
        """All times are looked at every so often: a timer for each call would cost more than the call's parsing."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self.connections):
            connection.heed_time(now)
        shortest = min(self.read_seconds, self._total_seconds)
        self._watch = loop.call_later(min(0.5, shortest / 10), self._watch_times)


class Call(Struct, eq=False):
    """One call, on whatever connections it takes.

    Attributes:
        site: None for a URL that cannot be one.
        deadline: on the event loop's clock.
        caller: None once it was told, or waits no longer.
        connection: that it is on now.
        is_second: its first sending may have arrived.

    """

    gateway: HttpGateway
    site: Site | None
    body: bytes
    deadline: float
    caller: Caller | None
    connection: Connection | None = None
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
        caller, self.caller = self.caller, None
        if caller is None:
            return
        if self.is_second:
            if isinstance(end, NotSent):
                end = NoAnswer(f"reset: {end.error}")
            elif isinstance(end, Answered):
                end = replace(end, resent=True)
        caller.answered(end)

    def cancel(self) -> None:
        """Nobody waits for it any more, and nobody is told. It may have arrived. One that has ended is let alone."""
        if self.caller is None:
            return
        self.caller = None
        if self.connecting is not None:
            self.connecting.cancel()
        if self.connection is not None:
            self.connection.abandon()
