"""Real-world shapes of events (tests/cases): each is read as it is right, and so are others of its kind."""

import base64
import copy
import gzip
import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
import yaml

from consumer import rulebook
from consumer.core.coupons import CouponRequest
from consumer.core.documents import Document
from consumer.core.events import Coordinates, Order, Record
from consumer.core.outcomes import Finding, Outcome, Reason
from consumer.core.templates import text_of
from tests.payloads import CASES, PAYLOADS, bytes_of, differences

VERDICTS: dict[str, list[str]] = yaml.safe_load((CASES / "verdicts.yaml").read_text("utf-8"))
KINDS: Any = Document((CASES / "kinds.yaml").read_text("utf-8"), "kinds.yaml").data
SHAPES: Any = Document((CASES / "shapes.yaml").read_text("utf-8"), "shapes.yaml").data
SOURCES = (CASES / "sources.yaml").read_text("utf-8")
BOOK = rulebook.load(CASES / "sources.yaml")

DEAD = {"encrypted envelope": "encrypted", "not JSON": "not_json"}


def ending(right: dict[str, Any]) -> list[str]:
    """Outcome and reason of a verdict; none for a request."""
    if right["verdict"] == "dead_letter":
        return ["invalid", next(word for text, word in DEAD.items() if right["reason"].startswith(text))]
    return VERDICTS[right["verdict"]]


def read(topic: str, case: dict[str, Any]) -> list[tuple[Order | Finding, CouponRequest | Finding]]:
    value = bytes_of(case)
    headers = tuple((name, text.encode()) for name, text in (case.get("headers") or {}).items())
    key = case["key"].encode() if case.get("key") else None
    # Now is just after the charge, unless its age is what it is about.
    end = case["right"].get("end") if "right" in case else case.get("now")
    late = case.get("right", {}).get("verdict") == "skip_or_deadline" or case.get("late")
    now = datetime.fromisoformat(end) + timedelta(days=30 if late else 0, minutes=5) if end else None
    record = Record(Coordinates(topic, 0, 0), -1, key, value, headers)
    source = BOOK.source_for(topic)
    assert source is not None
    return [
        (item, BOOK.plan(item) if isinstance(item, Order) else item)
        for item in BOOK.read_as(source, record, now)
    ]


def ended(plan: CouponRequest | Finding) -> list[str]:
    return [plan.outcome.value, plan.reason.value] if isinstance(plan, Finding) else []


# -- The payloads themselves ------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAYLOADS)
def test_the_verdict_is_the_right_one(name: str) -> None:
    case = PAYLOADS[name]
    ((item, plan),) = read(name, case)

    assert ended(plan) == ending(case["right"])
    if isinstance(plan, Finding):
        assert plan.dead_letter is (plan.outcome is Outcome.INVALID)
    if case["right"]["verdict"] == "flag_plate":
        assert getattr(item, "suspicions", None) == (Reason.PLATE_DOUBTFUL,)


@pytest.mark.parametrize("name", PAYLOADS)
def test_fields_are_read_as_they_are_right(name: str) -> None:
    right = PAYLOADS[name]["right"]
    ((item, _),) = read(name, PAYLOADS[name])
    values = item.values or {}

    assert list(differences(values, right, getattr(item, "reverses", None))) == []
    if right.get("charging_s"):
        assert str(values["charging_seconds"]) == str(right["charging_s"]).split(" = ")[-1]
    if right.get("money"):
        assert values["fee_fen"] == Decimal(right["money"].split(" ")[0]) * 100


@pytest.mark.parametrize("name", PAYLOADS)
def test_every_payload_has_an_end_whatever_source_reads_it(name: str) -> None:
    case = PAYLOADS[name]
    for topic in BOOK.topics():
        items = [item for item, _ in read(topic, case)]

        assert [item.index for item in items] == list(range(len(items)))
        assert items
        assert not any("cannot be read" in item.detail for item in items if isinstance(item, Finding))


def test_each_source_takes_at_most_fifteen_lines() -> None:
    section = SOURCES.split("\nsources:\n")[1].split("\nstations:")[0].splitlines()
    starts = [number for number, line in enumerate(section) if re.match(r"  \w", line)]
    lines = [end - start for start, end in pairwise([*starts, len(section)])]

    assert len(lines) == len(BOOK.sources)
    assert max(lines) <= 15


# -- Others of their kind -----------------------------------------------------------------------------


def variations() -> Iterator[Any]:
    for name, kind in KINDS.items():
        for number, variation in enumerate(kind["variations"]):
            yield pytest.param(name, variation, id=f"{name}-{number}")


def varied(case: dict[str, Any], variation: dict[str, Any]) -> dict[str, Any]:
    """The case with the variation's changes in its payload."""
    names = ("headers", "key", "now", "encoding")
    new: dict[str, Any] = {name: variation.get(name, case.get(name)) for name in names}
    if case["right"]["verdict"] == "skip_or_deadline":
        new |= {"late": True, "now": case["right"]["end"]}
    text = variation.get("raw", case["payload"])
    if "set" in variation or "remove" in variation:
        body = json.loads(text)
        for path, value in variation.get("set", {}).items():
            put(body, path, value)
        for path in variation.get("remove", []):
            *way, last = path.split(".")
            del within(body, way)[last]
        text = json.dumps(body, ensure_ascii=False, default=float)
    for old, other in variation.get("then_replace", {}).items():
        assert old in text
        text = text.replace(old, other)
    if "charset" in variation or "before" in variation:
        whole = bytes.fromhex(variation.get("before", "")) + text.encode(variation.get("charset", "utf-8"))
        return new | {"payload": base64.b64encode(whole).decode(), "encoding": "base64"}
    return new | {"payload": text}


def within(body: Any, way: list[str]) -> Any:
    for step in way:
        body = body[int(step) if isinstance(body, list) else step]
    return body


def put(body: Any, path: str, value: object) -> None:
    *way, last = path.split(".")
    target = within(body, way)
    target[int(last) if isinstance(target, list) else last] = copy.deepcopy(value)


@pytest.mark.parametrize(("name", "variation"), list(variations()))
def test_another_of_the_kind_is_read_right(name: str, variation: dict[str, Any]) -> None:
    case = PAYLOADS[name]
    results = read(variation.get("topic", name), varied(case, variation))
    expected = variation.get("expect", {})
    expected = expected if isinstance(expected, list) else [expected]

    assert len(results) == len(expected)
    for (item, plan), wanted in zip(results, expected, strict=True):
        assert ended(plan) == wanted.get("ends", ending(case["right"])), getattr(plan, "detail", "")
        for field, text in wanted.get("values", {}).items():
            assert text_of(item.values or {}, field) == (None if text is None else str(text)), field
        if "suspicions" in wanted:
            assert list(getattr(item, "suspicions", ())) == wanted["suspicions"]
        if "reverses" in wanted:
            assert getattr(item, "reverses", None) == wanted["reverses"]


def test_every_payload_is_of_a_kind_with_others_of_it() -> None:
    assert list(KINDS) == list(PAYLOADS)
    assert all(kind["kind"] and len(kind["variations"]) >= 2 for kind in KINDS.values())


# -- Shapes of our own ---------------------------------------------------------------------------------


def shapes() -> Iterator[Any]:
    """Each with its bytes, and with what is said of it, where one of several is meant."""
    for case in SHAPES:
        for number, (raw, detail) in enumerate(case.get("raws", [(None, "")])):
            text = raw or case.get("raw") or json.dumps(case["event"], ensure_ascii=False, default=float)
            value = text.encode(case.get("charset", "utf-8"))
            if case.get("base64") == "url":
                value = base64.urlsafe_b64encode(value).rstrip(b"=")
            if case.get("packed"):
                value = gzip.compress(value)
            yield pytest.param(case, value, detail, id=f"{case['shape'][:60]}-{number}")


@pytest.mark.parametrize(("case", "value", "detail"), list(shapes()))
def test_a_shape_of_our_own_is_read_right(case: dict[str, Any], value: bytes, detail: str) -> None:
    source = "".join(f"    {line}\n" for line in case["source"].splitlines())
    rules = "rules: [{name: all, account: main, api_store_code: S, subject: x}]"
    book = rulebook.parse(
        f"version: 1\naccounts: {{main: {{app_id: a, secret: main, api_type: t}}}}\nsources:\n  one:\n{source}{rules}\n"
    )
    items = book.read_as(book.sources[0], Record(Coordinates("t", 0, 0), -1, None, value), None)
    expected = _listed(case["expect"])

    assert len(case["source"].splitlines()) <= 15
    assert len(items) == len(expected)
    for item, wanted in zip(items, expected, strict=True):
        plan = book.plan(item) if isinstance(item, Order) else item
        assert ended(plan)[: len(wanted.get("ends", [""]))] == wanted.get("ends", []), getattr(
            plan, "detail", ""
        )
        assert (detail or wanted.get("detail", "")) in getattr(plan, "detail", "")
        for field, text in wanted.get("values", {}).items():
            assert text_of(item.values or {}, field) == (None if text is None else str(text)), field


def test_what_would_fill_the_memory_once_unpacked_is_refused() -> None:
    book = rulebook.parse("version: 1\nsources: {one: {extends: flat, envelope: [gzip]}}")
    value = gzip.compress(b'{"order_no": "' + b"A" * 20_000_000 + b'"}')
    (item,) = book.read_as(book.sources[0], Record(Coordinates("t", 0, 0), -1, None, value), None)

    assert isinstance(item, Finding)
    assert (item.outcome, item.reason) == (Outcome.INVALID, Reason.TOO_LARGE)


def test_there_are_shapes_of_our_own_of_every_ending() -> None:
    endings = {str(expected.get("ends")) for case in SHAPES for expected in _listed(case["expect"])}

    assert len(SHAPES) >= 15
    assert len(endings) >= 5


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# -- What a mapping changes ---------------------------------------------------------------------------


def remapped(name: str, source: str, rules: str = "") -> CouponRequest | Finding | Order:
    text = f"version: 1\naccounts: {{main: {{app_id: a, secret: main, api_type: t}}}}\nsources:\n  one: {source}\n{rules}"
    book = rulebook.parse(text)
    record = Record(Coordinates("t", 0, 0), -1, b"CS-1", PAYLOADS[name]["payload"].encode(), ())
    (item,) = book.read_as(book.sources[0], record, None)
    return book.plan(item) if rules and isinstance(item, Order) else item


def test_a_zone_makes_mixed_offsets_readable() -> None:
    item = remapped("PAY-033", "{extends: ocpp16-stop, zone: '+01:00'}")

    assert isinstance(item, Order)
    assert item.values["seconds"] == 4920


def test_a_number_can_be_made_of_other_fields_where_there_is_none() -> None:
    item = remapped(
        "PAY-031",
        "{extends: ocpp16-stop, fields: {at: startTimestamp}, event_id: '{station_id}/{connector_id}/{at}'}",
    )

    assert isinstance(item, Order)
    assert item.event_id == item.order_id == "CP9/2/2026-02-26T01:12:50Z"


def test_an_unknown_energy_matters_only_to_rules_that_ask_for_it() -> None:
    source = SOURCES.split("\n  wallbox:\n")[1].split("\nstations:")[0]
    rules = "rules: [{name: time, account: main, api_store_code: S, subject: x, metadata: {m: {name: n, value: minutes}}}]"

    plan = remapped("PAY-067", f"\n{source}", rules)

    assert isinstance(plan, CouponRequest)
    assert plan.metadata == {"m": 90}


def test_a_stations_name_can_come_from_beside_the_message() -> None:
    item = remapped("PAY-029", "{extends: ocpp201-ended, fields: {charging_station: $key}}")

    assert isinstance(item, Order)
    assert item.event_id == "CS-1/2"


def test_without_a_stations_name_a_number_that_only_it_knows_is_refused() -> None:
    item = remapped("PAY-029", "{extends: ocpp201-ended}")

    assert isinstance(item, Finding)
    assert item.reason is Reason.ID_MISSING
