"""`charging-coupon send` on a real Kafka: what arrives is what stands in the file; nothing does without a yes."""

import asyncio
import io
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from consumer import cli
from tests.broker.kafka import Topics, read_all
from tests.broker.world import World, just_now

pytestmark = pytest.mark.broker

Send = Callable[..., Awaitable[tuple[int, str, str]]]
LONG = b'{"id": 310000000000000000000000017, "kwh": 1.10, "plate": "\xe7\xb2\xa4BD12345"}'


@pytest.fixture
def send(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], logging_as_before: None
) -> Send:
    """`await send(bytes, *arguments)`: exit code, what the command printed, what it said beside."""
    monkeypatch.chdir(world.folder)

    def run(arguments: tuple[str, ...]) -> int:
        try:
            cli.main(["send", "events.json", "--settings", "settings.yaml", *arguments])
        except SystemExit as ended:
            return int(ended.code or 0)
        raise AssertionError("a command ends with an exit code")

    async def send(content: bytes, *arguments: str) -> tuple[int, str, str]:
        (world.folder / "events.json").write_bytes(content)
        code = await asyncio.to_thread(run, arguments or ("--topic", world.topics.events, "--yes"))
        return code, *capsys.readouterr()

    return send


async def values(world: World) -> list[Any]:
    return sorted(record.value for record in await read_all(world.broker, world.topics.events))


@pytest.mark.parametrize(
    ("content", "arrives"),
    [
        (LONG + b"\n", [LONG]),
        (b'{\n  "id": 1\n}\n', [b'{\n  "id": 1\n}']),
        (b'{"id": 1}\r\n\n' + LONG, [b'{"id": 1}', LONG]),
        (b'[{"id": 1},\n ' + LONG + b"]", [b'{"id": 1}', LONG]),
    ],
    ids=["one", "one in several lines", "a line each", "a list"],
)
async def test_events_arrive_byte_for_byte(
    content: bytes, arrives: list[bytes], world: World, send: Send
) -> None:
    code, _, err = await send(content)

    assert (code, err, await values(world)) == (0, "", sorted(arrives))


async def test_what_is_no_json_goes_when_it_is_to_go_raw(world: World, send: Send) -> None:
    code, _, _ = await send(b"\xff{\n<a/>\n", "--topic", world.topics.events, "--yes", "--raw")

    assert (code, await values(world)) == (0, [b"<a/>", b"\xff{"])


async def test_keys_and_headers_are_those_that_were_asked_for(world: World, send: Send) -> None:
    await send(
        b'{"car": {"no": "A"}}\n{"car": {"no": 7}}',
        "--topic", world.topics.events, "--yes", "--key", "car.no", "--header", "ce_type=ended",
    )  # fmt: skip  # option by option

    records = await read_all(world.broker, world.topics.events)
    assert {record.key for record in records} == {b"A", b"7"}
    assert [record.headers for record in records] == [(("ce_type", b"ended"),)] * 2


async def test_it_shows_where_to_and_how_many_and_sends_after_a_yes(
    world: World, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    events, said = world.topics.events, []
    for typed in ("no\n", "", "yes\n"):
        monkeypatch.setattr(sys, "stdin", Terminal(typed))
        said.append(await send(LONG, "--topic", events, "--key", "plate"))

    shown = [
        f"Kafka   {world.broker}",
        f"topic   {events}, 4 partitions",
        f"events  1 from events.json, {len(LONG)} bytes",
        "key     plate, such as 粤B*****5",
        "",
        f"A service that reads {events} asks its platform for a coupon for each charge that its rules choose.",
        "These are real coupons, unless that platform is a sandbox.",
    ]
    assert [out.splitlines()[:7] for _, out, _ in said] == [shown] * 3
    assert ["Nothing was sent." in out for _, out, _ in said] == [True, True, False]
    [record] = await read_all(world.broker, events)
    place = f"{events}-{record.partition}@0"
    assert said[2][1].splitlines()[-2:] == [
        f"Type yes to send: 1 event was sent: {place}",
        "What becomes of it: charging-coupon outcomes --settings settings.yaml --since 10m",
    ]


async def test_nobody_can_be_asked_without_a_terminal(
    world: World, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))

    code, _, err = await send(LONG, "--topic", world.topics.events)

    assert (code, await values(world)) == (2, [])
    assert (
        err
        == "error: send: nobody can be asked: standard input is no terminal; add --yes to send what is shown\n"
    )


async def test_a_topic_that_is_not_there_is_not_made(world: World, send: Send) -> None:
    said = [await send(LONG, "--topic", "nowhere", "--yes") for _ in range(2)]

    remedy = "`charging-coupon topics --create --events` creates those of kafka.topics.events"
    assert said == [(2, "", f"error: --topic: there is no topic nowhere; {remedy}\n")] * 2


async def test_what_is_too_large_for_the_topic_is_refused_with_how_many_went_before(
    world: World, send: Send
) -> None:
    code, _, err = await send(LONG + b"\n" + b'{"a": "' + b"x" * 1_100_000 + b'"}')

    larger = f"an event is larger than {world.topics.events} takes, or than kafka.max_message_size"
    assert (code, err) == (4, f"error: {larger}; 1 were written before\n")
    assert await values(world) == [LONG]


async def test_a_service_takes_it_up(topics: Topics, world: World, send: Send) -> None:
    member = world.start()

    await send(just_now(1) + b"\n" + just_now(2))

    await world.until_outcomes(2)
    outcomes = {each["order_id"]: each["outcome"] for each in await world.outcomes()}
    assert outcomes == {"ORDER00000001": "granted", "ORDER00000002": "granted"}
    assert await member.stop() == 0
