"""A member with a name of its own: restarted it goes on where it was, and two of one name do no harm. Where a new group begins."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiokafka import AIOKafkaProducer

from consumer.connection import Access
from consumer.core.errors import BrokerUnavailableError
from consumer.sandbox.gateway import SandboxGateway
from consumer.settings import load_settings
from consumer.waiting import Kafka, Waiting
from tests.broker.kafka import Topics, produce
from tests.broker.world import APP_ID, SECRET, World, event

pytestmark = pytest.mark.broker

NAMED = {"CHARGING_COUPON__KAFKA__GROUP_INSTANCE_ID": "member-1"}


@pytest.fixture
async def world(broker: str, topics: Topics, tmp_path: Path) -> AsyncIterator[World]:
    async with SandboxGateway(apps={APP_ID: SECRET}, latency=0.3) as gateway:
        world = World(broker, topics, tmp_path, gateway.url)
        try:
            yield world
        finally:
            world.end()


async def test_a_named_member_killed_and_restarted_doubles_nothing_and_does_not_wait_for_its_session(
    world: World,
) -> None:
    world.settings.write_text(
        world.settings.read_text("utf-8").replace("session_timeout: 6s", "session_timeout: 60s"), "utf-8"
    )
    await produce(world.broker, world.topics.events, [event(number) for number in range(900)])
    member = world.start(**NAMED)
    await world.until_outcomes(100, of=900)
    member.kill()
    member = world.start(**NAMED)
    await world.until_done(50)
    counts = Counter(outcome["order_id"] for outcome in await world.outcomes())
    assert counts == Counter(f"ORDER{number:08}" for number in range(900))
    assert await member.stop() == 0


@pytest.mark.long
async def test_of_two_members_of_one_name_the_older_writes_nothing_any_more(world: World) -> None:
    await produce(world.broker, world.topics.events, [event(number) for number in range(900)])
    old = world.start(**NAMED)
    await world.until_outcomes(100, of=900)
    old.process.send_signal(signal.SIGSTOP)
    new = world.start(**NAMED)
    await world.until_outcomes(500, of=900)
    old.process.send_signal(signal.SIGCONT)
    await world.until_done(60)
    counts = Counter(outcome["order_id"] for outcome in await world.outcomes())
    assert counts == Counter(f"ORDER{number:08}" for number in range(900))
    assert await new.stop() == 0


async def test_a_new_group_begins_at_the_first_record_of_a_time(world: World) -> None:
    now = datetime.now(UTC)
    async with AIOKafkaProducer(bootstrap_servers=world.broker) as producer:
        for number in range(40):
            at = now - timedelta(minutes=40 - number)
            await producer.send_and_wait(
                world.topics.events,
                event(number),
                timestamp_ms=int(at.timestamp() * 1000),
                partition=number % 3,
            )
    start = (now - timedelta(minutes=10)).isoformat()
    member = world.start(CHARGING_COUPON__KAFKA__START_FROM=start)
    outcomes: list[dict[str, Any]] = []
    async with asyncio.timeout(60):
        while len(outcomes) < 10:
            outcomes = await world.outcomes()
    assert sorted(outcome["order_id"] for outcome in outcomes) == [
        f"ORDER{number:08}" for number in range(30, 40)
    ]
    assert await member.stop() == 0


@pytest.fixture
async def kafka(world: World) -> AsyncIterator[Kafka]:
    """A consumer in the group, in this process."""
    settings = load_settings(world.settings, {})
    access = Access(settings.kafka, settings.secret)
    kafka = await Kafka.reach(settings, access, Waiting(), asyncio.Event())
    assert kafka is not None
    kafka.consumer.subscribe([world.topics.events])
    while not kafka.consumer.assignment():
        await kafka.consumer.getmany(timeout_ms=50)
    try:
        yield kafka
    finally:
        await kafka.close()


async def test_a_cancellation_within_aiokafka_does_not_end_us_while_it_is_closed(kafka: Kafka) -> None:
    """The process would end with an exit code of 1, and its connections would stay open."""
    # A request's task that has not begun is no more than that.
    not_begun = asyncio.get_running_loop().create_future()
    kafka.consumer._fetcher._pending_tasks.add(not_begun)

    with structlog.testing.capture_logs() as lines:
        await kafka.close()

    assert [line["problem"] for line in lines if line["event"] == "service.kafka_not_closed"] == [
        "aiokafka cancelled it"
    ]
    assert not any(connection.connected() for connection in kafka.consumer._client._conns.values())


async def test_a_fetcher_that_ended_is_noticed_at_the_next_poll(kafka: Kafka) -> None:
    fetcher = kafka.consumer._fetcher._fetch_task
    fetcher.cancel()  # as it does to itself
    await asyncio.wait([fetcher])

    with pytest.raises(BrokerUnavailableError, match="a new consumer is needed"):
        await kafka.consumer.getmany(timeout_ms=50)
