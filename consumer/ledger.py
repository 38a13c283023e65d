"""Resolutions and offsets -> one Kafka transaction a flush (or, at least once, outcomes and then offsets).

Does I/O through its writer. One ledger lives as long as one assignment of the group. A record's resolutions and its
done mark enter the same transaction; a record is marked done when it enters a batch, never
before, so that the map that is committed says exactly what the committed outcomes say.
"""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from typing import Protocol

import structlog
from msgspec import Struct
from msgspec.structs import replace
from prometheus_client import Gauge

from consumer.core.errors import BrokerUnavailableError, RefusedError
from consumer.core.events import Record, Wait
from consumer.core.offsets import FULL_MAP_BYTES, MAX_MAP_BYTES, OffsetMap, Tracker, decode_map, encode_map
from consumer.core.outcomes import (
    Later,
    Message,
    OutcomeContext,
    Resolution,
    encode_dead_letter,
    encode_outcome,
    encode_retry,
    reduced,
)
from consumer.core.values import Memo
from consumer.link import (
    TOO_LARGE,
    Ambiguous,
    Committed,
    CommittedOffset,
    Fenced,
    FlushResult,
    Outgoing,
    Retriable,
    TopicPartition,
    named,
)
from consumer.metrics import EndedOrder, Metrics

log = structlog.get_logger(__name__)

RECOVERY_SECONDS = 60.0
"""How long one try to settle an ambiguous commit may take before it is said aloud and tried again."""

STUCK_TIMES = 3
"""Tries after which intake should pause: what the platform grants meanwhile could not be written down."""

ENCODE_RECORDS = 200
"""Records encoded in one turn of the event loop, so that it stays short: 3 ms. Of a loop that is busy each turn is dear."""

LONGEST_PAUSE = 5.0
"""Seconds between tries while Kafka refuses a transaction or is away."""


class Writer(Protocol):
    """What the ledger needs of `transactions.TransactionWriter` or `publishing.PlainWriter`."""

    @property
    def doubtful(self) -> bool:
        """A late copy of a commit of offsets may still come, and only a new generation refuses it."""

    async def flush(
        self, offsets: Mapping[TopicPartition, CommittedOffset], records: Sequence[Outgoing]
    ) -> FlushResult:
        """One transaction."""

    async def recover(self, deadline: float) -> bool:
        """After an ambiguous one: True if the caller may read back and go on."""


ReadOffsets = Callable[[Iterable[TopicPartition], float], Awaitable[Mapping[TopicPartition, CommittedOffset]]]
"""`link.KafkaLink.read_offsets`."""


@dataclass(frozen=True, slots=True)
class FlushBounds:
    """When a flush is due.

    Attributes:
        interval: seconds from the first resolution that is not under way yet to its flush.
        records: done records that make a flush due at once.
    """

    interval: float = 0.1
    records: int = 200


@dataclass(frozen=True, slots=True)
class Encoder:
    """A resolution -> the records that are written for it.

    Attributes:
        message_bytes: the largest record that the topics take.
        retries: the retry topics, as `Later.topic` counts them.
    """

    outcomes: str
    dead_letters: str
    context: OutcomeContext
    message_bytes: int = 1_000_000
    retries: Sequence[str] = ()

    def encode(self, resolution: Resolution) -> list["Entry"]:
        """The outcome, and beside it the dead letter where there is one; or the retry."""
        if resolution.later is not None:
            return self._retry(resolution, resolution.later)
        outcome = encode_outcome(resolution, self.context, self.message_bytes)
        entries = [_entry(self.outcomes, outcome, resolution)]
        if resolution.dead_letter:
            letter = encode_dead_letter(resolution, self.context, self.message_bytes)
            entries.append(_entry(self.dead_letters, letter, resolution, tells=False))
        return entries

    def smaller(self, entry: "Entry") -> list["Entry"]:
        """What to write in the place of one that the broker finds too large; itself, where nothing is smaller."""
        resolution = entry.resolution
        if entry.tells and resolution.later is not None:
            return self._end(resolution)
        message = Message(entry.key, entry.value, entry.headers)
        less = reduced(message) if entry.tells else encode_dead_letter(resolution, self.context, 0)
        return (
            [_entry(entry.topic, less, resolution, tells=entry.tells)]
            if less.size < message.size
            else [entry]
        )

    def _retry(self, resolution: Resolution, later: Later) -> list["Entry"]:
        retry = encode_retry(resolution, later, self.context)
        if retry.size > self.message_bytes:
            return self._end(resolution)
        return [_entry(self.retries[later.topic], retry, resolution)]

    def _end(self, resolution: Resolution) -> list["Entry"]:
        """With our headers it is larger than a retry topic takes: it ends here, and can be replayed."""
        detail = "too large for a retry topic with the headers of a retry"
        return self.encode(replace(resolution, later=None, dead_letter=True, detail=detail))


class Entry(Outgoing, kw_only=True):
    """A record to be written for a resolution.

    Attributes:
        tells: of the resolution: an outcome, or a retry. A dead letter only goes along.
    """

    resolution: Resolution
    tells: bool = True


def _entry(topic: str, message: Message, resolution: Resolution, *, tells: bool = True) -> Entry:
    at = _MILLISECONDS[resolution.decided_at]
    key, value, headers = message.key, message.value, message.headers
    if tells:  # the default costs less than its name
        return Entry(topic, key, value, headers, at, resolution=resolution)
    return Entry(topic, key, value, headers, at, resolution=resolution, tells=False)


_MILLISECONDS = Memo[datetime, int](lambda at: int(at.timestamp() * 1000), 256)
"""Since the epoch. Orders that go on in one turn of the event loop are decided at one moment."""


class EndedRecord(Struct):
    """A record that ended, with all that is written for it."""

    record: Record
    partition: TopicPartition
    resolutions: Sequence[Resolution]
    entries: list[Entry] = []

    def replace(self, entry: Entry, others: Sequence[Entry]) -> None:
        """Write the others in its place."""
        at = next(index for index, own in enumerate(self.entries) if own is entry)
        self.entries[at : at + 1] = others


@dataclass(slots=True)
class _Tally:
    """What is counted of entries once they are committed; taken down while they are at hand.

    Attributes:
        orders: those that ended.
        ends: when they were charged, seconds since the epoch, of those that say so.
        waits: of the others: retry topic, for what they wait, the last reply's label.
    """

    orders: list[EndedOrder] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    waits: list[tuple[str, Wait, str]] = field(default_factory=list)

    def add(self, entries: Iterable[Entry]) -> None:
        """Of these, too."""
        for entry in entries:
            if not entry.tells:
                continue
            resolution = entry.resolution
            if resolution.later is not None:
                self.waits.append((entry.topic, resolution.later.wait, resolution.label))
                continue
            values, request, span = resolution.values, resolution.request, resolution.span
            self.orders.append(
                (
                    resolution.outcome,
                    resolution.reason,
                    resolution.label,
                    resolution.dead_letter,
                    resolution.account,
                    resolution.rule,
                    None if request is None else request.api_store_code,
                )
            )
            if span is not None:
                if span[1] is not None:
                    self.ends.append(span[1] / 1e6)
            elif values is not None and isinstance(at := values.get("ended_at"), datetime):
                self.ends.append(at.timestamp())


@dataclass(slots=True)
class _Batch:
    """What goes into one flush.

    Attributes:
        refused: times that it has not ended well.
        tally: of all its entries; None where they have changed since.
    """

    done: list[EndedRecord]
    offsets: dict[TopicPartition, CommittedOffset]
    refused: int = 0
    tally: _Tally | None = None

    def entries(self) -> list[Entry]:
        """In the order in which they are written."""
        return [entry for done in self.done for entry in done.entries]


class Ledger:
    """One assignment's transactions.

    Attributes:
        opened: set once the first transaction is committed: nothing may be delivered before.
        trouble: why the flush under way has not ended well yet, in words; None while flushes do.
        stuck: it has not ended well several times: nothing more should be taken in for it.
    """

    def __init__(
        self,
        *,
        writer: Writer,
        read_offsets: ReadOffsets,
        trackers: Mapping[TopicPartition, Tracker],
        encoder: Encoder,
        bounds: FlushBounds,
        metrics: Metrics,
        on_committed: Callable[[Sequence[EndedRecord]], None],
    ) -> None:
        self.opened = asyncio.Event()
        self.trouble: str | None = None
        self.stuck = False
        self._writer = writer
        self._read_offsets = read_offsets
        self._trackers = trackers
        self._encoder = encoder
        self._bounds = bounds
        self._metrics = metrics
        self._gauges_of = cache(partial(_gauges_of, metrics))
        self._on_committed = on_committed
        self._pending: list[EndedRecord] = []
        self._moved: set[TopicPartition] = set()
        self._map_bytes: dict[TopicPartition, int] = {}
        self._full_at: dict[TopicPartition, int] = {}
        self._work = asyncio.Event()
        self._work_since: float | None = None  # while there is none
        self._enough = asyncio.Event()
        self._closing = False

    def add(self, record: Record, resolutions: Sequence[Resolution]) -> None:
        """The record ended. Its resolutions and its offset go out with the next flush."""
        pending = self._pending
        pending.append(EndedRecord(record, _PARTITIONS[record.coordinates[:2]], resolutions))
        if self._work_since is None:
            self._begin_to_wait()
        if len(pending) == self._bounds.records:
            self._enough.set()

    def touch(self, partition: TopicPartition) -> None:
        """The partition's frontier moved without a record of its own to write (it was done already)."""
        self._moved.add(partition)
        if self._work_since is None:
            self._begin_to_wait()

    def _begin_to_wait(self) -> None:
        """Also while another flush is under way: what it takes is no reason to wait longer afterwards."""
        self._work_since = asyncio.get_running_loop().time()
        self._work.set()

    @property
    def pending(self) -> int:
        """Records that have ended and are in no transaction yet."""
        return len(self._pending)

    def map_bytes(self, partition: TopicPartition) -> int:
        """Size of the partition's offset map as it was last written."""
        return self._map_bytes.get(partition, 0)

    @property
    def doubtful(self) -> bool:
        """Whoever joins again after this assignment needs a new generation: see `Writer`."""
        return self._writer.doubtful

    def full(self, partition: TopicPartition) -> bool:
        """The partition's offset map is nearly full: it must take no new records."""
        return self.map_bytes(partition) >= FULL_MAP_BYTES

    async def run(self) -> str | None:
        """Write until closed (None), or until the assignment is lost: why.

        The first transaction commits every partition's start, and says that this owner is
        at work: from here on a map without `clean` tells the next owner what may have been sent.
        """
        self._moved.update(self._trackers)
        while True:
            closing = self._closing
            batch = self._collect(clean=False)
            lost = await self._flush(batch)
            if lost:
                return lost
            self.opened.set()
            if closing and not batch.done:
                return await self._flush(self._collect(clean=True))
            await self._due()

    def close(self) -> None:
        """Let `run` write what is pending, mark what ended cleanly, and return."""
        self._closing = True
        self._work.set()
        self._enough.set()

    async def _due(self) -> None:
        await self._work.wait()
        if not self._closing and len(self._pending) < self._bounds.records:
            assert self._work_since is not None, "there is work"
            try:
                async with asyncio.timeout_at(self._work_since + self._bounds.interval):
                    await self._enough.wait()
            except TimeoutError:
                pass
        if not self._closing:
            self._work.clear()
            self._work_since = None
            self._enough.clear()

    async def _flush(self, batch: _Batch) -> str | None:
        if not batch.offsets:
            return None
        await self._encode(batch)
        lost = await self._write(batch)
        if lost is None:
            self._committed(batch)
        return lost

    def _collect(self, *, clean: bool) -> _Batch:
        pending: list[EndedRecord] = []
        if not clean:  # the last one only says that all ended well: what came after the others is not in it
            pending, self._pending = self._pending, []
        moved, self._moved = self._moved, set()
        done = self._fitting_of(pending) if any(map(self.full, self._trackers)) else pending
        ended: defaultdict[TopicPartition, list[int]] = defaultdict(list)
        for item in done:
            ended[item.partition].append(item.record.coordinates.offset)
        for partition, offsets in ended.items():
            self._trackers[partition].finish_all(offsets)
        moved.update(ended)
        if clean:
            moved = {partition for partition, tracker in self._trackers.items() if tracker.clean}
        return _Batch(done, {partition: self._commit(partition, clean=clean) for partition in sorted(moved)})

    def _fitting_of(self, pending: Sequence[EndedRecord]) -> list[EndedRecord]:
        """The records of these that may go out now; while a partition's map is nearly full, its others go back to wait."""
        done: list[EndedRecord] = []
        crowded: defaultdict[TopicPartition, list[EndedRecord]] = defaultdict(list)
        for item in pending:
            (crowded[item.partition] if self.full(item.partition) else done).append(item)
        for partition, items in crowded.items():
            items.sort(key=lambda item: item.record.coordinates.offset)
            offsets = [item.record.coordinates.offset for item in items]
            fitting = self._fitting(partition, offsets)
            done += items[:fitting]
            if items[fitting:]:
                self._pending += items[fitting:]
                tracker = self._trackers[partition]
                tracker.finish_all(offsets[:fitting])
                self._full_at[partition] = tracker.frontier
        return done

    def _fitting(self, partition: TopicPartition, offsets: Sequence[int]) -> int:
        """How many of these, ascending, may go out close to the map's limit: what moves the frontier always may.

        To write a map of thousands of ranges takes milliseconds. So some numbers are tried, not each offset,
        and where no more fitted, nothing is before the frontier has moved.
        """
        tracker = self._trackers[partition]
        least = int(offsets[0] == tracker.frontier)
        if not least and self._full_at.get(partition) == tracker.frontier:
            return 0
        most = len(offsets)
        if self._fits(tracker, offsets):
            return most
        while least < most - 1:
            half = (least + most) // 2
            least, most = (half, most) if self._fits(tracker, offsets[:half]) else (least, half)
        return least

    def _fits(self, tracker: Tracker, offsets: Sequence[int]) -> bool:
        grown = Tracker(tracker.frontier, tracker.done())
        grown.finish_all(list(offsets))
        text = encode_map(
            self._encoder.context.cluster_id,
            grown.frontier,
            grown.done(),
            clean=False,
            topic_id=tracker.topic_id,
        )
        return len(text) <= MAX_MAP_BYTES

    def _commit(self, partition: TopicPartition, *, clean: bool) -> CommittedOffset:
        tracker = self._trackers[partition]
        cluster = self._encoder.context.cluster_id
        text = encode_map(cluster, tracker.frontier, tracker.done(), clean=clean, topic_id=tracker.topic_id)
        self._map_bytes[partition] = len(text)
        return CommittedOffset(tracker.frontier, text)

    async def _encode(self, batch: _Batch) -> None:
        """One after the other, which takes half the time of doing it for each as it ends, between other work."""
        encode, tally = self._encoder.encode, _Tally()
        for number, done in enumerate(batch.done, 1):
            if len(done.resolutions) == 1:
                done.entries = encode(done.resolutions[0])
            else:
                done.entries = [entry for each in done.resolutions for entry in encode(each)]
            tally.add(done.entries)
            if number % ENCODE_RECORDS == 0:
                await asyncio.sleep(0)
        batch.tally = tally

    async def _write(self, batch: _Batch) -> str | None:
        """Until the batch is committed (None), or the assignment is lost: why."""
        pause = 0.05
        while True:
            started = asyncio.get_running_loop().time()
            result = await self._writer.flush(batch.offsets, batch.entries())
            self._metrics.transactions.labels(type(result).__name__.lower()).inc()
            self._metrics.transaction_seconds.observe(asyncio.get_running_loop().time() - started)
            match result:
                case Committed():
                    self._well_again()
                    return None
                case Fenced(by=by, stage=stage, code=code):
                    return f"fenced by {by} at {stage} (error {code})"
                case Retriable():
                    self._say(result, batch)
                    if not self._shrink(batch, result):
                        await asyncio.sleep(pause)
                        pause = min(pause * 2, LONGEST_PAUSE)
                case Ambiguous():
                    self._say(result, batch)
                    if not await self._recover():
                        return (
                            f"{result.stage} without an answer ({result.error}), and the membership is over"
                        )
                    if await self._settled(batch):
                        self._well_again()
                        return None

    def _shrink(self, batch: _Batch, result: Retriable) -> bool:
        """Make what the broker found too large smaller; the rest of the batch is not touched."""
        if result.code not in TOO_LARGE:
            return False
        shrunk = False
        written = [(done, entry) for done in batch.done for entry in done.entries]
        for index in result.culprits:
            done, entry = written[index]
            smaller = self._encoder.smaller(entry)
            if smaller != [entry]:
                done.replace(entry, smaller)
                batch.tally, shrunk = None, True
        return shrunk

    async def _recover(self) -> bool:
        pause = 0.1
        while True:
            try:
                return await self._writer.recover(asyncio.get_running_loop().time() + RECOVERY_SECONDS)
            except (BrokerUnavailableError, RefusedError) as error:
                log.warning("ledger.recovering", problem=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _settled(self, batch: _Batch) -> bool:
        """Read back: drop from the batch what is committed; True if nothing remains."""
        committed = await self._read_back(batch.offsets)
        if not batch.done:
            return all(committed.get(partition) == offset for partition, offset in batch.offsets.items())
        settled = [done for done in batch.done if self._is_committed(done, committed)]
        remaining = [done for done in batch.done if not self._is_committed(done, committed)]
        if settled:
            self._committed(_Batch(settled, {}))
        batch.done, batch.tally = remaining, None
        return not remaining

    async def _read_back(
        self, partitions: Iterable[TopicPartition]
    ) -> Mapping[TopicPartition, CommittedOffset]:
        partitions = list(partitions)
        while True:
            try:
                return await self._read_offsets(
                    partitions, asyncio.get_running_loop().time() + RECOVERY_SECONDS
                )
            except (BrokerUnavailableError, RefusedError) as error:
                log.warning("ledger.recovering", problem=str(error))
                await asyncio.sleep(LONGEST_PAUSE)

    def _is_committed(self, done: EndedRecord, committed: Mapping[TopicPartition, CommittedOffset]) -> bool:
        found = committed.get(done.partition)
        offset = done.record.coordinates.offset
        if found is None or found.offset < 0:
            return False
        if offset < found.offset:
            return True
        known = decode_map(found.metadata, self._encoder.context.cluster_id, found.offset)
        return isinstance(known, OffsetMap) and Tracker(found.offset, known.done).is_done(offset)

    def _committed(self, batch: _Batch) -> None:
        now, wall = asyncio.get_running_loop().time(), datetime.now(UTC)
        for partition, offset in batch.offsets.items():
            frontier, map_bytes = self._gauges_of(partition)
            frontier.set(offset.offset)
            map_bytes.set(len(offset.metadata))
        self._metrics.record_seconds.observe_all([now - done.record.taken_at for done in batch.done])
        tally = batch.tally
        if tally is None:
            tally = _Tally()
            tally.add(batch.entries())
        self._count(tally, wall.timestamp())
        if log.is_enabled_for(logging.DEBUG):
            for entry in batch.entries():
                if entry.tells:
                    _tell(entry.resolution)
        if batch.done:
            self._on_committed(batch.done)

    def _count(self, tally: _Tally, wall: float) -> None:
        metrics = self._metrics
        for (topic, wait, code), count in Counter(tally.waits).items():
            metrics.retries_later.labels(topic, wait, code).inc(count)
        metrics.count_orders(tally.orders)
        metrics.event_age_seconds.observe_all([wall - at if at < wall else 0.0 for at in tally.ends])

    def _well_again(self) -> None:
        self.trouble, self.stuck = None, False

    def _say(self, result: Retriable | Ambiguous, batch: _Batch) -> None:
        problem = named(result.code) if isinstance(result, Retriable) else result.error
        self.trouble = f"cannot write outcomes: {problem} at {result.stage}"
        batch.refused += 1
        self.stuck = batch.refused >= STUCK_TIMES
        if batch.refused & (batch.refused - 1) == 0:  # at the 1st, 2nd, 4th, 8th ... time
            log.warning(
                "ledger.cannot_write", problem=self.trouble, times=batch.refused, records=len(batch.done)
            )


def _gauges_of(metrics: Metrics, partition: TopicPartition) -> tuple[Gauge, Gauge]:
    """Of its frontier, and of its offset map's bytes."""
    labels = (partition.topic, str(partition.partition))
    return metrics.frontier.labels(*labels), metrics.map_bytes.labels(*labels)


def _tell(resolution: Resolution) -> None:
    later = resolution.later
    log.debug(
        "ledger.outcome" if later is None else "ledger.retry",
        **resolution.record.origin._asdict(),
        order_index=resolution.index,
        order_id=(resolution.values or {}).get("order_id"),
        outcome=resolution.outcome,
        reason=resolution.reason or "",
        code=resolution.label,
        attempts=resolution.attempts.count,
        rule=resolution.rule,
        due_at=None if later is None else later.due_at.isoformat(),
    )


_PARTITIONS = Memo[tuple[str, int], TopicPartition](lambda place: TopicPartition(*place), 4096)
"""Of topic and number, as Kafka's client calls it."""
