"""Members that come and go without end, and drains that take too long: what was finished is not done again."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from consumer.sandbox.gateway import SandboxGateway
from tests.broker.audit import audit
from tests.broker.kafka import Topics, produce, traffic, until
from tests.broker.lengths import scaled
from tests.broker.world import Member, World, event
from tests.conftest import CreateTopics

pytestmark = pytest.mark.broker

PATIENT = {
    "CHARGING_COUPON__GATEWAY__TOTAL_TIMEOUT": "20s",
    "CHARGING_COUPON__GATEWAY__READ_TIMEOUT": "20s",
}
"""No call is made again because the sandbox, which shares the machine, was late with its answer."""


def events_of(member: Member) -> list[str]:
    return [str(line["event"]) for line in member.events()]


@pytest.mark.long
async def test_whoever_joins_and_leaves_makes_nobody_call_twice(
    world: World, gateway: SandboxGateway
) -> None:
    """What is under way when partitions are revoked ends and is committed before they are given away."""
    gateway.latency = 0.3
    async with traffic(world.broker, world.topics.events, event, 100) as sent:
        world.start()
        await world.until_outcomes(100)
        for _ in range(scaled(3, 30)):
            guest = world.start()
            await guest.port()
            await asyncio.sleep(scaled(1, 10))
            assert await guest.stop() == 0
            await asyncio.sleep(scaled(0, 10))
    await world.until_done(scaled(60, 600))
    books = await audit(world, gateway, range(sent.sent))
    assert set(books.calls.values()) == {1}
    assert not books.overlaps


@pytest.mark.long
async def test_a_storm_of_members_that_join_leave_and_die_neither_loses_nor_doubles(
    world: World, gateway: SandboxGateway
) -> None:
    gateway.latency = 0.05
    killed = 0
    async with traffic(world.broker, world.topics.events, event, 100) as sent:
        world.start(**PATIENT)
        guests: list[Member] = []
        for number in range(scaled(6, 100)):
            guests.append(world.start(**PATIENT))
            await guests[-1].port()
            await asyncio.sleep(0.3 * (number % 4))
            if len(guests) == 3:
                going = guests.pop(number % 3)
                if number % 2:
                    going.kill()
                    killed += 1
                else:
                    assert await going.stop() == 0
    await world.until_done(scaled(60, 600))
    books = await audit(world, gateway, range(sent.sent))
    again = [order for order, calls in books.calls.items() if calls > 1]
    print(f"{sent.sent} events, {killed} kills: {len(again)} called twice, {books.overlaps} overlaps")
    # Only what was under way at a kill is called again: at most as many as a member has under way at once.
    assert len(again) <= killed * 64
    assert books.overlaps <= len(again)


@pytest.mark.long
async def test_calls_slower_than_the_drain_are_given_up_in_time_and_end_once(
    world: World, gateway: SandboxGateway
) -> None:
    """The platform takes longer than the drain may, and the drain is bounded well below the rebalance timeout."""
    slow = {
        "CHARGING_COUPON__DRAIN_TIMEOUT": "3s",
        "CHARGING_COUPON__GATEWAY__TOTAL_TIMEOUT": "40s",
        "CHARGING_COUPON__GATEWAY__READ_TIMEOUT": "40s",
        "CHARGING_COUPON__KAFKA__REBALANCE_TIMEOUT": "8s",
    }
    gateway.latency = 25.0
    count = 200
    await produce(world.broker, world.topics.events, [event(number) for number in range(count)])
    first = world.start(**slow)
    await until(lambda: gateway.journal.calls >= 64, 60)
    began = time.monotonic()
    second = world.start(**slow)
    await second.until_logged("intake.open")
    took = time.monotonic() - began
    gateway.latency = 0.05
    await world.until_done(scaled(60, 600))
    books = await audit(world, gateway, range(count))
    print(f"the second member was at work {took:.1f} s after its start; {books.overlaps} calls overlapped")
    assert took < 20  # less than one call takes, the start of a process on a busy machine included
    assert 0 < books.overlaps <= 64  # those that were given up, the platform still worked on
    assert "intake.drain_ran_out_of_time" in events_of(first)
    assert "intake.assignment_lost" not in events_of(first)
    assert await first.stop() == await second.stop() == 0


@pytest.mark.long
async def test_partitions_that_come_back_to_the_same_member_at_once_run_no_event_twice_at_the_same_time(
    world: World, gateway: SandboxGateway
) -> None:
    gateway.latency = scaled(2, 4)
    async with traffic(world.broker, world.topics.events, event, scaled(20, 8)) as sent:
        member = world.start(**PATIENT)
        for _ in range(3):
            calls = gateway.journal.calls
            await until(lambda calls=calls: gateway.journal.calls > calls, 20)  # type: ignore[misc]  # bound at once
            guest = world.start(**PATIENT)
            await guest.until_logged("intake.assigned", 30)
            assert await guest.stop() == 0
    gateway.latency = 0.05
    await world.until_done(scaled(60, 600))
    books = await audit(world, gateway, range(sent.sent))
    assert not books.overlaps
    assert set(books.calls.values()) == {1}
    assert await member.stop() == 0


@pytest.mark.long
async def test_idle_partitions_keep_their_offsets_through_restarts(
    broker: str, topics: Topics, create_topics: CreateTopics, tmp_path: Path, gateway: SandboxGateway
) -> None:
    """Traffic on one of twelve: no commit of the others lies beyond their empty logs."""
    topics = replace(topics, events=f"{topics.events}-twelve", partitions=12)
    await create_topics(broker, {topics.events: 12})
    world = World(broker, topics, tmp_path, gateway.url)
    try:
        sent = 0
        world.start()
        async with AIOKafkaProducer(bootstrap_servers=broker) as producer:
            for _ in range(scaled(4, 60)):
                guest = world.start()
                await guest.port()
                until_then = time.monotonic() + scaled(2, 10)
                while time.monotonic() < until_then:
                    await producer.send_and_wait(topics.events, event(sent), partition=5)
                    sent += 1
                    await asyncio.sleep(0.02)
                assert await guest.stop() == 0
        await world.until_done(30)
        books = await audit(world, gateway, range(sent))
        assert {commit.partition.partition for commit in books.commits} == set(range(12))
        assert {commit.highest for commit in books.commits if commit.partition.partition != 5} == {0}
    finally:
        world.end()
