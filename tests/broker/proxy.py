"""Stands between clients and a broker: an older Kafka, a bad network, or an ambush at one request. Opens a port."""

import asyncio
import contextlib
import random
import struct
from collections.abc import Callable, Mapping
from enum import Enum
from types import TracebackType
from typing import Self

PRODUCE, OFFSET_COMMIT, API_VERSIONS = 0, 8, 18
ADD_PARTITIONS, ADD_OFFSETS, END_TRANSACTION, COMMIT_OFFSETS = 24, 25, 26, 28
"""API keys."""

KAFKA_2_4: Mapping[int, int | None] = {0: 8, 1: 11, 3: 8, 8: 7, 9: 6, 22: 1, 28: 2}
"""The highest versions that it speaks, by API key."""

WITHOUT_TRANSACTIONS: Mapping[int, int | None] = {22: None, 24: None, 25: None, 26: None, 28: None}
"""None: it does not know the request."""


class Proxy:
    """Bootstrap servers of the same broker. What goes through is for subclasses to change.

    Every frame goes on as it came, but for the broker's address: else clients would go past us.
    """

    def __init__(self, broker: str) -> None:
        self.host, port = broker.split(":")
        self.port = int(port)
        self.own_port = 0
        self.connections = 0
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def servers(self) -> str:
        return f"{self.host}:{self.own_port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self.host, 0)
        self.own_port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        await asyncio.sleep(0.01)  # whoever was accepted a moment ago is served by now
        self.cut()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection."""
        for task in self._serving:
            task.cancel()

    # For subclasses. They may wait, and raise ConnectionError to reset the connection.

    async def on_request(self, connection: int, key: int) -> None:
        """A request has come, and has not gone on."""

    async def on_reply(self, connection: int, key: int, frame: bytes) -> bytes:
        """What goes on instead of this reply."""
        return frame

    async def after_reply(self, key: int) -> None:
        """A reply has gone on."""

    async def send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    # One connection.

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        self.connections += 1
        number = self.connections
        asked: dict[int, int] = {}
        ends, ways = [writer], []
        try:
            there_reader, there_writer = await asyncio.open_connection(self.host, self.port)
            ends.append(there_writer)
            ways = [
                asyncio.ensure_future(self._requests(number, reader, there_writer, asked)),
                asyncio.ensure_future(self._replies(number, there_reader, writer, asked)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except (asyncio.CancelledError, OSError):
            writer.transport.abort()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in ends:
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    async def _requests(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: dict[int, int]
    ) -> None:
        while True:
            frame = await _frame(reader)
            key, _, correlation = struct.unpack_from(">hhi", frame)
            asked[correlation] = key
            await self.on_request(number, key)
            await self.send(writer, _framed(frame))

    async def _replies(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: dict[int, int]
    ) -> None:
        while True:
            frame = await _frame(reader)
            (correlation,) = struct.unpack_from(">i", frame)
            key = asked.pop(correlation, -1)
            frame = await self.on_reply(number, key, frame)
            await self.send(
                writer, _framed(frame.replace(self._address(self.port), self._address(self.own_port)))
            )
            await self.after_reply(key)

    def _address(self, port: int) -> bytes:
        return struct.pack(">h", len(self.host)) + self.host.encode() + struct.pack(">i", port)


class Older(Proxy):
    """The broker speaks no more than `highest`."""

    def __init__(self, broker: str, highest: Mapping[int, int | None]) -> None:
        super().__init__(broker)
        self.highest = highest

    async def on_reply(self, connection: int, key: int, frame: bytes) -> bytes:
        if key != API_VERSIONS:
            return frame
        # ApiVersions v0: correlation, error, array of (key, min, max).
        (count,) = struct.unpack_from(">i", frame, 6)
        rows = [struct.unpack_from(">hhh", frame, 10 + 6 * number) for number in range(count)]
        limited = [(key, least, self.highest.get(key, most)) for key, least, most in rows]
        kept = [
            struct.pack(">hhh", key, least, min(most, limit))
            for (key, least, most), (_, _, limit) in zip(rows, limited, strict=True)
            if limit is not None
        ]
        return frame[:6] + struct.pack(">i", len(kept)) + b"".join(kept)


class Network(Proxy):
    """A bad one; how bad, may change at any time.

    Attributes:
        delay: seconds that each reply takes more.
        delays: the same for single API keys.
        pieces: everything goes in pieces of at most so many bytes; 0: whole.
    """

    def __init__(self, broker: str) -> None:
        super().__init__(broker)
        self.delay = 0.0
        self.delays: dict[int, float] = {}
        self.pieces = 0
        self._random = random.Random(1)
        self._silent_up_to = 0
        self._silent = False

    def fall_silent(self) -> None:
        """Nothing goes through any more, and nobody is told."""
        self._silent = True

    def recover(self) -> None:
        """New connections work. Those from before are half-open: they stay silent for ever."""
        self._silent_up_to, self._silent = self.connections, False

    async def on_request(self, connection: int, key: int) -> None:
        await self._unless_silent(connection)

    async def on_reply(self, connection: int, key: int, frame: bytes) -> bytes:
        await asyncio.sleep(self.delay + self.delays.get(key, 0.0))
        await self._unless_silent(connection)
        return frame

    async def _unless_silent(self, connection: int) -> None:
        if self._silent or connection <= self._silent_up_to:
            await asyncio.Event().wait()

    async def send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        while self.pieces and data:
            size = self._random.randint(1, self.pieces)
            await super().send(writer, data[:size])
            await asyncio.sleep(0)
            data = data[size:]
        await super().send(writer, data)


class At(Enum):
    """Where in the life of a request."""

    ARRIVAL = "it never reaches the broker"
    REPLY = "it is done, and its reply is lost"
    AFTER = "its reply has been heard"


class Ambush(Proxy):
    """Once armed, it strikes at a request of a kind, once. Nothing goes further then."""

    def __init__(self, broker: str, key: int, at: At) -> None:
        super().__init__(broker)
        self.key, self.at = key, at
        self.struck = asyncio.Event()
        self._strike: Callable[[], None] | None = None

    def arm(self, strike: Callable[[], None]) -> None:
        """`strike` is called at the next one."""
        self._strike = strike

    async def on_request(self, connection: int, key: int) -> None:
        await self._met(key, At.ARRIVAL)

    async def on_reply(self, connection: int, key: int, frame: bytes) -> bytes:
        await self._met(key, At.REPLY)
        return frame

    async def after_reply(self, key: int) -> None:
        await self._met(key, At.AFTER)

    async def _met(self, key: int, at: At) -> None:
        if self._strike is not None and (key, at) == (self.key, self.at):
            self._strike()
            self._strike = None
            self.struck.set()
        if self.struck.is_set():
            await asyncio.Event().wait()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)


def _framed(frame: bytes) -> bytes:
    return struct.pack(">i", len(frame)) + frame
