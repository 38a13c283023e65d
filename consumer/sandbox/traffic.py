"""Sample events into Kafka, outcomes out of it, and how far a group is. Talks to Kafka as a user would."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from zlib import crc32

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
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

_BATCH_BYTES = 100_000
_MADE_AT_ONCE = 200
"""Samples made and written without letting others go on."""


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
    if rate == float("inf"):
        return await _produce_in_batches(bootstrap_servers, topic, samples, on_sent)
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


async def _produce_in_batches(
    bootstrap_servers: str,
    topic: str,
    samples: Iterable[SampleEvent],
    on_sent: Callable[[SampleEvent], None],
) -> list[Produced]:
    """A record by itself costs its writer ten times what it costs in a batch. A key's records keep their order."""
    batches: list[tuple[int, list[SampleEvent], asyncio.Future[Any]]] = []
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap_servers, enable_idempotence=True, max_batch_size=_BATCH_BYTES
    ) as producer:
        partitions = sorted(await producer.partitions_for(topic))
        open_ones = {partition: (producer.create_batch(), list[SampleEvent]()) for partition in partitions}

        async def close(partition: int) -> None:
            batch, held = open_ones[partition]
            batches.append((partition, held, await producer.send_batch(batch, topic, partition=partition)))
            open_ones[partition] = (producer.create_batch(), [])

        for number, sample in enumerate(samples):
            if number % _MADE_AT_ONCE == 0:
                await asyncio.sleep(0)
            partition = partitions[crc32(sample.key or b"") % len(partitions)]
            record = {
                "key": sample.key,
                "value": sample.value,
                "timestamp": None,
                "headers": list(sample.headers),
            }
            if open_ones[partition][0].append(**record) is None:  # it is full
                await close(partition)
                open_ones[partition][0].append(**record)
            open_ones[partition][1].append(sample)
            on_sent(sample)
        for partition in partitions:
            await close(partition)
        produced: list[Produced] = []
        for partition, held, written in batches:
            first = (await written).offset
            produced += [
                Produced(Coordinates(topic, partition, first + at), sample) for at, sample in enumerate(held)
            ]
        return produced


class OutcomeReader:
    """The outcome topic from its beginning, as a reader sees it who asks for committed records only. Enter it.

    Attributes:
        outcomes: all that were read so far.
        last_at: when the last of them was written, in seconds since the epoch.

    """

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self.outcomes: list[OutcomeFields] = []
        self.last_at = 0.0
        self._consumer: Any = AIOKafkaConsumer(
            topic,
            bootstrap_servers=bootstrap_servers,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        )

    async def __aenter__(self) -> Self:
        try:
            await self._consumer.start()
        except BaseException:
            await self._consumer.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._consumer.stop()

    async def further(self) -> list[OutcomeFields]:
        """Those that were committed since; none if none come for a moment."""
        further: list[OutcomeFields] = []
        for records in (await self._consumer.getmany(timeout_ms=200)).values():
            further += [orjson.loads(record.value) for record in records]
            self.last_at = max(self.last_at, records[-1].timestamp / 1000)
        self.outcomes += further
        return further

    async def read_to_the_end(self) -> list[OutcomeFields]:
        """All that there are by now."""
        partitions = list(self._consumer.assignment())
        ends = await self._consumer.end_offsets(partitions)
        while [tp for tp in partitions if await self._consumer.position(tp) < ends[tp]]:
            await self.further()
        return self.outcomes


async def committed_offsets(bootstrap_servers: str, group: str, topic: str) -> dict[int, int]:
    """The group's committed offset of each partition that has one."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    try:
        await admin.start()
        offsets = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    return {tp.partition: place.offset for tp, place in offsets.items() if tp.topic == topic}
