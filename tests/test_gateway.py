"""How calls end over real HTTP: answers read whatever their status, and the network's ways to fail told apart."""

import asyncio
import gzip
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from consumer.core.replies import Answered, NoAnswer, NotSent
from consumer.gateway import HttpGateway

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"code":"1001"}'
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def gateway() -> AsyncIterator[HttpGateway]:
    async with HttpGateway(connect_seconds=1, total_seconds=1, max_reply_bytes=1000) as opened:
        yield opened


@asynccontextmanager
async def http_server(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/event", handler)
    async with TestServer(app) as server:
        yield str(server.make_url("/event"))


@asynccontextmanager
async def raw_server(*talks: Talk) -> AsyncIterator[str]:
    """The n-th connection is answered by the n-th talk; there must be no more connections than talks."""
    waiting = list(talks)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await waiting.pop(0)(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/event"
    assert not waiting, "fewer connections than the test expects"


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return await reader.readexactly(int(length.partition(b":")[2]))


def say(reply: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(reply)
        await writer.drain()

    return talk


async def answer_then_close_on_the_next_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    await say(OK)(reader, writer)
    await read_request(reader)


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    abort_connection(writer)


def abort_connection(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket = writer.get_extra_info("socket")
    # SO_LINGER with zero seconds makes close() send RST.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()


async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:  # a Talk
    await reader.read()


async def test_the_form_arrives_byte_by_byte_with_its_content_type(gateway: HttpGateway) -> None:
    seen: list[tuple[bytes, str, dict[str, str]]] = []

    async def handler(request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        seen.append((await request.read(), request.headers["Content-Type"], form))
        return web.json_response({"code": "1001"})

    body = b"plate=%E7%B2%A4BA1471&subject=a+b%2B1%25&sign=X"
    async with http_server(handler) as url:
        end = await gateway.post(url, body)

    form = {"plate": "粤BA1471", "subject": "a b+1%", "sign": "X"}
    assert seen == [(body, "application/x-www-form-urlencoded; charset=utf-8", form)]
    assert end == Answered(200, b'{"code": "1001"}')


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 429, 500, 502, 503])
async def test_the_body_is_read_whatever_the_status(gateway: HttpGateway, status: int) -> None:
    async def handler(request: web.Request) -> web.Response:
        headers = {"Retry-After": "7", "Location": "/elsewhere", "Set-Cookie": "a=b"}
        return web.Response(status=status, body=b"why", headers=headers)

    async with http_server(handler) as url:
        end = await gateway.post(url, b"a=1")

    assert end == Answered(status, b"why", "7")


async def test_the_date_of_each_reply_is_told() -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({"code": "1001"}, headers={"Date": "Sun, 01 Mar 2026 12:00:00 GMT"})

    dates: list[str] = []
    async with HttpGateway(on_date=dates.append) as gateway, http_server(answer) as url:
        await gateway.post(url, b"")
    assert dates == ["Sun, 01 Mar 2026 12:00:00 GMT"]


async def test_no_cookie_is_sent_back(gateway: HttpGateway) -> None:
    cookies: list[str | None] = []

    async def handler(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("Cookie"))
        return web.Response(headers={"Set-Cookie": "session=1"})

    async with http_server(handler) as url:
        await gateway.post(url, b"a=1")
        await gateway.post(url, b"a=1")

    assert cookies == [None, None]


async def test_a_reply_larger_than_any_of_the_platform_is_cut(gateway: HttpGateway) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * 1_000_000)

    async with http_server(handler) as url:
        end = await gateway.post(url, b"a=1")

    assert end == Answered(200, b"x" * 1000)


async def test_a_compressed_reply_is_bounded_by_what_it_unpacks_to(gateway: HttpGateway) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(b"x" * 10_000_000), headers={"Content-Encoding": "gzip"})

    async with http_server(handler) as url:
        end = await gateway.post(url, b"a=1")

    assert end == Answered(200, b"x" * 1000)


async def test_an_empty_reply_is_an_answer(gateway: HttpGateway) -> None:
    async with raw_server(say(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")) as url:
        assert await gateway.post(url, b"a=1") == Answered(500, b"")


@pytest.mark.parametrize(
    "reply",
    [
        b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"code":"10',
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"cod\r\n',
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"this is no HTTP\r\n\r\n",
        b"",
    ],
    ids=["body cut off", "chunks cut off", "head cut off", "garbage", "nothing"],
)
async def test_a_reply_that_breaks_off_is_no_answer(gateway: HttpGateway, reply: bytes) -> None:
    async with raw_server(say(reply)) as url:
        end = await gateway.post(url, b"a=1")

    assert isinstance(end, NoAnswer)
    assert end.error.startswith("reset: ")


async def test_a_reset_is_no_answer(gateway: HttpGateway) -> None:
    async with raw_server(reset) as url:
        end = await gateway.post(url, b"a=1")

    assert isinstance(end, NoAnswer)
    assert end.error.startswith("reset: ")


async def test_silence_is_a_timeout() -> None:
    async with raw_server(never_answer) as url, HttpGateway(total_seconds=0.1) as gateway:
        assert await gateway.post(url, b"a=1") == NoAnswer("timeout")


async def test_a_body_that_stalls_is_a_timeout() -> None:
    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")(reader, writer)
        await reader.read()

    async with raw_server(stall) as url, HttpGateway(total_seconds=0.1) as gateway:
        assert await gateway.post(url, b"a=1") == NoAnswer("timeout")


async def test_a_refused_connection_was_certainly_not_sent(gateway: HttpGateway) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

        end = await gateway.post(f"http://127.0.0.1:{port}/event", b"a=1")

    assert isinstance(end, NotSent)


@pytest.mark.parametrize(
    "url", ["http://no-such-host.invalid/event", "ftp://127.0.0.1/", "http://[::1/", "nonsense"]
)
async def test_what_cannot_be_connected_to_was_certainly_not_sent(gateway: HttpGateway, url: str) -> None:
    assert isinstance(await gateway.post(url, b"a=1"), NotSent)


async def test_a_connection_that_is_never_accepted_was_certainly_not_sent() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:  # a full backlog leaves further connections waiting
            filler.setblocking(False)  # the standard library's signature
            filler.connect_ex(address)
        async with HttpGateway(connect_seconds=0.1, total_seconds=5) as gateway:
            end = await gateway.post(f"http://127.0.0.1:{address[1]}/event", b"a=1")
        for filler in fillers:
            filler.close()

    assert isinstance(end, NotSent)


async def test_a_failed_tls_handshake_was_certainly_not_sent() -> None:
    async def no_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with (
        raw_server(no_tls) as url,
        HttpGateway(ssl_context=ssl.create_default_context()) as gateway,
    ):
        assert isinstance(await gateway.post(url.replace("http:", "https:"), b"a=1"), NotSent)


async def test_a_stale_kept_connection_is_replaced_at_once_and_the_answer_says_so(
    gateway: HttpGateway,
) -> None:
    async with raw_server(answer_then_close_on_the_next_request, say(OK)) as url:
        first = await gateway.post(url, b"a=1")
        second = await gateway.post(url, b"a=2")

    assert first == Answered(200, b'{"code":"1001"}')
    assert second == Answered(200, b'{"code":"1001"}', resent=True)


async def test_a_stale_connection_is_replaced_only_once(gateway: HttpGateway) -> None:
    async with raw_server(answer_then_close_on_the_next_request, say(b"")) as url:
        await gateway.post(url, b"a=1")
        end = await gateway.post(url, b"a=2")

    assert isinstance(end, NoAnswer)


async def test_a_new_connection_that_closes_is_not_replaced(gateway: HttpGateway) -> None:
    async with raw_server(say(b"")) as url:
        assert isinstance(await gateway.post(url, b"a=1"), NoAnswer)


@pytest.mark.parametrize("abort", [False, True], ids=["closed", "reset"])
async def test_a_kept_connection_whose_reply_broke_off_is_not_replaced(
    gateway: HttpGateway, abort: bool
) -> None:
    connections = 0

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await say(OK)(reader, writer)
        await say(OK[:-5])(reader, writer)
        await asyncio.sleep(0.02)  # the head of the reply is read by now
        if abort:
            abort_connection(writer)
        writer.close()

    async with await asyncio.start_server(break_off, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/event"
        await gateway.post(url, b"a=1")
        end = await gateway.post(url, b"a=2")

    assert isinstance(end, NoAnswer)
    assert connections == 1


async def test_when_the_replacement_finds_nobody_the_first_sending_is_still_in_doubt(
    gateway: HttpGateway,
) -> None:
    listener: list[asyncio.Server] = []

    async def close_everything(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say(OK)(reader, writer)
        await read_request(reader)
        listener[0].close()
        writer.close()

    listener.append(await asyncio.start_server(close_everything, "127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener[0].sockets[0].getsockname()[1]}/event"

    await gateway.post(url, b"a=1")
    end = await gateway.post(url, b"a=2")

    assert isinstance(end, NoAnswer)


async def test_a_gateway_that_is_not_open_says_so() -> None:
    with pytest.raises(RuntimeError, match="use `async with`"):
        await HttpGateway().post("http://127.0.0.1/", b"")
