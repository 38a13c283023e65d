"""The second guarantee, and a Kafka that cannot give the first: refused with what is missing, working under the second."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from consumer.link import (
    Committed,
    CommittedOffset,
    Fenced,
    KafkaLink,
    Membership,
    Outgoing,
    Retriable,
    TopicPartition,
)
from consumer.publishing import PlainWriter, Publisher
from consumer.sandbox.broker import EmbeddedBroker
from consumer.sandbox.gateway import SandboxGateway
from tests.broker.kafka import FaultyClient, Topics, in_seconds, member, produce, read_all
from tests.broker.proxy import KAFKA_2_4, WITHOUT_TRANSACTIONS, Older
from tests.broker.rights import CHECKED, TRANSACTIONAL_ID, Right, grant, take_away
from tests.broker.world import World, event
from tests.conftest import CreateTopics

pytestmark = pytest.mark.broker

AT_LEAST_ONCE = {"CHARGING_COUPON__GUARANTEE": "at_least_once"}


@pytest.mark.long
async def test_kill_9_under_at_least_once_loses_nothing_and_a_reader_folds_to_one_outcome_an_order(
    world: World, gateway: SandboxGateway
) -> None:
    gateway.latency = 0.15
    count = 2_000
    await produce(world.broker, world.topics.events, [event(number) for number in range(count)])
    for killed_at in (400, 1_000):
        member = world.start(**AT_LEAST_ONCE)
        await world.until_outcomes(killed_at, of=count)
        member.kill()
    last = world.start(**AT_LEAST_ONCE)
    await world.until_done(90)
    assert '"guarantee": "at_least_once"' in (await last.get("/readyz"))[1]
    assert (
        next(line for line in last.events() if line["event"] == "service.started")["guarantee"]
        == "at_least_once"
    )
    folded = {outcome["outcome_id"]: outcome["order_id"] for outcome in await world.outcomes()}
    assert Counter(folded.values()) == Counter(f"ORDER{number:08}" for number in range(count))


class Plain:
    """A writer without transactions, on a client that can lose requests."""

    def __init__(self, link: KafkaLink, who: Membership, topics: Topics) -> None:
        self.link = link
        self.topics = topics
        self.partition = TopicPartition(topics.events, 0)
        self.writer = PlainWriter(link, who, Publisher(link, compression="lz4"))

    def records(self, numbers: range, topic: str | None = None) -> list[Outgoing]:
        return [
            Outgoing(topic or self.topics.outcomes, b"%d" % number, b"%d" % number, [], 1_700_000_000_000)
            for number in numbers
        ]

    async def committed(self) -> CommittedOffset:
        return (await self.link.read_offsets([self.partition], in_seconds(10)))[self.partition]


@pytest.fixture
async def link(broker: str, topics: Topics) -> AsyncIterator[KafkaLink]:
    client = FaultyClient(kind="", lose="reply", bootstrap_servers=broker)
    await client.bootstrap()
    try:
        link = KafkaLink(client, topics.group, transaction_timeout=15)
        await link.follow([topics.outcomes, topics.dead_letters])
        yield link
    finally:
        await client.close()


@pytest.mark.parametrize("kind", ["Produce", "OffsetCommit"])
@pytest.mark.parametrize("lose", ["request", "reply"])
async def test_a_lost_request_or_reply_is_tried_again_and_loses_nothing(
    broker: str, topics: Topics, link: KafkaLink, kind: str, lose: str
) -> None:
    async with member(broker, topics.group, topics.events) as who:
        plain = Plain(link, who, topics)
        link.client.kind, link.client.lose, link.client.armed = kind, lose, True
        records = plain.records(range(50))
        assert await plain.writer.flush({plain.partition: CommittedOffset(50, "map")}, records) == Committed()
        assert link.client.lost == 1
        assert await plain.committed() == CommittedOffset(50, "map")
    written = [record.value for record in await read_all(broker, topics.outcomes)]
    assert set(written) == {record.value for record in records}


async def test_an_older_generation_or_a_stranger_moves_no_offset(
    broker: str, topics: Topics, link: KafkaLink
) -> None:
    async with member(broker, topics.group, topics.events) as who:
        for wrong in (
            Membership(who.group, who.generation + 1, who.member_id),
            Membership(who.group, who.generation, "stranger"),
        ):
            plain = Plain(link, wrong, topics)
            result = await plain.writer.flush({plain.partition: CommittedOffset(5, "")}, [])
            assert isinstance(result, Fenced)
            assert result.by == "group"
            assert not await plain.writer.recover(in_seconds(10))
            assert (await plain.committed()).offset == -1
        assert await Plain(link, who, topics).writer.recover(in_seconds(10))


async def test_a_flush_that_is_tried_again_writes_only_what_it_has_not_written_yet(
    broker: str, topics: Topics, link: KafkaLink
) -> None:
    async with member(broker, topics.group, topics.events) as who:
        plain = Plain(link, who, topics)
        offsets = {plain.partition: CommittedOffset(11, "")}
        small = plain.records(range(10))
        large = Outgoing(topics.dead_letters, b"k", bytes(2_000_000), [], 1_700_000_000_000)
        plain.writer = PlainWriter(link, who, Publisher(link, batch_bytes=3_000_000))
        result = await plain.writer.flush(offsets, [*small, large])
        assert isinstance(result, Retriable)
        assert result.culprits == (10,)
        assert (await plain.committed()).offset == -1  # an offset never goes before its outcomes
        shorter = Outgoing(topics.dead_letters, b"k", b"shorter", [], 1_700_000_000_000)
        assert await plain.writer.flush(offsets, [*small, shorter]) == Committed()
        assert (await plain.committed()).offset == 11
    assert Counter(record.value for record in await read_all(broker, topics.outcomes)) == Counter(
        b"%d" % number for number in range(10)
    )
    assert [record.value for record in await read_all(broker, topics.dead_letters)] == [b"shorter"]


@pytest.mark.parametrize(
    ("highest", "lacking"),
    [
        (KAFKA_2_4, "this Kafka does not speak TxnOffsetCommit v3, OffsetFetch v7; it needs Kafka 2.5 or later"),
        (WITHOUT_TRANSACTIONS, "this Kafka does not speak TxnOffsetCommit v3, InitProducerId at all; it needs Kafka 2.5"),
    ],
    ids=["2.4", "no transactions"],
)  # fmt: skip  # a Kafka, a line
async def test_a_broker_that_cannot_give_exactly_once_is_refused_and_works_under_at_least_once(
    broker: str,
    topics: Topics,
    tmp_path: Path,
    gateway: SandboxGateway,
    highest: Mapping[int, int | None],
    lacking: str,
) -> None:
    async with Older(broker, highest) as proxy:
        world = World(proxy.servers, topics, tmp_path, gateway.url)
        world.broker = broker
        try:
            await produce(broker, topics.events, [event(number) for number in range(100)])
            await _refused(world, f"guarantee exactly_once: {lacking}")
            assert not gateway.journal.entries
            member = world.start(**AT_LEAST_ONCE)
            await world.until_done(60)
            assert {outcome["outcome"] for outcome in await world.outcomes()} == {"granted"}
            assert await member.stop() == 0
        finally:
            world.end()


async def test_transactions_that_the_rights_do_not_allow_are_refused_and_at_least_once_does_without(
    tmp_path: Path, gateway: SandboxGateway, topic_prefix: str, create_topics: CreateTopics
) -> None:
    async with EmbeddedBroker(properties=CHECKED) as broker:
        servers = broker.bootstrap_servers
        names = Topics(
            f"{topic_prefix}-events", f"{topic_prefix}-outcomes", f"{topic_prefix}-dead", topic_prefix, 1
        )
        await create_topics(servers, {names.events: 1, names.outcomes: 3, names.dead_letters: 1})
        await produce(servers, names.events, [event(number) for number in range(100)])
        world = World(servers, names, tmp_path, gateway.url)
        try:
            theirs = Right(TRANSACTIONAL_ID, names.group)
            await grant(servers, theirs)
            await _refused(world, f"Kafka does not allow transactions to this client (ACL: DESCRIBE and WRITE on transactional ids that begin with `{names.group}/`)")  # fmt: skip  # its words are one line
            member = world.start(**AT_LEAST_ONCE)
            await world.until_done(60)
            assert await member.stop() == 0
            await take_away(servers, theirs)
            await produce(servers, names.events, [event(number) for number in range(100, 110)])
            world.start()
            await world.until_done(60)
            assert len(await world.outcomes()) == 110
        finally:
            world.end()


async def test_a_transaction_timeout_that_kafka_does_not_allow_is_refused(world: World) -> None:
    """It was waited for, for ever, with no word of which setting is wrong."""
    member = world.start(CHARGING_COUPON__KAFKA__TRANSACTION_TIMEOUT="20m")

    assert await asyncio.to_thread(member.process.wait, 30) == 4
    (error,) = [text for text in member.log_tail().splitlines() if text.startswith("error:")]
    assert error.endswith("lower kafka.transaction_timeout to its transaction.max.timeout.ms at most")


async def _refused(world: World, line: str) -> None:
    member = world.start()
    assert await asyncio.to_thread(member.process.wait, 30) == 4
    (error,) = [text for text in member.log_tail().splitlines() if text.startswith("error:")]
    assert line in error
    assert "set `guarantee: at_least_once`" in error
    assert "Traceback" not in member.log_tail()
