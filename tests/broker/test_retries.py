"""Orders that cannot end now, on a real Kafka: they wait in retry topics, hold nothing up, and come back once."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import orjson
import pytest

from consumer.core.headers import read_retry
from consumer.sandbox.answers import ANSWERS, Answer, Call
from consumer.sandbox.gateway import SandboxGateway
from tests.broker.kafka import Topics, committed_offsets, produce, read_all, until
from tests.broker.world import APP_ID, RULES, SECRET, World, just_now

pytestmark = pytest.mark.broker

DELAYS = {"1s": 1, "2s": 2, "4s": 4}
"""A twentieth, and less, of what a deployment has: nothing else is scaled."""


@pytest.fixture
async def topics(
    topics: Topics, broker: str, create_topics: Callable[[str, Mapping[str, int]], Awaitable[None]]
) -> Topics:
    """With retry topics."""
    topics = replace(topics, delays=f"[{', '.join(DELAYS)}]")
    await create_topics(broker, {f"{topics.retries}.{delay}": 2 for delay in DELAYS})
    return topics


class Platform:
    """Answers what it is told for an order, else what it is told for all; else the sandbox decides."""

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}
        self.otherwise: str | None = None

    def __call__(self, call: Call) -> Answer | None:
        name = self.answers.get(call.event_id, self.otherwise)
        return None if name is None else ANSWERS[name]


@pytest.fixture
async def platform(gateway: SandboxGateway) -> Platform:
    platform = Platform()
    gateway.script = platform
    return platform


def calls_by_order(gateway: SandboxGateway) -> Counter[str]:
    return Counter(entry.event_id for entry in gateway.journal.entries)


async def all_outcomes(world: World, count: int, seconds: float = 60) -> dict[str, dict[str, Any]]:
    """By order; there are exactly so many."""
    give_up = time.monotonic() + seconds
    while len(outcomes := await world.outcomes()) < count:
        assert time.monotonic() < give_up, world.members[-1].log_tail()
        await asyncio.sleep(0.2)
    by_order = {outcome["order_id"]: outcome for outcome in outcomes}
    assert len(outcomes) == len(by_order) == count
    return by_order


async def test_a_car_that_enters_long_after_charging_gets_its_coupon_across_a_restart(
    world: World, gateway: SandboxGateway, platform: Platform
) -> None:
    platform.otherwise = "1002"
    await produce(world.broker, world.topics.events, [just_now(1)])
    first = world.start()
    await until(lambda: len(gateway.journal.entries) == 2, 30)  # at once, and after the first delay
    assert await first.stop() == 0
    waiting = await read_all(world.broker, f"{world.topics.retries}.2s")
    context = read_retry(tuple(waiting[0].headers))
    assert not isinstance(context, str)
    assert (context.order_id, context.label, context.attempts.count) == ("ORDER00000001", "1002", 2)
    assert waiting[0].value == (await read_all(world.broker, world.topics.events))[0].value

    platform.otherwise = "1001"  # it has entered, while nobody asked
    world.start()
    outcome = (await all_outcomes(world, 1))["ORDER00000001"]

    assert outcome["outcome"] == "granted"
    assert outcome["attempts"]["count"] == len(gateway.journal.entries) == 3
    assert outcome["record"]["topic"] == world.topics.events
    first_at, last_at = (
        datetime.fromisoformat(outcome["attempts"][name]) for name in ("first_at", "last_at")
    )
    assert last_at - first_at >= timedelta(seconds=DELAYS["1s"] + DELAYS["2s"])


async def test_whoever_waits_holds_nobody_up(
    world: World, gateway: SandboxGateway, platform: Platform
) -> None:
    """Not even the next charge of the same car."""
    platform.answers = {"ORDER00000000": "1500"}
    charges = [just_now(0), just_now(1, plate="粤B0000Z"), *map(just_now, range(2, 200))]
    await produce(world.broker, world.topics.events, charges, [b"one partition"] * 200)
    world.start()

    others = await all_outcomes(world, 199)

    assert "ORDER00000000" not in others
    assert {outcome["outcome"] for outcome in others.values()} == {"granted"}
    platform.answers = {}
    everything = await all_outcomes(world, 200)
    assert everything["ORDER00000000"]["outcome"] == "granted"
    assert everything["ORDER00000000"]["attempts"]["count"] == calls_by_order(gateway)["ORDER00000000"] > 3


@pytest.mark.long
async def test_kill_9_while_orders_wait_loses_none_and_repeats_no_outcome(
    world: World, gateway: SandboxGateway, platform: Platform
) -> None:
    count = 300
    platform.otherwise = "1002"
    await produce(world.broker, world.topics.events, [just_now(number) for number in range(count)])
    for seen in (100, 500, 900):
        member = world.start()
        await until(lambda seen=seen: len(gateway.journal.entries) >= seen, 30)  # type: ignore[misc]  # bound at once
        member.kill()
    platform.otherwise = "1001"
    world.start()

    by_order = await all_outcomes(world, count)

    calls = calls_by_order(gateway)
    for outcome in by_order.values():  # a call that was under way at the last kill may have been granted
        ours = outcome["outcome"] == "already_granted" and outcome["attempts"]["ambiguous"]
        assert outcome["outcome"] == "granted" or ours
    # A killed call was made, and its count died with its owner.
    assert all(outcome["attempts"]["count"] <= calls[order] for order, outcome in by_order.items())
    assert len(await world.outcomes()) == count


async def test_at_its_deadline_an_order_ends_with_its_last_reply(
    world: World, gateway: SandboxGateway, platform: Platform
) -> None:
    world.rules.write_text(RULES + "replies:\n  '1002': {deadline_seconds: 8}\n", "utf-8")
    platform.otherwise = "1002"
    await produce(world.broker, world.topics.events, [just_now(1)])
    world.start()

    outcome = (await all_outcomes(world, 1))["ORDER00000001"]

    assert (outcome["outcome"], outcome["code"]) == ("not_entered", "1002")
    assert outcome["attempts"]["count"] == len(gateway.journal.entries) >= 2


async def test_of_a_record_with_several_orders_only_the_one_that_failed_is_run_again(
    world: World, gateway: SandboxGateway, platform: Platform
) -> None:
    orders = [orjson.loads(just_now(number)) for number in range(3)]
    platform.answers = {"ORDER00000001": "1002"}
    await produce(world.broker, world.topics.events, [orjson.dumps(orders)])
    world.start()
    await all_outcomes(world, 2)
    await until(lambda: calls_by_order(gateway)["ORDER00000001"] >= 2, 30)
    platform.answers = {}

    by_order = await all_outcomes(world, 3)

    assert {order: outcome["order_index"] for order, outcome in by_order.items()} == {
        "ORDER00000000": 0, "ORDER00000001": 1, "ORDER00000002": 2,
    }  # fmt: skip  # a line is enough
    assert len({outcome["outcome_id"].rpartition("/")[0] for outcome in by_order.values()}) == 1
    calls = calls_by_order(gateway)
    assert (calls["ORDER00000000"], calls["ORDER00000002"]) == (1, 1)


async def test_a_foreign_record_in_a_retry_topic_ends_as_invalid_and_holds_nothing_up(
    world: World, gateway: SandboxGateway, platform: Platform
) -> None:
    await produce(world.broker, f"{world.topics.retries}.1s", [just_now(1)])
    await produce(world.broker, world.topics.events, [just_now(2)])
    world.start()
    outcomes = {outcome["outcome"]: outcome for outcome in (await all_outcomes(world, 2)).values()}

    assert set(outcomes) == {"invalid", "granted"}
    assert outcomes["invalid"]["detail"] == "no header coupon_topic: not written by this service"
    (letter,) = await read_all(world.broker, world.topics.dead_letters)
    assert orjson.loads(letter.value)["order_id"] == "ORDER00000001"


TWO_ACCOUNTS = """
version: 1
accounts:
  main: {app_id: op0000000000000001, secret: main, api_type: charging}
  other: {app_id: op0000000000000002, secret: main, api_type: charging}
sources:
  canonical: {extends: canonical}
stations:
  S1: {api_store_code: "62626601", zone: Asia/Shanghai}
  S2: {api_store_code: "62626602", zone: Asia/Shanghai}
rules:
  - {name: here, account: main, stations: [S1], subject: "{plate}"}
  - {name: there, account: other, stations: [S2], subject: "{plate}"}
"""


@pytest.fixture
async def gateway() -> AsyncIterator[SandboxGateway]:
    """Knows a second account, too."""
    async with SandboxGateway(apps={APP_ID: SECRET, "op0000000000000002": SECRET}) as gateway:
        yield gateway


async def test_orders_of_a_refused_account_wait_while_the_others_go_on_and_no_call_counts(
    world: World, gateway: SandboxGateway, platform: Platform
) -> None:
    world.rules.write_text(TWO_ACCOUNTS, "utf-8")
    refused = {f"ORDER{number:08}" for number in range(0, 60, 2)}
    platform.answers = dict.fromkeys(refused, "401")
    charges = [just_now(number, station_id="S2" if number % 2 == 0 else "S1") for number in range(60)]
    await produce(world.broker, world.topics.events, charges)
    member = world.start()

    others = await all_outcomes(world, 30)
    assert not refused & set(others)
    _, ready = await member.get("/readyz")
    assert orjson.loads(ready)["halted_accounts"] == {"other": "401"}
    assert await member.stop() == 0  # the stop line is forgotten; who waits is not
    platform.answers = {}
    world.start()

    by_order = await all_outcomes(world, 60)

    assert {outcome["outcome"] for outcome in by_order.values()} == {"granted"}
    assert {by_order[order]["attempts"]["count"] for order in refused} == {1}


async def test_what_is_on_hold_waits_until_the_rules_release_it(
    world: World, gateway: SandboxGateway, platform: Platform
) -> None:
    held = RULES.replace("api_type: charging}", "api_type: charging, state: hold}")
    world.rules.write_text(held, "utf-8")
    await produce(world.broker, world.topics.events, [just_now(number) for number in range(20)])
    member = world.start()
    await until_waiting(world, 20)
    assert await member.stop() == 0
    assert not gateway.journal.entries
    assert await world.outcomes() == []

    world.rules.write_text(RULES, "utf-8")
    world.start()
    by_order = await all_outcomes(world, 20)

    assert {outcome["outcome"] for outcome in by_order.values()} == {"granted"}


async def until_waiting(world: World, count: int) -> None:
    """Until all events are done, and so many orders were written to a retry topic."""
    give_up = time.monotonic() + 30
    while len(await read_all(world.broker, f"{world.topics.retries}.1s")) < count:
        assert time.monotonic() < give_up, world.members[-1].log_tail()
    offsets = await committed_offsets(
        world.broker, world.topics.group, world.topics.events, world.topics.partitions
    )
    assert sum(max(0, offset) for offset in offsets.values()) == count
