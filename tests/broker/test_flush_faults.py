"""A member killed with kill -9 at each point of its flush: nothing lost, nothing twice, and readers wait for no timeout."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from consumer.sandbox.gateway import SandboxGateway
from tests.broker.audit import audit
from tests.broker.kafka import end_offsets, traffic, until
from tests.broker.lengths import scaled
from tests.broker.proxy import ADD_OFFSETS, ADD_PARTITIONS, END_TRANSACTION, PRODUCE, Ambush, At
from tests.broker.world import World, event

pytestmark = pytest.mark.broker

SESSION = scaled(3, 6)
BUSY = 15
"""Seconds of grace on a machine that has other work; the broker's own timeouts are later still."""

MEMBERS = {
    "CHARGING_COUPON__KAFKA__SESSION_TIMEOUT": f"{SESSION}s",
    "CHARGING_COUPON__KAFKA__HEARTBEAT_INTERVAL": "500ms",
    # A reader that waits for this has waited too long.
    "CHARGING_COUPON__KAFKA__TRANSACTION_TIMEOUT": "60s",
}


def at(key: int, moment: At, name: str, *marks: pytest.MarkDecorator) -> object:
    return pytest.param(key, moment, id=name, marks=marks)


@pytest.mark.parametrize(
    ("key", "moment"),
    [
        at(ADD_OFFSETS, At.ARRIVAL, "before the offsets", pytest.mark.long),
        at(ADD_PARTITIONS, At.ARRIVAL, "between offsets and produce", pytest.mark.long),
        at(PRODUCE, At.REPLY, "produced", pytest.mark.long),
        at(END_TRANSACTION, At.ARRIVAL, "before the commit"),
        at(END_TRANSACTION, At.REPLY, "commit sent", pytest.mark.long),
        at(END_TRANSACTION, At.AFTER, "after it", pytest.mark.long),
    ],
)
async def test_kill_9_within_a_flush_neither_loses_nor_doubles_and_keeps_readers_for_a_session_at_most(
    world: World, gateway: SandboxGateway, key: int, moment: At
) -> None:
    """Also under load, with a second member alive, and with broker-side timeouts that would come far too late."""
    gateway.latency = 0.02
    async with (
        Ambush(world.broker, key, moment) as ambush,
        traffic(world.broker, world.topics.events, event, 100) as sent,
    ):
        world.start(**MEMBERS)
        doomed = world.through(ambush.servers, **MEMBERS)
        await world.until_shared()
        for member in world.members:
            await member.until_page("/metrics", 'outcome="granted"')
        ambush.arm(doomed.process.kill)
        async with asyncio.timeout(20):
            await ambush.struck.wait()
        killed_at = time.time()
        async with watch(world) as seen:
            await until(lambda: len(seen) == 4 + 3, 60)
        waited = max(seen.values()) - killed_at
    print(f"readers saw new outcomes everywhere {waited:.1f} s after the kill, session {SESSION} s")
    await world.until_done(30)
    assert waited < SESSION + 5 + BUSY
    books = await audit(world, gateway, range(sent.sent))
    assert max(books.calls.values()) <= 2


@asynccontextmanager
async def watch(world: World) -> AsyncIterator[dict[tuple[str, int], float]]:
    """When a reader of committed records first sees an outcome that was decided from now on.

    By the events' partition, of which the dead member had two, and by the outcomes' own, all of which it may hold up.
    """
    began = time.time()
    seen: dict[tuple[str, int], float] = {}
    partitions = [TopicPartition(world.topics.outcomes, number) for number in range(3)]

    async def look(consumer: AIOKafkaConsumer) -> None:
        while True:
            for tp, records in (await consumer.getmany(timeout_ms=50)).items():
                for record in records:
                    if record.timestamp / 1000 > began:
                        origin = orjson.loads(record.value)["record"]["partition"]
                        seen.setdefault(("events", origin), time.time())
                        seen.setdefault(("outcomes", tp.partition), time.time())

    ends = await end_offsets(world.broker, world.topics.outcomes, 3, isolation="read_committed")
    async with AIOKafkaConsumer(bootstrap_servers=world.broker, isolation_level="read_committed") as consumer:
        consumer.assign(partitions)
        for tp in partitions:
            consumer.seek(tp, ends[tp.partition])
        looking = asyncio.create_task(look(consumer))
        try:
            yield seen
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
