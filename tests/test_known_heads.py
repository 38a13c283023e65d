"""A reply whose head is known is read as one whose head is new."""

import asyncio
from typing import cast

from hypothesis import example, given
from hypothesis import strategies as st

from consumer.core.replies import AttemptEnd
from consumer.gateway import HttpGateway, Options
from consumer.gateway.http1 import KNOWN_HEADS, Connection, Head, Site
from consumer.gateway.pool import Call
from tests.fuzz.wire import Caller, Transport

MOST = 40

HEADS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n",
    b"HTTP/1.1 204 No Content\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n",
    b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 2\r\n",
    b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n",
    b"HTTP/1.1 100 Continue\r\n",
    b"HTTP/1.1 99 Odd\r\nContent-Length: 2\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"",
]
BODIES = [b"", b"{}", b"2\r\n{}\r\n0\r\n\r\n", b"{}{}", b"\r\n\r\n", b"x" * 60, HEADS[0] + b"\r\n{}"]
replies = st.builds(
    lambda head, ends, body: head + ends + body,
    st.sampled_from(HEADS),
    st.sampled_from([b"\r\n", b"\n"]),
    st.sampled_from(BODIES),
)


class Forgetful(dict[bytes, Head]):
    def __setitem__(self, key: bytes, value: Head) -> None:
        """Nothing is known."""


async def ends_of(pieces: list[bytes], site: Site) -> list[AttemptEnd | str | None]:
    """How calls end that come one after the other, each on a kept connection where there is one, and get a piece each."""
    gateway, loop = HttpGateway(Options(max_reply_bytes=MOST)), asyncio.get_running_loop()
    ends: list[AttemptEnd | str | None] = []
    for piece in pieces:
        connection = site.kept(loop.time())
        if connection is None:
            connection = Connection(gateway, site, 60.0)
            connection.connection_made(cast("asyncio.Transport", Transport()))
        caller = Caller()
        call = Call(gateway, site, b"a=1", loop.time() + 60, caller)
        connection.take(call, loop.time())
        connection.data_received(piece)
        ends.append("again" if call.is_second else caller.end)
        call.cancel()
        await asyncio.sleep(0)
    return ends


@example([HEADS[7] + b"\r\n"] * 2)
@example([HEADS[0] + b"\r\n{}"] * 3)
@given(st.lists(replies, min_size=1, max_size=3).map(lambda few: few * 3))
def test_a_reply_whose_head_is_known_is_read_as_one_whose_head_is_new(pieces: list[bytes]) -> None:
    knowing, forgetful = Site("http://platform.example/"), Site("http://platform.example/")
    forgetful.heads = Forgetful()

    assert asyncio.run(ends_of(pieces, knowing)) == asyncio.run(ends_of(pieces, forgetful))


def test_a_head_is_known_from_the_second_time_on_and_few_are() -> None:
    site = Site("http://platform.example/")
    pieces = [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: %d\r\n\r\n{}" % n for n in range(KNOWN_HEADS + 5)]

    asyncio.run(ends_of(pieces, site))

    assert pieces[-1].removesuffix(b"{}") in site.heads
    assert len(site.heads) == 5
