"""A parking platform that costs next to nothing: `python -m tests.bench.platform --latency 0.02`, for `pipeline`.

It answers each request after the same time with a grant, verifies nothing, and watches what a client owes each
plate: one call at a time, in the order of the events. `GET /` tells what it has seen.
"""

import argparse
import asyncio
import json
import re
import sys
from collections import Counter
from typing import cast

import uvloop

EVENT_ID = re.compile(rb"(?:^|&)event_id=BENCH(\d+)P(\d+)(?:&|$)")
"""Number of the event, number of its plate."""

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
GRANT = (
    '{"code":"1001","message":"操作成功","hint":"","seqno":"S%014d","data_node":"node-1","time_cost":18,'
    '"payload":{"grant_serial":"G%014d"}}'
)


class Seen:
    """What came so far.

    Attributes:
        held: numbers of events that get no answer.

    """

    def __init__(self, latency: float, held: int) -> None:
        self.latency = latency
        self.held = held
        self.calls = self.answered = self.repeated = self.out_of_order = self.overlapping = 0
        self.in_flight = self.most_in_flight = 0
        self.newest: dict[int, int] = {}
        self.under_way: Counter[int] = Counter()
        self.events = bytearray()

    def begin(self, number: int, plate: int) -> None:
        """A call."""
        self.calls += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if number >= len(self.events):
            self.events.extend(bytes(max(number + 1 - len(self.events), 10_000)))
        self.repeated += self.events[number]
        self.events[number] = 1
        self.out_of_order += number < self.newest.get(plate, -1)
        self.newest[plate] = number
        self.overlapping += bool(self.under_way[plate])
        self.under_way[plate] += 1

    def end(self, plate: int) -> None:
        """Its answer."""
        self.answered += 1
        self.in_flight -= 1
        self.under_way[plate] -= 1

    def told(self) -> bytes:
        """As JSON."""
        names = ("calls", "answered", "repeated", "out_of_order", "overlapping", "most_in_flight")
        return json.dumps({name: getattr(self, name) for name in names}).encode()


class Connection(asyncio.Protocol):
    """One client's requests, one after the other."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (head := self._data.find(b"\r\n\r\n") + 4) > 3:
            length = LENGTH.search(self._data, 0, head)
            end = head + (int(length[1]) if length else 0)
            if len(self._data) < end:
                return
            begin, body, self._data = self._data[:5], self._data[head:end], self._data[end:]
            if begin == b"GET /":
                self._reply(self._seen.told())
            else:
                self._take(body)

    def _take(self, body: bytes) -> None:
        found = EVENT_ID.search(body)
        assert found is not None, body
        number, plate = int(found[1]), int(found[2])
        self._seen.begin(number, plate)
        if number >= self._seen.held:
            asyncio.get_running_loop().call_later(self._seen.latency, self._grant, number, plate)

    def _grant(self, number: int, plate: int) -> None:
        self._seen.end(plate)
        if not self._transport.is_closing():
            self._reply((GRANT % (number, number)).encode())

    def _reply(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self._transport.write(head + body)


async def serve(latency: float, held: int) -> None:
    """Until standard input ends: so it goes with whoever started it."""
    seen, loop = Seen(latency, held), asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(seen), "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latency", type=float, default=0.02, help="seconds from request to answer")
    parser.add_argument("--held", type=int, default=0, help="the first so many events get no answer")
    chosen = parser.parse_args()
    uvloop.run(serve(chosen.latency, chosen.held))


if __name__ == "__main__":
    main()
