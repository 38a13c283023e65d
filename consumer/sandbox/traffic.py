"""Sample events into Kafka, outcomes out of it, and how far a group is. Talks to Kafka as a user would."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, TopicAuthorizationFailedError

from consumer.core.errors import BrokerUnavailableError, RefusedError
from consumer.core.events import Coordinates
from consumer.sandbox.reconcile import OutcomeFields, Produced
from consumer.sandbox.samples import SampleEvent

_LINGER_MS = 20
"""Without it every record would be a request of its own, which costs Kafka and us more than the record."""

_AT_ONCE = 20
"""Records made without letting others go on."""


Writable = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]
"""A record's key, value and headers."""


async def partitions_of(options: Mapping[str, Any], topic: str) -> int:
    """How many the topic has; 0 where there is none, or none that we may know of. Creates none by asking.

    Raises BrokerUnavailableError.
    """
    admin = AIOKafkaAdminClient(**options)
    try:
        await admin.start()
        if topic not in await admin.list_topics():
            return 0
        (described,) = await admin.describe_topics([topic])
        return len(described["partitions"])
    except KafkaError as error:
        raise BrokerUnavailableError(
            f"Kafka does not tell of {topic}: {type(error).__name__}: {error}"
        ) from error
    finally:
        await admin.close()


async def write(
    options: Mapping[str, Any],
    topic: str,
    records: Iterable[Writable],
    *,
    rate: float = float("inf"),
    on_sent: Callable[[], None] = lambda: None,
) -> list[Coordinates]:
    """Writes them in order, so many a second at most -> where each of them stands.

    Raises:
        RefusedError: Kafka does not take one of them; how many it took before.
        BrokerUnavailableError: it does not answer; likewise.

    """
    producer = AIOKafkaProducer(acks="all", linger_ms=_LINGER_MS, **options)
    written: list[asyncio.Future[Any]] = []
    try:
        await producer.start()
        began = time.monotonic()
        for number, (key, value, headers) in enumerate(records):
            due = began + number / rate
            if number % _AT_ONCE == 0 or due > time.monotonic():
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            written.append(await producer.send(topic, key=key, value=value, headers=list(headers)))
            on_sent()
        places = [await each for each in written]
    except TopicAuthorizationFailedError as error:
        raise RefusedError(
            f"Kafka does not allow us to write to {topic}; grant Write and Describe on it; {await _taken(written)}"
        ) from error
    except MessageSizeTooLargeError as error:
        raise RefusedError(
            f"an event is larger than {topic} takes, or than kafka.max_message_size; {await _taken(written)}"
        ) from error
    except KafkaError as error:
        raise BrokerUnavailableError(
            f"Kafka does not take it: {type(error).__name__}: {error}; {await _taken(written)}"
        ) from error
    finally:
        await producer.stop()
    return [Coordinates(place.topic, place.partition, place.offset) for place in places]


async def _taken(written: Sequence["asyncio.Future[Any]"]) -> str:
    ends = await asyncio.gather(*written, return_exceptions=True)
    return f"{sum(not isinstance(end, BaseException) for end in ends)} were written before"


async def produce(
    bootstrap_servers: str,
    topic: str,
    samples: Iterable[SampleEvent],
    *,
    rate: float = float("inf"),
    on_sent: Callable[[SampleEvent], None] = lambda _sample: None,
) -> list[Produced]:
    """Writes the samples in order, so many a second at most -> where each of them stands."""
    all_of_them = list(samples)
    sent = iter(all_of_them)
    places = await write(
        {"bootstrap_servers": bootstrap_servers, "enable_idempotence": True},
        topic,
        ((sample.key, sample.value, sample.headers) for sample in all_of_them),
        rate=rate,
        on_sent=lambda: on_sent(next(sent)),
    )
    return [Produced(place, sample) for place, sample in zip(places, all_of_them, strict=True)]


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
