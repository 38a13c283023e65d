"""What others' consumers were reported for, as trials of ours: small ones, that fit no other suite."""

import time
from collections import Counter
from dataclasses import replace

import pytest
from aiokafka import AIOKafkaProducer

from consumer.sandbox.answers import ANSWERS, Answer, Call
from consumer.sandbox.gateway import SandboxGateway
from tests.broker.audit import audit
from tests.broker.kafka import committed_offsets, produce, read_all, until
from tests.broker.world import World, event

pytestmark = pytest.mark.broker

NAMED = {"CHARGING_COUPON__KAFKA__GROUP_INSTANCE_ID": "member-1"}
"""So that a restart does not wait for the session of the one that was killed."""


async def test_a_refused_record_between_two_good_ones_is_neither_passed_over_nor_lost_by_a_kill(
    world: World, gateway: SandboxGateway
) -> None:
    refused = "ORDER00000001"
    gateway.script = lambda call: ANSWERS["403"] if call.event_id == refused else None
    gateway.latency = 0.05
    await produce(world.broker, world.topics.events, [event(number) for number in range(3)], [b"one"] * 3)
    first = world.start(**NAMED)
    await until(lambda: gateway.journal.answers["403"] >= 1, 60)
    await until(lambda: len(gateway.journal.grants) == 2, 20)
    first.kill()
    offsets = await committed_offsets(world.broker, world.topics.group, world.topics.events, 4)
    assert max(offsets.values()) <= 1

    gateway.script = None
    world.start(**NAMED)
    await world.until_done(30)
    await audit(world, gateway, range(3))


async def test_an_event_that_always_fails_holds_up_none_of_a_thousand_others_on_its_partition(
    world: World, gateway: SandboxGateway
) -> None:
    """And when its tries are exhausted, it is the only one that ends badly."""
    bad, tries = "ORDER00000000", 20
    seconds = 2.0

    def script(call: Call) -> Answer | None:
        return replace(ANSWERS["1500"], latency=seconds) if call.event_id == bad else None

    gateway.script = script
    gateway.latency = 0.02
    events = [event(number) for number in range(1_001)]
    await produce(world.broker, world.topics.events, events, [b"one partition"] * len(events))
    member = world.start(CHARGING_COUPON__RETRIES__MAX_ATTEMPTS_NOW=str(tries))
    await until(lambda: gateway.journal.calls_by_event[bad] == 1, 60)
    began = time.monotonic()
    await world.until_outcomes(1_000, 35)
    print(f"a thousand others within {time.monotonic() - began:.1f} s of its first failure")

    assert gateway.journal.calls_by_event[bad] < tries  # it still fails
    others = await world.outcomes()
    assert {outcome["outcome"] for outcome in others} == {"granted"}
    assert len(others) == 1_000

    seconds = 0.0
    await world.until_done(30)
    await audit(world, gateway, range(1_001), "platform_failed")
    outcomes = Counter(outcome["outcome"] for outcome in await world.outcomes())
    assert outcomes == Counter(granted=1_000, platform_failed=1)
    (letter,) = await read_all(world.broker, world.topics.dead_letters)
    assert letter.value == events[0]
    assert gateway.journal.calls_by_event[bad] == tries
    assert await member.stop() == 0


async def test_a_dead_letter_as_large_as_its_topic_takes_is_written_without_its_payload(
    world: World, gateway: SandboxGateway
) -> None:
    """With our headers it would be larger than the original was; and its neighbours in the batch are not touched."""
    large = b"{" + b"x" * 1_047_900
    async with AIOKafkaProducer(bootstrap_servers=world.broker, max_request_size=2_000_000) as producer:
        for number in range(201):
            value = large if number == 100 else event(number)
            await producer.send(world.topics.events, value, key=b"one partition")
    member = world.start()
    await world.until_done(30)
    await audit(world, gateway, None, "invalid")
    outcomes = Counter(outcome["outcome"] for outcome in await world.outcomes())
    assert outcomes == Counter(granted=200, invalid=1)
    (letter,) = await read_all(world.broker, world.topics.dead_letters)
    headers = dict(letter.headers)
    assert headers["coupon_payload"] == b"replaced"
    assert headers["coupon_offset"] == b"100"
    assert b"sha256:" in letter.value
    assert await member.stop() == 0
