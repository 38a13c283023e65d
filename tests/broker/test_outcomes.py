"""`charging-coupon outcomes` on a real Kafka: it finds an order's outcome, or where it waits, and shows no plate."""

import asyncio
import csv
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from aiokafka import AIOKafkaProducer
from msgspec import structs

from consumer import cli
from consumer.core.coupons import CouponRequest
from consumer.core.events import Attempts, Coordinates, GatewayWords, Record, Wait
from consumer.core.outcomes import (
    Later,
    Message,
    Outcome,
    OutcomeContext,
    PlateMode,
    Privacy,
    Reason,
    Resolution,
    encode_outcome,
    encode_retry,
)
from consumer.sandbox.gateway import SandboxGateway
from tests.broker.kafka import Topics, committed_offsets, end_offsets, produce
from tests.broker.world import World, event

pytestmark = pytest.mark.broker

NOW = datetime.now(UTC).replace(microsecond=0)
KEY = b"a key for plates"
LAST = GatewayWords("1002", 200, "车辆未入场")


@pytest.fixture
async def world(
    broker: str,
    topics: Topics,
    tmp_path: Path,
    gateway: SandboxGateway,
    create_topics: Callable[[str, Mapping[str, int]], Awaitable[None]],
) -> World:
    """One whose orders may wait for a minute, or for half an hour."""
    topics = replace(topics, delays="[1m, 30m]")
    await create_topics(broker, {f"{topics.retries}.1m": 2, f"{topics.retries}.30m": 2})
    return World(broker, topics, tmp_path, gateway.url)


def resolution(
    topics: Topics, number: int, *, ago: timedelta = timedelta(minutes=5), **fields: Any
) -> Resolution:
    """What became of a charge, five minutes ago."""
    record = Record(Coordinates(topics.events, number % 4, number), 1_764_000_000_000, b"key", event(number))
    whole = {
        "outcome": Outcome.NOT_ENTERED,
        "values": {"order_id": f"ORDER{number:08}", "event_id": f"E{number}", "plate": f"粤B{number:04}Z"},
        "request": CouponRequest("main", "an-hour", None, {"api_store_code": "62626601"}, {}),
        "rule": "an-hour",
        "account": "main",
        "attempts": Attempts(3, NOW - timedelta(hours=1), NOW - ago, 0.2),
        "words": LAST,
        **fields,
    }
    return Resolution(record=record, index=0, decided_at=NOW - ago, **whole)


def outcome(topics: Topics, number: int, plates: PlateMode = PlateMode.BOTH, **fields: Any) -> Message:
    context = OutcomeContext("cluster", Privacy(plates, KEY))
    return encode_outcome(resolution(topics, number, **fields), context)


def retry(topics: Topics, number: int, *, due: timedelta, wait: Wait = Wait.REPLY, **fields: Any) -> Message:
    later = Later(wait, 0, NOW + due, 1, 0, 0.0)
    return encode_retry(resolution(topics, number, **fields), later, OutcomeContext("cluster"))


async def write(broker: str, topic: str, messages: list[Message], *, aborted: bool = False) -> None:
    transactional = f"{topic}-writer" if aborted else None
    async with AIOKafkaProducer(bootstrap_servers=broker, transactional_id=transactional) as producer:
        if aborted:
            await producer.begin_transaction()
        for message in messages:
            await producer.send_and_wait(topic, message.value, message.key, headers=message.headers)
        if aborted:
            await producer.abort_transaction()


Ask = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def ask(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], logging_as_before: None
) -> Iterator[Ask]:
    """`await ask(*arguments)`, in China: exit code, what the command printed, what it said beside."""
    monkeypatch.chdir(world.folder)
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()

    def run(arguments: tuple[str, ...]) -> int:
        try:
            cli.main(["outcomes", "--settings", "settings.yaml", *arguments])
        except SystemExit as ended:
            return int(ended.code or 0)
        raise AssertionError("a command ends with an exit code")

    async def ask(*arguments: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(run, arguments)
        return code, *capsys.readouterr()

    yield ask
    monkeypatch.undo()
    time.tzset()


async def orders(ask: Ask, *arguments: str) -> dict[str, str]:
    """Order numbers and what became of them."""
    _, out, _ = await ask("--format", "json", *arguments)
    found = [json.loads(line) for line in out.splitlines()]
    return {each["order_id"]: each["outcome"] for each in found}


def local(at: datetime) -> str:
    """As its clock there shows it."""
    return at.astimezone(ZoneInfo("Asia/Shanghai")).isoformat(" ", "seconds")


async def test_an_order_without_a_coupon_is_told_with_why_and_how_to_look_into_it(
    world: World, ask: Ask
) -> None:
    await write(world.broker, world.topics.outcomes, [outcome(world.topics, number) for number in (1, 2)])

    code, out, err = await ask("--order", "ORDER00000002")

    events = world.topics.events
    assert (code, err) == (0, "")
    assert out.splitlines()[2:] == [
        f"{local(NOW - timedelta(minutes=5))}  order ORDER00000002  粤B****Z  not_entered",
        "  The platform knows of no such car in the lot (1002), until it was too late to ask again.",
        "  platform  1002 车辆未入场",
        f"  calls     3, the last one ended {local(NOW - timedelta(minutes=5))}",
        "  by        rule an-hour, account main, lot 62626601",
        "  event_id  E2",
        f"  event     {events}-2@2",
        (
            "  explain   charging-coupon explain rules.yaml --settings settings.yaml "
            f"--topic {events} --partition 2 --offset 2"
        ),
        "",
        "ORDERS  OUTCOME",
        "1       not_entered",
    ]


async def test_the_command_that_it_names_explains_the_event(world: World, ask: Ask) -> None:
    await produce(world.broker, world.topics.events, [event(0)])
    [place] = [at for at in range(4) if (await end_offsets(world.broker, world.topics.events, 4))[at]]
    origin = Coordinates(world.topics.events, place, 0)
    told = resolution(world.topics, 0)
    told = structs.replace(told, record=structs.replace(told.record, coordinates=origin))
    message = encode_outcome(told, OutcomeContext("cluster", Privacy(PlateMode.HASH, KEY)))
    await write(world.broker, world.topics.outcomes, [message])

    _, out, _ = await ask("--plate", "粤B0000Z")
    [named] = [line.split("explain   ")[1] for line in out.splitlines() if line.startswith("  explain")]
    words = shlex.split(named)
    explained = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "consumer", *words[1:]],
        cwd=world.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip  # what it runs, and how

    assert (words[0], explained.returncode, explained.stderr) == ("charging-coupon", 0, "")
    assert "ORDER00000000" in explained.stdout


async def test_each_filter_finds_its_own_and_all_of_them_must_hold(world: World, ask: Ask) -> None:
    topics = world.topics
    skipped: dict[str, Any] = {
        "outcome": Outcome.SKIPPED,
        "reason": Reason.BELOW_THRESHOLD,
        "words": GatewayWords(),
        "rule": "short",
    }
    await write(
        world.broker,
        topics.outcomes,
        [
            outcome(topics, 1),
            outcome(topics, 2, **skipped),
            outcome(
                topics,
                3,
                account="other",
                request=CouponRequest("other", "r", None, {"api_store_code": "L3"}, {}),
            ),
            outcome(topics, 4, outcome=Outcome.GRANTED, words=GatewayWords("1001")),
            outcome(topics, 5, PlateMode.HASH, ago=timedelta(hours=3)),
            outcome(topics, 6, PlateMode.NONE, ago=timedelta(days=2)),
        ],
    )

    async def numbers(*arguments: str) -> list[int]:
        return sorted(int(order[-1]) for order in await orders(ask, *arguments))

    asked = {
        (): [1, 2, 3, 4, 5],
        ("--outcome", "skipped", "--outcome", "granted"): [2, 4],
        ("--reason", "below_threshold"): [2],
        ("--code", "1002"): [1, 3, 5],
        ("--lot", "L3"): [3],
        ("--rule", "short"): [2],
        ("--account", "other"): [3],
        ("--event-id", "E4"): [4],
        ("--plate", "粤B·0005z", "--plate", "粤B0001Z"): [1, 5],
        ("--plate", "粤B0001Z", "--outcome", "granted"): [],
        ("--since", "1h"): [1, 2, 3, 4],
        ("--since", "7d", "--until", "1h"): [5, 6],
        ("--until", "36h"): [6],
    }
    assert {arguments: await numbers(*arguments) for arguments in asked} == asked


async def test_of_repetitions_the_last_one_counts_and_what_was_aborted_does_not(
    world: World, ask: Ask
) -> None:
    topics = world.topics
    first, last = outcome(topics, 1), outcome(topics, 1, outcome=Outcome.GRANTED)
    await write(world.broker, topics.outcomes, [first, last, first, last])
    await write(world.broker, topics.outcomes, [outcome(topics, 2)], aborted=True)

    assert await orders(ask) == {"ORDER00000001": "granted"}
    assert await orders(ask, "--outcome", "not_entered") == {}


async def test_an_order_that_waits_is_found_in_the_retry_topics_until_it_has_an_outcome(
    world: World, ask: Ask
) -> None:
    topics = world.topics
    short, long = f"{topics.retries}.1m", f"{topics.retries}.30m"
    three = timedelta(minutes=3)
    await write(
        world.broker,
        short,
        [retry(topics, number, due=-timedelta(minutes=4)) for number in (1, 2)]
        + [
            retry(topics, 3, due=-timedelta(minutes=1), wait=Wait.HOLD, words=GatewayWords(), account="other")
        ],
    )
    await write(world.broker, long, [retry(topics, 1, due=timedelta(minutes=25), ago=three)])
    await write(world.broker, topics.outcomes, [outcome(topics, 2, ago=timedelta(minutes=1))])

    assert await orders(ask) == {
        "ORDER00000001": "waiting",
        "ORDER00000002": "not_entered",
        "ORDER00000003": "waiting",
    }
    _, out, _ = await ask("--order", "ORDER00000001")
    assert out.splitlines()[2:6] == [
        f"{local(NOW - three)}  order ORDER00000001  -  waiting",
        (
            f"  It waits for its next attempt, at {local(NOW + timedelta(minutes=25))} "
            "(3 so far; last answer 1002 车辆未入场)"
        ),
        "  by        rule an-hour, account main",
        "  event_id  E1",
    ]
    assert out.endswith("ORDERS  OUTCOME\n1       waiting\n")
    _, out, _ = await ask("--account", "other")
    assert (
        "  Its account or rule is on hold in the rules: it waits for its next turn, "
        f"which was due at {local(NOW - timedelta(minutes=1))} (3 so far)"
    ) in out.splitlines()
    assert await orders(ask, "--plate", "粤B0003Z", "--lot", "62626601") == {"ORDER00000003": "waiting"}
    assert await orders(ask, "--outcome", "waiting", "--code", "1002") == {"ORDER00000001": "waiting"}
    assert await orders(ask, "--outcome", "not_entered") == {"ORDER00000002": "not_entered"}


async def test_where_nothing_is_found_it_says_where_else_to_look(world: World, ask: Ask) -> None:
    await write(world.broker, world.topics.outcomes, [outcome(world.topics, 1)])

    code, out, err = await ask("--order", "ORDER00000009")

    first, *rest = out.splitlines()
    assert (code, err) == (1, "")
    assert first.startswith(f"Read 1 outcome in {world.topics.outcomes}; those decided since ")
    assert first.endswith(f", and who waits in {world.topics.retries}.1m, {world.topics.retries}.30m")
    assert rest == [
        "",
        "Nothing was found. What it can be:",
        "  - It was decided earlier: --since 7d looks further back, as far as the outcome topic is kept.",
        "  - It is under way, or not read yet: /readyz and the status page of the service tell its lag.",
        f"  - It never came: look for it in {world.topics.events}.",
        "  - Its number could not be read from the event: --outcome invalid --since 1d lists such events.",
    ]
    _, of_waiting, _ = await ask("--order", "ORDER00000001", "--outcome", "waiting")
    assert of_waiting.splitlines()[3] == "  - It has its outcome by now: ask without --outcome waiting."


async def test_of_the_settings_it_needs_no_more_than_where_kafka_is(world: World, ask: Ask) -> None:
    topics = world.topics
    await write(world.broker, topics.outcomes, [outcome(topics, 1)])
    await write(world.broker, f"{topics.retries}.1m", [retry(topics, 3, due=timedelta(minutes=1))])
    world.settings.write_text(
        f"""
kafka:
  bootstrap_servers: ["{world.broker}"]
  topics: {{outcomes: {topics.outcomes}, retries: {topics.retries}}}
retries: {{delays: [1m]}}
""",
        "utf-8",
    )

    found, nothing = await ask("--order", "ORDER00000001"), await ask("--lot", "1")

    assert "  explain   charging-coupon explain RULES --settings settings.yaml --topic" in found[1]
    assert await orders(ask) == {"ORDER00000001": "not_entered", "ORDER00000003": "waiting"}
    assert [line for line in nothing[1].splitlines() if "rules" in line or "never came" in line] == [
        "  - It waits for another attempt: for a plate or a lot that is known only with `rules` in the settings.",
        "  - It never came: look for it in the events topics.",
    ]


async def test_no_whole_plate_is_shown_but_when_asked(world: World, ask: Ask) -> None:
    echoed = GatewayWords("400", 200, "sign of plate=粤B0001Z", hint="plate=粤B0001Z&subject=粤B·0001Z")
    await write(
        world.broker,
        world.topics.outcomes,
        [outcome(world.topics, 1, words=echoed, detail="粤B0001Z \x1b[2J", outcome=Outcome.REJECTED)],
    )
    await write(
        world.broker, f"{world.topics.retries}.1m", [retry(world.topics, 3, due=timedelta(minutes=1))]
    )

    shown = [
        await ask(*form, "--plate", "粤B0001Z", "--plate", "粤B0003Z") for form in ((), ("--format", "json"))
    ]
    _, revealed, _ = await ask("--reveal")

    assert all("粤B****Z" in out and "0001Z" not in out and "0003Z" not in out for _, out, _ in shown)
    assert not any("\x1b" in out for _, out, _ in (*shown, (0, revealed, "")))
    assert "粤B0001Z" in revealed


async def test_it_shows_the_latest_and_counts_all(world: World, ask: Ask) -> None:
    topics = world.topics
    many = [outcome(topics, number, ago=timedelta(seconds=100 - number)) for number in range(30)]
    await write(world.broker, topics.outcomes, many)

    _, out, _ = await ask("--rows", "2")

    assert "The latest 2 of 30; --rows shows more of them, filters fewer" in out
    assert [line.split()[3] for line in out.splitlines() if "  order ORDER" in line] == [
        "ORDER00000028",
        "ORDER00000029",
    ]
    assert out.endswith("ORDERS  OUTCOME\n30      not_entered\n")


async def test_charges_are_folded_with_their_coupons_and_what_may_be_one(world: World, ask: Ask) -> None:
    topics = world.topics
    same = {"order_id": "=A1", "event_id": "A1", "plate": "粤B0001Z"}
    lost: dict[str, Any] = {
        "attempts": Attempts(3, NOW, NOW, 0.2, ambiguous=True),
        "outcome": Outcome.PLATFORM_FAILED,
    }
    serial = GatewayWords("100", 200, "ok", grant_serial="G-77")
    await write(
        world.broker,
        topics.outcomes,
        [
            outcome(topics, 1, values=same, outcome=Outcome.GRANTED, words=serial, ago=timedelta(minutes=9)),
            outcome(topics, 2, values=same, outcome=Outcome.EXPIRED, ago=timedelta(minutes=8)),
            outcome(topics, 3, values={"order_id": "A1-credit"}, outcome=Outcome.SKIPPED, reverses="=A1"),
            outcome(topics, 4, **lost, ago=timedelta(minutes=7)),
        ],
    )
    waiting = f"{topics.retries}.1m"
    await write(world.broker, waiting, [retry(topics, 5, due=timedelta(minutes=1))])

    _, text, _ = await ask("--by-charge")
    _, lines, _ = await ask("--by-charge", "--format", "json")
    _, table, _ = await ask("--by-charge", "--format", "csv", "--reveal")
    code, _, beside = await ask("--by-charge", "--format", "csv", "--outcome", "expired")

    assert [line.split() for line in text.splitlines()[-5:]] == [
        ["CHARGES", "OUTCOME", "COUPONS", "MAY", "HAVE", "ONE"],
        ["1", "granted", "1", "0"],
        ["1", "platform_failed", "0", "1"],
        ["1", "waiting", "0", "0"],
        ["3", "in", "all", "1", "1"],
    ]
    assert "G-77; reversed 1 time\n" in text
    assert "may have a coupon: ask the platform by event_id" in text
    found = [json.loads(line) for line in lines.splitlines()]
    assert [(each["order_id"], each["outcome"], each["coupons"], each["pushes"]) for each in found] == [
        ("=A1", "granted", 1, 3),
        ("ORDER00000004", "platform_failed", 0, 1),
        ("ORDER00000005", "waiting", 0, 1),
    ]
    assert table.startswith(
        "\ufefforder_id,event_id,outcome,reason,coupons,ambiguous,pushes,reversals,grant_serial,"
    )
    rows = list(csv.DictReader(table.removeprefix("\ufeff").splitlines()))
    assert [(row["order_id"], row["coupons"], row["ambiguous"], row["grant_serial"]) for row in rows] == [
        ("'=A1", "1", "false", "G-77"),  # no spreadsheet's formula
        ("ORDER00000004", "0", "true", ""),
        ("ORDER00000005", "0", "false", ""),
    ]
    assert rows[0]["plate"] == "粤B0001Z"
    assert code == 1  # a push of A1 expired, and yet A1 was granted
    assert "Nothing was found" in beside


async def test_it_joins_no_group(world: World, ask: Ask) -> None:
    await write(world.broker, world.topics.outcomes, [outcome(world.topics, 1)])

    await ask()

    committed = await committed_offsets(world.broker, world.topics.group, world.topics.outcomes, 3)
    assert set(committed.values()) == {-1}


async def test_a_topic_that_is_not_there_is_named(world: World, ask: Ask) -> None:
    text = world.settings.read_text("utf-8").replace(world.topics.outcomes, "nowhere")
    world.settings.write_text(text, "utf-8")

    assert await ask() == (
        2,
        "",
        "error: kafka.topics.outcomes: there is no topic nowhere; name the one that the service writes to\n",
    )
