"""Small helpers around a real broker, shared by the suites in this folder."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import OffsetAndMetadata

from consumer.link import GroupConsumer, Membership
from consumer.transactions import TransactionalLink


@dataclass(frozen=True)
class Topics:
    """One test's own topics and group."""

    events: str
    outcomes: str
    dead_letters: str
    group: str
    partitions: int
    delays: str = "[]"
    """Setting `retries.delays`."""

    @property
    def retries(self) -> str:
        """Prefix of the retry topics."""
        return f"{self.group}-retries"


async def produce(
    broker: str, topic: str, values: Sequence[bytes | None], keys: Sequence[bytes] | None = None
) -> None:
    """Write events as a charging platform does: plainly, without transactions."""
    producer = AIOKafkaProducer(bootstrap_servers=broker, linger_ms=5)
    await producer.start()
    try:
        for number, value in enumerate(values):
            key = keys[number] if keys else str(number).encode()
            await producer.send(topic, value=value, key=key)
        await producer.flush()
    finally:
        await producer.stop()


async def produce_backlog(
    broker: str, topic: str, event: Callable[[int], bytes], count: int, partitions: int
) -> None:
    """A large one, over so many partitions in turn; in large batches, since it is to be there soon."""
    async with AIOKafkaProducer(bootstrap_servers=broker, max_batch_size=500_000) as producer:
        batches = {number: producer.create_batch() for number in range(partitions)}
        for number in range(count):
            at, value = number % partitions, event(number)
            if batches[at].append(key=b"%d" % number, value=value, timestamp=None) is None:
                await producer.send_batch(batches[at], topic, partition=at)
                batches[at] = producer.create_batch()
                batches[at].append(key=b"%d" % number, value=value, timestamp=None)
        for at, batch in batches.items():
            await producer.send_batch(batch, topic, partition=at)
        await producer.flush()


@asynccontextmanager
async def traffic(
    broker: str, topic: str, event: Callable[[int], bytes], a_second: int
) -> AsyncIterator["Traffic"]:
    """Events at a steady pace, until the block is left."""
    traffic = Traffic()
    async with AIOKafkaProducer(bootstrap_servers=broker) as producer:
        sending = asyncio.create_task(traffic.send(producer, topic, event, a_second))
        try:
            yield traffic
        finally:
            traffic.enough.set()
            await sending
            await producer.flush()


class Traffic:
    """What was sent so far."""

    def __init__(self) -> None:
        self.sent = 0
        self.enough = asyncio.Event()

    async def send(
        self, producer: AIOKafkaProducer, topic: str, event: Callable[[int], bytes], a_second: int
    ) -> None:
        began = time.monotonic()
        while not self.enough.is_set():
            due = (time.monotonic() - began) * a_second
            while self.sent < due:
                await producer.send(topic, value=event(self.sent), key=str(self.sent).encode())
                self.sent += 1
            await asyncio.sleep(0.02)


async def read_all(broker: str, topic: str, *, isolation: str = "read_committed") -> list[Any]:
    """Every record of a topic up to its end as it is now, as a reader of that isolation sees it.

    What is committed is readable a moment after its offsets are: that moment is waited for, and no open transaction.
    """
    consumer = AIOKafkaConsumer(
        bootstrap_servers=broker,
        isolation_level=isolation,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        partitions = [
            TopicPartition(topic, number)
            for number in consumer.partitions_for_topic(topic) or await _partitions(consumer, topic)
        ]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        if isolation == "read_committed":
            written = await end_offsets(broker, topic, len(partitions))
            give_up = time.monotonic() + 3
            while time.monotonic() < give_up and any(ends[tp] < written[tp.partition] for tp in partitions):
                await asyncio.sleep(0.05)
                ends = await consumer.end_offsets(partitions)
        records: list[Any] = []
        idle = 0
        while idle < 10 and any([await consumer.position(tp) < ends[tp] for tp in partitions]):
            batches = await consumer.getmany(timeout_ms=300)
            idle = 0 if batches else idle + 1
            records += [record for batch in batches.values() for record in batch]
        return records
    finally:
        await consumer.stop()


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    return set(await consumer._client._wait_on_metadata(topic))


async def read_outcomes(broker: str, topic: str) -> list[dict[str, Any]]:
    """The outcome topic's outcomes, decoded."""
    return [orjson.loads(record.value) for record in await read_all(broker, topic)]


async def committed_offsets(broker: str, group: str, topic: str, partitions: int) -> dict[int, int]:
    """What the group has committed, by partition."""
    async with kafka_link(broker, group) as link:
        found = await link.read_offsets(
            [TopicPartition(topic, number) for number in range(partitions)], in_seconds(20)
        )
    return {tp.partition: committed.offset for tp, committed in found.items()}


async def commit_by_hand(broker: str, topics: Topics, rows: Mapping[int, tuple[int, str]]) -> None:
    """Offset and metadata by partition, as a tool commits them that moves a group's offsets while none of its members runs."""
    async with AIOKafkaConsumer(
        bootstrap_servers=broker, group_id=topics.group, enable_auto_commit=False
    ) as consumer:
        partitions = {TopicPartition(topics.events, number): row for number, row in rows.items()}
        consumer.assign(list(partitions))
        await consumer.commit({tp: OffsetAndMetadata(*row) for tp, row in partitions.items()})


async def end_offsets(
    broker: str, topic: str, partitions: int, *, isolation: str = "read_uncommitted"
) -> dict[int, int]:
    """The log's end, by partition; for a reader of committed records it is the last stable offset."""
    consumer = AIOKafkaConsumer(bootstrap_servers=broker, isolation_level=isolation)
    await consumer.start()
    try:
        ends = await consumer.end_offsets([TopicPartition(topic, number) for number in range(partitions)])
    finally:
        await consumer.stop()
    return {tp.partition: end for tp, end in ends.items()}


async def until(holds: Callable[[], bool], seconds: float) -> None:
    """Until it is so; at most so long."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110  # what is waited for sets no event
            await asyncio.sleep(0.05)


def in_seconds(seconds: float) -> float:
    """A deadline on the event loop's clock."""
    return asyncio.get_running_loop().time() + seconds


@asynccontextmanager
async def kafka_link(
    broker: str, group: str, client: AIOKafkaClient | None = None
) -> AsyncIterator[TransactionalLink]:
    """The service's own link, on a client of its own."""
    client = client or AIOKafkaClient(bootstrap_servers=broker, request_timeout_ms=10_000)
    await client.bootstrap()
    try:
        yield TransactionalLink(client, group, transaction_timeout=15)
    finally:
        await client.close()


@asynccontextmanager
async def member(broker: str, group: str, topic: str) -> AsyncIterator[Membership]:
    """Somebody who has joined the group, and stays in it."""
    consumer = GroupConsumer(
        topic,
        bootstrap_servers=broker,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        give_up = time.monotonic() + 30
        while not consumer.assignment():
            assert time.monotonic() < give_up, "the group gave no assignment"
            await consumer.getmany(timeout_ms=50)
        yield consumer.membership()
    finally:
        await consumer.stop()


class FaultyClient(AIOKafkaClient):  # type: ignore[misc]  # aiokafka has no types
    """Loses, once, the request of a kind, or its reply."""

    def __init__(self, *, kind: str, lose: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.kind, self.lose = kind, lose
        self.armed = False
        self.lost = 0

    async def send(self, node_id: int, request: Any, **options: Any) -> Any:
        if self.armed and type(request).__name__.lstrip("_").startswith(self.kind):
            self.armed = False
            self.lost += 1
            if self.lose == "reply":
                await super().send(node_id, request, **options)
            raise KafkaConnectionError("lost on purpose")
        return await super().send(node_id, request, **options)
