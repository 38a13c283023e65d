"""A signed form -> how the call ended. HTTP on aiohttp; decides nothing but whether the request was sent."""

import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

import aiohttp

from consumer import __version__
from consumer.core.replies import Answered, AttemptEnd, NoAnswer, NotSent

_HEADERS = {
    "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "User-Agent": f"charging-coupon-consumer/{__version__}",
}

_NOT_SENT = (
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientConnectorError,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
)
_CLOSED = (aiohttp.ClientOSError, aiohttp.ClientConnectionResetError, aiohttp.ServerDisconnectedError)


class Gateway(Protocol):
    """Where coupons are asked for."""

    async def post(self, url: str, body: bytes) -> AttemptEnd:
        """Post one signed form. Never raises for what the network or the platform does."""
        ...


class HttpGateway:
    """The platform over HTTP. Enter it (`async with`) to open its connections, leave it to close them."""

    def __init__(
        self,
        *,
        connect_seconds: float = 5.0,
        total_seconds: float = 15.0,
        max_reply_bytes: int = 64 * 1024,
        ssl_context: ssl.SSLContext | None = None,
        on_date: Callable[[str], None] = lambda _date: None,
    ) -> None:
        """`on_date` is told the `Date` of each reply as it comes."""
        self._timeout = aiohttp.ClientTimeout(total=total_seconds, connect=connect_seconds)
        self._max_reply_bytes = max_reply_bytes
        self._ssl = ssl_context
        self._on_date = on_date
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        reuse = aiohttp.TraceConfig()
        reuse.on_connection_reuseconn.append(_on_reuse)
        self._session = aiohttp.ClientSession(
            # Flow bounds what is in flight; a second bound here would only hide a queue.
            connector=aiohttp.TCPConnector(limit=0, ssl=self._ssl if self._ssl is not None else True),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            timeout=self._timeout,
            trace_configs=[reuse],
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def post(self, url: str, body: bytes) -> AttemptEnd:
        """Post one signed form; a kept connection that had gone stale is replaced at once, once."""
        connection = _Connection()
        end = await self._try(url, body, connection)
        if end is None:
            end = await self._try(url, body, _Connection(replaces_stale=True))
        assert end is not None, "only a first sending can be stale"
        return end

    async def _try(self, url: str, body: bytes, connection: "_Connection") -> AttemptEnd | None:
        """One sending. None: the kept connection closed before any reply, which aiohttp does not repeat for a POST."""
        if self._session is None:
            raise RuntimeError("the gateway is not open: use `async with`")
        resent = connection.replaces_stale
        try:
            async with self._session.post(
                url, data=body, allow_redirects=False, trace_request_ctx=connection
            ) as response:
                self._on_date(response.headers.get("Date", ""))
                reply = await self._read(response)
                return Answered(response.status, reply, response.headers.get("Retry-After"), resent)
        except _NOT_SENT as error:
            # Of a second sending, the first may have arrived.
            return NoAnswer(f"reset: {_name(error)}") if resent else NotSent(_name(error))
        except TimeoutError:
            return NoAnswer("timeout")
        except _CLOSED as error:
            # Before the reply's head: once that has come, aiohttp raises ClientPayloadError.
            if connection.reused and not resent:
                return None
            return NoAnswer(f"reset: {_name(error)}")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return NoAnswer(f"reset: {_name(error)}")

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The body, cut where it is longer than any reply of the platform."""
        parts: list[bytes] = []
        room = self._max_reply_bytes
        while room > 0 and (part := await response.content.read(room)):
            parts.append(part)
            room -= len(part)
        if room <= 0:
            response.close()  # what else may come is not worth keeping the connection
        return b"".join(parts)


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


def _name(error: Exception) -> str:
    """What is said of a foreign exception: its kind and the system's words, never the request."""
    cause = getattr(error, "os_error", None) or error
    words = cause.strerror if isinstance(cause, OSError) else None
    return f"{type(error).__name__} ({words})" if words else type(error).__name__
