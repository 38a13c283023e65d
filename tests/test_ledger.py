"""What the ledger writes for a resolution, and what it makes of a record that is too large."""

import asyncio
import math
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from consumer import ledger as ledgers
from consumer.core.events import Attempts, Coordinates, Record, Wait
from consumer.core.headers import read_retry
from consumer.core.offsets import MAX_MAP_BYTES, Tracker, encode_map
from consumer.core.outcomes import Later, Outcome, OutcomeContext, Resolution
from consumer.ledger import Encoder, FlushBounds, Ledger
from consumer.link import Committed, CommittedOffset, FlushResult, Outgoing, Retriable, TopicPartition
from consumer.metrics import Metrics
from tests.bench.load import run

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
RETRIES = ("retries.1m", "retries.5m")
ENCODER = Encoder("outcomes", "dead", OutcomeContext("cluster"), 10_000, RETRIES)
PARTITION = TopicPartition("charges", 0)


def waiting(value: bytes = b"{}", *, topic: int = 1) -> Resolution:
    return Resolution(
        record=Record(Coordinates("charges", 0, 7), 5, b"key", value, (("trace", b"\xff"),)),
        index=2,
        outcome=Outcome.PLATFORM_FAILED,
        decided_at=NOW,
        attempts=Attempts(3, NOW, NOW, 0.1, ambiguous=True),
        label="1500",
        values={"event_id": "E1", "order_id": "A1"},
        later=Later(Wait.REPLY, topic, NOW + timedelta(minutes=5), 2, 0, 1.5),
    )


def test_an_order_that_waits_is_written_to_its_retry_topic_and_nowhere_else() -> None:
    (entry,) = ENCODER.encode(waiting())

    assert entry.topic == "retries.5m"
    assert (entry.key, entry.value) == (b"key", b"{}")
    assert entry.headers[0] == ("trace", b"\xff")
    context = read_retry(tuple(entry.headers))
    assert not isinstance(context, str)
    assert (context.origin, context.timestamp_ms, context.index) == (Coordinates("charges", 0, 7), 5, 2)
    assert (context.due_at, context.tier, context.excused_seconds) == (NOW + timedelta(minutes=5), 2, 1.5)
    assert (context.attempts.count, context.attempts.ambiguous, context.label) == (3, True, "1500")
    assert (context.event_id, context.order_id) == ("E1", "A1")


def test_what_is_too_large_for_a_retry_ends_and_can_be_replayed() -> None:
    outcome, letter = ENCODER.encode(waiting(bytes(9_900)))

    assert (outcome.topic, letter.topic) == ("outcomes", "dead")
    assert (outcome.tells, letter.tells) == (True, False)
    assert outcome.resolution.later is None
    assert b"too large for a retry topic" in (outcome.value or b"")


class Writer:
    """Refuses, as a broker does whose topic takes less than the settings say, what goes to a retry topic."""

    doubtful = False

    def __init__(self, code: int = 10, times: float = math.inf) -> None:
        self.code, self.times = code, times
        self.written: list[Outgoing] = []
        self.committed = asyncio.Event()

    async def flush(
        self, offsets: Mapping[TopicPartition, CommittedOffset], records: Sequence[Outgoing]
    ) -> FlushResult:
        culprits = tuple(index for index, record in enumerate(records) if record.topic in RETRIES)
        if culprits and self.times > 0:
            self.times -= 1
            return Retriable("produce", self.code, culprits)
        self.written += records
        if records:
            self.committed.set()
        return Committed()

    async def recover(self, deadline: float) -> bool:
        raise NotImplementedError


def _ledger(writer: Writer, metrics: Metrics) -> Ledger:
    """Of one partition, of which the record at 7 is under way."""
    tracker = Tracker(7)
    tracker.take(7)

    return Ledger(
        writer=writer,
        read_offsets=_no_offsets,
        trackers={PARTITION: tracker},
        encoder=ENCODER,
        bounds=FlushBounds(interval=0.001),
        metrics=metrics,
        on_committed=lambda _: None,
    )


async def test_what_the_broker_does_not_take_as_a_retry_ends_too_and_is_counted_as_it_was_written() -> None:
    writer, metrics = Writer(), Metrics(CollectorRegistry())
    ledger = _ledger(writer, metrics)
    running = asyncio.create_task(ledger.run())
    ledger.add(waiting().record, [waiting()])
    async with asyncio.timeout(5):
        await writer.committed.wait()
    ledger.close()
    await running

    def counted(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert [record.topic for record in writer.written] == ["outcomes", "dead"]
    assert counted("coupon_outcomes_total", outcome="platform_failed", reason="", code="1500") == 1
    assert counted("coupon_dead_letters_total", outcome="platform_failed", reason="") == 1
    assert counted("coupon_retries_later_total", topic="retries.5m", waits_for="reply", code="1500") is None


@pytest.mark.parametrize("code", [-1, 2, 29, 32, 44], ids=["unknown", "corrupt", "right", "time", "policy"])
async def test_what_the_broker_refuses_for_another_reason_than_its_size_stays_as_it_is(code: int) -> None:
    """An order that waits for its next try ended without it, and a dead letter lost what it is there for."""
    writer = Writer(code, times=3)
    ledger = _ledger(writer, Metrics(CollectorRegistry()))
    running = asyncio.create_task(ledger.run())
    ledger.add(waiting().record, [waiting()])
    async with asyncio.timeout(5):
        await writer.committed.wait()
    ledger.close()
    await running

    assert [record.topic for record in writer.written] == ["retries.5m"]


async def test_a_retry_is_counted_by_topic_and_is_no_outcome() -> None:
    metrics = Metrics(CollectorRegistry())
    tracker = Tracker(7)
    tracker.take(7)
    done = asyncio.Event()

    class Takes(Writer):
        async def flush(
            self, offsets: Mapping[TopicPartition, CommittedOffset], records: Sequence[Outgoing]
        ) -> FlushResult:
            return Committed()

    ledger = Ledger(
        writer=Takes(),
        read_offsets=_no_offsets,
        trackers={PARTITION: tracker},
        encoder=ENCODER,
        bounds=FlushBounds(interval=0.001),
        metrics=metrics,
        on_committed=lambda _: done.set(),
    )
    running = asyncio.create_task(ledger.run())
    ledger.add(waiting().record, [waiting()])
    async with asyncio.timeout(5):
        await done.wait()
    ledger.close()
    await running

    labels = {"topic": "retries.5m", "waits_for": "reply", "code": "1500"}
    assert metrics.registry.get_sample_value("coupon_retries_later_total", labels) == 1
    assert not [
        s for family in metrics.outcomes.collect() for s in family.samples if s.name.endswith("_total")
    ]


def test_what_ends_while_a_flush_is_under_way_waits_no_longer_than_anything_else() -> None:
    async def main() -> list[float]:
        loop, tracker = asyncio.get_running_loop(), Tracker(0)
        took: list[float] = []

        class Slow(Writer):
            async def flush(
                self, offsets: Mapping[TopicPartition, CommittedOffset], records: Sequence[Outgoing]
            ) -> FlushResult:
                await asyncio.sleep(0.06)
                return Committed()

        ledger = Ledger(
            writer=Slow(),
            read_offsets=_no_offsets,
            trackers={PARTITION: tracker},
            encoder=ENCODER,
            bounds=FlushBounds(interval=0.1),
            metrics=Metrics(CollectorRegistry()),
            on_committed=lambda done: took.extend(loop.time() - item.record.taken_at for item in done),
        )
        running = asyncio.create_task(ledger.run())
        for offset in range(200):
            tracker.take(offset)
            where = Coordinates("charges", 0, offset)
            record = replace(waiting().record, coordinates=where, taken_at=loop.time())
            ledger.add(record, [])
            await asyncio.sleep(0.01)
        ledger.close()
        await running
        return took

    took = run(main)

    assert len(took) == 200
    assert max(took) == pytest.approx(0.1 + 0.06, abs=0.001)


async def test_a_map_that_is_nearly_full_takes_what_fits_and_the_rest_once_the_frontier_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chance = random.Random(1)
    beyond = {offset for offset in range(1, 19_000) if chance.random() < 0.5}
    tracker = Tracker(0, [(offset, offset + 1) for offset in sorted(beyond)])
    late = [offset for offset in range(19_000, 30_000) if chance.random() < 0.5]
    for offset in range(30_000):
        tracker.take(offset)
    committed: list[CommittedOffset] = []
    written: list[int] = []
    maps = 0

    class Takes(Writer):
        async def flush(
            self, offsets: Mapping[TopicPartition, CommittedOffset], records: Sequence[Outgoing]
        ) -> FlushResult:
            committed.append(offsets[PARTITION])
            return Committed()

    def counted(*args: Any, **options: Any) -> str:
        nonlocal maps
        maps += 1
        return encode_map(*args, **options)

    monkeypatch.setattr(ledgers, "encode_map", counted)
    ledger = Ledger(
        writer=Takes(),
        read_offsets=_no_offsets,
        trackers={PARTITION: tracker},
        encoder=ENCODER,
        bounds=FlushBounds(interval=0.001, records=10_000),
        metrics=Metrics(CollectorRegistry()),
        on_committed=lambda done: written.extend(item.record.coordinates.offset for item in done),
    )

    def ends(offset: int) -> None:
        ledger.add(replace(waiting().record, coordinates=Coordinates("charges", 0, offset)), [])

    async with asyncio.timeout(20):
        running = asyncio.create_task(ledger.run())
        await ledger.opened.wait()
        assert ledger.full(PARTITION)

        for offset in reversed(late):
            ends(offset)
        while not written:  # noqa: ASYNC110  # it sets no event
            await asyncio.sleep(0.01)
        assert 0 < len(written) < len(late)
        assert written == late[: len(written)], "those that may soon be below the frontier"
        assert maps < 20, "it is not tried for each"

        for offset in sorted({*range(late[-1])} - beyond - {*late}):
            ends(offset)
        while tracker.frontier <= late[-1]:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.01)
        ledger.close()
        await running

    assert sorted(written) == [offset for offset in range(late[-1] + 1) if offset not in beyond]
    assert max(len(each.metadata) for each in committed) <= MAX_MAP_BYTES


async def _no_offsets(*_: object) -> Mapping[TopicPartition, CommittedOffset]:
    raise NotImplementedError


async def test_the_last_flush_writes_no_outcome_without_its_offset() -> None:
    """Nobody adds to a ledger that closes; if somebody did, it would be done again, and not be written twice."""
    written: list[tuple[dict[TopicPartition, int], int]] = []
    tracker = Tracker(7)
    tracker.take(7)
    tracker.take(8)

    class AddsInTheEnd(Writer):
        async def flush(
            self, offsets: Mapping[TopicPartition, CommittedOffset], records: Sequence[Outgoing]
        ) -> FlushResult:
            written.append(({tp: place.offset for tp, place in offsets.items()}, len(records)))
            if len(written) == 1:
                ledger.close()
                ledger.touch(PARTITION)
            elif len(written) == 2:
                ledger.add(waiting().record, [waiting()])
            return Committed()

    ledger = Ledger(
        writer=AddsInTheEnd(),
        read_offsets=_no_offsets,
        trackers={PARTITION: tracker, TopicPartition(PARTITION.topic, PARTITION.partition + 1): Tracker(0)},
        encoder=ENCODER,
        bounds=FlushBounds(interval=0.001),
        metrics=Metrics(CollectorRegistry()),
        on_committed=lambda _: None,
    )

    await asyncio.wait_for(ledger.run(), 5)

    assert len(written) >= 2
    assert all(records == 0 or PARTITION in offsets for offsets, records in written)
