"""Real-world shapes of events (tests/cases/payloads.jsonl): none may raise, and these are read exactly."""

import base64
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from consumer import rulebook
from consumer.core.events import Coordinates, Order, Record
from consumer.core.outcomes import Finding, Outcome, Reason
from consumer.core.rules import RuleBook

CASES = Path(__file__).parents[1] / "cases"
PAYLOADS: dict[str, dict[str, Any]] = {
    case["id"]: case for case in map(json.loads, (CASES / "payloads.jsonl").read_text("utf-8").splitlines())
}
BOOK = rulebook.load(CASES / "sources.yaml")
NOW = datetime(2026, 12, 31, tzinfo=UTC)

VERDICTS: dict[str, tuple[Outcome, Reason | None] | None] = {
    "send": None,
    "flag_plate": None,
    "no_plate": (Outcome.SKIPPED, Reason.PLATE_MISSING),
    "needs_mapping_or_dead_letter": (Outcome.SKIPPED, Reason.PLATE_MISSING),  # the mapping makes it whole
    "skip_below_threshold": (Outcome.SKIPPED, Reason.BELOW_THRESHOLD),
    "skip_not_a_charge": (Outcome.SKIPPED, Reason.NOT_A_CHARGE),
    "skip_not_finished": (Outcome.SKIPPED, Reason.NOT_FINISHED),
    "skip_reversal": (Outcome.SKIPPED, Reason.REVERSAL),
    "skip_tombstone": (Outcome.SKIPPED, Reason.TOMBSTONE),
    "skip_or_send_by_stop_filter": (Outcome.SKIPPED, Reason.STOP_REASON),
    "reject_or_derive_id": (Outcome.INVALID, Reason.ID_MISSING),
    "ambiguous_zone": (Outcome.INVALID, Reason.ZONE_MISSING),
    "energy_unknown": (Outcome.INVALID, Reason.RULE_ERROR),
}
DEAD = {"PAY-007": Reason.ENCRYPTED, "PAY-057": Reason.NOT_JSON}
READ_EXACTLY = sorted({*BOOK.topics(), "PAY-045", *DEAD})


def record_of(case: dict[str, Any]) -> Record:
    payload = case["payload"]
    value = payload if payload is None else payload.encode()
    if case.get("encoding") == "base64":
        value = base64.b64decode(payload)
    return Record(Coordinates(case["id"], 0, 0), 0, None, value)


def read_one(book: RuleBook, name: str) -> Order | Finding:
    (item,) = book.read(record_of(PAYLOADS[name]), NOW)
    return item


@pytest.mark.parametrize("name", sorted(PAYLOADS))
def test_every_payload_has_an_end_whatever_source_reads_it(name: str) -> None:
    for source in BOOK.sources:
        items = BOOK.read_as(source, record_of(PAYLOADS[name]), NOW)

        assert items
        assert [item.index for item in items] == list(range(len(items)))
        assert not any("cannot be read" in item.detail for item in items if isinstance(item, Finding))


@pytest.mark.parametrize("name", READ_EXACTLY)
def test_the_verdict_is_the_right_one(name: str) -> None:
    verdict = PAYLOADS[name]["right"]["verdict"]
    item = read_one(BOOK, name)
    plan = BOOK.plan(item) if isinstance(item, Order) else item

    expected = (Outcome.INVALID, DEAD[name]) if name in DEAD else VERDICTS[verdict]
    if expected is None:
        assert not isinstance(plan, Finding)
    else:
        assert isinstance(plan, Finding)
        assert (plan.outcome, plan.reason) == expected
        assert plan.dead_letter is (plan.outcome is Outcome.INVALID)


@pytest.mark.parametrize("name", READ_EXACTLY)
def test_fields_are_read_as_they_are_right(name: str) -> None:
    right = PAYLOADS[name]["right"]
    item = read_one(BOOK, name)
    values = item.values or {}
    source = BOOK.source_for(name)
    assert source is not None
    mapped = {field.name for field in source.fields}

    for field, key in (("started_at", "start"), ("ended_at", "end")):
        if right.get(key) and field in mapped and not field_is_unreadable(item, field):
            value = values[field]
            assert isinstance(value, datetime)
            assert value == datetime.fromisoformat(right[key])
    if right.get("plate") and "plate" in mapped:
        assert values["plate"] == right["plate"].split(" ")[0]
    if right.get("energy_kwh") and "energy_wh" in mapped:
        assert values["energy_wh"] == Decimal(right["energy_kwh"].split(" ")[0]) * 1000
    if right.get("duration_s") and {"started_at", "ended_at"} <= mapped:
        assert values["seconds"] == int(right["duration_s"])
    if right.get("order_id") and values.get("order_id") and "reverses" not in right["order_id"]:
        assert right["order_id"].split(" ")[0].endswith(str(values["order_id"]))


def field_is_unreadable(item: Order | Finding, field: str) -> bool:
    return isinstance(item, Finding) and item.detail.startswith(f"{field}:")


def test_money_is_exact_to_the_fen() -> None:
    values = read_one(BOOK, "PAY-005").values or {}

    assert values["fee_fen"] == 3003
    assert values["service_fee_fen"] == 1092
    assert values["minutes"] == 44


def test_a_reversal_names_the_order_that_it_takes_back() -> None:
    item = read_one(BOOK, "PAY-019")

    assert isinstance(item, Finding)
    assert item.reverses == "CN/TST/12349"
    assert item.values is not None
    assert item.values["order_id"] == "CN/TST/12349-C"


def test_text_that_was_decoded_wrongly_upstream_is_doubted_and_sent() -> None:
    item = read_one(BOOK, "PAY-055")

    assert isinstance(item, Order)
    assert item.suspicions == (Reason.PLATE_DOUBTFUL,)
    assert item.plate == "娌狝D12345"


def test_an_order_number_of_27_digits_keeps_them_all() -> None:
    item = read_one(BOOK, "PAY-059")

    assert isinstance(item, Order)
    assert item.event_id == "123456789665000001176708522"
