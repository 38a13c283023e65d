"""What taking events in costs, from a fetch's answer to their commit: `python -m tests.bench.intake`.

CPU microseconds an event, on uvloop as the service, the best of several rounds in turn. aiokafka's fetcher and intake are
the real ones; what a broker would answer is at hand, each delivery awaits once, and a ledger that writes nothing commits
each 300 records. With `stuck` the first record of each partition never ends, so that all the others are done beyond it.
"""

import argparse
import asyncio
import gc
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import structlog
import uvloop
from aiokafka.consumer import fetcher
from aiokafka.protocol.fetch import FetchResponse_v4
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from prometheus_client import CollectorRegistry

from consumer.core.events import Coordinates, Record
from consumer.core.offsets import Tracker, encode_map
from consumer.core.outcomes import Outcome, Resolution
from consumer.core.values import Memo
from consumer.decoding import AsDecoded
from consumer.delivery import Delivery, UnderWay
from consumer.intake import Bounds, Intake
from consumer.ledger import EndedRecord, Ledger
from consumer.link import CommittedOffset, GroupConsumer, Membership, TopicPartition
from consumer.metrics import Metrics
from tests.bench.pipeline import Load

TOPIC = "charging-completed"
AT = 1_795_608_000_000
FLUSH = 300
"""Records that a ledger commits at once."""

BEGAN_AT = datetime(2026, 11, 25, 12, tzinfo=UTC)
GRANTED = Resolution(Record(Coordinates(TOPIC, 0, 0), AT, None, b""), 0, Outcome.GRANTED, datetime.now(UTC))
_PARTITIONS = Memo[tuple[str, int], TopicPartition](lambda place: TopicPartition(*place), 4096)


class Broker:
    """aiokafka's client, and behind it the logs of a topic's partitions, each with as many events.

    `batch`: records that a producer sent at once.
    """

    def __init__(self, load: Load, batch: int = 100) -> None:
        self._batch = batch
        self.cluster = self
        self._loop = asyncio.get_running_loop()
        self._metadata_max_age_ms = 300_000
        self.each = load.events // load.partitions
        self.batches = [
            [_batch(load, at, first, min(batch, self.each - first)) for first in range(0, self.each, batch)]
            for at in range(load.partitions)
        ]

    def leader_for_partition(self, _partition: TopicPartition) -> int:
        return 0

    async def send(self, _node: int, request: Any) -> Any:
        """Without its bytes' way through a socket."""
        found: list[tuple[int, int, int, int, list[Any], bytes]] = [
            (partition, 0, self.each, self.each, [], self._bytes(partition, offset, most))
            for _, partitions in request.topics
            for partition, offset, most in partitions
        ]
        if not any(each[-1] for each in found):
            await asyncio.sleep(0.5)
        return FetchResponse_v4(0, [(TOPIC, found)])

    def _bytes(self, partition: int, offset: int, most: int) -> bytes:
        batches = self.batches[partition]
        first = offset // self._batch
        return b"".join(batches[first : first + max(1, most // len(batches[0]))])

    async def close(self) -> None: ...


def _batch(load: Load, partition: int, first: int, count: int) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    for at in range(count):
        _, key, value = load.event((first + at) * load.partitions + partition)
        builder.append(at, AT, key, value, [])
    batch = builder.build()
    batch[:8] = first.to_bytes(8, "big")  # the broker's, and not in the checksum
    return bytes(batch)


class Consumer(GroupConsumer):
    """Without a group: all partitions are its own."""

    def __init__(self, broker: Broker, partitions: Sequence[TopicPartition]) -> None:
        super().__init__(group_id=None, enable_auto_commit=False)
        self._client = broker
        self._end = broker.each
        self._subscription.assign_from_user(partitions)
        self._fetcher = fetcher.Fetcher(
            broker, self._subscription, isolation_level="read_committed", key_deserializer=self._decoded
        )
        self._coordinator = self

    def check_errors(self) -> None: ...

    def membership(self) -> Membership:
        return Membership("bench", 1, "member")

    async def beginning_offsets(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        return dict.fromkeys(partitions, self._end)

    async def epoch_ends(
        self, epochs: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, tuple[int, int]]:
        return {}

    async def ended(self) -> None:
        await self._fetcher.close()
        self._closed = True


class Link:
    """Nothing is to be fenced, and nothing was committed."""

    async def topic_ids(self, topics: Iterable[str]) -> Mapping[str, str]:
        return dict.fromkeys(topics, "an id")

    async def fence(self, ids: Iterable[str], _deadline: float) -> Mapping[str, tuple[int, int]]:
        return dict.fromkeys(ids, (1, 0))

    async def read_offsets(
        self, partitions: Iterable[TopicPartition], _deadline: float
    ) -> Mapping[TopicPartition, CommittedOffset]:
        return dict.fromkeys(partitions, CommittedOffset(0, ""))


class Deliverer:
    """Each record is granted in the next turn of the loop."""

    def __init__(self, *, stuck: bool) -> None:
        self._stuck = stuck
        self._ends = [GRANTED]
        self.under_way: set[UnderWay] = set()

    def begin(self, records: Sequence[Record], ended: Callable[[Sequence[UnderWay]], None]) -> None:
        going = []
        for record in records:
            whole = UnderWay(record, cast("Delivery", self), ended, BEGAN_AT, [], self._ends)
            if not (self._stuck and record.coordinates.offset == 0):
                going.append(whole)
        asyncio.get_running_loop().call_soon(self._end, going)

    def _end(self, going: Sequence[UnderWay]) -> None:
        if going:
            going[0].ended(going)
        self._after_turn()

    def after_turns(self, call: Callable[[], None]) -> None:
        self._after_turn = call

    def abandon(self, _whole: UnderWay) -> list[asyncio.Task[None]]:
        return []

    def wind_down(self) -> None: ...

    def resume(self) -> None: ...

    async def quiet(self) -> None: ...


class Commits:
    """A ledger that only marks records done, and writes the maps of offsets."""

    trouble, stuck, doubtful = None, False, False

    def __init__(
        self,
        trackers: Mapping[TopicPartition, Tracker],
        on_committed: Callable[[Sequence[EndedRecord]], None],
        until: int,
    ) -> None:
        self.opened = asyncio.Event()
        self.opened.set()
        self.over = asyncio.Event()
        self._trackers, self._on_committed, self._until = trackers, on_committed, until
        self._pending: list[EndedRecord] = []
        self._work = asyncio.Event()
        self._count = 0

    async def run(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            pending, self._pending = self._pending, []
            moved = set()
            for done in pending:
                self._trackers[done.partition].finish_all([done.record.coordinates.offset])
                moved.add(done.partition)
            for partition in moved:
                tracker = self._trackers[partition]
                encode_map("a-cluster", tracker.frontier, tracker.done(), clean=False)
            self._on_committed(pending)

    def add(self, record: Record, resolutions: Sequence[Resolution]) -> None:
        self._pending.append(EndedRecord(record, _PARTITIONS[record.coordinates[:2]], resolutions))
        self._count += 1
        if len(self._pending) >= FLUSH or self._count >= self._until:
            self._work.set()
        if self._count == self._until:
            self.over.set()

    def touch(self, _partition: TopicPartition) -> None: ...

    def full(self, _partition: TopicPartition) -> bool:
        return False

    def map_bytes(self, _partition: TopicPartition) -> int:
        return 0

    def close(self) -> None: ...


async def decode(load: Load, batch: int = 100) -> float:
    """aiokafka's part alone: the bytes of a fetch -> its records."""
    broker = Broker(load, batch)
    fetched = [(TopicPartition(TOPIC, at), broker._bytes(at, 0, 1 << 30)) for at in range(load.partitions)]
    began = time.process_time()
    for tp, data in fetched:
        records = fetcher.MemoryRecords(data)
        for _ in fetcher.PartitionRecords(
            tp, records, [], 0, AsDecoded(), None, True, fetcher.READ_COMMITTED
        ):
            pass
    return time.process_time() - began


async def take_in(load: Load, *, stuck: bool = False) -> float:
    """All of it."""
    partitions = [TopicPartition(TOPIC, at) for at in range(load.partitions)]
    broker = Broker(load)
    consumer = Consumer(broker, partitions)
    ledgers: list[Commits] = []

    def ledger(_member: Any, _producers: Any, trackers: Any, on_committed: Any) -> Ledger:
        ledgers.append(
            Commits(trackers, on_committed, broker.each * load.partitions - stuck * load.partitions)
        )
        return cast("Ledger", ledgers[0])

    intake = Intake(
        consumer=consumer,
        link=Link(),
        group="bench",
        cluster_id="a-cluster",
        start_from="earliest",
        delivery=Deliverer(stuck=stuck),
        make_ledger=ledger,
        pause_reason=lambda: None,
        supplied=lambda: False,
        bounds=Bounds(drain=0.1),
        metrics=Metrics(CollectorRegistry()),
    )
    for tp in partitions:
        consumer.seek(tp, 0)
    running = asyncio.create_task(intake.run())
    await intake.on_partitions_assigned(partitions)
    while not intake.partitions:  # noqa: ASYNC110  # it sets no event
        await asyncio.sleep(0)
    began = time.process_time()
    await ledgers[0].over.wait()
    spent = time.process_time() - began
    intake.stop()
    await asyncio.gather(running, return_exceptions=True)
    await consumer.ended()
    return spent


async def track(load: Load, order: Callable[[int], Iterator[int]]) -> float:
    """Offsets taken, and done in some order, with a commit after each 300."""
    tracker = Tracker(0)
    began = time.process_time()
    for offset in range(load.events):
        tracker.take(offset)
    for number, offset in enumerate(order(load.events)):
        tracker.finish_all([offset])
        if number % FLUSH == 0:
            encode_map("a-cluster", tracker.frontier, tracker.done(), clean=False)
    return time.process_time() - began


def in_order(count: int) -> Iterator[int]:
    yield from range(count)


def behind_a_stuck_one(count: int) -> Iterator[int]:
    yield from range(1, count)
    yield 0


def in_pairs_turned(count: int) -> Iterator[int]:
    """As calls end that are under way at once: each 64 backwards."""
    for first in range(0, count, 64):
        yield from reversed(range(first, min(first + 64, count)))


def every_other(count: int) -> Iterator[int]:
    """The worst for a map: as many ranges as can be, up to what a commit can say."""
    for first in range(0, count, 18_000):
        yield from range(first + 1, min(first + 18_000, count), 2)
        yield from range(first, min(first + 18_000, count), 2)


STAGES: dict[str, Callable[[Load], Awaitable[float]]] = {
    "decode what was fetched": decode,
    "decode batches of one": lambda load: decode(load, 1),
    "fetch, take in, commit": take_in,
    "the same, stuck": lambda load: take_in(load, stuck=True),
    "track in order": lambda load: track(load, in_order),
    "track behind a stuck one": lambda load: track(load, behind_a_stuck_one),
    "track out of order": lambda load: track(load, in_pairs_turned),
    "track every other": lambda load: track(load, every_other),
}


async def measure(loads: Sequence[Load], rounds: int, only: str | None) -> None:
    stages = {name: stage for name, stage in STAGES.items() if only is None or only in name}
    best = {(name, load): float("inf") for name in stages for load in loads}
    for _ in range(rounds):
        for (name, load), before in best.items():
            gc.collect()
            best[name, load] = min(before, await stages[name](load) / load.events * 1e6)
    print(f"{'us an event':>28}" + "".join(f"{load.partitions:>6} partitions" for load in loads))
    for name in stages:
        print(f"{name:>28}" + "".join(f"{best[name, load]:>17.2f}" for load in loads))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=19_200)
    parser.add_argument("--partitions", type=int, nargs="+", default=[4, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="stages whose name holds this")
    chosen = parser.parse_args()
    loads = [Load(events=chosen.events, partitions=each) for each in chosen.partitions]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    uvloop.run(measure(loads, chosen.rounds, chosen.only))


if __name__ == "__main__":
    main()
