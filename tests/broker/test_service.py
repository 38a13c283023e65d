"""The whole service on a real Kafka and a real HTTP gateway: every event accounted for, whatever is killed."""

import asyncio
import re
import signal
import time
from collections import Counter
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from consumer.sandbox.answers import ANSWERS
from consumer.sandbox.gateway import SandboxGateway
from tests.broker.kafka import produce, read_all
from tests.broker.world import World, event

pytestmark = pytest.mark.broker


def by_order(outcomes: list[dict[str, Any]]) -> Counter[str]:
    return Counter(outcome["order_id"] for outcome in outcomes)


@pytest.mark.long
async def test_ten_thousand_events_end_in_exactly_ten_thousand_outcomes_on_which_all_agree(
    world: World, gateway: SandboxGateway
) -> None:
    count = 10_000
    await produce(world.broker, world.topics.events, [event(number) for number in range(count)])
    member = world.start()
    await world.until_done(120)
    outcomes = await world.outcomes()
    assert by_order(outcomes) == Counter(f"ORDER{number:08}" for number in range(count))
    assert {outcome["outcome"] for outcome in outcomes} == {"granted"}
    assert len({outcome["outcome_id"] for outcome in outcomes}) == count

    granted = {entry.event_id: entry.grant_serial for entry in gateway.journal.entries if entry.granted}
    assert granted == {outcome["event_id"]: outcome["grant_serial"] for outcome in outcomes}
    assert len(gateway.journal.entries) == count

    _, metrics = await member.get("/metrics")
    assert 'coupon_requests_total{account="main",code="1001"} 10000.0' in metrics
    assert 'coupon_outcomes_total{code="1001",outcome="granted",reason=""} 10000.0' in metrics
    assert f'coupon_records_total{{topic="{world.topics.events}"}} 10000.0' in metrics
    lags = re.findall(r"^coupon_partition_lag\{.*\} (\S+)$", metrics, re.MULTILINE)
    assert lags == ["0.0"] * 4
    assert await member.stop() == 0


@pytest.mark.long
async def test_kill_9_in_the_middle_leaves_exactly_one_outcome_each(
    world: World, gateway: SandboxGateway
) -> None:
    gateway.latency = 0.06
    count = 10_000
    await produce(world.broker, world.topics.events, [event(number) for number in range(count)])
    for killed_at in (1500, 4000, 7000):
        member = world.start()
        await world.until_outcomes(killed_at, of=count)
        member.kill()
    world.start()
    await world.until_done(120)
    outcomes = await world.outcomes()
    assert by_order(outcomes) == Counter(f"ORDER{number:08}" for number in range(count))
    assert Counter(outcome["outcome"] for outcome in outcomes).keys() <= {"granted", "already_granted"}
    again = [outcome for outcome in outcomes if outcome["outcome"] == "already_granted"]
    assert all(outcome["attempts"]["ambiguous"] for outcome in again)  # the grant was ours, before the kill
    assert len({entry.event_id for entry in gateway.journal.entries if entry.granted}) == count


@pytest.mark.long
async def test_members_that_come_and_go_under_load_neither_lose_nor_double(
    world: World, gateway: SandboxGateway
) -> None:
    # Members take seconds to start, and there is to be a load until the last of them is gone.
    gateway.latency = 1.0
    count = 6_000
    await produce(world.broker, world.topics.events, [event(number) for number in range(count)])
    first = world.start()
    await world.until_outcomes(300)
    second = world.start()
    await second.until_logged("intake.open")
    third = world.start()
    await third.until_logged("intake.open")
    assert await second.stop() == 0
    await world.until_outcomes(1000, of=count)
    third.kill()
    gateway.latency = 0.02
    await world.until_done(120)
    outcomes = await world.outcomes()
    assert by_order(outcomes) == Counter(f"ORDER{number:08}" for number in range(count))
    assert await first.stop() == 0


async def test_every_strange_record_ends_in_an_outcome_and_the_partition_moves_on(
    world: World, gateway: SandboxGateway
) -> None:
    large = event(6, remark="x" * 1_000_000)
    two = b'{"orders": [' + event(7) + b"," + event(8, energy_kwh="0.2") + b"]}"
    strange: list[bytes | None] = [
        b"{not json",
        event(1, plate=None),
        None,
        event(4, order_id=None),
        event(5, what_is_this={"deep": [1, 2, {"er": None}]}, another="unknown field"),
        large,
        two,
        b'{"plate": "\xff"}',
        b"[" * 100_000,
        event(9),
    ]
    await produce(world.broker, world.topics.events, strange, [b"one-partition"] * len(strange))
    world.start()
    await world.until_done(60)
    outcomes = await world.outcomes()
    found = sorted(
        (outcome["record"]["offset"], outcome["order_index"], outcome["outcome"], outcome["reason"])
        for outcome in outcomes
    )
    assert found == [
        (0, 0, "invalid", "not_json"),
        (1, 0, "skipped", "plate_missing"),
        (2, 0, "skipped", "tombstone"),
        (3, 0, "invalid", "id_missing"),
        (4, 0, "granted", None),
        (5, 0, "granted", None),
        (6, 0, "granted", None),
        (6, 1, "unmatched", "no_rule"),
        (7, 0, "invalid", "not_text"),
        (8, 0, "invalid", "too_deep"),
        (9, 0, "granted", None),
    ]
    letters = await read_all(world.broker, world.topics.dead_letters)
    assert {letter.value for letter in letters} == {b"{not json", strange[3], strange[7], strange[8]}
    assert {letter.key for letter in letters} == {b"one-partition"}


async def test_an_order_of_a_record_that_fails_does_not_take_its_sibling_with_it(
    world: World, gateway: SandboxGateway
) -> None:
    bad = event(2, ended_at="nonsense")
    await produce(world.broker, world.topics.events, [b'{"orders": [' + event(1) + b"," + bad + b"]}"])
    world.start()
    await world.until_done(60)
    outcomes = sorted(await world.outcomes(), key=lambda outcome: int(outcome["order_index"]))
    assert [outcome["outcome"] for outcome in outcomes] == ["granted", "invalid"]
    (letter,) = await read_all(world.broker, world.topics.dead_letters)
    assert dict(letter.headers)["coupon_order_index"] == b"1"


async def test_a_refused_account_pauses_intake_with_an_alarm_and_goes_on_when_it_is_accepted(
    world: World, gateway: SandboxGateway
) -> None:
    gateway.script = lambda _call: ANSWERS["401"]
    await produce(world.broker, world.topics.events, [event(number) for number in range(300)])
    member = world.start()
    for _ in range(100):
        _, metrics = await member.get("/metrics")
        if (
            'coupon_config_alarm{account="main"} 1.0' in metrics
            and 'paused{reason="config_alarm"} 1.0' in metrics
        ):
            break
        await asyncio.sleep(0.2)
    else:
        raise AssertionError(member.log_tail())
    asked = len(gateway.journal.entries)
    await asyncio.sleep(1)
    assert len(gateway.journal.entries) <= asked + 1  # no storm against a platform that refuses us
    assert (await member.get("/healthz"))[0] == 200
    assert (await member.get("/readyz"))[0] == 200
    assert await world.outcomes() == []


async def test_sigterm_under_load_drains_exits_0_and_loses_nothing(
    world: World, gateway: SandboxGateway
) -> None:
    gateway.latency = 0.3
    count = 1_000
    await produce(world.broker, world.topics.events, [event(number) for number in range(count)])
    member = world.start()
    await world.until_outcomes(100, of=count)
    started = time.monotonic()
    assert await member.stop() == 0
    assert time.monotonic() - started < 10
    requests = Counter(entry.event_id for entry in gateway.journal.entries)
    outcomes = by_order(await world.outcomes())
    assert set(requests) == set(outcomes)  # each request that was sent has its outcome: none was cut off
    world.start()
    await world.until_done(60)
    assert by_order(await world.outcomes()) == Counter(f"ORDER{number:08}" for number in range(count))
    assert Counter(entry.event_id for entry in gateway.journal.entries).most_common(1)[0][1] == 1


async def test_traces_and_keys_go_through(world: World, gateway: SandboxGateway) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=world.broker)
    await producer.start()
    try:
        headers = [
            ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("other", b"\xc3\x28"),
        ]
        await producer.send_and_wait(world.topics.events, event(1), key=b"the-key", headers=headers)
    finally:
        await producer.stop()
    world.start()
    await world.until_done(60)
    (outcome,) = await read_all(world.broker, world.topics.outcomes)
    sent = dict(outcome.headers)
    assert outcome.key == b"the-key"
    assert sent["traceparent"] == headers[0][1]
    assert sent["ce_specversion"] == b"1.0"
    assert "other" not in sent


async def test_a_subject_with_every_awkward_character_is_signed_as_the_gateway_reads_it(
    world: World, gateway: SandboxGateway
) -> None:
    awkward = "充电 减免+1% &=~*"
    world.rules.write_text(
        world.rules.read_text("utf-8").replace("【{plate}】充电 {minutes} 分钟", awkward), "utf-8"
    )
    await produce(world.broker, world.topics.events, [event(1)])
    world.start()
    await world.until_done(60)
    (entry,) = gateway.journal.entries
    assert entry.verified
    assert entry.parameters["subject"] == awkward
    assert entry.granted


@pytest.mark.long
async def test_a_member_that_was_frozen_past_its_session_doubles_nothing_when_it_wakes(
    world: World, gateway: SandboxGateway
) -> None:
    gateway.latency = 0.12
    count = 3_000
    await produce(world.broker, world.topics.events, [event(number) for number in range(count)])
    zombie = world.start()
    await world.until_outcomes(500, of=count)
    zombie.process.send_signal(signal.SIGSTOP)
    world.start()
    await world.until_outcomes(1_500, 90, of=count)  # after the zombie's session has run out
    zombie.process.send_signal(signal.SIGCONT)
    await world.until_done(90)
    assert by_order(await world.outcomes()) == Counter(f"ORDER{number:08}" for number in range(count))
    assert zombie.process.poll() is None  # it is a member again
    assert await zombie.stop() == 0


async def test_partitions_with_deep_backlogs_take_turns(world: World, gateway: SandboxGateway) -> None:
    gateway.latency = 0.05
    producer = AIOKafkaProducer(bootstrap_servers=world.broker)
    await producer.start()
    for number in range(6000):
        await producer.send(world.topics.events, event(number), partition=number // 2000)
    for number in range(6000, 6010):
        await producer.send(world.topics.events, event(number), partition=3)
    await producer.stop()
    world.start()
    await world.until_outcomes(2000)

    outcomes = sorted(await world.outcomes(), key=lambda outcome: str(outcome["decided_at"]))

    counts = Counter(outcome["record"]["partition"] for outcome in outcomes[:1500])
    assert counts[3] == 10
    assert min(counts[partition] for partition in range(3)) >= 200
