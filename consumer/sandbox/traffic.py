"""Sample events into Kafka, outcomes out of it, and how far a group is. Talks to Kafka as a user would."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from consumer.core.events import Coordinates
from consumer.sandbox.reconcile import OutcomeFields, Produced
from consumer.sandbox.samples import SampleEvent


async def produce(
    bootstrap_servers: str, topic: str, samples: Iterable[SampleEvent], *, pause: float = 0.0
) -> list[Produced]:
    """Writes the samples in order, with a pause between them in seconds -> where each of them stands."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, acks="all", enable_idempotence=True)
    try:
        await producer.start()
        sent = []
        for sample in samples:
            written = await producer.send(
                topic, key=sample.key, value=sample.value, headers=list(sample.headers)
            )
            sent.append((sample, written))
            await asyncio.sleep(pause)
        produced: list[Produced] = []
        for sample, written in sent:
            place = await written
            produced.append(Produced(Coordinates(place.topic, place.partition, place.offset), sample))
        return produced
    finally:
        await producer.stop()


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
