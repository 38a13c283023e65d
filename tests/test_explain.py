"""`charging-coupon explain`: how an event is read, which rule decides and why, what would be sent."""

import asyncio
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from consumer import cli, rulebook
from consumer.core.events import Coordinates, Record
from consumer.core.signing import sign
from consumer.rulebook.explanation import explain
from consumer.rulebook.telling import Sender, in_json, in_text, mask_of
from tests.conftest import CreateTopics

HERE = Path(__file__).parent
PLATE, SECRET = "粤BD12345", "the secret of the app"
RULES = """version: 1
accounts:
  main: {app_id: op01, secret: main, api_type: "5"}
sources:
  orders:
    extends: flat
    topics: [orders]
    zone: Asia/Shanghai
    envelope: [schema_registry, {unwrap: body}]
    orders: list
    skip: [{paths: status, not_in: 4, reason: not_finished}]
    fields:
      energy_wh: {unit: kWh}
      charging_seconds: {paths: lasted, unit: "HH:MM:SS"}
      meter_wh: {paths: stop, minus: start, type: energy, unit: 0.01kWh}
stations: {LOC1: {api_store_code: store-1, zone: Asia/Shanghai}, LOC2: {api_store_code: store-2}}
rules:
  - {name: elsewhere, stations: [LOC2], skip: policy}
  - {name: hardly, when: seconds < 600, skip: below_threshold}
  - name: by-energy
    when: present.energy_wh && energy_wh >= 5000 && minutes < 60
    account: main
    subject: "{plate}"
  - name: all
    account: main
    subject: "【{plate}】{energy_kwh} kWh"
    metadata: {minutes: {name: 时长, value: "math.least(minutes, 120)"}}
  - {name: rest, skip: policy}
tests:
  - name: not finished
    raw: '{"body": {"list": [{"status": 1, "order_no": "A1"}]}}'
    now: "2026-03-02T00:00:00Z"
    expect: {outcome: skipped, reason: not_finished}
"""
REST = "  - {name: rest, skip: policy}\n"
ORDER = {
    "order_no": 123456789012345678901234567,
    "plate_no": "粤b·D12345",
    "station_id": "LOC1",
    "status": 4,
    "start_time": "2026-03-01 23:10:00",
    "end_time": "2026/03/02 00:40:00",
    "total_power": "31.2505",
    "lasted": "01:29:59.9",
    "start": 100,
    "stop": 3225,
}
EVENT = {"body": json.dumps({"list": [ORDER, {"status": 2}, "nonsense"]}, ensure_ascii=False)}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CHARGING_COUPON__SETTINGS", raising=False)
    (tmp_path / "rules.yaml").write_text(RULES, "utf-8")
    (tmp_path / "event.json").write_bytes(
        b"\0\0\0\0\7" + json.dumps(EVENT, ensure_ascii=False).encode() + b"\n"
    )
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(["explain", *arguments])
    printed = capsys.readouterr()
    return f"{printed.out}{printed.err}exit {ended.value.code}\n"


def test_every_step_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    expected = (HERE / "rules" / "explained.txt").read_text("utf-8")

    assert told(capsys, "rules.yaml", "event.json") == expected


def test_neither_a_whole_plate_nor_the_secret_is_in_it_unless_plates_are_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARGING_COUPON__SECRETS__MAIN", SECRET)
    (folder / "settings.yaml").write_text("gateway: {url: https://platform.example.com/event}\n")
    arguments = ("rules.yaml", "event.json", "--settings", "settings.yaml")

    for form in ("text", "json"):
        masked = told(capsys, *arguments, "--format", form)
        whole = told(capsys, *arguments, "--format", form, "--reveal")
        assert [word for word in (PLATE, "D12345", "%B2%A4BD12345", SECRET) if word in masked] == []
        assert PLATE in whole
        assert "%E7%B2%A4BD12345" in whole
        assert SECRET not in whole
        assert "https://platform.example.com/event" in masked


def test_with_settings_the_request_is_exactly_what_would_be_sent(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARGING_COUPON__SECRETS__MAIN", SECRET)
    (folder / "settings.yaml").write_text("log: {}\n")
    text = told(
        capsys, "rules.yaml", "event.json", "--settings", "settings.yaml", "--format", "json", "--reveal"
    )
    request = json.loads(text.removesuffix("exit 0\n"))["orders"][0]["request"]
    form = dict(request["form"])

    assert form.pop("sign") == sign(form, SECRET)
    assert (
        request["signed_text"]
        == "&".join(f"{name}={form[name]}" for name in sorted(form)) + "&app_secret=***"
    )
    assert request["body"].startswith("app_id=op01&api_store_code=store-1&")


def test_the_arithmetic_of_units_that_are_no_plain_factor_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = """
version: 1
sources:
  one:
    extends: flat
    fields:
      energy_wh: {paths: joules, unit: J}
      fee_fen: {paths: cost, value: amount, decimals_from: scale, unit: yuan}
      off_fen: {paths: off, type: money, unit: yuan, default: 0}
"""
    event = {"order_no": "A1", "plate": "粤BD12345", "joules": 5400, "cost": {"amount": 1250, "scale": 2}}
    (folder / "units.yaml").write_text(rules, "utf-8")
    (folder / "units.json").write_text(json.dumps(event), "utf-8")
    text = told(capsys, "units.yaml", "units.json", "--format", "json")
    (order,) = json.loads(text.rpartition("exit")[0])["orders"]
    how = {name: field["how"] for name, field in order["fields"].items()}

    assert how["energy_wh"].startswith("5400 J × 0.000277777777778 = 1.5 Wh, rounded half to even to 2")
    assert how["fee_fen"] == "1250 yuan × 1 = 1250 fen"
    assert how["off_fen"] == "the default"


def test_machines_get_the_readings_fields_with_their_exact_values(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "rules.yaml", "event.json", "--format", "json")
    order, unfinished, nonsense = json.loads(text.removesuffix("exit 0\n"))["orders"]

    assert order["fields"]["energy_wh"] == {
        "value": 31250,
        "path": "total_power",
        "raw": "31.2505",
        "how": "31.2505 kWh × 1000 = 31250.5 Wh, rounded half to even to 31250",
    }
    assert order["fields"]["meter_wh"]["how"] == "(3225 − 100) 0.01kWh × 10 = 31250 Wh"
    assert order["fields"]["order_id"]["value"] == "123456789012345678901234567"
    assert order["fields"]["ended_at"]["value"] == "2026-03-02T00:40:00+08:00"
    assert [rule["matched"] for rule in order["rules"]] == [False, False, False, True]
    assert order["rules"][2]["conditions"][-1] == {"when": "minutes < 60", "is": "false"}
    assert (order["rules_left"], order["rule"]) == (1, "all")
    assert unfinished["gates"] == [{"path": "status", "value": "2", "said": "skipped (not_finished)"}]
    assert (nonsense["outcome"], nonsense["reason"]) == ("invalid", "schema")


def test_numbers_in_several_units_are_told_each_with_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    rules = str(HERE / "rules" / "valid" / "sources.yaml")

    text = told(capsys, rules, "--test", "two readings, several fees and a time of day")

    assert "275 Wh − 1.5 kWh = 1250 Wh\n" in text
    assert "1001.5 元 + 25 分 = 100175 fen\n" in text


def test_an_event_of_a_test_is_explained_at_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "rules.yaml", "--test", "not finished")

    assert "  gate     status is `1`: skipped (not_finished)\n" in text
    assert "  outcome  skipped (not_finished): `status` is `1`\n" in text


def test_what_came_too_late_is_told_what_the_rules_would_have_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = told(capsys, "rules.yaml", "event.json", "--now", "2026-04-01T00:00:00Z")

    assert "  deadline 2026-03-03 00:40:00+08:00\n" in text
    assert "MATCHES  all" in text
    assert "  outcome  expired (deadline): the charge ended more than" in text


def test_what_came_too_late_and_no_rule_wants_is_told_why_none_does(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "rules.yaml").write_text(
        RULES.replace("name: all\n", "name: all\n    when: seconds < 0\n").replace(REST, ""), "utf-8"
    )

    text = told(capsys, "rules.yaml", "event.json", "--now", "2026-04-01T00:00:00Z")

    assert "all: seconds < 0 is false" in text
    assert "  outcome  unmatched (no_rule): no rule matches" in text
    assert "which is over" not in told(capsys, "rules.yaml", "event.json")


def test_an_event_whose_deadline_is_over_by_now_is_marked_so_and_explained_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    over = "  deadline 2026-03-03 00:40:00+08:00, which is over: read now, it would end as `expired`"

    text = told(capsys, "rules.yaml", "event.json")
    in_time = told(capsys, "rules.yaml", "event.json", "--now", "2026-03-02T00:00:00+08:00")

    assert over in text
    assert "  outcome  a request, by rule all" in text
    assert over not in in_time


def test_a_rule_that_skips_is_named_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "rules.yaml").write_text(RULES.replace("seconds < 600", "seconds < 60000"), "utf-8")

    assert "  outcome  skipped (below_threshold) by rule hardly\n" in told(capsys, "rules.yaml", "event.json")


HOLDS = pytest.mark.parametrize(
    ("was", "becomes", "held"),
    [
        ("secret: main,", "secret: main, state: hold,", "account main"),
        ("name: all\n", "name: all\n    state: hold\n", "rule all"),
    ],
)


@HOLDS
def test_what_is_on_hold_is_told_to_wait_as_it_does(
    was: str, becomes: str, held: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "rules.yaml").write_text(RULES.replace(was, becomes), "utf-8")

    text = told(capsys, "rules.yaml", "event.json")
    found = json.loads(told(capsys, "rules.yaml", "event.json", "--format", "json").removesuffix("exit 0\n"))

    assert (
        f"  outcome  waits, by rule all: {held} is on hold (in the retry topics, and asked for once it is released)\n"
        in text
    )
    assert "with a dead letter" not in text.split("Order 1")[0]
    assert found["orders"][0]["dead_letter"] is False


@HOLDS
def test_without_retry_topics_what_is_on_hold_ends_with_a_dead_letter(
    was: str, becomes: str, held: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "rules.yaml").write_text(RULES.replace(was, becomes), "utf-8")
    (folder / "settings.yaml").write_text("retries: {delays: []}\n", "utf-8")

    text = told(capsys, "rules.yaml", "event.json", "--settings", "settings.yaml")

    assert (
        f"  outcome  skipped (hold) by rule all: {held} is on hold\n           with a dead letter\n" in text
    )


def test_a_path_of_orders_that_leads_nowhere_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = RULES.replace(", {unwrap: body}", "").replace("orders: list", "orders: [daten, rows]")
    (folder / "rules.yaml").write_text(rules, "utf-8")
    (folder / "wrong.json").write_text('{"code": 0, "data": []}', "utf-8")
    (folder / "empty.json").write_text('{"rows": []}', "utf-8")

    text = told(capsys, "rules.yaml", "wrong.json")

    assert "nothing at `daten` or `rows`: is `orders` right? the event has: code, data\n" in text
    assert "  0 rows at `rows`\n" in told(capsys, "rules.yaml", "empty.json")


def test_a_condition_that_fails_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = RULES.replace("when: seconds < 600", "when: \"plate.matches('[' + plate)\"")
    (folder / "rules.yaml").write_text(text, "utf-8")

    assert "FAILS    hardly: plate.matches('[' + plate) is fails: invalid regular expression" in told(
        capsys, "rules.yaml", "event.json"
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            (),
            "EVENT: the events are named in exactly one way; name a file, or - for standard input, or --test, or --topic",
        ),
        (
            ("nothing.json",),
            "nothing.json: cannot be read: No such file or directory; name a file with events",
        ),
        (("event.json", "--source", "order"), "--source: there is no source `order`; did you mean `orders`?"),
        (
            ("event.json", "--topic", "x"),
            "--topic: no source reads the topic x; name one of orders, or --source",
        ),
        (("--test", "finished"), "--test: there is no test `finished`; did you mean `not finished`?"),
        (
            ("event.json", "--now", "today"),
            "--now: 'today' is no time; write 2026-03-01T00:00:00+08:00, or 30m, 2h, 7d for so long ago",
        ),
        (
            ("event.json", "--header", "x"),
            "--header: a header is NAME=VALUE; write it like ce_type=charge.ended",
        ),
    ],
)
def test_what_cannot_be_explained_is_refused(
    arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(capsys, "rules.yaml", *arguments)

    assert text.startswith(f"error: {complaint}")
    assert text.endswith("exit 2\n")


def test_rules_and_event_that_were_swapped_are_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "event.json", "rules.yaml") == (
        "error: event.json: the rules and the event look swapped; "
        "write `explain rules.yaml event.json`: the rules first, then the event\n"
        "exit 2\n"
    )


CASES = [json.loads(line) for line in (HERE / "cases" / "payloads.jsonl").read_text("utf-8").splitlines()]
BOOK = rulebook.load(HERE / "cases" / "sources.yaml")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_what_is_told_is_what_is_read(case: dict[str, Any]) -> None:
    value = None if case["payload"] is None else case["payload"].encode()
    headers = tuple((name, text.encode()) for name, text in (case.get("headers") or {}).items())
    record = Record(Coordinates(case["id"], 0, 0), -1, None, value, headers)
    source = BOOK.source_for(case["id"])
    assert source is not None
    items = BOOK.read_as(source, record, None)

    told_ = explain(BOOK, record, None)
    assert [order.item for order in told_.orders] == list(items)
    secrets = {name: account.secret for name, account in BOOK.accounts.items()}
    text = "\n".join(in_text(told_, "x", secrets, Sender(), mask_of(told_, reveal=False)))
    assert json.loads(in_json(told_, "x", secrets, Sender(), mask_of(told_, reveal=False)))["orders"]
    for order in told_.orders:
        known = order.item.values or {}
        read = {field.name: field.value for field in order.fields if field.value is not None}
        assert read == (dict(known) if order.fields else {})
        # Each value says where it comes from.
        assert [
            field.name for field in order.fields if field.value is not None and not (field.path or field.how)
        ] == []
        if "plate" in known:
            assert str(known["plate"]) not in text


def test_orders_that_are_text_and_those_of_several_lists_are_explained() -> None:
    book = rulebook.parse(
        "version: 1\nsources: {one: {extends: flat, orders: 'groups[*].orders', fields: {station_id: $above.id}}}"
    )
    groups = [
        {"id": "S1", "orders": ['{"order_no": "A1", "plate": "粤BD12345"}']},
        {"id": "S2", "orders": '[{"order_no": "A2", "plate": "粤BD12345"}, "nonsense"]'},
    ]
    record = Record(Coordinates("t", 0, 0), -1, None, json.dumps({"groups": groups}).encode())

    told_ = explain(book, record, None)

    assert told_.envelope == ("3 rows at `groups[*].orders`",)
    assert [
        {field.name: field.value for field in order.fields}.get("station_id") for order in told_.orders
    ] == [
        "S1",
        "S2",
        None,
    ]
    assert [order.item for order in told_.orders] == list(book.read_as(book.sources[0], record, None))


@pytest.mark.parametrize(
    "value",
    [None, b"", b"\xff\xfe", b"[]", b"[1]", b'"text"', b"{}", b'{"body": "["}', b"\0\0\0\0\1\2", b"[" * 9999],
)
def test_whatever_the_bytes_it_is_explained(value: bytes | None) -> None:
    book = rulebook.parse(RULES)
    record = Record(Coordinates("orders", 0, 0), -1, None, value)
    told_ = explain(book, record, datetime(2026, 3, 2, tzinfo=UTC))

    assert len(told_.orders) >= 1
    assert list(in_text(told_, "x", {"main": "main"}, Sender(), mask_of(told_, reveal=False)))


@pytest.mark.broker
def test_a_record_of_a_live_kafka_is_explained_and_nothing_is_changed(
    folder: Path,
    broker: str,
    topic_prefix: str,
    create_topics: CreateTopics,
    capsys: pytest.CaptureFixture[str],
) -> None:
    topic = f"{topic_prefix}-orders"

    async def produce() -> int:
        await create_topics(broker, {topic: 1})
        async with AIOKafkaProducer(bootstrap_servers=broker) as producer:
            await producer.send_and_wait(topic, b"{}")
            sent = await producer.send_and_wait(topic, json.dumps(EVENT).encode(), key=PLATE.encode())
            return int(sent.offset)

    offset = asyncio.run(produce())
    (folder / "rules.yaml").write_text(RULES.replace("topics: [orders]", f"topics: [{topic}]"), "utf-8")
    (folder / "settings.yaml").write_text(
        f"kafka: {{bootstrap_servers: '{broker}', topics: {{events: {topic}}}}}\n"
    )
    arguments = [
        "rules.yaml",
        "--settings",
        "settings.yaml",
        "--topic",
        topic,
        "--partition",
        "0",
        "--offset",
    ]

    text = told(capsys, *arguments, str(offset))
    assert re.match(rf"Event     {topic}-0@1, \d+ bytes, key 粤B\*\*\*\*\*5\n", text)
    assert "MATCHES  all" in text
    assert told(capsys, *arguments, "2") == (
        "error: --offset: there is no record at 2; it holds 0 to 1\nexit 2\n"
    )
    assert told(capsys, *arguments, "0", "--partition", "1").startswith(
        f"error: --partition: there is no partition 1; {topic} has the partitions 0 to 0\n"
    )
    wrong = [*arguments, "0", "--topic", "nothing-of-this-name"]
    assert told(capsys, *wrong) == (
        "error: --topic: there is no topic nothing-of-this-name; name one that Kafka has\nexit 2\n"
    )


LINES = [
    {**ORDER, "order_no": "A1"},
    {**ORDER, "order_no": "A2", "end_time": "2026-03-01 23:15:00"},
]


@pytest.mark.parametrize("broken", ["", '{"body": \n'])
def test_of_a_file_with_one_event_a_line_each_is_explained_with_its_place(
    folder: Path, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    lines = [json.dumps({"body": {"list": [each]}}) for each in LINES]
    (folder / "events.jsonl").write_text(f"{broken}\n" + "\n\n".join(lines) + "\n", "utf-8")

    text = told(capsys, "rules.yaml", "events.jsonl")
    found = told(capsys, "rules.yaml", "events.jsonl", "--format", "json").splitlines()

    places = [line for line in text.splitlines() if line.startswith("Event")]
    first = 2 + bool(broken)
    assert places[-2:] == [
        f"Event     events.jsonl:{first + 2 * number}, {len(line)} bytes" for number, line in enumerate(lines)
    ]
    assert len(places) == 2 + bool(broken)
    assert [line for line in text.splitlines() if line.startswith("    MATCHES")] == [
        "    MATCHES  all: it has no `when`",
        "    MATCHES  hardly: seconds < 600 is true (seconds is 300)",
    ]
    assert found.pop() == "exit 0"
    assert [json.loads(line)["event"] for line in found][-2:] == [
        f"events.jsonl:{first}",
        f"events.jsonl:{first + 2}",
    ]


def test_a_message_on_several_lines_that_is_broken_is_one_event(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody should look for many mistakes where there is one."""
    (folder / "event.json").write_text(json.dumps(EVENT, indent=1)[:-2], "utf-8")

    text = told(capsys, "rules.yaml", "event.json")

    assert re.findall("^Event.*", text, re.MULTILINE) == [
        f"Event     event.json, {(folder / 'event.json').stat().st_size} bytes"
    ]


def test_what_a_terminal_would_obey_is_not_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = {**ORDER, "order_no": "A\x1b[2J\x9b\u202e\u200b", "plate_no": "粤B\u3000\x1b[31m1"}
    (folder / "event.json").write_text(json.dumps({"body": {"list": [order]}}), "utf-8")

    text = told(capsys, "rules.yaml", "event.json", "--reveal")

    assert "order_no" in text
    assert not set(text) & set("\x1b\x9b\u202e\u200b")
    assert "A\\x1b[2J" in text


def test_the_zone_that_an_order_says_itself_is_shown() -> None:
    book = rulebook.parse(
        "version: 1\nsources: {one: {extends: flat, zone: Asia/Shanghai, fields: {ended_at: {zone_from: tz}}}}\n"
        "stations: {S1: {}}\n"
    )
    event = {"order_no": "A1", "plate": PLATE, "end_time": "2026-03-01 12:30:00", "tz": 540}
    told_ = explain(book, Record(Coordinates("t", 0, 0), -1, None, json.dumps(event).encode()), None)
    text = "\n".join(in_text(told_, "x", {}, Sender(), mask_of(told_, reveal=False)))

    assert '2026-03-01 11:30:00+08:00  end_time: "2026-03-01 12:30:00", iso, in UTC+09:00 =' in text
