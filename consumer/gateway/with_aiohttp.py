"""HTTP by aiohttp, which knows its way through a proxy. Decides nothing but whether the request was sent."""

import asyncio
import random
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Self

import aiohttp

from consumer.core.replies import Answered, AttemptEnd, NoAnswer, NotSent
from consumer.gateway import common
from consumer.gateway.common import HEADERS, Options, Starting, name

_NOT_SENT = (
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
)
_CLOSED = (aiohttp.ClientOSError, aiohttp.ClientConnectionResetError, aiohttp.ServerDisconnectedError)


class AiohttpGateway(Starting):
    """The platform over HTTP. Enter it (`async with`) to open its connections, leave it to close them."""

    def __init__(
        self,
        options: Options | None = None,
        *,
        proxy: str | None = None,
        proxy_credentials: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`proxy_credentials` gives `user:password`. Connections retire all at once."""
        super().__init__()
        self._options = options = options or Options()
        self._timeout = aiohttp.ClientTimeout(
            total=options.total_seconds, connect=options.connect_seconds, sock_read=options.read_seconds
        )
        self._proxy = proxy
        self._proxy_credentials = proxy_credentials
        self._context: ssl.SSLContext | None = None
        self._pool: _Pool | None = None
        self._retired: set[_Pool] = set()

    async def __aenter__(self) -> Self:
        self._pool = self._open_pool()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pools = [*self._retired, *filter(None, [self._pool])]
        self._pool = None
        self._retired.clear()
        for pool in pools:
            await pool.close()
        await self.ended()

    async def post(self, url: str, body: bytes) -> AttemptEnd:
        """Post one signed form; a kept connection that had gone stale is replaced at once, once, by a new one."""
        pool = self._current_pool()
        pool.calls += 1
        try:
            connection = _Connection()
            end = await self._try(pool, url, body, connection)
            if end is None:
                end = await self._try(pool, url, body, _Connection(replaces_stale=True))
        finally:
            pool.calls -= 1
            if not pool.calls and pool in self._retired:
                self._retired.discard(pool)
                await pool.close()
        assert end is not None, "only a first sending can be stale"
        return end

    def renew(self) -> None:
        """Certificates or credentials are others now: the next call gets a connection of its own."""
        if self._pool is not None:
            self._pool.retires_at = 0.0

    def _current_pool(self) -> "_Pool":
        """The connections for a new call; those that have lived long enough end with the calls under way."""
        pool = self._pool
        if pool is None:
            raise RuntimeError("the gateway is not open: use `async with`")
        if asyncio.get_running_loop().time() < pool.retires_at:
            return pool
        self._retired.add(pool)
        self._pool = self._open_pool()
        return self._pool

    def _open_pool(self) -> "_Pool":
        self._context = self._options.read_certificates(self._context)
        # Not all members of a fleet at the same moment.
        lifetime = self._options.lifetime_seconds * random.uniform(0.8, 1.0)  # noqa: S311  # jitter, not cryptography
        retires_at = asyncio.get_running_loop().time() + lifetime
        return _Pool(
            self._open_session(kept=True),
            self._open_session(kept=False),
            retires_at,
            _authorization(self._proxy_credentials()),
        )

    def _open_session(self, *, kept: bool) -> aiohttp.ClientSession:
        reuse = aiohttp.TraceConfig()
        reuse.on_connection_reuseconn.append(_on_reuse)
        # Flow bounds what is in flight; a second bound here would only hide a queue.
        connector = aiohttp.TCPConnector(
            limit=0, ssl=self._context if self._context is not None else True, force_close=not kept
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=HEADERS,
            timeout=self._timeout,
            trace_configs=[reuse] if kept else [],
        )

    async def _try(
        self, pool: "_Pool", url: str, body: bytes, connection: "_Connection"
    ) -> AttemptEnd | None:
        """One sending. None: the kept connection closed before any reply, which aiohttp does not repeat for a POST."""
        resent, began = connection.replaces_stale, asyncio.get_running_loop().time()
        session = pool.fresh if resent else pool.session
        try:
            async with session.post(
                url,
                data=body,
                allow_redirects=False,
                proxy=self._proxy,
                proxy_headers=pool.proxy_headers,
                trace_request_ctx=connection,
            ) as response:
                if response.status == 408 and connection.reused:
                    # Said to the connection, for want of a request, and not of this one (RFC 9110, 15.5.9).
                    raise aiohttp.ServerDisconnectedError
                if response.status == 101:
                    raise aiohttp.ClientPayloadError  # another protocol, for which nobody asked
                self._options.on_date(response.headers.get("Date", ""))
                reply = await self._read(response)
                if response.status < 100:
                    response.close()  # aiohttp takes it for an interim reply, and its body for the next one
                return Answered(response.status, reply, response.headers.get("Retry-After"), resent)
        except _NOT_SENT as error:
            if isinstance(error, aiohttp.ClientSSLError):
                pool.retire_within(self._options.retire_seconds)  # its certificates may be others by now
            # Of a second sending, the first may have arrived.
            return NoAnswer(f"reset: {name(error)}") if resent else NotSent(name(error))
        except TimeoutError:
            return NoAnswer("timeout")
        except _CLOSED as error:
            # Before the reply's head: once that has come, aiohttp raises ClientPayloadError.
            silent_for = asyncio.get_running_loop().time() - began
            if connection.reused and not resent and silent_for < common.STALE_SECONDS:
                return None
            return NoAnswer(f"reset: {name(error)}")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return NoAnswer(f"reset: {name(error)}")

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The body, cut where it is longer than any reply of the platform."""
        parts: list[bytes] = []
        room = self._options.max_reply_bytes
        while room > 0 and (part := await response.content.read(room)):
            parts.append(part)
            room -= len(part)
        if room <= 0:
            response.close()  # what else may come is not worth keeping the connection
        return b"".join(parts)


class _Pool:
    """Connections of one age.

    Attributes:
        fresh: never gives a kept connection: where one was stale, so may be the next.
        retires_at: on the event loop's clock; from then on it takes no more calls.
        proxy_headers: of each request that goes through a proxy.
        calls: under way.
    """

    __slots__ = ("calls", "fresh", "opened_at", "proxy_headers", "retires_at", "session")

    def __init__(
        self,
        session: aiohttp.ClientSession,
        fresh: aiohttp.ClientSession,
        retires_at: float,
        proxy_headers: dict[str, str] | None,
    ) -> None:
        self.session = session
        self.fresh = fresh
        self.proxy_headers = proxy_headers
        self.opened_at = asyncio.get_running_loop().time()
        self.retires_at = retires_at
        self.calls = 0

    def retire_within(self, seconds: float) -> None:
        """Of its opening."""
        self.retires_at = min(self.retires_at, self.opened_at + seconds)

    async def close(self) -> None:
        await self.session.close()
        await self.fresh.close()


class _Connection:
    """What is known of the connection that one sending went out on."""

    __slots__ = ("replaces_stale", "reused")

    def __init__(self, *, replaces_stale: bool = False) -> None:
        self.replaces_stale = replaces_stale
        self.reused = False


async def _on_reuse(
    session: aiohttp.ClientSession,  # noqa: ARG001  # aiohttp's tracing passes it
    context: object,
    parameters: aiohttp.TraceConnectionReuseconnParams,  # noqa: ARG001  # aiohttp's tracing passes it
) -> None:
    connection = getattr(context, "trace_request_ctx", None)
    if isinstance(connection, _Connection):
        connection.reused = True


def _authorization(credentials: str | None) -> dict[str, str] | None:
    if credentials is None:
        return None
    user, _, password = credentials.partition(":")
    # aiohttp makes a Proxy-Authorization of it, for the tunnel as for a plain request.
    return {"Authorization": aiohttp.encode_basic_auth(user, password, "utf-8")}
