"""Offsets that others touched, partitions that are added, producers that the broker forgot: nothing is passed over."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.protocol.admin import DeleteGroupsRequest

from consumer.core.offsets import OffsetMap, decode_map, encode_map
from consumer.link import CommittedOffset
from consumer.sandbox.answers import ANSWERS
from consumer.sandbox.broker import EmbeddedBroker
from consumer.sandbox.gateway import SandboxGateway
from tests.broker.audit import audit
from tests.broker.kafka import Topics, commit_by_hand, in_seconds, kafka_link, produce, read_all, traffic
from tests.broker.lengths import scaled
from tests.broker.world import RULES, World, event
from tests.conftest import CreateTopics

pytestmark = pytest.mark.broker


@pytest.mark.long
@pytest.mark.parametrize("start_from", ["earliest", "latest"])
async def test_of_partitions_added_under_load_no_record_is_passed_over(
    world: World, gateway: SandboxGateway, start_from: str
) -> None:
    """What is written before they are noticed, within half a minute, is read whatever a new group would begin with."""
    world.topics = replace(world.topics, partitions=7)
    added = range(100_000, 100_300)
    member = world.start(CHARGING_COUPON__KAFKA__START_FROM=start_from)
    await member.until_logged("intake.open")
    async with traffic(world.broker, world.topics.events, event, 50) as sent:
        await world.until_outcomes(50)
        await add_partitions(world.broker, world.topics.events, 7)
        async with AIOKafkaProducer(bootstrap_servers=world.broker) as producer:
            for number in added:
                await producer.send(world.topics.events, event(number), partition=4 + number % 3)
        await member.until_page("/metrics", "coupon_assigned_partitions 7.0", 40)
    await world.until_done(40)
    await audit(world, gateway, [*range(sent.sent), *added])
    assert await member.stop() == 0


async def add_partitions(broker: str, topic: str, count: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    try:
        await admin.create_partitions({topic: NewPartitions(count)})
        while len((await admin.describe_topics([topic]))[0]["partitions"]) < count:  # noqa: ASYNC110  # Kafka sets no event
            await asyncio.sleep(0.05)
    finally:
        await admin.close()


async def test_deleted_offsets_repeat_what_is_young_under_the_same_ids_and_ask_for_nothing_old(
    world: World, gateway: SandboxGateway
) -> None:
    week_ago = datetime.now(UTC) - timedelta(days=7)
    just_now = datetime.now(UTC) - timedelta(minutes=1)

    def ended(number: int, at: datetime) -> bytes:
        return event(number, started_at=(at - timedelta(hours=1)).isoformat(), ended_at=at.isoformat())

    old = [ended(number, week_ago) for number in range(scaled(300, 100_000))]
    young = [ended(1_000_000 + number, just_now) for number in range(100)]
    await produce(world.broker, world.topics.events, [*old, *young])
    first = world.start()
    await world.until_done(scaled(30, 600))
    assert await first.stop() == 0
    before = {outcome["outcome_id"]: outcome["event_id"] for outcome in await world.outcomes()}
    calls = gateway.journal.calls
    await delete_offsets(world.broker, world.topics.group)

    world.rules.write_text(RULES.replace("deadline: off\n", ""), "utf-8")  # a day
    second = world.start()
    await world.until_done(scaled(30, 600))
    assert await second.stop() == 0

    outcomes = await world.outcomes()
    again = outcomes[len(before) :] if len(outcomes) == 2 * len(before) else []
    assert {outcome["outcome_id"]: outcome["event_id"] for outcome in outcomes} == before
    assert set(Counter(outcome["outcome_id"] for outcome in outcomes).values()) == {2}
    kinds = Counter(outcome["outcome"] for outcome in outcomes)
    assert kinds == Counter(granted=len(before), expired=len(old), already_granted=len(young)), again[:2]
    assert gateway.journal.calls == calls + len(young)


async def delete_offsets(broker: str, group: str) -> None:
    """As an operator does, or the broker itself a week after the last member has gone."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    try:
        response = await admin._client.send(await admin.find_coordinator(group), DeleteGroupsRequest([group]))
        assert response.results == [(group, 0)]
    finally:
        await admin.close()


async def test_a_map_that_is_not_of_its_offset_is_ignored_and_no_record_is_lost(
    world: World, gateway: SandboxGateway
) -> None:
    """A mirrored cluster, an operator's reset, another program's metadata: what it says is done, may not be."""
    async with AIOKafkaProducer(bootstrap_servers=world.broker) as producer:
        for number in range(200):
            await producer.send(world.topics.events, event(number), partition=number % 4)
    hanging = {f"ORDER{number:08}" for number in range(40, 44)}  # at offset 10 of each partition
    gateway.script = lambda call: ANSWERS["hang"] if call.event_id in hanging else None
    first = world.start(
        CHARGING_COUPON__DRAIN_TIMEOUT="1s",
        CHARGING_COUPON__GATEWAY__TOTAL_TIMEOUT="60s",
        CHARGING_COUPON__GATEWAY__READ_TIMEOUT="60s",
    )
    await world.until_outcomes(196)
    assert await first.stop() == 0
    cluster, found = await committed(world)
    maps = {tp.partition: decode_map(one.metadata, cluster, one.offset) for tp, one in found.items()}
    assert set(maps.values()) == {OffsetMap(((11, 50),), clean=False)}

    real = found[TopicPartition(world.topics.events, 0)].metadata
    await commit_by_hand(
        world.broker,
        world.topics,
        {
            0: (5, real),
            1: (10, encode_map("another cluster", 10, [(11, 50)], clean=False)),
            2: (10, "somebody else's"),
            3: (10, "ccc1:????"),
        },
    )
    gateway.script = None
    second = world.start()
    await world.until_done(30)

    _, page = await second.get("/metrics")
    for why in ("other_offset", "other_cluster", "foreign", "unreadable"):
        assert f'coupon_offset_maps_ignored_total{{why="{why}"}} 1.0' in page
    told = [line for line in second.events() if line["event"] == "takeover.offset_map_ignored"]
    assert [line["level"] for line in told] == ["warning"] * 4
    outcomes = await world.outcomes()
    times = Counter(outcome["outcome_id"] for outcome in outcomes)
    assert {outcome["order_id"] for outcome in outcomes} == {f"ORDER{number:08}" for number in range(200)}
    assert len(times) == 200
    assert Counter(times.values()) == {2: 5 + 39 + 3 * 39, 1: 5 + 3 * 10 + 4}  # repeated, under the same ids
    assert await second.stop() == 0


async def committed(world: World) -> tuple[str, Mapping[TopicPartition, CommittedOffset]]:
    """The cluster's id, and what the group has committed."""
    partitions = [TopicPartition(world.topics.events, number) for number in range(world.topics.partitions)]
    async with kafka_link(world.broker, world.topics.group) as link:
        return await link.cluster_id(), await link.read_offsets(partitions, in_seconds(10))


FORGETFUL = {
    "transactional.id.expiration.ms": "2000",
    "transaction.remove.expired.transaction.cleanup.interval.ms": "500",
    "producer.id.expiration.ms": "2000",
    "producer.id.expiration.check.interval.ms": "500",
}


@pytest.fixture
async def forgetful() -> AsyncIterator[str]:
    """A broker that forgets producers after two seconds; a real one does after a day, and their ids after a week."""
    async with EmbeddedBroker(properties=FORGETFUL) as broker:
        yield broker.bootstrap_servers


@pytest.mark.long
async def test_after_a_night_without_a_charge_the_first_one_gets_its_outcome(
    forgetful: str, topic_prefix: str, create_topics: CreateTopics, tmp_path: Path, gateway: SandboxGateway
) -> None:
    name = topic_prefix
    topics = Topics(f"{name}-events", f"{name}-outcomes", f"{name}-dead", f"{name}-group", 4)
    await create_topics(forgetful, {topics.events: 4, topics.outcomes: 3, topics.dead_letters: 1})
    world = World(forgetful, topics, tmp_path, gateway.url)
    try:
        member = world.start()
        for night in range(3):
            await produce(forgetful, topics.events, [event(night)])
            await world.until_done(20)
            await asyncio.sleep(scaled(6, 180))
        await audit(world, gateway, range(3))
        assert not await read_all(forgetful, topics.dead_letters)
        # It had indeed forgotten them: the first transaction after each night had to begin anew.
        assert 'coupon_transactions_total{result="ambiguous"} 2.0' in (await member.get("/metrics"))[1]
        assert [line["event"] for line in member.events()].count("service.started") == 1
        assert await member.stop() == 0
    finally:
        world.end()
