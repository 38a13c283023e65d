"""The books of the trials find what is wrong: a lost outcome, a doubled one, an offset that goes back or too far."""

from collections.abc import Awaitable, Callable

import pytest
from aiokafka import AIOKafkaProducer

from consumer.core.offsets import encode_map
from consumer.sandbox.gateway import SandboxGateway
from tests.broker.audit import audit
from tests.broker.kafka import commit_by_hand, kafka_link, produce, read_all
from tests.broker.world import World, event

pytestmark = [pytest.mark.broker, pytest.mark.long]


async def commit(world: World, offset: int, done: list[tuple[int, int]]) -> None:
    async with kafka_link(world.broker, world.topics.group) as link:
        cluster = await link.cluster_id()
    row = (offset, encode_map(cluster, offset, done, clean=True))
    await commit_by_hand(world.broker, world.topics, {0: row})


async def double_an_outcome(world: World) -> None:
    outcome = (await read_all(world.broker, world.topics.outcomes))[0]
    await produce(world.broker, world.topics.outcomes, [outcome.value])


async def lose_an_outcome(world: World) -> None:
    await send(world, event(5))
    await commit(world, 6, [])


async def go_back(world: World) -> None:
    await commit(world, 4, [])
    await commit(world, 5, [])


async def forget_what_was_done(world: World) -> None:
    await send(world, event(5), event(6))
    await commit(world, 5, [(6, 7)])
    await commit(world, 5, [])


async def go_beyond_the_end(world: World) -> None:
    await commit(world, 5, [(6, 7)])


@pytest.mark.parametrize(
    ("tamper", "finding"),
    [
        (double_an_outcome, "written == done"),
        (lose_an_outcome, "written == done"),
        (go_back, "covers"),
        (forget_what_was_done, "covers"),
        (go_beyond_the_end, "commit.highest"),
    ],
)
async def test_the_books_find_what_was_tampered_with(
    world: World, gateway: SandboxGateway, tamper: Callable[[World], Awaitable[None]], finding: str
) -> None:
    await send(world, *map(event, range(5)))
    member = world.start()
    await world.until_done(30)
    assert await member.stop() == 0
    await audit(world, gateway, range(5))
    await tamper(world)
    with pytest.raises(AssertionError) as found:
        await audit(world, gateway, None)
    assert finding in str(found.traceback[-1].statement)


async def send(world: World, *values: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=world.broker) as producer:
        for value in values:
            await producer.send_and_wait(world.topics.events, value, partition=0)
