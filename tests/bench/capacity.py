"""How well the limit of calls at once is found out, compared with other ways: `python -m tests.bench.capacity`.

In virtual time, with the service's delivery and flow, against a platform of hidden capacity;
`--sockets` once more over HTTP, where the machine's speed counts. Prints ratios.

Beside ours: Gradient2, Vegas and AIMD as in Netflix' concurrency-limits (its defaults, a window
for each answer), and the fixed cap that one would guess, four times the capacity.

At the end, processes that are late by themselves: who works without a pause, or gets no core, must not take that for
a queue at the platform. Beside each the same without a limit but the permits.
"""

import argparse
import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import log10
from typing import Any, Protocol

from consumer.core.limits import AdaptiveLimit, LimitPolicy
from consumer.core.replies import AttemptEnd
from consumer.gateway import GatewayClient, HttpGateway
from consumer.sandbox.gateway import SandboxGateway
from consumer.sandbox.scenarios import Phase, Scenario
from tests.bench.load import Apart, Calls, Member, Platform, run, spend

EVEN: Callable[[random.Random], float] = lambda rng: rng.uniform(0.4, 1.6)  # noqa: E731  # a table of spreads
SKEWED: Callable[[random.Random], float] = lambda rng: rng.lognormvariate(-0.32, 0.8)  # noqa: E731  # as above
LATENCY, SECONDS, WARM = 0.4, 50.0, 20.0


class Limit(Protocol):
    """What flow needs of `AdaptiveLimit`."""

    limit: int

    def ended(self, now: float, seconds: float, in_flight: int, *, failed: bool = False) -> None:
        """A call ended."""

    def all_ended(self, now: float, seconds: Sequence[float], in_flight: int) -> None:
        """Calls ended together, and did not fail."""
        for before, each in enumerate(seconds):
            self.ended(now, each, in_flight - before)


class Gradient2(Limit):
    """Least latency as a slow average of all latencies; the limit smoothed."""

    def __init__(self) -> None:
        self.limit = 20
        self._limit, self._long = 20.0, 0.0

    def ended(self, now: float, seconds: float, in_flight: int, *, failed: bool = False) -> None:
        """A call ended."""
        self._long = seconds if not self._long else self._long + (seconds - self._long) * 2 / 601
        if self._long / seconds > 2:
            self._long *= 0.95
        if in_flight < self._limit / 2:
            return
        gradient = max(0.5, min(1.0, 1.5 * self._long / seconds))
        self._limit = min(1000.0, max(1.0, self._limit * 0.8 + 0.2 * (self._limit * gradient + 4)))
        self.limit = int(self._limit)


class Vegas(Limit):
    """Keeps a few calls in the queue, as it reckons from the fastest answer."""

    def __init__(self) -> None:
        self.limit = 20
        self._least, self._calls = float("inf"), 0

    def ended(self, now: float, seconds: float, in_flight: int, *, failed: bool = False) -> None:
        """A call ended."""
        self._calls += 1
        if self._calls >= 30 * self.limit:
            self._calls, self._least = 0, seconds
        self._least = min(self._least, seconds)
        step = max(1, int(log10(self.limit)))
        queue = self.limit * (1 - self._least / seconds)
        if failed or queue > 6 * step:
            self.limit = max(1, self.limit - step)
        elif in_flight * 2 >= self.limit and queue < 3 * step:
            self.limit = min(1000, self.limit + step)


class Aimd(Limit):
    """One more for each good answer, a tenth less where one fails or takes longer than its timeout."""

    def __init__(self, timeout: float = 5.0) -> None:
        self.limit = 20
        self._timeout = timeout

    def ended(self, now: float, seconds: float, in_flight: int, *, failed: bool = False) -> None:
        """A call ended."""
        if failed or seconds > self._timeout:
            self.limit = max(1, int(self.limit * 0.9))
        elif in_flight * 2 >= self.limit:
            self.limit = min(1000, self.limit + 1)


WAYS: dict[str, Callable[[int], Limit | None]] = {
    "ours": lambda _: AdaptiveLimit(LimitPolicy(most=1000)),
    "Gradient2": lambda _: Gradient2(),
    "Vegas": lambda _: Vegas(),
    "AIMD, 5 s": lambda _: Aimd(),
    "fixed, 4 C": lambda _: None,
}


async def _steady(way: str, capacity: int, spread: Callable[[random.Random], float]) -> Calls:
    platform = Platform(capacity=capacity, seconds=LATENCY, spread=spread)
    member = Member(platform, max_in_flight=4 * capacity if way.startswith("fixed") else 1000, room=1500)
    member.flow._queues["main"].limit = WAYS[way](capacity)  # type: ignore[assignment]  # they stand in for ours
    await _work(member, SECONDS)
    return platform


CHANGES = ((0, 40), (40, 20), (80, 40), (120, 80), (160, 40))


async def _changing() -> list[tuple[int, int, int]]:
    platform = Platform(capacity=40, seconds=LATENCY)
    member = Member(platform, max_in_flight=1000)
    working = asyncio.create_task(member.work())
    seen = []
    for second in range(200):
        platform.capacity = [capacity for at, capacity in CHANGES if at <= second][-1]
        await asyncio.sleep(1)
        seen.append((second + 1, platform.capacity, member.limit))
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    return seen


def chart(seen: list[tuple[int, int, int]], *, every: int = 8, per_column: float = 2.0) -> Iterator[str]:
    """The limit as a bar for each few seconds, the capacity as a mark."""
    for begin in range(0, len(seen), every):
        second, capacity, _ = seen[begin]
        limit = sorted(limit for _, _, limit in seen[begin : begin + every])[every // 2]
        bar = list(f"{'━' * round(limit / per_column):<60}")
        bar[round(capacity / per_column) - 1] = "┃"
        yield f"{second - 1:4} s  {''.join(bar).rstrip()}  {limit}"


def settled(seen: list[tuple[int, int, int]]) -> Iterator[str]:
    """How long after each change the limit has stayed between 0.9 and 1.8 of the capacity for five seconds."""
    for (begin, capacity), (end, _) in zip(CHANGES, (*CHANGES[1:], (200, 0)), strict=True):
        good = [
            0.9 * capacity <= limit <= 1.8 * capacity for second, _, limit in seen if begin < second <= end
        ]
        within = next((n for n in range(len(good) - 5) if all(good[n : n + 5])), None)
        yield f"C = {capacity:3}: within {'-' if within is None else within + 1:>2} s"


# -- A process that is late ---------------------------------------------------------------------------

NARROW: Callable[[random.Random], float] = lambda rng: rng.uniform(0.9, 1.1)  # noqa: E731  # as above
PERMITS = 256


@dataclass(frozen=True)
class Late:
    """A platform, and what makes our process late.

    Attributes:
        words: for the table.
        capacity: of the platform; None for more than enough.
        seconds: that it takes for a call.
        cpu_seconds: that a call costs our process.
        stops: after how many seconds it gets no core, and for how many seconds then.
        measured: seconds.

    """

    words: str
    capacity: int | None
    seconds: float
    cpu_seconds: float
    stops: tuple[float, float] | None = None
    measured: float = 10.0


LATE = (
    Late("has no core half of the time, by turns of 10 ms", None, 0.02, 200e-6, (0.01, 0.01), 4.0),
    Late("has no core for 200 ms every second or so", None, 0.2, 200e-6, (1.0, 0.2)),
    Late("works without a pause, 1 ms for a call of 20 ms", None, 0.02, 1e-3),
    Late("works without a pause, 1 ms for a call of 200 ms", None, 0.2, 1e-3),
    Late("works half of the time; the platform takes 50", 50, 0.05, 500e-6),
    Late("has no core half of the time; the platform takes 50", 50, 0.05, 100e-6, (0.01, 0.01)),
)


async def beside_ourselves(late: Late, *, adaptive: bool, warm: float = 6.0) -> tuple[float, float]:
    """Calls a second, and what one takes, in terms of what the platform takes for it alone."""
    platform = Apart(late.capacity, late.seconds, NARROW, cpu_seconds=late.cpu_seconds)
    member = Member(platform, max_in_flight=PERMITS, adaptive=adaptive, room=2 * PERMITS)
    stopping = asyncio.create_task(_stop_now_and_then(*late.stops)) if late.stops else None
    await _work(member, warm + late.measured)
    if stopping is not None:
        stopping.cancel()
    took = [seconds for at, seconds, _ in platform.ended if at >= warm]
    return len(took) / late.measured, sum(took) / len(took) / late.seconds


async def _stop_now_and_then(every: float, seconds: float) -> None:
    rng = random.Random(1)
    while True:
        await asyncio.sleep(every * rng.uniform(0.5, 1.5))
        spend(seconds)


@dataclass
class OverSockets(Calls):
    """A platform that is called over HTTP."""

    gateway: GatewayClient | None = None

    async def _answer(self, url: str, body: bytes) -> AttemptEnd:
        assert self.gateway is not None
        return await self.gateway.post(url, body)


async def over_sockets(capacity: int, seconds: float, **member: Any) -> Calls:
    """So many seconds of calls to the sandbox, over HTTP, in real time."""
    phase = Phase("hidden", "hidden", 600.0, (LATENCY, LATENCY), jitter=0.6, capacity=capacity)
    async with (
        SandboxGateway(scenario=Scenario("hidden", "hidden", (phase,), 1)) as sandbox,
        HttpGateway() as gateway,
    ):
        calls = OverSockets(capacity=capacity, seconds=LATENCY, gateway=gateway)
        await _work(Member(calls, url=sandbox.url, **member), seconds)
    return calls


async def _work(member: Member, seconds: float) -> None:
    working = asyncio.create_task(member.work())
    await asyncio.sleep(seconds)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


def main() -> None:
    """Print it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sockets", action="store_true", help="over HTTP, in real time")
    if parser.parse_args().sockets:
        for words, options in (
            ("ours", {"max_in_flight": 1000}),
            ("fixed, 4 C", {"adaptive": False, "max_in_flight": 48}),
        ):
            clock = asyncio.Runner()
            with clock:
                began = clock.get_loop().time()
                calls = clock.run(over_sockets(12, 45.0, room=200, **options))
                print(_row(words, calls, began + 18, began + 45))
        return
    for capacity, words, spread in ((20, "even", EVEN), (50, "skewed", SKEWED)):
        print(f"C = {capacity}, latencies {words}")
        for way in WAYS:
            print(_row(way, run(partial(_steady, way, capacity, spread)), WARM, SECONDS), flush=True)
    seen = run(_changing)
    print("\nThe limit (bar) and the capacity (mark):")
    print("\n".join(chart(seen)))
    print("\n".join(settled(seen)))
    print("\nA process that")
    for late in LATE:
        calls, took = run(partial(beside_ourselves, late, adaptive=True))
        most, longest = run(partial(beside_ourselves, late, adaptive=False))
        print(
            f"  {late.words:<52} {calls / most:4.0%} of the calls without a limit, "
            f"each takes {took:4.2f} x alone (without {longest:4.2f})",
            flush=True,
        )


def _row(words: str, calls: Calls, begin: float, end: float) -> str:
    return (
        f"  {words:<11} {calls.used(begin, end):6.1%} of C used, p99 {calls.p99(begin, end):4.2f} x alone, "
        f"{calls.failed(begin, end):.1%} failed"
    )


if __name__ == "__main__":
    main()
