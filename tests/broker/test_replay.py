"""`charging-coupon replay` on a real Kafka: what goes back, and that nothing goes twice."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaConnectionError

from consumer import replay as room
from consumer.core.errors import RefusedError
from consumer.core.events import Coordinates, Replay
from consumer.core.headers import read_replay, replay_headers
from consumer.core.letters import Filters, read_receipt
from consumer.core.outcomes import (
    Message,
    Outcome,
    Reason,
)
from consumer.replay import Replayer, Selection
from consumer.rulebook import load
from consumer.sandbox.gateway import SandboxGateway
from consumer.settings import Settings, load_settings
from tests.broker.kafka import FaultyClient, Topics, end_offsets, produce, read_all
from tests.broker.letters import AT, dead_letter, write
from tests.broker.world import World, event

pytestmark = pytest.mark.broker

ALL = Filters()


@pytest.fixture
def settings(world: World) -> Settings:
    return load_settings(world.settings, {})


async def choose(settings: Settings, filters: Filters = ALL, **options: Any) -> Selection:
    """What would go."""
    async with Replayer.connect(settings, sending=False) as replayer:
        return await replayer.select(filters, **{"max_replays": 3, **options})


async def send(
    settings: Settings, filters: Filters = ALL, *, rate: float = 10_000, **options: Any
) -> Replayer:
    """What goes."""
    async with Replayer.connect(settings, sending=True) as replayer:
        selection = await replayer.select(filters, max_replays=3)
        await go(replayer, selection, rate=rate, **options)
    return replayer


async def go(replayer: Replayer, selection: Selection, *, rate: float = 10_000, **options: Any) -> None:
    whole = {"release": False, "stopping": asyncio.Event(), "on_sent": lambda sent: None, **options}
    await replayer.send(selection, rate=rate, **whole)


async def read_settled(broker: str, topic: str) -> list[Any]:
    """All records, once no transaction is under way: a commit is answered before readers see it."""
    consumer = AIOKafkaConsumer(bootstrap_servers=broker, isolation_level="read_committed")
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, n) for n in await consumer._client._wait_on_metadata(topic)]
        for _ in range(200):
            stable = {place.partition: end for place, end in (await consumer.end_offsets(partitions)).items()}
            if stable == await end_offsets(broker, topic, len(partitions)):
                break
            await asyncio.sleep(0.05)
    finally:
        await consumer.stop()
    return await read_all(broker, topic)


async def arrived(broker: str, topics: Topics) -> list[str]:
    """The dead letters that went back, as a read_committed reader of the events topic sees it."""
    replays = [read_replay(record.headers) for record in await read_settled(broker, topics.events)]
    return sorted(replay.of for replay in replays if replay is not None)


def ids(topics: Topics, numbers: Sequence[int]) -> list[str]:
    return sorted(f"cluster/{topics.events}/{number % 4}/{number}/0" for number in numbers)


# -- What goes back ---------------------------------------------------------------------------------


async def test_the_event_goes_back_byte_for_byte_to_its_partition_and_has_a_receipt(
    broker: str, topics: Topics, settings: Settings
) -> None:
    await write(broker, topics, [dead_letter(topics, 7, replays=1, value=b"\xff{", key=b"\xfe", index=2)])
    before = int(time.time() * 1000)

    replayer = await send(settings, release=True)

    [record] = await read_settled(broker, topics.events)
    _, receipt = await read_settled(broker, topics.dead_letters)
    of = f"cluster/{topics.events}/3/7/2"
    assert replayer.sent == 1
    assert (record.key, record.value, record.partition) == (b"\xfe", b"\xff{", 3)
    assert record.headers == (
        ("trace", b"\xff"),
        ("trace", None),
        *replay_headers(Replay(of, 2, 2, release=True)),
    )
    assert before <= record.timestamp
    told = {name: value.decode() for name, value in receipt.headers}
    assert before <= datetime.fromisoformat(told.pop("coupon_receipt_at")).timestamp() * 1000 + 1
    assert (receipt.key, receipt.value, told) == (
        of.encode(),
        None,
        {
            "coupon_receipt_of": of,
            "coupon_receipt_partition": "0",
            "coupon_receipt_offset": "0",
            "coupon_receipt_to": topics.events,
            "coupon_receipt_count": "2",
        },
    )


async def test_what_went_back_does_not_go_again(broker: str, topics: Topics, settings: Settings) -> None:
    await write(broker, topics, [dead_letter(topics, number) for number in range(250)])

    first, second = await send(settings), await send(settings)

    selection = await choose(settings)
    assert (first.sent, second.sent, len(selection)) == (250, 0, 0)
    assert {why: held.count for why, held in selection.held_back.items()} == {"sent back already": 250}
    assert await arrived(broker, topics) == ids(topics, range(250))


async def test_a_look_sends_nothing(broker: str, topics: Topics, settings: Settings) -> None:
    await write(broker, topics, [dead_letter(topics, number) for number in range(5)])

    selection = await choose(settings)

    assert (selection.read, len(selection)) == (5, 5)
    assert await read_settled(broker, topics.events) == []
    assert len(await read_settled(broker, topics.dead_letters)) == 5


async def test_what_must_not_go_stays_and_is_told(broker: str, topics: Topics, settings: Settings) -> None:
    await write(
        broker,
        topics,
        [
            dead_letter(topics, 0),
            dead_letter(topics, 0),
            dead_letter(topics, 1, replays=2),
            dead_letter(topics, 2, replays=3),
            dead_letter(topics, 3, large=True),
            dead_letter(topics, 4, topic="others"),
            (Message(b"k", b"v", []), 1),
        ],
    )

    replayer, selection = await send(settings), await choose(settings)

    assert replayer.sent == 2
    assert await arrived(broker, topics) == ids(topics, [0, 1])
    assert {why: (held.count, held.places) for why, held in selection.held_back.items()} == {
        "sent back already": (2, [Coordinates(topics.events, 0, 0), Coordinates(topics.events, 1, 1)]),
        "repeats another one": (1, [Coordinates(topics.events, 0, 0)]),
        "sent back 3 times already, see --max-replays": (1, [Coordinates(topics.events, 2, 2)]),
        "the original was too large to be kept": (1, [Coordinates(topics.events, 3, 3)]),
        "its topic others: none of kafka.topics.events": (1, [Coordinates("others", 0, 4)]),
        "not written by this service": (1, [Coordinates(topics.dead_letters, 0, 6)]),
    }


async def test_filters_choose_by_header_by_time_and_by_the_plate_in_the_payload_or_the_key(
    broker: str, topics: Topics, settings: Settings
) -> None:
    await write(
        broker,
        topics,
        [
            dead_letter(topics, 0, code="500", rule="an-hour"),
            dead_letter(topics, 1, outcome=Outcome.INVALID, reason=Reason.NOT_JSON, value=b"{", key="粤B·0009Z".encode()),
            dead_letter(topics, 2, account="main"),
            dead_letter(topics, 3, value=event(9), partition=1),
        ],
    )  # fmt: skip  # a row a dead letter
    book = load(settings.rules)

    async def chosen(**filters: Any) -> set[int]:
        async with Replayer.connect(settings, sending=False) as replayer:
            selection = await replayer.select(Filters(**filters), max_replays=3, book=book)
            shown = await replayer.show(selection, 10)
        assert len(selection) == len(shown)
        return {letter.origin.offset for letter, _ in shown}

    assert await chosen() == {0, 1, 2, 3}
    assert await chosen(codes={"500"}) == {0}
    assert await chosen(rules={"an-hour"}) == {0}
    assert await chosen(reasons={"not_json"}) == {1}
    assert await chosen(outcomes={"platform_failed"}, accounts={"main"}) == {2}
    assert await chosen(orders={"ORDER00000000", "ORDER00000003"}) == {0, 3}
    assert await chosen(topics={topics.events}, partitions={1}, offsets=(range(2, 4),)) == {3}
    assert await chosen(since=AT + timedelta(minutes=2)) == {2, 3}
    assert await chosen(since=AT + timedelta(minutes=1), until=AT + timedelta(minutes=3)) == {1, 2}
    assert await chosen(since=AT + timedelta(days=1)) == set()
    assert await chosen(plates={"粤B0009Z"}) == {1, 3}


async def test_a_partition_that_is_no_more_is_replaced_by_the_keys(
    broker: str, topics: Topics, settings: Settings
) -> None:
    await write(broker, topics, [dead_letter(topics, 0, partition=11, key=b"same"), dead_letter(topics, 1, partition=12, key=b"same")])  # fmt: skip  # a pair
    await produce(broker, topics.events, [b"as a producer does"], [b"same"])

    await send(settings)

    assert len({record.partition for record in await read_settled(broker, topics.events)}) == 1


async def test_what_a_topic_does_not_take_is_told_and_the_rest_goes(
    broker: str, topics: Topics, settings: Settings
) -> None:
    large = {"padding": os.urandom(300_000).hex()}
    await write(broker, topics, [dead_letter(topics, n, value=event(n, **(large if n == 1 else {}))) for n in range(3)])  # fmt: skip  # a row
    assert await alter(broker, topics.events, "max.message.bytes", "100000") == 0

    replayer = await send(settings)

    assert replayer.sent == 2
    assert replayer.refused == [(Coordinates(topics.events, 1, 1), "its topic does not take it: MessageSizeTooLarge (10)")]  # fmt: skip  # one
    assert await arrived(broker, topics) == ids(topics, [0, 2])


# -- Once -------------------------------------------------------------------------------------------


class Command:
    """`charging-coupon replay` in a process."""

    def __init__(self, world: World, *arguments: str, **environ: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "consumer", "replay", "-s", str(world.settings), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environ},
        )

    async def end(self) -> tuple[int, str, str]:
        """Exit code, and what it printed."""
        out, err = await asyncio.to_thread(self.process.communicate, None, 60)
        return self.process.returncode, out, err

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


async def until_arrived(broker: str, topics: Topics, count: int) -> None:
    give_up = time.monotonic() + 40
    while sum((await end_offsets(broker, topics.events, topics.partitions)).values()) < count:
        assert time.monotonic() < give_up, "nothing goes back"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "after", [1, pytest.param(20, marks=pytest.mark.long), pytest.param(45, marks=pytest.mark.long)]
)
async def test_one_that_is_killed_half_way_and_started_again_sends_none_twice(
    broker: str, topics: Topics, world: World, settings: Settings, after: int
) -> None:
    await write(broker, topics, [dead_letter(topics, number) for number in range(60)])
    killed = Command(world, "--all", "--send", "--rate", "20")
    await until_arrived(broker, topics, after)
    killed.kill()

    code, out, err = await Command(world, "--all", "--send", "--rate", "1000").end()

    assert (code, err) == (0, ""), out
    assert "sent back already" in out
    assert await arrived(broker, topics) == ids(topics, range(60))


async def test_of_two_at_once_the_first_ends_and_says_so_and_none_goes_twice(
    broker: str, topics: Topics, world: World, settings: Settings
) -> None:
    await write(broker, topics, [dead_letter(topics, number) for number in range(60)])
    first = Command(world, "--all", "--send", "--rate", "10")
    await until_arrived(broker, topics, 1)

    second = await send(settings)

    code, out, err = await first.end()
    assert code == 4
    assert err.startswith(f"error: another replay of the group {topics.group} has begun, ")
    sent = int(out.splitlines()[-1].split()[0])
    assert 0 < sent == 60 - second.sent
    assert await arrived(broker, topics) == ids(topics, range(60))


async def test_an_interrupt_ends_it_after_a_transaction_and_the_same_command_goes_on(
    broker: str, topics: Topics, world: World
) -> None:
    await write(broker, topics, [dead_letter(topics, number) for number in range(30)])
    first = Command(world, "--all", "--send", "--rate", "5")
    await until_arrived(broker, topics, 1)
    first.process.send_signal(signal.SIGINT)

    code, out, err = await first.end()
    went = len(await arrived(broker, topics))
    again = await Command(world, "--all", "--send", "--format", "json").end()

    assert (code, err) == (130, "")
    assert out.endswith(f"\n{went} of 30 were sent back; the same command goes on with the rest.\n")
    assert (again[0], json.loads(again[1])["sent"]) == (0, 30 - went)
    assert await arrived(broker, topics) == ids(topics, range(30))


@pytest.mark.parametrize("kind", ["AddPartitions", "Produce", "EndTxn", "InitProducerId"])
@pytest.mark.parametrize("lose", ["request", "reply"])
async def test_a_request_or_reply_that_is_lost_makes_none_go_twice_or_not_at_all(
    broker: str, topics: Topics, settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: str, lose: str
) -> None:
    await write(broker, topics, [dead_letter(topics, number) for number in range(30)])
    clients: list[FaultyClient] = []

    def faulty(**options: Any) -> FaultyClient:
        clients.append(FaultyClient(kind=kind, lose=lose, **options))
        clients[0].armed = kind == "InitProducerId"
        return clients[0]

    monkeypatch.setattr(room, "AIOKafkaClient", faulty)
    monkeypatch.setattr(room, "TRANSACTION_RECORDS", 10)
    async with Replayer.connect(settings, sending=True) as replayer:
        selection = await replayer.select(ALL, max_replays=3)
        [client] = clients
        client.armed = kind != "InitProducerId"
        await go(replayer, selection)

    assert (client.lost, replayer.sent, replayer.unsettled) == (1, 30, 0)
    assert await arrived(broker, topics) == ids(topics, range(30))
    assert Counter(read_receipt(each.headers) is None for each in await read_settled(broker, topics.dead_letters)) == {True: 30, False: 30}  # fmt: skip  # as many


class OvertakenClient(FaultyClient):
    """Whatever it loses, it notices only after another replay has begun and ended."""

    settings: Settings

    async def send(self, node_id: int, request: Any, **options: Any) -> Any:
        lost = self.lost
        try:
            return await super().send(node_id, request, **options)
        except KafkaConnectionError:
            if self.lost > lost:
                self.other = await send(self.settings)
            raise


@pytest.mark.parametrize("lose", ["request", "reply"])
async def test_after_a_lost_answer_it_sends_nothing_that_another_one_sent_meanwhile(
    broker: str, topics: Topics, settings: Settings, monkeypatch: pytest.MonkeyPatch, lose: str
) -> None:
    await write(broker, topics, [dead_letter(topics, number) for number in range(30)])
    monkeypatch.setattr(room, "TRANSACTION_RECORDS", 10)
    with monkeypatch.context() as patch:
        patch.setattr(room, "AIOKafkaClient", partial(OvertakenClient, kind="EndTxn", lose=lose))
        connection = Replayer.connect(settings, sending=True)
        replayer = await connection.__aenter__()
    selection = await replayer.select(ALL, max_replays=3)
    client = replayer._link.client
    client.settings, client.armed = settings, True
    await go(replayer, selection)
    await connection.__aexit__(None, None, None)

    assert (client.other.sent, len(selection)) == (30 if lose == "request" else 20, 0)
    assert await arrived(broker, topics) == ids(topics, range(30))


class KilledError(Exception):
    """Nothing comes after it."""


class KilledClient(FaultyClient):
    """The process ends before the request is sent, or before its reply is heard."""

    async def send(self, node_id: int, request: Any, **options: Any) -> Any:
        lost = self.lost
        try:
            return await super().send(node_id, request, **options)
        except KafkaConnectionError:
            if self.lost > lost:
                raise KilledError from None
            raise


@pytest.mark.parametrize("kind", ["AddPartitions", "Produce", "EndTxn"])
@pytest.mark.parametrize("lose", ["request", "reply"])
async def test_one_that_is_killed_in_the_midst_of_a_transaction_sends_all_of_it_or_nothing(
    broker: str, topics: Topics, settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: str, lose: str
) -> None:
    await write(broker, topics, [dead_letter(topics, number) for number in range(30)])
    with monkeypatch.context() as patch:
        patch.setattr(room, "AIOKafkaClient", partial(KilledClient, kind=kind, lose=lose))
        async with Replayer.connect(settings, sending=True) as killed:
            selection = await killed.select(ALL, max_replays=3)
            killed._link.client.armed = True
            with pytest.raises(KilledError):
                await go(killed, selection)

    again = await send(settings)

    assert again.sent == (0 if (kind, lose) == ("EndTxn", "reply") else 30)
    assert await arrived(broker, topics) == ids(topics, range(30))


async def test_of_many_at_once_none_sends_what_another_one_sent(
    broker: str, topics: Topics, world: World
) -> None:
    await write(broker, topics, [dead_letter(topics, number) for number in range(300)])

    commands = [Command(world, "--all", "--send", "--rate", "500", "--format", "json") for _ in range(3)]
    ended = [await command.end() for command in commands]
    last = await Command(world, "--all", "--send", "--format", "json").end()

    assert {code for code, _, _ in ended} <= {0, 4}, ended
    told = [json.loads(out) for _, out, _ in (*ended, last) if out]
    certain, perhaps = sum(each["sent"] for each in told), sum(each["unsettled"] for each in told)
    assert certain <= 300 <= certain + perhaps
    assert await arrived(broker, topics) == ids(topics, range(300))


@asynccontextmanager
async def open_transaction(broker: str, topics: Topics) -> AsyncIterator[AIOKafkaProducer]:
    """Somebody who has written to the dead-letter topic, and does not end."""
    producer = AIOKafkaProducer(bootstrap_servers=broker, transactional_id=f"{topics.group}/somebody")
    await producer.start()
    try:
        async with producer.transaction():
            await producer.send_and_wait(topics.dead_letters, b"not yet", b"k")
            yield producer
    finally:
        await producer.stop()


async def test_receipts_behind_somebodys_open_transaction_are_waited_for(
    broker: str, topics: Topics, settings: Settings
) -> None:
    await write(broker, topics, [dead_letter(topics, number) for number in range(3)])
    async with Replayer.connect(settings, sending=True) as replayer:
        selection = await replayer.select(ALL, max_replays=3)
        async with open_transaction(broker, topics):
            await go(replayer, selection)
            second = asyncio.create_task(send(settings))
            await asyncio.sleep(2)
            assert not second.done()

    assert (await second).sent == 0
    assert await arrived(broker, topics) == ids(topics, range(3))


async def test_one_that_stands_still_behind_another_ones_back_sends_nothing_any_more(
    broker: str, topics: Topics, settings: Settings
) -> None:
    await write(broker, topics, [dead_letter(topics, number) for number in range(3)])
    async with Replayer.connect(settings, sending=True) as sleeper:
        selection = await sleeper.select(ALL, max_replays=3)
        assert (await send(settings)).sent == 3

        with pytest.raises(RefusedError, match="another replay of the group"):
            await go(sleeper, selection)

    assert (sleeper.sent, sleeper.unsettled) == (0, 0)
    assert await arrived(broker, topics) == ids(topics, range(3))


async def test_without_transactions_the_receipt_comes_after_and_it_says_what_may_be_repeated(
    broker: str, topics: Topics, world: World
) -> None:
    await write(broker, topics, [dead_letter(topics, number) for number in range(30)])
    plainly = {"CHARGING_COUPON__GUARANTEE": "at_least_once"}
    first = Command(world, "--all", "--send", "--rate", "10", **plainly)
    await until_arrived(broker, topics, 3)
    first.process.send_signal(signal.SIGTERM)

    code, out, _ = await first.end()
    again, _, _ = await Command(world, "--all", "--send", **plainly).end()

    assert (code, again) == (130, 0)
    assert out.endswith("; the same command goes on with the rest, and may repeat one (guarantee: at_least_once).\n")  # fmt: skip  # one
    assert await arrived(broker, topics) == ids(topics, range(30))


# -- Through the service ----------------------------------------------------------------------------


async def outcomes_of(world: World, count: int) -> list[dict[str, Any]]:
    await world.until_outcomes(count)
    await world.until_done(30)
    found = await world.outcomes()
    assert len(found) == count
    return sorted(found, key=lambda outcome: str(outcome["decided_at"]))


async def test_what_is_implausible_comes_back_so_unless_it_is_released(
    broker: str, topics: Topics, world: World, settings: Settings, gateway: SandboxGateway
) -> None:
    member = world.start()
    await produce(broker, topics.events, [event(1, energy_kwh="999999")])
    await outcomes_of(world, 1)

    await send(settings)
    twice = await outcomes_of(world, 2)
    await send(settings, release=True)
    thrice = await outcomes_of(world, 3)

    assert [outcome["outcome"] for outcome in twice] == ["suspect", "suspect"]
    assert (thrice[-1]["outcome"], thrice[-1]["suspicions"]) == ("granted", ["too_much_energy"])
    assert set(gateway.journal.grants) == {"ORDER00000001"}
    [*_, last] = [read_replay(record.headers) for record in await read_settled(broker, topics.events)]
    assert last is not None
    assert (last.of, last.count) == (twice[-1]["outcome_id"], 2)
    assert await member.stop() == 0


async def test_of_an_event_with_three_orders_only_the_one_that_failed_is_run_again(
    broker: str, topics: Topics, world: World, settings: Settings
) -> None:
    member = world.start()
    rows = [json.loads(event(number, energy_kwh="999999" if number == 2 else "12.5")) for number in (1, 2, 3)]
    await produce(broker, topics.events, [json.dumps(rows).encode()])
    await outcomes_of(world, 3)

    await send(settings, release=True)
    found = await outcomes_of(world, 4)

    assert [outcome["outcome"] for outcome in found[:3]].count("granted") == 2
    assert (found[3]["order_id"], found[3]["order_index"], found[3]["outcome"]) == (
        "ORDER00000002",
        1,
        "granted",
    )
    assert await member.stop() == 0


async def test_an_event_that_could_not_be_read_is_run_whole(
    broker: str, topics: Topics, world: World, settings: Settings
) -> None:
    rows = b"[" + b",".join(event(number) for number in (1, 2)) + b"]"
    member = world.start()
    await produce(broker, topics.events, [b"12345" + rows])
    assert [outcome["reason"] for outcome in await outcomes_of(world, 1)] == ["not_json"]
    assert await member.stop() == 0
    world.rules.write_text(
        world.rules.read_text("utf-8").replace("extends: canonical}", "extends: canonical, envelope: [{skip_bytes: 5}]}"),
        "utf-8",
    )  # fmt: skip  # one edit
    member = world.start()

    await send(settings)
    found = await outcomes_of(world, 3)

    # Both are asked for at once, and either may be answered first.
    assert sorted((outcome["order_id"], outcome["outcome"]) for outcome in found[1:]) == [
        ("ORDER00000001", "granted"),
        ("ORDER00000002", "granted"),
    ]
    assert await member.stop() == 0


# -- As it is told ----------------------------------------------------------------------------------


async def test_the_command_shows_what_would_go_and_hides_plates(
    broker: str, topics: Topics, world: World
) -> None:
    letters = [dead_letter(topics, number, rule="an-hour") for number in range(3)]
    letters.append(dead_letter(topics, 3, replays=9, values={"order_id": "粤B0003Z\x1b[2J"}))
    letters.append(dead_letter(topics, 4, values={"order_id": "of 粤B0004Z\x1b[2J"}))
    await write(broker, topics, letters)

    masked, none, whole, one = await asyncio.gather(
        Command(world, "--all", "--rows", "4").end(),
        Command(world, "--outcome", "not_configured").end(),
        Command(world, "--all", "--reveal").end(),
        Command(world, "--plate", "粤b 0001z", "--format", "json").end(),
    )

    assert masked[0] == none[0] == whole[0] == one[0] == 0, masked + none + whole + one
    assert none[1].splitlines() == [
        f"5 dead letters in {topics.dead_letters}, of which 0 would go back",
        "",
        (
            "No dead letter is written of not_configured, unless `replies` in the rules says so (dead_letter: true): "
            "when the cause is mended, such a charge has to be pushed again."
        ),
        "",
        "Nothing was sent.",
    ]
    assert masked[1].splitlines() == [
        f"5 dead letters in {topics.dead_letters}, of which 4 would go back",
        "",
        "DEAD LETTERS  OUTCOME          REASON  CODE  RULE",
        "3             platform_failed  -       503   an-hour",
        "1             platform_failed  -       503   -",
        "",
        *masked[1].splitlines()[6:11],
        "",
        "These do not go:",
        f"DEAD LETTERS  WHY                                           {'EVENTS'}",
        f"1             sent back 9 times already, see --max-replays  {topics.events}-3@3",
        "",
        "Nothing was sent; with --send they are.",
    ]
    assert masked[1].splitlines()[10].split()[:4] == [
        f"{topics.events}-0@4",
        "of",
        r"***\x1b[2J",
        "platform_failed",
    ]
    assert "0004Z" not in masked[1]
    assert "粤B0001Z" in whole[1]
    [order] = json.loads(one[1])["orders"]
    assert (order["order_id"], order["plate"]) == ("ORDER00000001", "粤B****Z")
    assert await read_settled(broker, topics.events) == []


async def alter(broker: str, topic: str, name: str, value: str) -> int:
    """Sets a topic's configuration; Kafka's error code."""
    from aiokafka.admin import AIOKafkaAdminClient  # noqa: PLC0415  # the other tests do without
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType  # noqa: PLC0415  # likewise

    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    try:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs={name: value})
        [reply] = await admin.alter_configs([resource])
        return int(reply.resources[0][0])
    finally:
        await admin.close()
