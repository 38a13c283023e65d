"""However much waits, and however long the platform hangs: memory stays bounded and flat, and polling goes on."""

import asyncio
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from consumer.sandbox.answers import ANSWERS
from consumer.sandbox.gateway import SandboxGateway
from tests.broker.audit import audit
from tests.broker.kafka import end_offsets, produce_backlog, until
from tests.broker.lengths import scaled
from tests.broker.world import Member, World, event
from tests.conftest import CreateTopics

pytestmark = [pytest.mark.broker, pytest.mark.long]

LIMIT_MIB = 256
FLAT_MIB = 16
"""As much as the second half of a time may show more than the first."""

PROBE_SECONDS = 30
"""The longest pause between two calls that try whether the platform is back."""


@dataclass
class Watch:
    """A member's memory, and whether it polls, looked at again and again."""

    member: Member
    rss: list[float] = field(default_factory=list)
    longest_pause: float = 0.0

    async def look(self, seconds: float) -> None:
        until_then = time.monotonic() + seconds
        while time.monotonic() < until_then:
            self.rss.append(self.member.resident_mib())
            code, body = await self.member.get("/healthz")
            assert code == 200
            self.longest_pause = max(self.longest_pause, orjson.loads(body)["seconds_since_poll"])
            await asyncio.sleep(0.5)

    def judge(self, what: str, *, flat: bool = True) -> None:
        half = len(self.rss) // 2
        first, second = max(self.rss[:half]), max(self.rss[half:])
        print(f"{what}: at most {max(first, second):.0f} MiB, {first:.0f} and then {second:.0f}; "
              f"{self.longest_pause:.1f} s between polls")  # fmt: skip  # a line
        assert max(first, second) < LIMIT_MIB
        assert not flat or second < first + FLAT_MIB
        assert self.longest_pause < 10


async def test_a_deep_backlog_before_a_platform_that_hangs_fills_no_memory_and_goes_on_with_the_platform(
    world: World, gateway: SandboxGateway
) -> None:
    count = scaled(200_000, 2_000_000)
    await produce_backlog(world.broker, world.topics.events, event, count, world.topics.partitions)
    gateway.script = lambda _call: ANSWERS["hang"]
    member = world.start()
    await until(lambda: gateway.journal.calls >= 64, 60)
    watch = Watch(member)
    await watch.look(scaled(20, 1800))
    watch.judge(f"{count} records behind a platform that hangs")
    _, page = await member.get("/metrics")
    held_back = re.findall(r"^coupon_backpressure_seconds_total\{.*\} (\S+)$", page, re.MULTILINE)
    assert sum(map(float, held_back)) > 5

    gateway.script = None
    recovered_at, grants = time.monotonic(), len(gateway.journal.grants)
    await until(lambda: len(gateway.journal.grants) > grants, PROBE_SECONDS + 10)
    print(f"granted again {time.monotonic() - recovered_at:.1f} s after the platform's recovery")
    await watch.look(scaled(8, 120))
    watch.judge("and while it catches up", flat=False)  # it is at work again, and that takes some more
    assert await member.stop() == 0
    await audit(world, gateway, None, "platform_failed")


async def test_large_records_before_a_platform_that_hangs_are_bounded_by_their_bytes(
    world: World, gateway: SandboxGateway
) -> None:
    def large(number: int) -> bytes:
        return event(number, remark="x" * 200_000)

    count = scaled(600, 6_000)
    await produce_backlog(world.broker, world.topics.events, large, count, world.topics.partitions)
    gateway.script = lambda _call: ANSWERS["hang"]
    member = world.start()
    await until(lambda: gateway.journal.calls >= 64, 60)
    await asyncio.sleep(10)  # as much as is held is taken in by then
    watch = Watch(member)
    await watch.look(scaled(10, 300))
    watch.judge(f"{count} records of 200 kB")
    gateway.script = None
    await world.until_done(PROBE_SECONDS + 60)
    await audit(world, gateway, range(count), "platform_failed")
    assert await member.stop() == 0


async def test_orders_that_wait_for_a_later_try_wait_in_kafka_and_not_in_memory(
    world: World, gateway: SandboxGateway, create_topics: CreateTopics
) -> None:
    retries = f"{world.topics.group}-waiting"
    await create_topics(world.broker, {f"{retries}.10m": 4})
    gateway.script = lambda _call: ANSWERS["1002"]
    count = scaled(5_000, 200_000)
    ended = datetime.now(UTC)

    def just_now(number: int) -> bytes:
        return event(number, started_at=(ended - timedelta(hours=1)).isoformat(), ended_at=ended.isoformat())

    await produce_backlog(world.broker, world.topics.events, just_now, count, world.topics.partitions)
    member = world.start(
        CHARGING_COUPON__KAFKA__TOPICS__RETRIES=retries, CHARGING_COUPON__RETRIES__DELAYS="10m"
    )
    watch = Watch(member)
    await until(lambda: gateway.journal.calls >= 64, 60)
    looking = asyncio.create_task(watch.look(scaled(20, 300)))
    await world.until_done(scaled(60, 600))
    await looking
    watch.judge(f"{count} orders that wait")
    await member.until_page("/metrics", "coupon_records_waiting 0.0")
    assert sum((await end_offsets(world.broker, f"{retries}.10m", 4)).values()) >= count
    assert Counter(gateway.journal.calls_by_event.values()) == {1: count}
    assert await member.stop() == 0
