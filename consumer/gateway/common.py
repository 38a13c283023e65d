"""What clients of the platform share. Does no I/O but to read certificates."""

import asyncio
import functools
import os
import re
import ssl
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from consumer import __version__
from consumer.core.errors import CouponConsumerError
from consumer.core.replies import AttemptEnd

STALE_SECONDS = 2.0
"""A kept connection that is closed without a word within so many seconds after a request was stale; later, somebody has
worked on the request."""

HEADERS = {
    "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "User-Agent": f"charging-coupon-consumer/{__version__}",
}
"""Of each request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How a client calls the platform, whichever it is.

    Attributes:
        connect_seconds: for a connection to come about.
        read_seconds: longest silence while a reply is awaited or read; None: no bound but the whole call's.
        total_seconds: of a whole call.
        max_reply_bytes: of a reply's body that are read.
        lifetime_seconds: after them a connection takes no more calls: a name that leads elsewhere by then, and files
            that `tls` reads, are heeded.
        retire_seconds: age from which certificates whose handshakes fail are read again.
        tls: gives the certificates, None for the system's CAs. Raises OSError or ValueError for files that cannot be
            used: then the ones before are kept.
        on_date: is told each new `Date` of a reply's head.
        on_tls: is told why the files cannot be used, or None where they are good.

    """

    connect_seconds: float = 5.0
    read_seconds: float | None = None
    total_seconds: float = 15.0
    max_reply_bytes: int = 64 * 1024
    lifetime_seconds: float = 60.0
    retire_seconds: float = 5.0
    tls: Callable[[], ssl.SSLContext | None] = lambda: None
    on_date: Callable[[str], None] = lambda _date: None
    on_tls: Callable[[str | None], None] = lambda _problem: None

    def read_certificates(self, before: ssl.SSLContext | None) -> ssl.SSLContext | None:
        """As their files are now; where those cannot be used, the ones before."""
        try:
            now = self.tls()
        except (OSError, ValueError, CouponConsumerError) as error:
            self.on_tls(str(error))
            return before
        self.on_tls(None)
        return now


class Caller(Protocol):
    """Who waits for a call's end."""

    def answered(self, end: AttemptEnd) -> None:
        """How the call ended. Told once, and perhaps before `start` returns: to be noted, and heeded later."""

    def failed(self, bug: Exception) -> None:
        """Told instead, likewise: a bug of ours."""


class Call(Protocol):
    """A call that was started."""

    def cancel(self) -> object:
        """Nobody waits for it any more: its caller is told nothing. Of no effect once it has ended."""


class Posting(ABC):
    """What starts calls, awaited."""

    @abstractmethod
    def start(self, url: str, body: bytes, caller: Caller) -> Call:
        """Post one signed form."""

    async def post(self, url: str, body: bytes) -> AttemptEnd:
        """Post one signed form, and wait for its end."""
        waiting = Waiting()
        call = self.start(url, body, waiting)
        try:
            return await waiting.end
        finally:
            call.cancel()


class Waiting:
    """A caller that waits: `end` is done once the call has ended."""

    def __init__(self) -> None:
        self.end: asyncio.Future[AttemptEnd] = asyncio.get_running_loop().create_future()

    def answered(self, end: AttemptEnd) -> None:
        """For its call."""
        if not self.end.done():
            self.end.set_result(end)

    def failed(self, bug: Exception) -> None:
        """For its call, likewise."""
        if not self.end.done():
            self.end.set_exception(bug)


class Starting(ABC):
    """What posts by a coroutine, started."""

    def __init__(self) -> None:
        self._started: set[asyncio.Task[None]] = set()

    @abstractmethod
    async def post(self, url: str, body: bytes) -> AttemptEnd:
        """Post one signed form, and wait for its end."""

    def start(self, url: str, body: bytes, caller: Caller) -> Call:
        """Post one signed form."""
        task = asyncio.get_running_loop().create_task(self._post(url, body, caller))
        self._started.add(task)
        task.add_done_callback(self._started.discard)
        return task

    async def _post(self, url: str, body: bytes, caller: Caller) -> None:
        try:
            end = await self.post(url, body)
        except Exception as bug:  # noqa: BLE001  # it is the caller's to tell
            caller.failed(bug)
        else:
            caller.answered(end)

    async def ended(self) -> None:
        """Wait for what was started and is not over."""
        if self._started:
            await asyncio.wait(list(self._started))


@functools.cache
def system_context() -> ssl.SSLContext:
    """Trusts the system's CAs; made once, since reading them takes long."""
    return ssl.create_default_context()


def unpacked(body: bytes, encoding: bytes, most: int) -> bytes | None:
    """A body, cut after so many bytes: nobody asks for a packed one, and some pack it all the same. None: spoilt."""
    body, encoding = body[:most], encoding.lower()
    if encoding not in (b"gzip", b"x-gzip", b"deflate") or not body:
        return body
    # Some send deflate without the frame that RFC 9110, 8.4.1.2, asks for.
    is_bare = encoding == b"deflate" and body[0] & 0xF != zlib.DEFLATED
    unpacking = zlib.decompressobj(-zlib.MAX_WBITS if is_bare else zlib.MAX_WBITS | 32)
    try:
        return unpacking.decompress(body, most)
    except zlib.error:
        return None


_CALL_FAILED = re.compile(r"Connect call failed \('([^']*)', (\d+).*\)")
"""asyncio's words, which leave the system's out."""


def name(error: Exception) -> str:
    """What is said of a foreign exception: its kind and the system's words, never the request."""
    refusal = getattr(error, "certificate_error", error)
    if isinstance(refusal, ssl.SSLCertVerificationError):
        return f"CertificateError ({refusal.verify_message})"
    cause = getattr(error, "os_error", None) or error
    words = cause.strerror if isinstance(cause, OSError) else None
    called = _CALL_FAILED.fullmatch(words or "")
    if called is not None and isinstance(cause, OSError) and cause.errno:
        words = f"{os.strerror(cause.errno)}: {called[1]} port {called[2]}"
    return f"{type(error).__name__} ({words})" if words else type(error).__name__
