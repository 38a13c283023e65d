"""Members under an endless backlog against a platform of hidden capacity, in virtual time. No I/O.

Delivery and flow are the service's own; what is made up is the platform, and the records that intake would bring.
"""

import asyncio
import heapq
import random
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import CollectorRegistry

from consumer.core.coupons import CouponRequest
from consumer.core.events import Coordinates, Order, Record
from consumer.core.outcomes import Finding, Resolution
from consumer.core.replies import Answered, AttemptEnd, NoAnswer, ReplyTable
from consumer.core.retries import RetryPolicy
from consumer.delivery import Delivery
from consumer.flow import Flow
from consumer.metrics import Metrics
from consumer.sandbox.gateway import DEMO_APP_ID, DEMO_APP_SECRET, Workers
from tests.deliveries import Started, deliver
from tests.simulation.virtual import VirtualLoop

GRANTED = Answered(200, b'{"code":"1001"}')
UNAVAILABLE = Answered(503, b'{"code":"503"}')
FORM = {"app_id": DEMO_APP_ID, "api_store_code": "S1", "api_type": "5", "subject": "充电"}
BEGIN = datetime(2026, 11, 25, 12, tzinfo=UTC)


def run(main: Callable[[], Any]) -> Any:
    """A coroutine function in virtual time -> what it returns."""
    loop = VirtualLoop(most_steps=200_000_000)
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


@dataclass
class Calls:
    """Calls to a platform that works on `capacity` of them at once, and nobody knows of how many.

    Attributes:
        seconds: mean time that it works on one, which varies by `spread`.
        begun: when each call was made.
        ended: when each of them ended, what it took, and whether it was granted.
        in_flight, most_in_flight: by its own count.

    """

    capacity: int | None = None
    seconds: float = 0.1
    spread: Callable[[random.Random], float] = lambda rng: rng.uniform(0.4, 1.6)
    begun: list[float] = field(default_factory=list)
    ended: list[tuple[float, float, bool]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0

    def __post_init__(self) -> None:
        self._rng = random.Random(1)

    async def post(self, url: str, body: bytes) -> AttemptEnd:
        """As `gateway.Gateway`."""
        now = asyncio.get_running_loop().time
        began = now()
        self.begun.append(began)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            end = await self._answer(url, body)
            self.ended.append((now(), now() - began, isinstance(end, Answered) and end.status == 200))
            return end
        finally:
            self.in_flight -= 1

    async def _answer(self, url: str, body: bytes) -> AttemptEnd:
        raise NotImplementedError

    def calls(self, begin: float, end: float) -> int:
        """Calls that reached it in a span of time."""
        return bisect_left(self.begun, end) - bisect_left(self.begun, begin)

    def used(self, begin: float, end: float) -> float:
        """Share of its capacity that was used."""
        assert self.capacity is not None
        granted = sum(1 for at, _, good in self.ended if good and begin <= at < end)
        return granted * self.seconds / (end - begin) / self.capacity

    def p99(self, begin: float, end: float) -> float:
        """In terms of the p99 of the same platform with nothing else to do."""
        took = sorted(seconds for at, seconds, _ in self.ended if begin <= at < end)
        alone = sorted(self.seconds * self.spread(self._rng) for _ in range(10_000))
        return took[int(0.99 * len(took))] / alone[int(0.99 * len(alone))]

    def failed(self, begin: float, end: float) -> float:
        """Share of calls that failed."""
        ends = [good for at, _, good in self.ended if begin <= at < end]
        return ends.count(False) / len(ends)


@dataclass
class Platform(Calls):
    """In this process, in whatever time there is.

    Attributes:
        away: how its calls end while it is away; None while it is not.

    """

    away: AttemptEnd | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._workers = Workers(lambda: self.capacity)

    async def _answer(self, url: str, body: bytes) -> AttemptEnd:
        away = self.away
        if away is None:
            await self._workers.work(self.seconds * self.spread(self._rng))
            return GRANTED
        await asyncio.sleep(2.0 if isinstance(away, NoAnswer) else 0.005)
        return away


@dataclass
class Apart(Calls):
    """In a process of its own: its replies are there in time, whatever holds ours up.

    Attributes:
        cpu_seconds: that each call costs our process, half of them before it is sent, half after its reply was read.

    """

    cpu_seconds: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._free_at = [0.0] * (self.capacity or 0)

    async def _answer(self, url: str, body: bytes) -> AttemptEnd:
        loop = asyncio.get_running_loop()
        spend(self.cpu_seconds / 2)
        begins = max(loop.time(), heapq.heappop(self._free_at)) if self.capacity else loop.time()
        ends = begins + self.seconds * self.spread(self._rng)
        if self.capacity:
            heapq.heappush(self._free_at, ends)
        await asyncio.sleep(ends - loop.time())
        spend(self.cpu_seconds / 2)
        return GRANTED


def spend(seconds: float) -> None:
    """Our process works for so long, or waits for a core, and does nothing else."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), "in virtual time"
    loop.spend(seconds)


@dataclass(frozen=True)
class Account:
    """Of the rules."""

    secret: str = "secret"
    url: str | None = None
    rate: float | None = None
    max_in_flight: int | None = None


@dataclass
class OneOrder:
    """Rules by which each record holds one order, of the plate and event_id that its value is."""

    hash: str = "hash"
    accounts: Mapping[str, Account] = field(default_factory=lambda: {"main": Account()})
    replies: ReplyTable = field(default_factory=ReplyTable.defaults)

    def read(self, record: Record, now: datetime) -> tuple[Order | Finding, ...]:
        """Its order."""
        name = (record.value or b"").decode()
        return (Order(0, "s", name, name, name, {}),)

    def read_all(self, records: Sequence[Record], now: datetime) -> list[tuple[Order | Finding, ...]]:
        """Theirs."""
        return [self.read(record, now) for record in records]

    def plan(self, order: Order) -> CouponRequest | Finding:
        """A request."""
        return CouponRequest(
            "main", "rule", None, FORM | {"event_id": order.event_id, "plate": order.plate}, {}, shadow=False
        )

    def deadline(self, order: Order, record: Record, label: str) -> datetime | None:
        """None."""
        return None

    def terms(self, account: str, rule: str) -> object:
        """They never change."""
        return None


class Member:
    """Takes records in as intake does: while there is room, and no reason to pause.

    Attributes:
        held: records taken in, that have not ended.
        ends: how many ended, by outcome, or `later` where they go to a retry topic.
        paused: seconds that it paused, by reason.

    """

    def __init__(
        self,
        gateway: Any,
        *,
        name: str = "m",
        url: str = "http://platform.example/",
        max_in_flight: int = 256,
        room: int = 1000,
        delays: tuple[float, ...] = (60.0, 300.0),
        **flow: Any,
    ) -> None:
        loop, rules = asyncio.get_running_loop(), OneOrder()
        self.metrics = Metrics(CollectorRegistry())
        self.flow = Flow(
            max_in_flight=max_in_flight,
            accounts={"main": Account()},
            metrics=self.metrics,
            sets_aside=bool(delays),
            monotonic=loop.time,
            wall=loop.time,
            **flow,
        )
        self.held = self.most_held = 0
        self.ends: Counter[str] = Counter()
        self.paused: defaultdict[str, float] = defaultdict(float)
        self._name = name
        self._room = room
        self._free = asyncio.Event()
        self._delivery = Delivery(
            rules=lambda: rules,
            flow=self.flow,
            gateway=Started(gateway),
            secrets={"secret": DEMO_APP_SECRET},
            policy=RetryPolicy(delays=delays),
            url=url,
            metrics=self.metrics,
            clock=lambda: BEGIN + timedelta(seconds=loop.time()),
            monotonic=loop.time,
            random=random.Random(1).random,
        )

    @property
    def limit(self) -> int:
        """The limit that was found out."""
        return int(
            self.metrics.registry.get_sample_value("coupon_concurrency_limit", {"account": "main"}) or 0
        )

    async def work(self) -> None:
        """Until it is cancelled."""
        tasks: set[asyncio.Task[None]] = set()
        number = 0
        try:
            while True:
                reason = self.flow.pause_reason
                if reason:
                    self.paused[reason] += 0.05
                    await asyncio.sleep(0.05)
                    continue
                while self.held < self._room:
                    number += 1
                    self.held += 1
                    tasks.add(task := asyncio.create_task(self._deliver(number)))
                    task.add_done_callback(tasks.discard)
                self.most_held = max(self.most_held, self.held)
                self._free.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await self._free.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _deliver(self, number: int) -> None:
        name = f"{self._name}{number}"
        record = Record(Coordinates("charges", 0, number), 0, None, name.encode(), ())
        (end,) = await deliver(self._delivery, record)
        self.ends[_word(end)] += 1
        self.held -= 1
        self._free.set()

    def count(self, name: str) -> float:
        """A metric's sum over its labels."""
        return sum(
            sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name
        )


def _word(end: Resolution) -> str:
    return "later" if end.later is not None else str(end.outcome)
