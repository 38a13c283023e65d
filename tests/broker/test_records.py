"""Records as the world writes them: every codec, and headers of any bytes, are read and copied as they are."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from consumer.link import Code, Committed, CommittedOffset, Outgoing, TopicPartition
from consumer.publishing import Publisher
from consumer.sandbox.gateway import SandboxGateway
from consumer.topics import TopicSpec, ensure_topics
from consumer.transactions import TransactionWriter, transactional_ids
from tests.broker.kafka import Topics, in_seconds, kafka_link, member, read_all
from tests.broker.world import APP_ID, SECRET, World, event

pytestmark = pytest.mark.broker

CODECS = ["gzip", "snappy", "lz4", "zstd"]


@pytest.fixture
async def world(broker: str, topics: Topics, tmp_path: Path) -> AsyncIterator[World]:
    async with SandboxGateway(apps={APP_ID: SECRET}) as gateway:
        world = World(broker, topics, tmp_path, gateway.url)
        try:
            yield world
        finally:
            world.end()


async def produce_compressed(broker: str, topic: str, codec: str | None, numbers: Sequence[int]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=broker, compression_type=codec, linger_ms=20)
    async with producer:
        for number in numbers:
            await producer.send(topic, event(number))
        await producer.flush()


async def test_events_of_every_codec_are_consumed_also_where_the_topic_asks_for_one(world: World) -> None:
    recompressed = f"{world.topics.events}-zstd"
    await ensure_topics(world.broker, {recompressed: TopicSpec(1, config={"compression.type": "zstd"})})
    member = world.start(CHARGING_COUPON__KAFKA__TOPICS__EVENTS=f"{world.topics.events},{recompressed}")
    for place, codec in enumerate(CODECS):
        await produce_compressed(world.broker, world.topics.events, codec, range(place * 50, place * 50 + 50))
    await produce_compressed(world.broker, recompressed, None, range(200, 250))
    await world.until_outcomes(250)
    await world.until_done(30)
    counts = Counter(outcome["order_id"] for outcome in await world.outcomes())
    assert counts == Counter(f"ORDER{number:08}" for number in range(250))
    assert await member.stop() == 0


@pytest.mark.parametrize("codec", [*CODECS, "none"])
async def test_what_is_written_in_any_codec_is_read_by_others(
    broker: str, topics: Topics, codec: str
) -> None:
    async with member(broker, topics.group, topics.events) as who, kafka_link(broker, topics.group) as link:
        await link.follow([topics.dead_letters])
        producers = await link.fence(transactional_ids(topics.group, topics.events, 0), in_seconds(20))
        writer = TransactionWriter(link, who, producers, Publisher(link, compression=codec))
        records = [
            Outgoing(topics.dead_letters, b"key", b"value %d " % number * 50, [], 1_700_000_000_000)
            for number in range(100)
        ]
        offsets = {TopicPartition(topics.events, 0): CommittedOffset(1, "")}
        assert await writer.flush(offsets, records) == Committed()
    async with asyncio.timeout(20):  # the broker marks the transaction's end a moment after its answer
        while not (found := await read_all(broker, topics.dead_letters)):
            pass
    assert [record.value for record in found] == [record.value for record in records]


HEADERS: list[tuple[str, bytes | None]] = [
    ("not utf-8", b"\xc3\x28"),
    ("null", None),
    ("empty", b""),
    ("thrice", b"1"),
    ("thrice", b"2"),
    ("thrice", b"1"),
    ("a key\nwith a newline", b"line\nbreak"),
    ("", b"no key"),
    ("车牌", "粤B12345".encode("gb18030")),
    *((f"many-{number}", bytes([number])) for number in range(200)),
]


async def test_headers_of_any_bytes_are_no_obstacle_and_are_copied_into_the_dead_letter_as_they_are(
    world: World,
) -> None:
    async with AIOKafkaProducer(bootstrap_servers=world.broker) as producer:
        await producer.send_and_wait(world.topics.events, event(1), headers=HEADERS)
        await producer.send_and_wait(world.topics.events, b"not json", headers=HEADERS)
    member = world.start()
    await world.until_done(60)
    assert sorted(outcome["outcome"] for outcome in await world.outcomes()) == ["granted", "invalid"]
    (letter,) = await read_all(world.broker, world.topics.dead_letters)
    assert letter.value == b"not json"
    assert list(letter.headers[: len(HEADERS)]) == HEADERS
    assert all(key.startswith("coupon_") for key, _ in letter.headers[len(HEADERS) :])
    assert await member.stop() == 0


class Raw(str):
    """A header's key as other languages' clients can write it: of bytes that are no UTF-8."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        return super().encode("latin-1")


def raw_builder(codec: int) -> Any:
    """Of a batch whose header keys may be `Raw`."""
    return _DefaultRecordBatchBuilderPy(
        magic=2,
        compression_type=codec,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )


async def produce_raw(broker: str, topic: str, records: Sequence[tuple[bytes, str]], codec: int) -> None:
    """(value, the one header's key): aiokafka's own producer does not write such keys."""
    builder = raw_builder(codec)
    for offset, (value, key) in enumerate(records):
        builder.append(offset, 1_700_000_000_000, b"key", value, [(Raw(key), b"\xff")])
    client = AIOKafkaClient(bootstrap_servers=broker)
    await client.bootstrap()
    try:
        await client._wait_on_metadata(topic)
        node = client.cluster.leader_for_partition(TopicPartition(topic, 0))
        request = ProduceRequest(None, -1, 10_000, [(topic, [(0, bytes(builder.build()))])])
        async with asyncio.timeout(20):
            while (await client.send(node, request)).topics[0][1][0][1] == Code.NOT_LEADER:  # noqa: ASYNC110  # a new topic sets no event
                await asyncio.sleep(0.1)
    finally:
        await client.close()


async def test_a_header_key_that_is_no_utf8_is_read_with_its_bytes_written_out(world: World) -> None:
    for codec in (0, 4):
        start = 10 * codec
        await produce_raw(
            world.broker,
            world.topics.events,
            [
                (event(start), "fine"),
                (event(start + 1), "caf\xe9"),
                (b"not json", "\xff\xfe"),
                (event(start + 2), "fine"),
            ],
            codec,
        )
    member = world.start()
    await world.until_done(60)
    outcomes = Counter(outcome["outcome"] for outcome in await world.outcomes())
    assert outcomes == Counter(granted=6, invalid=2)
    letters = await read_all(world.broker, world.topics.dead_letters)
    assert [letter.headers[0] for letter in letters] == [(r"\xff\xfe", b"\xff")] * 2
    assert await member.stop() == 0
