"""The sandbox's HTTP as clients meet that are not the service's own: what they write, byte for byte."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop

from consumer.sandbox.answers import Delivery
from consumer.sandbox.gateway import ENDPOINT, SandboxGateway
from consumer.sandbox.scenarios import Phase, Scenario

POST = (
    b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n" % ENDPOINT.encode()
)


def _form(plate: str, head: bytes = b"") -> bytes:
    body = f"plate={plate}".encode()
    return POST + head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


@asynccontextmanager
async def _connected(
    latency: float = 0.0,
) -> AsyncIterator[tuple[SandboxGateway, Callable[[bytes], None], asyncio.StreamReader]]:
    async with SandboxGateway(latency=latency) as gateway:
        host, port = gateway.base_url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        yield gateway, writer.write, reader
        writer.close()


async def _statuses(reader: asyncio.StreamReader, count: int) -> list[int]:
    """Of so many replies on one connection; their bodies are read."""
    statuses = []
    for _ in range(count):
        async with asyncio.timeout(5):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"Content-Length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
        statuses.append(int(head.split()[1]))
    return statuses


async def test_requests_on_one_connection_are_answered_in_turn_though_they_came_at_once() -> None:
    async with _connected(latency=0.05) as (gateway, write, reader):
        write(_form("粤B1") + _form("粤B2") + b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")

        assert await _statuses(reader, 3) == [400, 400, 404]
        assert [entry.plate for entry in gateway.journal.entries] == ["粤B1", "粤B2"]
        assert gateway.journal.max_in_flight == 1


async def test_thousands_of_requests_at_once_are_answered() -> None:
    async with _connected() as (_, write, reader):
        write(b"GET /x HTTP/1.1\r\n\r\n" * 5_000)

        assert set(await _statuses(reader, 5_000)) == {404}


async def test_a_request_that_comes_in_pieces_is_one() -> None:
    async with _connected() as (gateway, write, reader):
        for byte in _form("粤B1"):
            write(bytes([byte]))
            await asyncio.sleep(0)

        assert await _statuses(reader, 1) == [400]
        assert [entry.plate for entry in gateway.journal.entries] == ["粤B1"]


async def test_a_body_beyond_measure_is_refused_in_an_envelope_and_is_no_call() -> None:
    async with _connected() as (gateway, write, reader):
        write(_form("x" * 300_000) + _form("粤B1"))

        assert await _statuses(reader, 2) == [413, 400]
        assert gateway.journal.calls == 1


async def test_who_waits_for_a_word_before_his_body_is_told_to_go_on() -> None:
    async with _connected() as (_, write, reader):
        write(_form("粤B1", b"Expect: 100-continue\r\n"))

        assert await _statuses(reader, 2) == [100, 400]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", 200),
        (b"GET /journal HTTP/1.1\r\nConnection: close\r\n\r\n", 200),
        (b"EHLO example.org\r\n", 400),
    ],
)
async def test_a_client_that_wants_no_further_reply_or_speaks_no_http_is_answered_and_left(
    request_: bytes, status: int
) -> None:
    async with _connected() as (_, write, reader):
        write(request_)

        assert await _statuses(reader, 1) == [status]
        assert await reader.read() == b""


async def test_a_caller_who_hangs_up_has_been_granted_what_he_asked_for_all_the_same() -> None:
    async with SandboxGateway(latency=0.05) as gateway:
        host, port = gateway.base_url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(_form("粤B1"))
        await writer.drain()
        while not gateway.journal.calls:  # noqa: ASYNC110  # a test may poll
            await asyncio.sleep(0.001)
        writer.close()
        await asyncio.sleep(0.1)

        assert [entry.plate for entry in gateway.journal.entries] == ["粤B1"]


def test_what_is_written_before_a_reset_goes_out_on_either_event_loop() -> None:
    """One sends at once, the other at the end of its turn."""
    phase = Phase("wire", "", 60.0, (0.0, 0.0), deliveries={Delivery.RESET_DURING: 1.0})

    async def received() -> bytes:
        async with SandboxGateway(scenario=Scenario("wire", "", (phase,), events=1)) as gateway:
            host, port = gateway.base_url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(_form("粤B1"))
            heard = b""
            try:
                while part := await reader.read(100):
                    heard += part
            except ConnectionResetError:
                return heard
            finally:
                writer.close()
        raise AssertionError("closed in order")

    for loop in (asyncio.new_event_loop, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=loop) as runner:
            assert runner.run(received()).startswith(b"HTTP/1.1 200 OK\r\n")
