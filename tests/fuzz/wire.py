"""A reply's bytes as they come from the network, in one piece and in two -> how the call ends, the same in both cases.

The connection is the service's own; what is made up is its transport.
"""

import asyncio
import gzip
import zlib
from collections.abc import Iterator, Sequence
from random import Random
from typing import cast

from consumer.core.replies import Answered, AttemptEnd, NoAnswer
from consumer.gateway.common import Options
from consumer.gateway.http1 import Connection, Site
from consumer.gateway.pool import Call, HttpGateway
from consumer.sandbox import wire
from tests.fuzz.target import Mutate, Target

MOST = 100
"""Bytes of a body that are read."""

BODY = b'{"code":"1001"}'


class Transport:
    """Keeps nothing of what is written."""

    def __init__(self) -> None:
        self._closing = False

    def write(self, data: bytes) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._closing

    def abort(self) -> None:
        self._closing = True

    close = abort


# -- What must hold ---------------------------------------------------------------------------------


def check(data: bytes) -> None:
    whole = ended([data])
    cuts = {len(data) // 2, len(data) - 1, *(data.find(mark) + 1 for mark in (b"\r", b":", b"\n\r\n", b"{"))}
    for cut in sorted(cuts):
        if 0 < cut < len(data):
            in_two = ended([data[:cut], data[cut:]])
            assert in_two == whole, f"{in_two} where it is cut at {cut}, else {whole}"
    if isinstance(whole, Answered):
        assert not 100 <= whole.status < 200
        assert whole.status <= 999
        assert len(whole.body) <= MOST
        assert whole.retry_after is None or whole.retry_after == whole.retry_after.strip(
            " \t"
        )  # RFC 9110, 5.6.3


class Caller:
    end: AttemptEnd | None = None

    def answered(self, end: AttemptEnd) -> None:
        assert self.end is None
        self.end = end

    def failed(self, bug: Exception) -> None:
        raise bug


def ended(parts: list[bytes]) -> AttemptEnd | None:
    """How the call ends that these bytes are the answer to, after which the other end hangs up."""
    return _loop.run_until_complete(_called(parts))


async def _called(parts: list[bytes]) -> AttemptEnd | None:
    gateway, transport = HttpGateway(Options(max_reply_bytes=MOST)), Transport()
    site = Site("http://platform.example/")
    connection = Connection(gateway, site, 60.0)
    connection.connection_made(cast("asyncio.Transport", transport))
    caller = Caller()
    connection.take(Call(gateway, site, b"a=1", _loop.time() + 60, caller), _loop.time())
    for part in parts:
        if not transport.is_closing():
            connection.data_received(part)
    connection.connection_lost(None)
    end = caller.end
    # How much of it had come is seen in the words.
    return NoAnswer("reset") if isinstance(end, NoAnswer) and end.error.startswith("reset: ") else end


_loop = asyncio.new_event_loop()


# -- Where it starts --------------------------------------------------------------------------------


def seeds() -> Iterator[bytes]:
    packed = gzip.compress(BODY, mtime=0)
    yield wire.reply(BODY)
    yield wire.reply(BODY, close=True)
    yield wire.chunked(BODY).replace(b"X-Late", b"Retry-After")
    yield wire.INTERIM + wire.reply(BODY)
    yield b"HTTP/1.1 503 Busy\r\nX-Empty:\r\nRetry-After:  7 \r\nContent-Length: 4\r\n\r\nwait"
    yield b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(packed), packed)
    yield b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\n\r\n" + zlib.compress(BODY)
    yield b"HTTP/1.0 200\r\nDate: Sun, 01 Mar 2026 12:00:00 GMT\r\nConnection: keep-alive\r\n\r\n" + BODY
    yield b"HTTP/1.1 204 None\r\n\r\n"
    yield b"HTTP/1.1 050 None\r\n\r\n" + BODY * 10
    yield b"HTTP/1.1 101 Else\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"


def words() -> Sequence[str]:
    return [
        "HTTP/1.1 ",
        "Retry-After: 7",
        "Content-Length: 4",
        "Transfer-Encoding: chunked",
        "Content-Encoding: gzip",
        "Connection: close",
        "\r\n",
        "\r\n ",
        "\n\n",
        "0\r\n\r\n",
    ]


def changed(data: bytes, random: Random, mutate: Mutate) -> bytes | None:
    """Lines that came, went, or changed places; or one of them is changed."""
    lines = data.split(b"\r\n")
    at, other = random.randrange(len(lines)), random.randrange(len(lines))
    match random.randrange(5):
        case 0:
            lines.insert(at, lines[other])
        case 1:
            del lines[at]
        case 2:
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            lines.insert(at, random.choice(words()).encode())
        case _:
            lines[at] = mutate(lines[at])
    return b"\r\n".join(lines)


TARGET = Target(check, seeds, changed, words)
