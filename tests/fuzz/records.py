"""A record's bytes -> orders and findings, as every preset and many other sources read them. Reads the tests' cases.

An input is the source's number, a byte that says what else comes along, and the value; before the value a
line that is the key, and some headers' text, where that byte asks for it.
"""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import orjson

from consumer import rulebook
from consumer.core import plates
from consumer.core.coupons import CouponRequest
from consumer.core.events import Coordinates, Order, Record, Replay
from consumer.core.formats import Refusal, decode
from consumer.core.outcomes import (
    Finding,
    Outcome,
    OutcomeContext,
    PlateMode,
    Privacy,
    Reason,
    Resolution,
    encode_dead_letter,
    encode_outcome,
    reduced,
    without_plates,
)
from consumer.core.rules import RuleBook
from consumer.core.sources import MAX_ID, MAX_PLATE, Source
from consumer.rulebook.compilation import preset_names, preset_sample
from consumer.rulebook.explanation import explain
from tests.fuzz import trees
from tests.fuzz.target import Mutate, Target, scribbling

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TESTS = Path(__file__).parents[1]
CLEAR = OutcomeContext("fuzz", Privacy(PlateMode.CLEAR))
SECRET = OutcomeContext("fuzz", Privacy(PlateMode.NONE))
KEYED, IN_TIME, RELEASED, EXPLAINED = 1, 2, 4, 8

SHAPES = """
version: 1
accounts: {main: {app_id: a, secret: main, api_type: "1"}}
sources:
  framed: {extends: canonical, envelope: [schema_registry, {skip_bytes: 2}]}
  gbk: {extends: canonical, topics: [gbk], envelope: [{charset: gb18030}, {unwrap: $}]}
  wide: {extends: canonical, topics: [wide], envelope: [{charset: utf-16}, {base64: [data, $]}]}
  events: {extends: [cloudevents, connect, debezium, canonical], topics: [events]}
  shown:
    extends: flat
    topics: [shown]
    zone: Asia/Shanghai
    envelope: [{charset: gb18030}, {base64: $}]
    orders: [rows, $]
    fields:
      plate: {paths: [car, plate], split: _, part: 0}
      station_id: {paths: gun, split: "-", part: -2}
      started_at: {paths: start, format: [dotnet, "yyyy年M月d日 EEE ah:m:s", "EEE MMM dd HH:mm:ss z yyyy", "yyyy-MM-dd HH:mm:ss VV"]}
      ended_at: {paths: end, format: [iso, dotnet, "yyyy年M月d日 ah:mm"]}
      charging_seconds: {paths: lasted, unit: in_text}
      energy_wh: {paths: kwh, unit: in_text}
      fee_fen: {paths: fee, unit: in_text, thousands: ","}
      tip_fen: {paths: tip, type: money, unit: yuan, thousands: ".", decimal: ","}
  readings:
    topics: [readings]
    zone: station
    orders: [orders, data.rows, $]
    fields:
      order_id: {template: "{$headers.site}/{id|no}"}
      plate: {paths: [plate, $key.plate, $key]}
      station_id: site
      started_at: {paths: start, format: [iso, "yy/M/d h:mm a", epoch_ms_local, array, "HH:mm dd.MM.yyyy"], not_after: ended_at}
      ended_at: {paths: end, format: [iso, epoch_s, "dd MMM yyyy HH:mm:ss Z", "yyyyMMddHHmmssSSS"]}
      charging_seconds: {paths: lasted, unit: "HH:MM:SS"}
      idle_seconds: {computed: parked_seconds - charging_seconds, type: duration}
      parked_seconds: {paths: parked, type: duration, unit: iso}
      energy_wh: {paths: to, minus: from, unit: kWh, decimal: ","}
      fee_fen: {paths: "fees[*].amount", sum: true, unit: yuan}
      tip_fen: {paths: tip, type: money, unit: in_text}
      meter_wh: {paths: meter, type: energy, unit: kWh, value: v, unit_from: u, exponent_from: e}
      money: {paths: bytes, type: money, unit: yuan, connect_scale: 2}
      ratio: {paths: ratio, type: decimal}
      vin: {paths: vin, encoding: hex}
    skip:
      - {paths: state, not_in: ["3", done], reason: not_finished, missing: invalid}
      - {paths: "marks[kind=x|y].n", in: ["1"], reason: reversal, reverses: "{id}"}
stations:
  S1: {api_store_code: C1, zone: Asia/Shanghai, connectors: [G1]}
  S2: {api_store_code: C2, zone: America/New_York}
rules:
  - {name: short, when: "present.seconds && seconds < 600 || int(order_id) > 7", skip: below_threshold}
  - {name: vin, when: "present.vin && vin.matches('^L')", skip: policy}
  - name: all
    account: main
    api_store_code: C0
    subject: "{plate} {energy_kwh} {fee_yuan} {hours} {ended_at}"
    metadata: {minutes: {name: m, value: "minutes"}, wh: {name: w, value: "energy_wh * 1000000000"}}
"""
READING = """{"id":7,"plate":"粤BD12345","site":"S1","start":"26/3/1 1:00 PM","end":1772345678,"lasted":"01:30:00",
"parked":"PT2H","to":"12,5","from":"10,25","fees":[{"amount":1.5},{"amount":"2.25"}],"tip":"4.20 元","ratio":0.25,
"meter":{"v":1.5,"u":"kWh","e":1},"bytes":"AfQ=","vin":"4c54","state":3,"marks":[{"kind":"x","n":2}]}"""


SHOWN = [
    """{"id":"A1","car":"粤BD12345_绿","gun":"S1-02-1","start":"/Date(1772330400000+0800)/","end":"2026年3月1日 下午1:05",
"lasted":"1小时29分30秒","kwh":"18.6 度","fee":"￥1,020.50","tip":"1.020,50"}""",
    """{"rows":"[{\\"id\\":\\"A2\\",\\"plate\\":\\"粤BD12345\\",\\"start\\":\\"Sun Mar 01 10:00:00 GMT+8 2026\\"}]"}""",
    """{"id":"A3","plate":"粤BD12345","start":"2026-03-01 10:00:00 Asia/Tokyo","end":"2026-03-01T13:00:00[Asia/Shanghai]"}""",
]


@cache
def books() -> tuple[tuple[RuleBook, Source], ...]:
    """Every way of reading that there is."""
    wrappers = {"canal", "cloudevents", "connect", "debezium"}
    presets = "".join(
        f"  {name}: {{extends: [{name}, flat], topics: [{name}], fields: {{energy_wh: {{unit: kWh}}}}}}\n"
        if name in wrappers
        else f"  {name}: {{extends: {name}, topics: [{name}]}}\n"
        for name in preset_names()
    )
    found = [
        rulebook.parse(f"version: 1\nsources:\n{presets}"),
        rulebook.load(TESTS / "cases" / "sources.yaml"),
        rulebook.load(TESTS / "rules" / "valid" / "sources.yaml"),
        rulebook.parse(SHAPES),
    ]
    return tuple((book, source) for book in found for source in book.sources)


# -- What must hold ---------------------------------------------------------------------------------


def check(data: bytes) -> None:
    given = _given(data)
    if given is None:
        return
    book, source, record, now, flags = given
    exactly_as_json(record.value or b"")
    try:
        event = source.envelope.open(record)
        if isinstance(event, Refusal):
            assert event.reason in Reason
            assert event.detail
            assert "\n" not in event.detail
            return
        items = source.read(event, book.directory, now, release=bool(flags & RELEASED))
    except RecursionError:  # the rule book says `too_deep`
        return
    assert items
    assert [item.index for item in items] == list(range(len(items)))
    for item in items[:2]:
        ends_well(book, record, item)
    if flags & EXPLAINED:
        explain(book, record, now, source)


def _given(data: bytes) -> tuple[RuleBook, Source, Record, datetime | None, int] | None:
    if len(data) < 2:
        return None
    book, source = books()[data[0] % len(books())]
    flags, value, key, said = data[1], data[2:], None, b"text"
    if flags & KEYED:
        key, _, value = value.partition(b"\n")
        said = key
    record = Record(
        Coordinates(next(iter(source.topics), "fuzz"), 0, 7),
        1_772_366_400_000 if flags & IN_TIME else -1,
        key,
        value,
        (("stationId", said), ("site", said), ("ce_id", said), ("ce_type", None)),
        replay=Replay("fuzz", 1, None, release=True) if flags & RELEASED else None,
    )
    return book, source, record, NOW if flags & IN_TIME else None, flags


def exactly_as_json(value: bytes) -> None:
    """What we decode is what Python decodes, all digits included."""
    found = decode(value)
    if isinstance(found, Refusal):
        return
    try:
        text = value.decode("utf-8-sig")
        expected = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError, ArithmeticError):
        return
    if _LONE_SURROGATE.search(text) is None:
        assert found == expected
        assert repr(found) == repr(expected)  # 1 and 1.0 and true are equal


_LONE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def ends_well(book: RuleBook, record: Record, item: Order | Finding) -> None:
    """The order is planned, and what became of it written, without the plate where nobody may read it."""
    values = item.values or {}
    for value in values.values():
        if isinstance(value, datetime):
            assert value.tzinfo is not None
        elif isinstance(value, int):
            assert abs(value) < 1 << 63
    plan: CouponRequest | Finding = _planned(book, item) if isinstance(item, Order) else item
    if isinstance(plan, Finding):
        assert plan.outcome in Outcome
        assert plan.reason in Reason
        assert plan.detail
    else:
        assert all(plan.parameters.values())
        assert all(0 <= value < 1 << 31 for value in plan.metadata.values())
    resolution = Resolution(
        record,
        item.index,
        plan.outcome if isinstance(plan, Finding) else Outcome.SHADOW,
        NOW,
        reason=plan.reason if isinstance(plan, Finding) else None,
        detail=plan.detail if isinstance(plan, Finding) else "",
        values=values,
        reverses=getattr(item, "reverses", None),
        request=None if isinstance(plan, Finding) else plan,
    )
    message = encode_outcome(resolution, CLEAR)
    body: dict[str, Any] = orjson.loads(message.value or b"")
    assert body["plate"] == values.get("plate")
    assert body["order_id"] == values.get("order_id")
    assert orjson.loads(reduced(message).value or b"")["outcome"] == resolution.outcome
    assert encode_dead_letter(resolution, CLEAR, 1_000_000).value == record.value
    no_plate(resolution)


def _planned(book: RuleBook, order: Order) -> CouponRequest | Finding:
    assert order.order_id
    assert 0 < len(order.event_id) <= MAX_ID
    assert 0 < len(order.plate) <= MAX_PLATE
    assert order.plate == plates.normalise(order.plate)
    return book._planner.plan(order, as_on=False)  # what `plan` calls, and then hides what it raises


def no_plate(resolution: Resolution) -> None:
    """Nor in anything that is logged, nor in an outcome where plates may not be."""
    plate = (resolution.values or {}).get("plate")
    if not isinstance(plate, str) or len(plate) < 5:
        return
    # What is no plate by its looks, or stands in another field too, cannot be told from that field.
    others = [str(value) for name, value in (resolution.values or {}).items() if name != "plate"]
    if not plates.is_normal(plate) or any(plate in other for other in (*others, resolution.reverses or "")):
        return
    assert plate not in without_plates(resolution.detail)
    message = encode_outcome(resolution, SECRET)
    assert plate.encode() not in (message.value or b"") + (message.key or b"")
    for name, value in encode_dead_letter(resolution, SECRET, 1_000_000).headers:
        assert not name.startswith("coupon_") or plate.encode() not in (value or b"")


# -- Where it starts --------------------------------------------------------------------------------


def seeds() -> Iterator[bytes]:
    payloads = {
        case["id"]: case["payload"] if case.get("encoding") != "base64" else b64decode(case["payload"])
        for case in map(json.loads, (TESTS / "cases" / "payloads.jsonl").read_text("utf-8").splitlines())
    }
    for number, (_, source) in enumerate(books()):
        samples = [payloads[topic] for topic in source.topics if payloads.get(topic)]
        if source.name in preset_names():
            samples.append(json.dumps(preset_sample([source.name]) or preset_sample([source.name, "flat"])))
        if source.name == "shown":
            samples += [sample.encode("gb18030") for sample in SHOWN] + [
                b64encode(SHOWN[0].encode("gb18030"))
            ]
        for sample in samples or [_CANONICAL if number % 2 else READING, READING]:
            value = sample.encode() if isinstance(sample, str) else sample
            yield bytes([number, IN_TIME]) + value
            yield bytes([number, KEYED | (0 if number % 3 else EXPLAINED)]) + b"7\n" + value


_CANONICAL = json.dumps(preset_sample(["canonical"]))
_HEAD = 2


@cache
def vocabulary() -> trees.Vocabulary:
    """Every name and text on the ways of our sources, and what stands in the examples."""
    steps = {
        step
        for _, source in books()
        for place in source.fields
        for path in (*place.paths, *place.minus, *place.value, *place.unit_from)
        for step in re.findall(r"[^.\[\]=|,*$]+", path.text)
    }
    values = {value for _, source in books() for gate in source.gates for value in gate.values}
    examples = [tree for seed in seeds() if (tree := _tree(seed)) is not None]
    return trees.Vocabulary.of(examples, steps | values)


def _tree(data: bytes) -> trees.Tree:
    _, value = _parted(data)
    try:
        return trees.from_json(value.decode())
    except (ValueError, RecursionError):
        return None


def _parted(data: bytes) -> tuple[bytes, bytes]:
    end = data.find(b"\n") + 1 if len(data) > 1 and data[1] & KEYED else 0
    return data[: max(_HEAD, end)], data[max(_HEAD, end) :]


def changed(data: bytes, random: Random, mutate: Mutate) -> bytes | None:
    head, _ = _parted(data)
    tree = _tree(data)
    if tree is None or len(head) < _HEAD:
        return None
    if random.randrange(8) == 0:
        head = bytes([random.randrange(len(books())), random.randrange(16) & ~KEYED])
    tree = trees.Mutator(vocabulary(), scribbling(mutate)).changed(tree, random)
    try:
        return head + trees.written(tree).encode("utf-8", "surrogatepass")
    except RecursionError:
        return None


TARGET = Target(check, seeds, changed, lambda: vocabulary().words)
