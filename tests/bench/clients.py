"""What one call costs each client of the platform, in CPU microseconds: `python -m tests.bench.clients`.

The clients take turns against the same cheap server in another process, 256 calls under way; what is told is
each one's median, and the median of its ratios to the first in the same round. On two cores, uvloop:

    builtin      12.5 us   1.00 x
    aiohttp     177.0 us  13.49 x
    pyreqwest    31.9 us   2.54 x    0.15, with all its threads
    pycurl       42.0 us   3.23 x    7.49, CurlMulti on the loop's readers

The last two were measured and not taken. A request that a kept connection lost is sent again, and its outcome says so:
pyreqwest does not tell which connections were kept, and libcurl sends again of its own accord and in silence.
"""

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import cast

import uvloop
from httptools import HttpRequestParser

from consumer.core.replies import Answered
from consumer.gateway import GatewayClient, HttpGateway, Options
from consumer.gateway.with_aiohttp import AiohttpGateway
from consumer.sandbox import wire

OPTIONS = Options(connect_seconds=3, read_seconds=8, total_seconds=10)
CLIENTS: Mapping[str, Callable[[], GatewayClient]] = {
    "builtin": lambda: HttpGateway(OPTIONS),
    "aiohttp": lambda: AiohttpGateway(OPTIONS),
}
IN_FLIGHT, CALLS, ROUNDS = 256, 10_000, 7
FORM = b"&".join(
    [b"plate=%E7%B2%A4B12345&subject=" + b"%E5%85%85" * 20, b"sign=" + b"0" * 32, b"x=" + b"y" * 300]
)
REPLY = wire.reply(
    b'{"code":"1001","message":"ok","seqno":"0123456789abcdef","payload":{"grant_serial":"%b"}}' % (b"0" * 32)
).replace(
    b"\r\n", b"\r\nServer: nginx\r\nDate: Sun, 01 Mar 2026 12:00:00 GMT\r\nConnection: keep-alive\r\n", 1
)


class Server(asyncio.Protocol):
    """Says the same to whatever comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._parser = HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._transport.write(REPLY)


async def serve() -> None:
    """Until killed; says its port first."""
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def measure(make: Callable[[], GatewayClient], url: str) -> float:
    """CPU microseconds of this process for each call, of all its threads."""
    async with make() as client:

        async def work(calls: int) -> None:
            for _ in range(calls):
                end = await client.post(url, FORM)
                assert isinstance(end, Answered), end
                assert end.status == 200, end

        async def all_at_once(calls: int) -> None:
            await asyncio.gather(*(work(calls // IN_FLIGHT) for _ in range(IN_FLIGHT)))

        await all_at_once(2 * IN_FLIGHT)
        began = time.process_time()
        await all_at_once(CALLS)
        return (time.process_time() - began) / (CALLS // IN_FLIGHT * IN_FLIGHT) * 1e6


def main(clients: Mapping[str, Callable[[], GatewayClient]] = CLIENTS) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--serve", action="store_true", help="be the server")
    if parser.parse_args().serve:
        uvloop.run(serve())
        return
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.clients", "--serve"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/gate/1.0/parking/mcoupon/event"
        took: dict[str, list[float]] = {name: [] for name in clients}
        for _ in range(ROUNDS):
            for name, make in clients.items():
                took[name].append(uvloop.run(measure(make, url)))
    finally:
        server.kill()
        server.wait()
    first = next(iter(took.values()))
    for name, each in took.items():
        ratio = median(mine / base for mine, base in zip(each, first, strict=True))
        print(f"{name:>12}  {median(each):6.1f} us  {ratio:5.2f} x")


if __name__ == "__main__":
    main()
