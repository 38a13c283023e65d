"""A Kafka that is not ready, or goes away: the service waits, says so in bounded lines, goes on, and loses nothing."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from consumer.sandbox.broker import EmbeddedBroker
from consumer.sandbox.gateway import SandboxGateway
from tests.broker.kafka import Topics, produce, until
from tests.broker.lengths import scaled
from tests.broker.proxy import Proxy
from tests.broker.rights import CHECKED, GROUP, TOPIC, Right, grant, take_away
from tests.broker.world import APP_ID, SECRET, Member, World, event
from tests.conftest import CreateTopics

pytestmark = [pytest.mark.broker, pytest.mark.long]

ABSENT_AT_START = scaled(5, 180)
ABSENT_LATER = scaled(8, 60)


@pytest.fixture(scope="module")
def mortal() -> Iterator[EmbeddedBroker]:
    """A broker of this module's own, which creates topics that are asked for, as Kafka does by default."""
    broker = EmbeddedBroker(properties={**CHECKED, "auto.create.topics.enable": "true"})
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(broker.start())
        yield broker
    finally:
        loop.run_until_complete(broker.stop())
        loop.close()


@pytest.fixture
async def gateway() -> AsyncIterator[SandboxGateway]:
    async with SandboxGateway(apps={APP_ID: SECRET}) as gateway:
        yield gateway


@pytest.fixture
async def world(
    mortal: EmbeddedBroker, topic_prefix: str, tmp_path: Path, gateway: SandboxGateway
) -> AsyncIterator[World]:
    """Without its topics."""
    name = topic_prefix
    topics = Topics(f"{name}-events", f"{name}-outcomes", f"{name}-dead", f"{name}-group", 2)
    world = World(mortal.bootstrap_servers, topics, tmp_path, gateway.url)
    try:
        yield world
    finally:
        world.end()


def partitions(topics: Topics) -> dict[str, int]:
    return {topics.events: topics.partitions, topics.outcomes: 3, topics.dead_letters: 1}


async def delete(broker: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    try:
        await admin.delete_topics([topic])
        while topic in await admin.list_topics():  # noqa: ASYNC110  # Kafka sets no event
            await asyncio.sleep(0.05)
    finally:
        await admin.close()


async def until_it_says(
    member: Member, words: str | None, seconds: float = 40, *, and_no_more: bool = False
) -> dict[str, Any]:
    """Until /readyz waits for something in these words, or for nothing."""
    give_up = time.monotonic() + seconds
    while True:
        status, body = await member.get("/readyz")
        page: dict[str, Any] = orjson.loads(body)
        waits = page["waiting_for"]
        if words is None:
            found = waits is None and page["joined"]
        else:
            found = waits == words if and_no_more else words in (waits or "")
        if found:
            return {"status": status, **page}
        assert time.monotonic() < give_up, f"{waits!r} instead of {words!r}\n{member.log_tail()}"
        await asyncio.sleep(0.1)


def orders(count: int) -> Counter[str]:
    return Counter(f"ORDER{number:08}" for number in range(count))


async def by_order(world: World) -> Counter[str]:
    return Counter(outcome["order_id"] for outcome in await world.outcomes())


async def test_brokers_that_come_late_and_topics_that_come_later_are_waited_for(
    mortal: EmbeddedBroker, world: World, create_topics: CreateTopics
) -> None:
    await mortal.kill()
    member = world.start()
    away = await until_it_says(member, "Kafka")
    await asyncio.sleep(ABSENT_AT_START)
    assert away["status"] == 503
    assert not away["joined"]
    assert (await member.get("/healthz"))[0] == 200
    assert len(member.events()) < 25
    await mortal.restart()
    topics = world.topics
    without = await until_it_says(member, f"topic {topics.events}: it does not exist")
    assert f"topic {topics.outcomes}: it does not exist" in without["waiting_for"]
    await asyncio.sleep(1)  # it would be there by now if asking for it had made it
    await create_topics(world.broker, {topics.outcomes: 3, topics.dead_letters: 1})
    await until_it_says(member, f"topic {topics.events}: it does not exist", and_no_more=True)
    await create_topics(world.broker, {topics.events: 2})
    await produce(world.broker, topics.events, [event(number) for number in range(50)])
    await until_it_says(member, None)
    await world.until_done(40)
    assert await by_order(world) == orders(50)
    assert len(member.events()) < 40
    assert await member.stop() == 0


async def test_a_broker_that_is_away_for_a_while_later_on_costs_nothing(
    mortal: EmbeddedBroker, world: World, gateway: SandboxGateway, create_topics: CreateTopics
) -> None:
    gateway.latency = 0.12
    await create_topics(world.broker, partitions(world.topics))
    await produce(world.broker, world.topics.events, [event(number) for number in range(2_000)])
    member = world.start()
    await world.until_outcomes(300, of=2_000)
    await mortal.kill()
    away = await until_it_says(member, "no answer from Kafka")
    assert away["status"] == 200  # it is still a member, for all that it knows
    await asyncio.sleep(ABSENT_LATER)
    assert (await member.get("/healthz"))[0] == 200
    await mortal.restart()
    await world.until_done(90)
    assert await by_order(world) == orders(2_000)
    await until_it_says(member, None)
    warnings = [line for line in member.events() if line["level"] in {"warning", "error"}]
    assert len(warnings) < 60, Counter(line["event"] for line in warnings)
    assert await member.stop() == 0


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
async def test_an_outcome_topic_that_is_deleted_and_made_anew_holds_every_outcome_from_then_on(
    world: World, create_topics: CreateTopics, guarantee: str
) -> None:
    topics = world.topics
    await create_topics(world.broker, partitions(topics))
    member = world.start(
        CHARGING_COUPON__GUARANTEE=guarantee, CHARGING_COUPON__KAFKA__TRANSACTION_TIMEOUT="3s"
    )
    await produce(world.broker, topics.events, [event(number) for number in range(20)])
    await world.until_done(40)
    await delete(world.broker, topics.outcomes)
    await produce(world.broker, topics.events, [event(number) for number in range(20, 60)])
    await until_it_says(member, f"topic {topics.outcomes}: it does not exist")
    await asyncio.sleep(1)
    await create_topics(world.broker, {topics.outcomes: 1})  # with fewer partitions than before
    await world.until_done(60)
    outcomes = await world.outcomes()
    assert Counter(outcome["order_id"] for outcome in outcomes) == orders(60) - orders(20)
    await until_it_says(member, None)
    assert await member.stop() == 0


async def test_an_events_topic_that_is_deleted_and_made_anew_is_read_from_its_beginning(
    world: World, create_topics: CreateTopics
) -> None:
    topics = world.topics
    await create_topics(world.broker, partitions(topics))
    member = world.start()
    await produce(world.broker, topics.events, [event(number) for number in range(40)])
    await world.until_done(40)
    await delete(world.broker, topics.events)
    await until_it_says(member, f"topic {topics.events}: it does not exist")
    await create_topics(world.broker, {topics.events: topics.partitions})
    await produce(world.broker, topics.events, [event(number) for number in range(40, 70)])
    await world.until_done(60)
    assert await by_order(world) == orders(70)
    assert await member.stop() == 0


@pytest.mark.parametrize("count", [20, 400], ids=["shorter", "longer"])
async def test_an_events_topic_that_is_made_anew_within_a_moment_is_read_from_its_beginning(
    world: World, create_topics: CreateTopics, count: int
) -> None:
    topics = world.topics
    await create_topics(world.broker, partitions(topics))
    member = world.start()
    await produce(world.broker, topics.events, [event(number) for number in range(40)])
    await world.until_done(40)
    await delete(world.broker, topics.events)
    await create_topics(world.broker, {topics.events: topics.partitions})
    await produce(world.broker, topics.events, [event(number) for number in range(40, 40 + count)])
    await world.until_done(60)
    assert await by_order(world) == orders(40 + count)
    assert await member.stop() == 0


async def test_another_kafka_at_the_same_address_is_met_as_another(
    world: World, broker: str, gateway: SandboxGateway, create_topics: CreateTopics, tmp_path: Path
) -> None:
    """As when a name is led to a cluster that stands by: offsets, ids and what outcomes are called by are its own."""
    topics = world.topics
    standby = World(broker, topics, tmp_path, gateway.url)
    for each in (world, standby):
        await create_topics(each.broker, partitions(topics))
    await produce(world.broker, topics.events, [event(number) for number in range(20)])
    await produce(standby.broker, topics.events, [event(number) for number in range(20, 60)])
    async with Proxy(world.broker) as name:
        member = world.through(name.servers)
        await world.until_done(40)
        name.port = int(standby.broker.split(":")[1])
        name.cut()
        await standby.until_done(60)
        await until(lambda: "another Kafka answers" in str(member.events()), 30)
        await until_it_says(member, None)
        await produce(standby.broker, topics.events, [event(number) for number in range(60, 80)])
        await standby.until_done(60)
        assert await member.stop() == 0
    (before,) = {outcome["outcome_id"].split("/")[0] for outcome in await world.outcomes()}
    of_standby = await standby.outcomes()
    assert {outcome["order_id"] for outcome in of_standby} == {*orders(80)} - {*orders(20)}
    late = [
        outcome["outcome_id"]
        for outcome in of_standby
        if outcome["order_id"] in {*orders(80)} - {*orders(60)}
    ]
    assert len(late) == 20
    assert not any(outcome_id.startswith(before) for outcome_id in late)


async def test_rights_that_come_late_are_waited_for(world: World, create_topics: CreateTopics) -> None:
    topics = world.topics
    await create_topics(world.broker, partitions(topics))
    await produce(world.broker, topics.events, [event(number) for number in range(20)])
    theirs = [Right(GROUP, topics.group), Right(TOPIC, topics.events)]
    for right in theirs:
        await grant(world.broker, right)
    member = world.start()
    await until_it_says(member, "group")
    await take_away(world.broker, theirs[0])
    await until_it_says(member, f"topic {topics.events}: not allowed to this client (ACL: DESCRIBE")
    await take_away(world.broker, theirs[1])
    await world.until_done(40)
    assert await by_order(world) == orders(20)
    assert await member.stop() == 0
