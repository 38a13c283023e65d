"""HTTP as clients meet that are odd, slow or hostile, on either event loop: what they write, byte for byte."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from consumer.serving import EVERYWHERE, MOST_HEAD, Request, Server, written

ASKED: list[Request] = []
LARGE = b"x" * 300_000


def answer(request: Request) -> None:
    ASKED.append(request)
    request.connection.reply(200, LARGE if request.path == "/large" else b"here", "text/plain")


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    ASKED.clear()
    server = Server(answer, most_body=0)
    port = await server.start("127.0.0.1", 0, tls=None)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    yield reader, writer
    writer.close()
    await server.stop(0.1)


async def replies(reader: asyncio.StreamReader) -> list[int]:
    """The statuses of all that is said until the connection ends."""
    async with asyncio.timeout(5):
        return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+) ", await reader.read())]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Any:
    def on_loop(work: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(work)

    return on_loop


@pytest.mark.parametrize("has_ipv6", [True, False])
def test_everywhere_is_ipv4_too_and_ipv6_where_there_is_any(
    run: Any, monkeypatch: pytest.MonkeyPatch, has_ipv6: bool
) -> None:
    """A cluster of IPv6 alone probes a pod by its IPv6 address: who does not listen there is killed."""
    if not has_ipv6:
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    elif not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")

    async def reached(host: str, port: int) -> bool:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            return False
        writer.close()
        return True

    async def work() -> None:
        server = Server(answer, most_body=0)
        port = await server.start(EVERYWHERE, 0, tls=None)
        found = [await reached("127.0.0.1", port), await reached("::1", port)]
        await server.stop(0.1)

        assert found == [True, has_ipv6]
        assert not await reached("127.0.0.1", port)

    run(work())


def test_an_address_is_written_as_urls_have_it() -> None:
    assert written("::1", 8080) == "[::1]:8080"
    assert written("127.0.0.1", 8080) == "127.0.0.1:8080"


def test_a_head_is_told_what_there_is_and_gets_none_of_it(run: Any) -> None:
    async def work() -> None:
        async with connected() as (reader, writer):
            writer.write(b"HEAD / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nConnection: close\r\n\r\n")
            async with asyncio.timeout(5):
                first, second, body = (await reader.read()).split(b"\r\n\r\n")

        assert b"Content-Length: 4" in first
        assert second.startswith(b"HTTP/1.1 200 OK")
        assert body == b"here"

    run(work())


def test_what_is_asked_comes_apart_into_path_and_query(run: Any) -> None:
    async def work() -> None:
        async with connected() as (reader, writer):
            writer.write(b"GET /a/b?refresh=off HTTP/1.1\r\nACCEPT: text/html\r\nConnection: close\r\n\r\n")
            assert await replies(reader) == [200]

        (request,) = ASKED
        assert (request.path, request.query, request.accept) == ("/a/b", "refresh=off", "text/html")

    run(work())


@pytest.mark.parametrize(
    "offer",
    [b"GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n"],
)
def test_an_upgrade_that_nobody_offers_is_passed_over(run: Any, offer: bytes) -> None:
    async def work() -> None:
        async with connected() as (reader, writer):
            writer.write(offer)
            assert await replies(reader) == [200]

    run(work())


@pytest.mark.parametrize("piece", [b"x" * 1000, b"x: " + b"y" * 1000 + b"\r\n"], ids=["one line", "many"])
def test_a_head_without_an_end_is_cut_off(run: Any, piece: bytes) -> None:
    async def work() -> None:
        async with connected() as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\n")
            for _ in range(MOST_HEAD // 1000 + 10):
                writer.write(piece)
            assert await replies(reader) == [431]

        assert ASKED == []

    run(work())


def test_many_requests_of_which_each_is_small_are_no_large_head(run: Any) -> None:
    async def work() -> None:
        async with connected() as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\n\r\n" * 10_000 + b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
            assert await replies(reader) == [200] * 10_001

    run(work())


def test_who_reads_nothing_is_answered_no_further_until_he_does(run: Any) -> None:
    """Else each of his requests would put another page into memory."""

    async def work() -> None:
        async with connected() as (reader, writer):
            writer.write(
                b"GET /large HTTP/1.1\r\n\r\n" * 100 + b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"
            )
            await asyncio.sleep(0.2)
            answered = len(ASKED)
            statuses = await replies(reader)

        assert answered < 50
        assert statuses == [200] * 101

    run(work())
