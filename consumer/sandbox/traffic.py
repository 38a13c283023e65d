"""Sample events into Kafka, outcomes out of it, and how far a group is. Talks to Kafka as a user would."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from consumer.core.events import Coordinates
from consumer.core.plates import mask
from consumer.sandbox.reconcile import OutcomeFields, Produced
from consumer.sandbox.samples import SampleEvent, sample_events

_LINGER_MS = 20
"""Without it every record would be a request of its own, which costs Kafka and us more than the record."""

_AT_ONCE = 20
"""Records made without letting others go on."""


async def produce(
    bootstrap_servers: str,
    topic: str,
    samples: Iterable[SampleEvent],
    *,
    rate: float = float("inf"),
    on_sent: Callable[[SampleEvent], None] = lambda _sample: None,
) -> list[Produced]:
    """Writes the samples in order, so many a second at most -> where each of them stands."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap_servers, acks="all", enable_idempotence=True, linger_ms=_LINGER_MS
    )
    try:
        await producer.start()
        sent = []
        began = time.monotonic()
        for number, sample in enumerate(samples):
            due = began + number / rate
            if number % _AT_ONCE == 0 or due > time.monotonic():
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            written = await producer.send(
                topic, key=sample.key, value=sample.value, headers=list(sample.headers)
            )
            sent.append((sample, written))
            on_sent(sample)
        produced: list[Produced] = []
        for sample, written in sent:
            place = await written
            produced.append(Produced(Coordinates(place.topic, place.partition, place.offset), sample))
        return produced
    finally:
        await producer.stop()


async def send_charge(bootstrap_servers: str, topic: str, **changed: object) -> None:
    """Writes a charge that ended just now, with these fields instead of its own, and says where it stands."""
    sample = next(sample_events(1, now=datetime.now(UTC), seed=random.SystemRandom().getrandbits(32)))
    assert sample.value is not None
    order = orjson.loads(sample.value) | changed
    key = str(order["plate"] or order["order_id"]).encode()
    own = SampleEvent(sample.kind, key, orjson.dumps(order), sample.headers, sample.expected)
    (produced,) = await produce(bootstrap_servers, topic, [own])
    place = produced.coordinates
    print(f"order {order['order_id']} is record {place.topic}-{place.partition}@{place.offset}")  # noqa: T201  # for a shell


async def print_outcomes(bootstrap_servers: str, topic: str) -> None:
    """Each outcome as a line of JSON, from the first on, plates masked, until it is interrupted."""
    with contextlib.suppress(asyncio.CancelledError):
        async with contextlib.aclosing(follow_outcomes(bootstrap_servers, topic)) as outcomes:
            async for outcome in outcomes:
                hidden = mask(outcome["plate"]) if outcome["plate"] else None
                print(orjson.dumps({**outcome, "plate": hidden}).decode(), flush=True)  # noqa: T201  # for a shell


async def read_outcomes(bootstrap_servers: str, topic: str) -> list[OutcomeFields]:
    """Every outcome that is there, as a reader sees it who asks for committed records only."""
    async with _reader(bootstrap_servers, topic) as (consumer, partitions):
        ends = await consumer.end_offsets(partitions)
        outcomes: list[OutcomeFields] = []
        while [tp for tp in partitions if await consumer.position(tp) < ends[tp]]:
            outcomes += _decoded(await consumer.getmany(timeout_ms=200))
        return outcomes


async def follow_outcomes(bootstrap_servers: str, topic: str) -> AsyncGenerator[OutcomeFields]:
    """The outcomes from the first on, as they are committed; without end."""
    async with _reader(bootstrap_servers, topic) as (consumer, _):
        while True:
            for outcome in _decoded(await consumer.getmany(timeout_ms=200)):
                yield outcome


async def committed_offsets(bootstrap_servers: str, group: str, topic: str) -> dict[int, int]:
    """The group's committed offset of each partition that has one."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    try:
        await admin.start()
        offsets = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    return {tp.partition: place.offset for tp, place in offsets.items() if tp.topic == topic}


@asynccontextmanager
async def _reader(bootstrap_servers: str, topic: str) -> AsyncIterator[tuple[Any, list[TopicPartition]]]:
    """A consumer of no group at the topic's beginning."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap_servers,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    )
    try:
        await consumer.start()
        yield consumer, list(consumer.assignment())
    finally:
        await consumer.stop()


def _decoded(batches: Any) -> list[OutcomeFields]:
    return [orjson.loads(record.value) for records in batches.values() for record in records]
