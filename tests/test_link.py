"""What an answered error ends a flush as: the table in consumer/link.py, row by row; and in which turn partitions are read."""

import asyncio
import time
from collections.abc import Callable

import cramjam
import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.record.util import calc_crc32c

from consumer.decoding import Unpacked
from consumer.link import (
    ERRORS,
    Ambiguous,
    Code,
    Fenced,
    KafkaLink,
    Kind,
    Retriable,
    TopicPartition,
    cancel_until_ended,
    judge,
)
from tests.bench.intake import TOPIC, Broker, Consumer
from tests.bench.pipeline import Load

ENDS = {
    Kind.COORDINATOR_MOVED: Retriable,
    Kind.BUSY: Retriable,
    Kind.LEADER_MOVED: Retriable,
    Kind.TOO_LARGE: Retriable,
    Kind.NOT_ALLOWED: Retriable,
    Kind.GROUP_FENCED: Fenced,
    Kind.EPOCH_FENCED: Fenced,
    Kind.EPOCH_BROKEN: Ambiguous,
}


@pytest.mark.parametrize("code", ERRORS, ids=lambda code: code.name)
def test_an_answered_error_ends_the_offsets_commit_as_its_kind_says(code: Code) -> None:
    kind, why = ERRORS[code]

    assert why
    assert isinstance(judge("commit_offsets", code), ENDS[kind])


@pytest.mark.parametrize(
    "code",
    [code for code, (kind, _) in ERRORS.items() if kind is Kind.GROUP_FENCED],
    ids=lambda code: code.name,
)
def test_only_the_groups_coordinator_can_say_that_the_group_has_gone_on(code: Code) -> None:
    assert judge("commit_offsets", code) == Fenced("group", "commit_offsets", code)
    assert isinstance(judge("produce", code), Retriable)


@pytest.mark.parametrize("code", [-1, 2, 42, 9999])
def test_an_error_that_nobody_knows_aborts_and_is_tried_again(code: int) -> None:
    assert judge("produce", code, (3,)) == Retriable("produce", code, (3,))


async def test_a_consumer_gives_records_of_one_partition_after_the_other() -> None:
    """aiokafka by itself would give all that it fetched of the first one before it goes on to the next."""
    partitions = [TopicPartition(TOPIC, at) for at in range(3)]
    consumer = Consumer(Broker(Load(events=1200, partitions=3)), partitions)
    for partition in partitions:
        consumer.seek(partition, 0)
    given: list[TopicPartition] = []
    try:
        async with asyncio.timeout(10):
            while len(given) < 12:
                given += await consumer.getmany(timeout_ms=200, max_records=100)
    finally:
        await consumer.ended()

    assert {len(set(given[at : at + 3])) for at in range(0, 12, 3)} == {3}


def _wrong(batch: bytes) -> bytes:
    """Not what its checksum says."""
    return batch[:-5] + b"?" + batch[-4:]


def _not_packed(batch: bytes) -> bytes:
    """Said to be packed by zstd, and all that its checksum says."""
    said = batch[21:22] + b"\x04" + batch[23:]
    checksum: int = calc_crc32c(said)
    return batch[:17] + checksum.to_bytes(4, "big") + said


def _of_length(length: int) -> Callable[[bytes], bytes]:
    """With a head that says so of the rest."""
    return lambda batch: batch[:8] + length.to_bytes(4, "big", signed=True) + batch[12:]


def _swollen(batch: bytes) -> bytes:
    """Packed, and all that its checksum says, it is a few kilobytes of the most that a batch may be, and one more."""
    records = bytes(cramjam.zstd.compress(bytes(Unpacked.most + 1)))
    said = batch[21:22] + b"\x04" + batch[23:61] + records
    checksum: int = calc_crc32c(said)
    return (
        batch[:8] + (49 + len(records)).to_bytes(4, "big") + batch[12:17] + checksum.to_bytes(4, "big") + said
    )


DAMAGED = {
    "not what its checksum says": _wrong,
    "not packed": _not_packed,
    "too large": _swollen,
    "longer than what came": _of_length(1 << 20),
    "cut short": _of_length(200),
    "without a head": _of_length(30),
    "of no length": _of_length(-12),
    "of a negative length": _of_length(-2000),
}


@pytest.mark.parametrize("damaged", DAMAGED.values(), ids=DAMAGED)
async def test_a_damaged_batch_holds_up_its_partition_and_no_record_of_others_is_lost(
    damaged: Callable[[bytes], bytes],
) -> None:
    """aiokafka raises, goes on behind what it read of other partitions for the same poll, and nobody ever gets that."""
    partitions = [TopicPartition(TOPIC, at) for at in range(3)]
    broker = Broker(Load(events=900, partitions=3), batch=20)
    whole = broker.batches[1][3]
    broker.batches[1][3] = damaged(whole)
    consumer = Consumer(broker, partitions)
    for partition in partitions:
        consumer.seek(partition, 0)
    given: dict[TopicPartition, list[int]] = {partition: [] for partition in partitions}

    async def take(until: int) -> None:
        async with asyncio.timeout(10):
            while sum(map(len, given.values())) < until or (until < 900 and not consumer.damaged):
                for partition, records in (await consumer.getmany(timeout_ms=50, max_records=1000)).items():
                    given[partition] += [record.offset for record in records]

    try:
        await take(660)
        (at,) = consumer.damaged.items()
        broker.batches[1][3] = whole
        await take(900)
    finally:
        await consumer.ended()

    assert (at[0], at[1].offset) == (partitions[1], 60)
    assert at[1].next_offset in {80, None}
    assert given == {partition: list(range(300)) for partition in partitions}
    assert consumer.damaged == {}


@pytest.mark.parametrize(
    ("told_at", "asks"), [(-10.0, False), (-100.0, True), (3600.0, True)], ids=["now", "long ago", "to come"]
)
async def test_a_clock_that_was_set_back_does_not_keep_a_client_from_asking(
    monkeypatch: pytest.MonkeyPatch, told_at: float, asks: bool
) -> None:
    """aiokafka notes by the wall clock when it was told last: an hour ahead, that it lost all was noticed an hour late."""
    client = AIOKafkaClient()
    client.cluster._last_successful_refresh_ms = (time.time() + told_at) * 1000  # as an answer sets it
    asked = []

    async def nobody_answers() -> bool:
        asked.append(1)
        return False

    monkeypatch.setattr(client, "force_metadata_update", nobody_answers)

    assert await KafkaLink(client, "group", transaction_timeout=1.0).has_lost_all(60.0) is asks
    assert bool(asked) is asks


async def test_a_task_that_misses_a_cancellation_is_cancelled_again() -> None:
    missed = 0

    async def answered_at_the_same_moment() -> None:
        nonlocal missed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if missed:
                    raise
                missed += 1

    task = asyncio.create_task(answered_at_the_same_moment())
    await asyncio.sleep(0)

    await asyncio.wait_for(cancel_until_ended(task), 30)

    assert (missed, task.cancelled()) == (1, True)
