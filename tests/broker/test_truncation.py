"""A log that has lost its end, as by an unclean leader election, or its beginning: what stands there now is read, and an alarm tells."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from consumer.link import TopicPartition
from consumer.sandbox.answers import ANSWERS
from consumer.sandbox.broker import EmbeddedBroker
from consumer.sandbox.gateway import SandboxGateway
from tests.broker.kafka import Topics, produce
from tests.broker.world import World, event

pytestmark = pytest.mark.broker

CreateTopics = Callable[[str, Mapping[str, int]], Awaitable[None]]


@pytest.fixture
async def own_broker() -> AsyncIterator[EmbeddedBroker]:
    """One of its own for this test, whose files it may touch."""
    async with EmbeddedBroker() as broker:
        yield broker


async def end_in_order(broker: EmbeddedBroker) -> None:
    """All that it has is in its files then."""
    assert broker._process is not None
    broker._process.terminate()
    await asyncio.to_thread(broker._process.wait)


@pytest.mark.long
@pytest.mark.parametrize("runs", [True, False], ids=["while it runs", "while it is away"])
@pytest.mark.parametrize("then", [5, 40], ids=["shorter", "longer"])
async def test_a_log_that_lost_its_end_is_read_from_there_whatever_it_has_grown_to_since(
    own_broker: EmbeddedBroker,
    topic_prefix: str,
    create_topics: CreateTopics,
    tmp_path: Path,
    gateway: SandboxGateway,
    *,
    runs: bool,
    then: int,
) -> None:
    """As where a replica leads that had not all of it. Neither is anything passed over, nor all read again."""
    name, servers = topic_prefix, own_broker.bootstrap_servers
    topics = Topics(f"{name}-events", f"{name}-outcomes", f"{name}-dead", f"{name}-group", 1)
    await create_topics(servers, {topics.events: 1, topics.outcomes: 3, topics.dead_letters: 1})
    world = World(servers, topics, tmp_path, gateway.url)
    try:
        await produce(servers, topics.events, [event(number) for number in range(30)])
        await end_in_order(own_broker)
        assert own_broker.data_folder is not None
        log, kept = own_broker.data_folder / "log" / f"{topics.events}-0", tmp_path / "replica"
        shutil.copytree(log, kept)
        await own_broker.restart()

        member = world.start()
        await produce(servers, topics.events, [event(number) for number in range(30, 50)])
        await world.until_done(60)
        if not runs:
            assert await member.stop() == 0
        await end_in_order(own_broker)
        shutil.rmtree(log)
        shutil.copytree(kept, log)
        await own_broker.restart()
        await produce(servers, topics.events, [event(number) for number in range(100, 100 + then)])
        if not runs:
            member = world.start()
        await world.until_done(60)

        outcomes = [outcome["order_id"] for outcome in await world.outcomes()]
        assert sorted(outcomes) == [f"ORDER{number:08}" for number in (*range(50), *range(100, 100 + then))]
        assert 'coupon_log_losses_total{why="cut"} 1.0' in (await member.get("/metrics"))[1]
        (told,) = [line for line in member.events() if line["event"] == "takeover.log_cut"]
        assert (told["read_up_to"], told["offset"]) == (50, 30)
        assert await member.stop() == 0
    finally:
        world.end()


@pytest.mark.parametrize("runs", [True, False], ids=["while it runs", "while it is away"])
async def test_records_that_kafka_deleted_before_they_were_read_are_an_alarm(
    world: World, gateway: SandboxGateway, *, runs: bool
) -> None:
    """As after a long stop of the platform, or of the service, that outlasts the topic's retention."""
    member = world.start()
    await produce(world.broker, world.topics.events, [event(0)], [b"one"])
    await world.until_done(60)
    if runs:
        gateway.script = lambda _call: ANSWERS["403"]
        await produce(world.broker, world.topics.events, [event(1)], [b"one"])
        await member.until_page("/metrics", 'coupon_intake_paused{reason="config_alarm"} 1.0', 20)
    else:
        assert await member.stop() == 0
        await produce(world.broker, world.topics.events, [event(1)], [b"one"])
    await produce(
        world.broker, world.topics.events, [event(number) for number in range(2, 12)], [b"one"] * 10
    )
    await delete_records(world)
    await produce(world.broker, world.topics.events, [event(12)], [b"one"])
    gateway.script = None
    if not runs:
        member = world.start()
    await world.until_done(60)

    outcomes = {outcome["order_id"] for outcome in await world.outcomes()}
    assert {"ORDER00000000", "ORDER00000012"} <= outcomes <= {f"ORDER{number:08}" for number in (0, 1, 2, 12)}
    assert 'coupon_log_losses_total{why="deleted"} 1.0' in (await member.get("/metrics"))[1]
    assert await member.stop() == 0


async def delete_records(world: World) -> None:
    """All that there are."""
    partitions = [TopicPartition(world.topics.events, number) for number in range(world.topics.partitions)]
    admin = AIOKafkaAdminClient(bootstrap_servers=world.broker)
    await admin.start()
    try:
        await admin.delete_records(dict.fromkeys(partitions, RecordsToDelete(before_offset=-1)))
    finally:
        await admin.close()
