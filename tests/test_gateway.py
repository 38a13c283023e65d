"""How calls end over real HTTP: the contract of a gateway client.

Answers are read whatever their status, and the network's ways to fail are told apart. Everything here is
said of the Protocol: whoever is in `CLIENTS` has to pass.

What others' clients were reported for, and where ours is tried (`test_demo` plays scenarios of these names, too):

    aio-libs/aiohttp#6138, #850           kept connections that the server closes        here; stale-keep-alive
    aio-libs/aiohttp#3082, #6764          a redirected POST goes elsewhere, or as a GET  here; redirects
    aiohttp#6629, home-assistant#175239   a name that moved                              here
    apache/iggy#4192                      Retry-After: 0                                 core/test_retries
    py-synologydsm-api#260                a space signed and sent in two ways            core/test_signing
    kiali#3021, sealed-secrets#1122       a secret that ends in a newline                broker/test_security
    frain-dev/convoy#1833                 a refusal that is retried for ever             test_delivery, broker/test_retries
"""

import asyncio
import contextlib
import gzip
import random
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from consumer import certificates
from consumer.core.replies import Answered, NoAnswer, NotSent
from consumer.gateway import GatewayClient, HttpGateway, Options, gateway_of
from consumer.gateway.common import Waiting
from consumer.gateway.with_aiohttp import AiohttpGateway
from consumer.sandbox import wire
from consumer.settings.model import Gateway as GatewaySettings
from tests.pki import Authority

CLIENTS = {"builtin": HttpGateway, "aiohttp": AiohttpGateway}

GRANT = b'{"code":"1001"}'
OK = wire.reply(GRANT)


Client = Callable[..., GatewayClient]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(params=list(CLIENTS.values()), ids=list(CLIENTS))
def client(request: pytest.FixtureRequest) -> Client:
    """Makes a client of these `Options`."""
    made: Callable[[Options], GatewayClient] = request.param
    return lambda **options: made(Options(**options))


@pytest.fixture
async def gateway(client: Client) -> AsyncIterator[GatewayClient]:
    async with client(connect_seconds=1, total_seconds=1, max_reply_bytes=1000) as opened:
        yield opened


@asynccontextmanager
async def http_server(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/event", handler)
    async with TestServer(app) as server:
        yield str(server.make_url("/event"))


@asynccontextmanager
async def serving(
    talk: Talk, host: str, port: int, ssl: ssl.SSLContext | None = None
) -> AsyncIterator[asyncio.Server]:
    """Until left, and then without waiting for the connections that a client keeps."""
    server = await asyncio.start_server(talk, host, port, ssl=ssl)
    try:
        yield server
    finally:
        server.close()


@asynccontextmanager
async def raw_server(*talks: Talk) -> AsyncIterator[str]:
    """The n-th connection is answered by the n-th talk; there must be no more connections than talks."""
    waiting = list(talks)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await waiting.pop(0)(reader, writer)
        finally:
            writer.close()

    async with serving(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/event"
    assert not waiting, "fewer connections than the test expects"


@contextlib.contextmanager
def unaccepting() -> Iterator[str]:
    """A server that is too busy to accept connections."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:  # a full backlog leaves further connections waiting
            filler.setblocking(False)  # the standard library's signature
            filler.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}/event"
        for filler in fillers:
            filler.close()


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
    wire.reset(writer.transport)


async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:  # a Talk
    await reader.read()


async def test_the_form_arrives_byte_by_byte_with_its_content_type(gateway: GatewayClient) -> None:
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
async def test_the_body_is_read_whatever_the_status(gateway: GatewayClient, status: int) -> None:
    async def handler(request: web.Request) -> web.Response:
        headers = {"Retry-After": "7", "Location": "/elsewhere", "Set-Cookie": "a=b"}
        return web.Response(status=status, body=b"why", headers=headers)

    async with http_server(handler) as url:
        end = await gateway.post(url, b"a=1")

    assert end == Answered(status, b"why", "7")


async def test_the_date_of_each_reply_is_told(client: Client) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({"code": "1001"}, headers={"Date": "Sun, 01 Mar 2026 12:00:00 GMT"})

    dates: list[str] = []
    async with client(on_date=dates.append) as gateway, http_server(answer) as url:
        await gateway.post(url, b"")
    assert dates == ["Sun, 01 Mar 2026 12:00:00 GMT"]


async def test_no_cookie_is_sent_back(gateway: GatewayClient) -> None:
    cookies: list[str | None] = []

    async def handler(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("Cookie"))
        return web.Response(headers={"Set-Cookie": "session=1"})

    async with http_server(handler) as url:
        await gateway.post(url, b"a=1")
        await gateway.post(url, b"a=1")

    assert cookies == [None, None]


async def test_a_reply_larger_than_any_of_the_platform_is_cut(gateway: GatewayClient) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * 1_000_000)

    async with http_server(handler) as url:
        end = await gateway.post(url, b"a=1")

    assert end == Answered(200, b"x" * 1000)


async def test_a_compressed_reply_is_bounded_by_what_it_unpacks_to(gateway: GatewayClient) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(b"x" * 10_000_000), headers={"Content-Encoding": "gzip"})

    async with http_server(handler) as url:
        end = await gateway.post(url, b"a=1")

    assert end == Answered(200, b"x" * 1000)


async def test_an_empty_reply_is_an_answer(gateway: GatewayClient) -> None:
    async with raw_server(say(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")) as url:
        assert await gateway.post(url, b"a=1") == Answered(500, b"")


@pytest.mark.parametrize(
    "reply",
    [
        wire.reply(GRANT[:10], length=100),
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"cod\r\n',
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"this is no HTTP\r\n\r\n",
        b"",
    ],
    ids=["body cut off", "chunks cut off", "head cut off", "garbage", "nothing"],
)
async def test_a_reply_that_breaks_off_is_no_answer(gateway: GatewayClient, reply: bytes) -> None:
    async with raw_server(say(reply)) as url:
        end = await gateway.post(url, b"a=1")

    assert isinstance(end, NoAnswer)
    assert end.error.startswith("reset: ")


async def test_a_reset_is_no_answer(gateway: GatewayClient) -> None:
    async with raw_server(reset) as url:
        end = await gateway.post(url, b"a=1")

    assert isinstance(end, NoAnswer)
    assert end.error.startswith("reset: ")


async def test_silence_is_a_timeout(client: Client) -> None:
    async with raw_server(never_answer) as url, client(total_seconds=0.3) as gateway:
        assert await gateway.post(url, b"a=1") == NoAnswer("timeout")


async def test_a_body_that_stalls_is_a_timeout(client: Client) -> None:
    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say(wire.reply(b"{", length=100))(reader, writer)
        await reader.read()

    async with raw_server(stall) as url, client(total_seconds=0.3) as gateway:
        assert await gateway.post(url, b"a=1") == NoAnswer("timeout")


async def test_a_refused_connection_was_certainly_not_sent(gateway: GatewayClient) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

        end = await gateway.post(f"http://127.0.0.1:{port}/event", b"a=1")

    assert isinstance(end, NotSent)
    assert f"(Connection refused: 127.0.0.1 port {port})" in end.error


@pytest.mark.parametrize(
    "url", ["http://no-such-host.invalid/event", "ftp://127.0.0.1/", "http://[::1/", "nonsense"]
)
async def test_what_cannot_be_connected_to_was_certainly_not_sent(gateway: GatewayClient, url: str) -> None:
    assert isinstance(await gateway.post(url, b"a=1"), NotSent)


async def test_a_connection_that_is_never_accepted_was_certainly_not_sent(client: Client) -> None:
    with unaccepting() as url:
        async with client(connect_seconds=0.1, total_seconds=5) as gateway:
            end = await gateway.post(url, b"a=1")

    assert isinstance(end, NotSent)


async def test_a_failed_tls_handshake_was_certainly_not_sent(client: Client) -> None:
    async def no_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with (
        raw_server(no_tls) as url,
        client(tls=ssl.create_default_context) as gateway,
    ):
        assert isinstance(await gateway.post(url.replace("http:", "https:"), b"a=1"), NotSent)


async def test_a_stale_kept_connection_is_replaced_at_once_and_the_answer_says_so(
    gateway: GatewayClient,
) -> None:
    async with raw_server(answer_then_close_on_the_next_request, say(OK)) as url:
        first = await gateway.post(url, b"a=1")
        second = await gateway.post(url, b"a=2")

    assert first == Answered(200, b'{"code":"1001"}')
    assert second == Answered(200, b'{"code":"1001"}', resent=True)


async def test_a_stale_connection_is_replaced_by_a_new_one_since_all_that_are_kept_may_be_stale(
    client: Client,
) -> None:
    both = asyncio.Barrier(2)

    async def answer_together_then_close_on_the_next_request(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await read_request(reader)
        await both.wait()
        writer.write(OK)
        with contextlib.suppress(asyncio.IncompleteReadError):
            await read_request(reader)

    stale = answer_together_then_close_on_the_next_request
    async with raw_server(stale, stale, say(OK)) as url, client() as gateway:
        await asyncio.gather(gateway.post(url, b"a=1"), gateway.post(url, b"a=2"))
        end = await gateway.post(url, b"a=3")

    assert end == Answered(200, GRANT, resent=True)


async def test_a_408_on_a_kept_connection_was_said_before_the_request_came(client: Client) -> None:
    """It is how some servers say that they waited too long for one (RFC 9110, 15.5.9)."""
    timed_out = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    async def answer_then_be_impatient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say(OK)(reader, writer)
        await say(timed_out)(reader, writer)

    async with raw_server(answer_then_be_impatient, say(OK)) as url, client() as gateway:
        await gateway.post(url, b"a=1")
        assert await gateway.post(url, b"a=2") == Answered(200, GRANT, resent=True)
    async with raw_server(say(timed_out)) as url, client() as gateway:
        assert await gateway.post(url, b"a=1") == Answered(408, b"")


async def test_a_kept_connection_that_closes_long_after_the_request_was_not_stale(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has worked on the request; to send it again at once would be a second one beside it."""
    monkeypatch.setattr("consumer.gateway.common.STALE_SECONDS", 0.1)

    async def answer_then_work_in_vain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say(OK)(reader, writer)
        await read_request(reader)
        await asyncio.sleep(0.4)

    async with raw_server(answer_then_work_in_vain) as url, client(total_seconds=10) as gateway:
        await gateway.post(url, b"a=1")
        end = await gateway.post(url, b"a=2")

    assert isinstance(end, NoAnswer)
    assert end.error.startswith("reset: ")


async def test_a_stale_connection_is_replaced_only_once(gateway: GatewayClient) -> None:
    async with raw_server(answer_then_close_on_the_next_request, say(b"")) as url:
        await gateway.post(url, b"a=1")
        end = await gateway.post(url, b"a=2")

    assert isinstance(end, NoAnswer)


async def test_a_new_connection_that_closes_is_not_replaced(gateway: GatewayClient) -> None:
    async with raw_server(say(b"")) as url:
        assert isinstance(await gateway.post(url, b"a=1"), NoAnswer)


@pytest.mark.parametrize("abort", [False, True], ids=["closed", "reset"])
async def test_a_kept_connection_whose_reply_broke_off_is_not_replaced(
    gateway: GatewayClient, abort: bool
) -> None:
    connections = 0

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await say(OK)(reader, writer)
        await say(OK[:-5])(reader, writer)
        await asyncio.sleep(0.02)  # the head of the reply is read by now
        if abort:
            wire.reset(writer.transport)
        writer.close()

    async with serving(break_off, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/event"
        await gateway.post(url, b"a=1")
        end = await gateway.post(url, b"a=2")

    assert isinstance(end, NoAnswer)
    assert connections == 1


async def test_when_the_replacement_finds_nobody_the_first_sending_is_still_in_doubt(
    gateway: GatewayClient,
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


async def test_a_gateway_that_is_not_open_says_so(client: Client) -> None:
    with pytest.raises(RuntimeError, match="use `async with`"):
        await client().post("http://127.0.0.1/", b"")


# -- Replies of unusual shape -----------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_an_answer_and_what_was_signed_goes_nowhere_else(
    gateway: GatewayClient, status: int
) -> None:
    elsewhere: list[bytes] = []

    async def eavesdrop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        elsewhere.append(await reader.read(100))

    server = await asyncio.start_server(eavesdrop, "127.0.0.1", 0)
    location = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/login".encode()
    head = b"HTTP/1.1 %d Moved\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % (status, location)
    async with server, raw_server(say(head)) as url:
        end = await gateway.post(url, b"sign=X")
        await asyncio.sleep(0.05)

    assert end == Answered(status, b"")
    assert elsewhere == []


@pytest.mark.parametrize(
    "reply",
    [
        wire.chunked(GRANT),
        wire.INTERIM + OK,
        b'HTTP/1.0 200 OK\r\n\r\n{"code":"1001"}',
        b'HTTP/1.1 200\r\nContent-Length: 15\r\n\r\n{"code":"1001"}',
    ],
    ids=["chunks and trailers", "interim 100 and 103", "until it closes", "no reason phrase"],
)
async def test_a_reply_in_any_lawful_shape_is_read(gateway: GatewayClient, reply: bytes) -> None:
    async with raw_server(say(reply)) as url:
        assert await gateway.post(url, b"a=1") == Answered(200, b'{"code":"1001"}')


@pytest.mark.parametrize("status", [0, 50, 99, 600, 999])
async def test_a_status_of_no_class_that_there_is_is_an_answer(gateway: GatewayClient, status: int) -> None:
    """What it means is for the reply table (RFC 9110, 15)."""
    reply = OK.replace(b"200 OK", b"%03d Else" % status)

    async with raw_server(say(reply)) as url:
        assert await gateway.post(url, b"a=1") == Answered(status, GRANT)


@pytest.mark.parametrize("status", [b"000", b"050", b"099"])
@pytest.mark.parametrize("padding", [b"", b"x" * 2000], ids=["short", "longer than any reply"])
async def test_a_status_below_100_is_no_interim_reply_and_what_follows_it_no_other(
    gateway: GatewayClient, status: bytes, padding: bytes
) -> None:
    async with raw_server(say(b"HTTP/1.1 %b Else\r\n\r\n%b%b" % (status, OK, padding)), say(OK)) as url:
        first = await gateway.post(url, b"a=1")
        second = await gateway.post(url, b"a=2")

    assert isinstance(first, Answered)
    assert first.status == int(status)
    assert second == Answered(200, GRANT)


@pytest.mark.parametrize("status", [b"20", b"2000", b"-20", b"2x0"])
async def test_a_status_that_is_not_of_three_digits_is_no_answer(
    gateway: GatewayClient, status: bytes
) -> None:
    async with raw_server(say(OK.replace(b"200", status))) as url:
        end = await gateway.post(url, b"a=1")

    assert isinstance(end, NoAnswer)
    assert end.error.startswith("reset: ")


async def test_a_change_to_another_protocol_is_no_answer(gateway: GatewayClient) -> None:
    """Nobody asked for one."""
    switch = b"HTTP/1.1 101 Else\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    async with raw_server(say(switch), say(OK)) as url:
        first = await gateway.post(url, b"a=1")
        second = await gateway.post(url, b"a=2")

    assert isinstance(first, NoAnswer)
    assert first.error.startswith("reset: ")
    assert second == Answered(200, GRANT)


SHAPES = {
    "length": wire.reply(GRANT),
    "chunks and trailers": wire.chunked(GRANT).replace(b"X-Late", b"Retry-After"),
    "interim": wire.INTERIM + OK,
    "retry": b"HTTP/1.1 503 Busy\r\nX-Empty:\r\nRetry-After:  7 \r\nContent-Length: 4\r\n\r\nwait",
    "gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b"
    % (len(gzip.compress(GRANT, mtime=0)), gzip.compress(GRANT, mtime=0)),
    "no body": b"HTTP/1.1 204 None\r\nDate: Sun, 01 Mar 2026 12:00:00 GMT\r\n\r\n",
}


@pytest.mark.parametrize("reply", SHAPES.values(), ids=SHAPES)
async def test_wherever_a_reply_is_cut_in_two_on_its_way_it_is_the_same_reply(
    client: Client, reply: bytes
) -> None:
    async def in_two(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for cut in range(len(reply)):
            await read_request(reader)
            writer.write(reply[:cut])
            await asyncio.sleep(0.001)
            writer.write(reply[cut:])

    async with raw_server(in_two) as url, client() as gateway:
        ends = [await gateway.post(url, b"a=1") for _ in reply]

    expected = {"retry": Answered(503, b"wait", "7"), "no body": Answered(204, b"")}
    name = next(name for name, shape in SHAPES.items() if shape == reply)
    assert set(ends) == {expected.get(name, Answered(200, GRANT))}


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_comes_for_a_reply_the_next_call_gets_its_own(client: Client, seed: int) -> None:
    """Replies that lost, doubled, changed and gained bytes; then the server answers, or closes."""
    chosen = random.Random(seed)

    def spoilt() -> bytes:
        reply = bytearray(b"".join(chosen.choices(list(SHAPES.values()), k=chosen.choice([1, 1, 1, 2]))))
        for _ in range(chosen.choice([1, 1, 2, 5])):
            at, width = chosen.randrange(len(reply) + 1), chosen.choice([1, 1, 2, 4, 16, 64])
            part = bytes(reply[at : at + width])
            reply[at : at + width] = chosen.choice(
                [b"", part * 2, chosen.randbytes(width), part + b"\r\n", part.swapcase(), b"0" * width]
            )
            reply = reply or bytearray(b"\0")
        return bytes(reply)

    async def spoil_then_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            patience = None
            while True:
                async with asyncio.timeout(patience):
                    first = await read_request(reader) == b"first"
                writer.write(spoilt() if first else OK)
                patience = 0.02
        writer.close()

    async with serving(spoil_then_answer, "127.0.0.1", 0) as server, client() as gateway:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/event"
        for _ in range(150):
            spoilt_end = await gateway.post(url, b"first")
            assert isinstance(spoilt_end, Answered | NoAnswer), spoilt_end
            end = await gateway.post(url, b"second")
            assert isinstance(end, Answered), (spoilt_end, end)
            assert (end.status, end.body) == (200, GRANT), (spoilt_end, end)


@pytest.mark.parametrize(
    ("reply", "part"),
    [(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 50_000), (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 8000)],
    ids=["one header", "many headers"],
)
async def test_a_head_without_end_is_no_answer_and_is_not_read_for_ever(
    client: Client, reply: bytes, part: bytes
) -> None:
    sent = 0

    async def go_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(reply)
        with contextlib.suppress(ConnectionError):
            while sent < 50_000_000:
                writer.write(part)
                sent += len(part)
                await writer.drain()

    async with raw_server(go_on) as url, client(total_seconds=20) as gateway:
        end = await gateway.post(url, b"a=1")

    assert isinstance(end, NoAnswer)
    assert end.error.startswith("reset: ")
    assert sent < 50_000_000


async def test_a_packed_reply_that_cannot_be_unpacked_is_no_answer(gateway: GatewayClient) -> None:
    packed = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nwhat"
    async with raw_server(say(packed)) as url:
        assert isinstance(await gateway.post(url, b"a=1"), NoAnswer)


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_an_answer_that_comes_before_the_request_is_out_is_heard(client: Client) -> None:
    """What of the request has not gone out by then would be in the way of the next one."""
    too_large = wire.reply(b"no").replace(b"200 OK", b"413 Too Large")

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(too_large)
        await asyncio.sleep(0.2)

    async with raw_server(refuse, say(OK)) as url, client() as gateway:
        first = await gateway.post(url, b"x" * 20_000_000)
        second = await gateway.post(url, b"a=2")

    assert first == Answered(413, b"no")
    assert second == Answered(200, GRANT)


async def test_more_body_than_its_length_says_is_never_taken_for_the_next_reply(
    gateway: GatewayClient,
) -> None:
    async def too_much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say(OK + wire.reply(b'{"code":"WRONG"}'))(reader, writer)
        await reader.read()

    async with raw_server(too_much, say(OK)) as url:
        first = await gateway.post(url, b"a=1")
        await asyncio.sleep(0.05)
        second = await gateway.post(url, b"a=2")

    assert first == Answered(200, b'{"code":"1001"}') or isinstance(first, NoAnswer)
    assert second == Answered(200, b'{"code":"1001"}')


async def test_a_reply_that_comes_too_late_is_never_taken_for_anothers(client: Client) -> None:
    late = asyncio.Event()

    async def answer_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await late.wait()
        writer.write(OK.replace(b"1001", b"LATE"))

    async with client(total_seconds=0.3) as gateway, raw_server(answer_late, say(OK)) as url:
        first = await gateway.post(url, b"a=1")
        late.set()
        second = await gateway.post(url, b"a=2")

    assert first == NoAnswer("timeout")
    assert second == Answered(200, b'{"code":"1001"}')


# -- What is asked, and where ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("", "/"),
        ("/a/b?x=1&y=%2B", "/a/b?x=1&y=%2B"),
        ("/停车 1?场=2", "/%E5%81%9C%E8%BD%A6%201?%E5%9C%BA=2"),
        ("?x", "/?x"),
    ],
)
async def test_the_request_names_path_query_and_host(client: Client, path: str, asked: str) -> None:
    heads: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heads.append(head)
        await reader.readexactly(3)
        writer.write(OK)

    async with raw_server(listen) as url, client() as gateway:
        server = url.removesuffix("/event")
        assert isinstance(await gateway.post(server + path, b"a=1"), Answered)

    assert heads[0].startswith(f"POST {asked} HTTP/1.1\r\n".encode())
    assert f"\r\nHost: {server.removeprefix('http://')}\r\n".encode() in heads[0]


async def test_an_address_of_ipv6_is_called_by_its_number(client: Client) -> None:
    heads: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)
        writer.close()

    try:
        server = await asyncio.start_server(listen, "::1", 0)
    except OSError:
        pytest.skip("no IPv6 here")
    port = server.sockets[0].getsockname()[1]
    async with server, client() as gateway:
        assert isinstance(await gateway.post(f"http://[::1]:{port}/event", b""), Answered)

    assert f"\r\nHost: [::1]:{port}\r\n".encode() in heads[0]


async def test_the_addresses_of_a_name_are_tried_in_turn(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first refuses, as that of IPv6 does where nobody listens on it."""
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *more, **named: [
            found
            for address in (["127.0.0.2", "127.0.0.1"] if host == "platform.example" else [host])
            for found in look_up(address, *more, **named)
        ],
    )
    async with raw_server(say(OK)) as url, client() as gateway:
        named = url.replace("127.0.0.1", "platform.example")
        assert await gateway.post(named, b"a=1") == Answered(200, GRANT)


async def test_a_name_server_that_is_silent_takes_one_thread_however_many_calls_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other threads read files and secrets meanwhile."""
    look_up, answers, asked = socket.getaddrinfo, threading.Event(), 0

    def slowly(host: str, *more: Any, **named: Any) -> Any:
        nonlocal asked
        asked += 1
        answers.wait(10)
        return look_up("127.0.0.1", *more, **named)

    async with raw_server(say(OK)) as url, HttpGateway(Options(connect_seconds=0.1)) as gateway:
        monkeypatch.setattr(socket, "getaddrinfo", slowly)
        named = url.replace("127.0.0.1", "platform.example")
        calls = []
        for _ in range(20):
            calls.append(asyncio.create_task(gateway.post(named, b"a=1")))
            await asyncio.sleep(0.03)
        assert {type(end) for end in await asyncio.gather(*calls)} == {NotSent}
        assert asked == 1
        answers.set()
        await asyncio.sleep(0.05)
        assert await gateway.post(named, b"a=1") == Answered(200, GRANT)


# -- Time ---------------------------------------------------------------------------------------------


async def test_a_reply_that_trickles_in_is_bounded_by_the_time_of_the_whole_call(client: Client) -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say(wire.reply(b"", length=1000))(reader, writer)
        while not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.02)

    async with client(read_seconds=5, total_seconds=0.3) as gateway, raw_server(trickle) as url:
        assert await gateway.post(url, b"a=1") == NoAnswer("timeout")


async def test_silence_is_bounded_by_itself_however_long_a_call_may_take(client: Client) -> None:
    async with client(read_seconds=0.1, total_seconds=60) as gateway, raw_server(never_answer) as url:
        async with asyncio.timeout(5):
            assert await gateway.post(url, b"a=1") == NoAnswer("timeout")


@pytest.mark.parametrize("how", ["silence", "cancelled"])
async def test_the_connection_of_a_call_that_was_given_up_is_closed(client: Client, how: str) -> None:
    begun, closed = asyncio.Event(), asyncio.Event()

    async def until_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        begun.set()
        await reader.read()
        closed.set()

    # Silence begins with the request; a whole call's time may be over before there is a connection.
    async with (
        client(read_seconds=0.3 if how == "silence" else None, total_seconds=60) as gateway,
        raw_server(until_closed) as url,
    ):
        call = asyncio.create_task(gateway.post(url, b"a=1"))
        await begun.wait()
        if how == "cancelled":
            call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        async with asyncio.timeout(5):
            await closed.wait()


async def test_a_call_that_has_ended_is_cancelled_without_harm_to_the_next_one_on_its_connection(
    client: Client,
) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say(OK)(reader, writer)
        await read_request(reader)
        begun.set()
        await cancelled.wait()
        writer.write(OK)

    async with client() as gateway, raw_server(talk) as url:
        first, second = Waiting(), Waiting()
        call = gateway.start(url, b"a=1", first)
        assert isinstance(await first.end, Answered)
        gateway.start(url, b"a=2", second)
        await begun.wait()
        call.cancel()
        cancelled.set()
        assert isinstance(await second.end, Answered)


async def test_a_kept_connection_whose_other_end_is_gone_without_a_word_is_a_timeout(client: Client) -> None:
    """Nobody knows whether the request arrived: it is not sent again."""

    async def answer_once_and_vanish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say(OK)(reader, writer)
        await reader.read()

    async with client(total_seconds=0.3) as gateway, raw_server(answer_once_and_vanish) as url:
        await gateway.post(url, b"a=1")
        assert await gateway.post(url, b"a=2") == NoAnswer("timeout")


@pytest.mark.parametrize("kept", [False, True], ids=["new connection", "kept connection"])
async def test_calls_under_way_end_when_the_gateway_is_left(client: Client, kept: bool) -> None:
    begun, closed = asyncio.Event(), asyncio.Event()

    async def until_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if kept:
            await say(OK)(reader, writer)
        await read_request(reader)
        begun.set()
        await reader.read()
        closed.set()

    async with raw_server(until_closed) as url:
        async with client() as gateway:
            if kept:
                await gateway.post(url, b"a=1")
            call = asyncio.create_task(gateway.post(url, b"a=2"))
            await begun.wait()
        async with asyncio.timeout(5):
            assert isinstance(await call, NoAnswer)
            await closed.wait()


async def test_a_call_that_finds_no_connection_before_the_gateway_is_left_was_not_sent() -> None:
    with unaccepting() as url:
        async with HttpGateway(Options(connect_seconds=60, total_seconds=60)) as gateway:
            call = asyncio.create_task(gateway.post(url, b"a=1"))
            await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            assert isinstance(await call, NotSent)


async def test_connections_that_are_of_no_use_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.gateway.http1.IDLE_SECONDS", 0.05)
    async with raw_server(answer_on) as url, HttpGateway() as gateway:
        await gateway.post(url, b"a=1")
        (connection,) = gateway.connections
        async with asyncio.timeout(5):
            await connection.lost


# -- Connections grow old -------------------------------------------------------------------------


async def answer_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every request of the connection until the other end closes it."""
    try:
        while True:
            await say(OK)(reader, writer)
    except asyncio.IncompleteReadError:
        return


async def test_a_connection_is_kept_for_the_next_call_and_given_up_at_its_age(client: Client) -> None:
    async with client(lifetime_seconds=0.3) as gateway, raw_server(answer_on, answer_on) as url:
        for _ in range(3):
            assert await gateway.post(url, b"a=1") == Answered(200, b'{"code":"1001"}')
        await asyncio.sleep(0.35)
        assert await gateway.post(url, b"a=1") == Answered(200, b'{"code":"1001"}')


async def test_a_call_under_way_ends_on_its_connection_however_old_it_is(client: Client) -> None:
    go = asyncio.Event()

    async def answer_when_told(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await go.wait()
        writer.write(OK)
        await writer.drain()

    async with client(lifetime_seconds=0.1) as gateway, raw_server(answer_when_told, answer_on) as url:
        old = asyncio.create_task(gateway.post(url, b"a=1"))
        await asyncio.sleep(0.15)
        assert await gateway.post(url, b"a=2") == Answered(200, b'{"code":"1001"}')
        go.set()
        assert await old == Answered(200, b'{"code":"1001"}')


async def test_a_server_that_gives_connections_up_as_it_likes_costs_no_call(client: Client) -> None:
    """It closes those that were idle for a moment after a call, and each after three calls."""
    connections = 0

    async def fickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            patience = None  # where not even the first request is waited for, there is no call that it would not cost
            for _ in range(3):
                async with asyncio.timeout(patience):
                    await say(OK)(reader, writer)
                patience = 0.05
        writer.close()

    async with serving(fickle, "127.0.0.1", 0) as server, client() as gateway:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/event"
        for pause in (0.0, 0.0, 0.0, 0.0, 0.049, 0.05, 0.051, 0.1) * 3:
            end = await gateway.post(url, b"a=1")
            assert isinstance(end, Answered)
            assert end.status == 200
            await asyncio.sleep(pause)

    assert connections >= 9


@pytest.mark.parametrize("old", ["closed", "503"])
async def test_a_name_that_moved_is_followed_when_the_connections_are_given_up(
    client: Client, monkeypatch: pytest.MonkeyPatch, old: str
) -> None:
    address, look_up = ["127.0.0.1"], socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *more, **named: look_up(
            address[0] if host == "platform.example" else host, *more, **named
        ),
    )
    at_the_old = [OK]

    async def answer_old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while at_the_old:
                await say(at_the_old[0])(reader, writer)
        writer.close()

    there = await asyncio.start_server(answer_old, "127.0.0.1", 0)
    port = there.sockets[0].getsockname()[1]
    async with (
        there,
        serving(answer_quietly, "127.0.0.2", port),
        client(lifetime_seconds=0.3, connect_seconds=1) as gateway,
    ):
        url = f"http://platform.example:{port}/event"
        assert await gateway.post(url, b"a=1") == Answered(200, GRANT)

        address[0] = "127.0.0.2"
        at_the_old[0] = OK.replace(b"200 OK", b"503 Away")
        if old == "closed":
            there.close()
            at_the_old.clear()
        await asyncio.sleep(0.35)

        assert await gateway.post(url, b"a=2") == Answered(200, GRANT)


# -- TLS and a proxy ---------------------------------------------------------------------------------


@asynccontextmanager
async def tls_server(
    folder: Path,
    authority: Authority,
    *hosts: str,
    name: str = "server",
    days: int = 30,
    asks: Path | None = None,
) -> AsyncIterator[str]:
    """On localhost; `asks` is the CA of the clients that it lets in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(name, *hosts, days=days))
    if asks is not None:
        context.load_verify_locations(asks)
        context.verify_mode = ssl.CERT_REQUIRED
    async with serving(answer_quietly, "127.0.0.1", 0, ssl=context) as server:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}/event"


async def answer_quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await answer_on(reader, writer)
    except OSError:
        pass
    finally:
        writer.close()


async def test_a_platform_under_our_own_ca_is_called_and_one_under_another_is_not(
    client: Client, tmp_path: Path
) -> None:
    ours, other = Authority(tmp_path, "ours"), Authority(tmp_path, "other")
    async with client(tls=lambda: certificates.context(ours.ca)) as gateway:
        async with tls_server(tmp_path, ours, "localhost") as url:
            assert isinstance(await gateway.post(url, b"a=1"), Answered)
        async with tls_server(tmp_path, other, "localhost") as url:
            assert isinstance(await gateway.post(url, b"a=1"), NotSent)


@pytest.mark.parametrize(
    ("host", "days"), [("elsewhere.example", 30), ("localhost", -1)], ids=["name", "expired"]
)
async def test_a_certificate_for_another_name_or_time_is_refused_before_anything_is_sent(
    client: Client, tmp_path: Path, host: str, days: int
) -> None:
    ours = Authority(tmp_path, "ours")
    async with (
        client(tls=lambda: certificates.context(ours.ca)) as gateway,
        tls_server(tmp_path, ours, host, days=days) as url,
    ):
        end = await gateway.post(url, b"a=1")

    assert isinstance(end, NotSent)
    assert "Certificate" in end.error


async def test_a_platform_that_wants_our_certificate_gets_it(client: Client, tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours")
    certificate, key = ours.issue("us")
    async with tls_server(tmp_path, ours, "localhost", asks=ours.ca) as url:
        async with client(tls=lambda: certificates.context(ours.ca, certificate, key)) as gateway:
            assert isinstance(await gateway.post(url, b"a=1"), Answered)
        async with client(tls=lambda: certificates.context(ours.ca)) as gateway:
            assert not isinstance(await gateway.post(url, b"a=1"), Answered)


@pytest.mark.parametrize("name", CLIENTS)
async def test_settings_name_the_certificates_and_the_secret_that_opens_their_key(
    name: Literal["builtin", "aiohttp"], tmp_path: Path
) -> None:
    ours = Authority(tmp_path, "ours")
    certificate, key = ours.issue("us", password="p4ssw0rd")
    only_ca = GatewaySettings(client=name, ca_file=ours.ca)
    settings = only_ca.model_copy(
        update={"certificate_file": certificate, "key_file": key, "key_password": "key_password"}
    )
    async with tls_server(tmp_path, ours, "localhost", asks=ours.ca) as url:
        async with gateway_of(settings, {"key_password": "p4ssw0rd"}.__getitem__) as gateway:
            assert isinstance(gateway, CLIENTS[name])
            assert isinstance(await gateway.post(url, b"a=1"), Answered)
        async with gateway_of(only_ca, str) as gateway:
            assert not isinstance(await gateway.post(url, b"a=1"), Answered)


async def test_certificates_are_read_again_when_a_connection_is_given_up(
    client: Client, tmp_path: Path
) -> None:
    """While the files are half written, the ones before are kept."""
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    trusted = tmp_path / "ca.pem"
    trusted.write_bytes(old.ca.read_bytes())
    told: list[str | None] = []
    async with client(
        lifetime_seconds=0.1, tls=lambda: certificates.context(trusted), on_tls=told.append
    ) as gateway:
        async with tls_server(tmp_path, old, "localhost") as url:
            trusted.write_text("half a fi", "utf-8")
            await asyncio.sleep(0.15)
            assert isinstance(await gateway.post(url, b"a=1"), Answered)
            assert told[-1] is not None
            assert "holds no certificate in PEM form" in told[-1]
        trusted.write_bytes(new.ca.read_bytes())
        await asyncio.sleep(0.15)
        async with tls_server(tmp_path, new, "localhost") as url:
            assert isinstance(await gateway.post(url, b"a=1"), Answered)
            assert told[-1] is None


async def test_a_handshake_that_fails_does_not_wait_for_the_connections_to_grow_old(
    client: Client, tmp_path: Path
) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    trusted = tmp_path / "ca.pem"
    trusted.write_bytes(old.ca.read_bytes())
    async with (
        client(
            lifetime_seconds=600, retire_seconds=0.1, tls=lambda: certificates.context(trusted)
        ) as gateway,
        tls_server(tmp_path, new, "localhost") as url,
    ):
        assert isinstance(await gateway.post(url, b"a=1"), NotSent)
        trusted.write_bytes(new.ca.read_bytes())
        await asyncio.sleep(0.15)
        assert isinstance(await gateway.post(url, b"a=1"), Answered)


@pytest.mark.parametrize("name", CLIENTS)
async def test_a_proxy_is_asked_for_the_platform_with_its_credentials(
    name: Literal["builtin", "aiohttp"],
) -> None:
    heads: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heads.append(head)
        await reader.readexactly(3)
        writer.write(OK)
        await writer.drain()

    async with raw_server(proxy) as url:
        settings = GatewaySettings(client=name, proxy=url.removesuffix("/event"), proxy_credentials="proxy")
        async with gateway_of(settings, {"proxy": "us:a word"}.__getitem__) as gateway:
            end = await gateway.post("http://platform.example/gate", b"a=1")

    assert end == Answered(200, b'{"code":"1001"}')
    assert heads[0].startswith(b"POST http://platform.example/gate HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic dXM6YSB3b3Jk" in heads[0]


async def test_other_certificates_and_credentials_count_from_the_next_call_on(
    client: Client, tmp_path: Path
) -> None:
    """Calls under way end on their connections; no call meets both."""
    ours = Authority(tmp_path, "ours")
    old, new = ours.issue("old"), ours.issue("new")
    chosen = [old]
    seen: list[str] = []
    begun, go = asyncio.Event(), asyncio.Event()

    async def who_is_it(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        subject = dict(pair for (pair,) in writer.get_extra_info("peercert")["subject"])
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                body = await read_request(reader)
                seen.append(f"{body.decode()} {subject['commonName']}")
                if body == b"slow":
                    begun.set()
                    await go.wait()
                writer.write(OK)
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*ours.issue("server", "localhost"))
    context.load_verify_locations(ours.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    async with (
        serving(who_is_it, "127.0.0.1", 0, ssl=context) as server,
        client(tls=lambda: certificates.context(ours.ca, *chosen[0])) as gateway,
    ):
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}/event"
        slow = asyncio.create_task(gateway.post(url, b"slow"))
        await begun.wait()
        chosen[0] = new
        await gateway.post(url, b"before")
        gateway.renew()
        await gateway.post(url, b"after")
        go.set()

        assert isinstance(await slow, Answered)

    assert seen == ["slow old", "before old", "after new"]


async def test_what_a_proxy_refuses_to_lead_on_was_certainly_not_sent() -> None:
    heads: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    credentials = ["us:old"]
    async with (
        raw_server(proxy, proxy) as url,
        AiohttpGateway(proxy=url.removesuffix("/event"), proxy_credentials=lambda: credentials[0]) as gateway,
    ):
        first = await gateway.post("https://platform.example/gate", b"a=1")
        credentials[0] = "us:new"
        gateway.renew()
        await gateway.post("https://platform.example/gate", b"a=1")

    assert isinstance(first, NotSent)
    assert b"Proxy-Authorization: Basic dXM6b2xk" in heads[0]
    assert b"Proxy-Authorization: Basic dXM6bmV3" in heads[1]
