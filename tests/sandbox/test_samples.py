"""The demo's charges: the same for a seed, of every kind, and each with the ends that it may come to."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from consumer.sandbox.answers import PLATE_ENDINGS
from consumer.sandbox.samples import KINDS, sample_events

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def test_the_same_seed_and_now_give_the_same_events() -> None:
    assert list(sample_events(200, now=NOW)) == list(sample_events(200, now=NOW))
    assert list(sample_events(200, now=NOW)) != list(sample_events(200, now=NOW, seed=2))


def test_as_many_as_asked_for_come_and_the_first_ones_show_every_kind() -> None:
    assert [len(list(sample_events(amount, now=NOW))) for amount in (0, 1, 19, 500)] == [0, 1, 19, 500]
    assert [event.kind for event in sample_events(len(KINDS), now=NOW)] == list(KINDS)


def test_most_are_ordinary_charges() -> None:
    kinds = Counter(event.kind for event in sample_events(1000, now=NOW))

    assert kinds.most_common(1)[0][0] == "good"
    assert kinds["good"] > 500


def test_only_repeated_pushes_share_an_order_id_and_a_key() -> None:
    seen: dict[str, bytes | None] = {}
    for event in sample_events(1000, now=NOW):
        for expected in event.expected:
            if event.kind == "repeated":
                assert expected.order_id is not None
                assert seen[expected.order_id] == event.key
            elif expected.order_id is not None:
                assert expected.order_id not in seen
                seen[expected.order_id] = event.key


def test_charges_end_within_the_hour_before_now_and_cost_whole_fen() -> None:
    for event in sample_events(500, now=NOW):
        if event.value is None or event.kind == "not_json":
            continue
        body = json.loads(event.value, parse_float=Decimal)
        for order in body.get("orders", [body]):
            started, ended = (datetime.fromisoformat(order[name]) for name in ("started_at", "ended_at"))
            assert NOW - timedelta(hours=1) < ended < NOW
            assert (ended - started).total_seconds() == order["charging_seconds"]
            assert order["total_fee_yuan"] * 100 % 1 == 0


def test_ordinary_plates_ask_for_no_answer() -> None:
    for event in sample_events(2000, now=NOW):
        if event.kind in {"good", "repeated", "short", "two_orders"} and event.key:
            assert event.key.decode()[-4:] not in PLATE_ENDINGS


def test_where_calls_fail_an_order_that_the_platform_decides_may_fail_and_our_own_verdicts_stay() -> None:
    for event in sample_events(500, now=NOW):
        for expected in event.expected:
            assert ("platform_failed" in expected.in_trouble) == (expected.reason is None)
            assert ("already_granted" in expected.in_trouble) == (expected.outcome == "granted")
