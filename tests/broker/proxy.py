"""Stands between clients and a broker, and makes the broker look older than it is. Opens a port."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

KAFKA_2_4: Mapping[int, int | None] = {0: 8, 1: 11, 3: 8, 8: 7, 9: 6, 22: 1, 28: 2}
"""The highest versions that it speaks, by API key."""

WITHOUT_TRANSACTIONS: Mapping[int, int | None] = {22: None, 24: None, 25: None, 26: None, 28: None}
"""None: it does not know the request."""

_API_VERSIONS = 18


@asynccontextmanager
async def older(broker: str, highest: Mapping[int, int | None]) -> AsyncIterator[str]:
    """Bootstrap servers of the same broker that speak no more than `highest`."""
    proxy = _Proxy(broker, highest)
    server = await asyncio.start_server(proxy.serve, proxy.host, 0)
    proxy.own_port = server.sockets[0].getsockname()[1]
    try:
        yield f"{proxy.host}:{proxy.own_port}"
    finally:
        server.close()
        for task in list(proxy.serving):
            task.cancel()
        await asyncio.gather(*proxy.serving, return_exceptions=True)


class _Proxy:
    def __init__(self, broker: str, highest: Mapping[int, int | None]) -> None:
        self.host, port = broker.split(":")
        self.port = int(port)
        self.own_port = 0
        self.highest = highest
        self.serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        task.add_done_callback(self.serving.discard)
        there_reader, there_writer = await asyncio.open_connection(self.host, self.port)
        asked: set[int] = set()
        requests = asyncio.ensure_future(self._requests(reader, there_writer, asked))
        replies = asyncio.ensure_future(self._replies(there_reader, writer, asked))
        try:
            await asyncio.wait([requests, replies], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in (requests, replies):
                one.cancel()
            await asyncio.gather(requests, replies, return_exceptions=True)
            for end in (writer, there_writer):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: set[int]
    ) -> None:
        while True:
            frame = await _frame(reader)
            key, _, correlation = struct.unpack_from(">hhi", frame)
            if key == _API_VERSIONS:
                asked.add(correlation)
            await _send(writer, frame)

    async def _replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: set[int]
    ) -> None:
        while True:
            frame = await _frame(reader)
            (correlation,) = struct.unpack_from(">i", frame)
            if correlation in asked:
                asked.discard(correlation)
                frame = self._older(frame)
            # The broker's own address, else clients would go past us.
            await _send(writer, frame.replace(self._address(self.port), self._address(self.own_port)))

    def _older(self, frame: bytes) -> bytes:
        """ApiVersions v0: correlation, error, array of (key, min, max)."""
        (count,) = struct.unpack_from(">i", frame, 6)
        rows = [struct.unpack_from(">hhh", frame, 10 + 6 * number) for number in range(count)]
        limited = [(key, least, self.highest.get(key, most)) for key, least, most in rows]
        kept = [
            struct.pack(">hhh", key, least, min(most, limit))
            for (key, least, most), (_, _, limit) in zip(rows, limited, strict=True)
            if limit is not None
        ]
        return frame[:6] + struct.pack(">i", len(kept)) + b"".join(kept)

    def _address(self, port: int) -> bytes:
        return struct.pack(">h", len(self.host)) + self.host.encode() + struct.pack(">i", port)


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)


async def _send(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(struct.pack(">i", len(frame)) + frame)
    await writer.drain()
