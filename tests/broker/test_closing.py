"""Whoever is cancelled while connections to Kafka are opened or closed leaves none open."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
from aiokafka.client import AIOKafkaClient

from consumer import rulebook
from consumer.connection import Access
from consumer.service import Service
from consumer.settings import Settings, load_settings
from consumer.waiting import Kafka, Waiting
from tests.broker.proxy import ADD_OFFSETS, Proxy
from tests.broker.world import World

pytestmark = pytest.mark.broker

METADATA, LEAVE_GROUP = 3, 13
"""API keys."""


class Ambush(Proxy):
    """Holds the first request of a kind up until told to let it go.

    Attributes:
        key: of the kind; None: nothing is held up.

    """

    def __init__(self, broker: str) -> None:
        super().__init__(broker)
        self.key: int | None = None
        self.met, self.go = asyncio.Event(), asyncio.Event()

    async def on_request(self, connection: int, key: int) -> None:
        if key == self.key:
            self.met.set()
            await self.go.wait()

    async def until_left(self) -> None:
        """Nobody is connected any more."""
        async with asyncio.timeout(10):
            while self._serving:  # noqa: ASYNC110  # a connection sets no event
                await asyncio.sleep(0.01)


@pytest.fixture
async def ambush(broker: str) -> AsyncIterator[Ambush]:
    async with Ambush(broker) as proxy:
        yield proxy


@pytest.fixture
def settings(ambush: Ambush, world: World) -> Settings:
    """By which Kafka is reached through the ambush."""
    return load_settings(world.settings, {"CHARGING_COUPON__KAFKA__BOOTSTRAP_SERVERS": ambush.servers})


async def cancelled_at(
    ambush: Ambush, key: int, work: Coroutine[Any, Any, None] | asyncio.Task[None]
) -> None:
    """When its request of this kind is on its way."""
    ambush.key = key
    task = asyncio.ensure_future(work)
    await ambush.met.wait()
    task.cancel()
    ambush.go.set()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_client_that_asks_for_the_brokers_closes_that_connection(
    ambush: Ambush, settings: Settings
) -> None:
    client = AIOKafkaClient(**Access(settings.kafka, str).arguments())

    await cancelled_at(ambush, METADATA, client.bootstrap())

    await client.close()
    await ambush.until_left()


async def test_a_member_that_leaves_the_group_closes_both_connections(
    ambush: Ambush, settings: Settings
) -> None:
    kafka = await Kafka.reach(settings, Access(settings.kafka, str), Waiting(), asyncio.Event())
    assert kafka is not None
    kafka.consumer.subscribe(list(settings.kafka.topics.events))
    while not kafka.consumer.assignment():
        await kafka.consumer.getmany(timeout_ms=100)

    await cancelled_at(ambush, LEAVE_GROUP, kafka.close())

    await ambush.until_left()


async def test_a_service_that_writes_for_the_last_time_opens_no_connection_after_it_has_closed_them(
    ambush: Ambush, settings: Settings
) -> None:
    service = Service(settings, rules=rulebook.load(settings.rules))
    running = asyncio.create_task(service.run())
    while not service.ready()[1]["partitions"]:  # noqa: ASYNC110  # an open assignment sets no event
        await asyncio.sleep(0.05)

    service.stop()
    await cancelled_at(ambush, ADD_OFFSETS, running)

    await ambush.until_left()
