"""A record -> its orders, an order -> what the first rule that matches says."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from consumer import rulebook
from consumer.core.coupons import CouponRequest, Datum, metadata_fields
from consumer.core.errors import ConfigurationError
from consumer.core.events import Attempts, Coordinates, Order, Record, Replay, RetryContext, Wait
from consumer.core.expressions import Failure
from consumer.core.headers import LONGEST_SECONDS
from consumer.core.outcomes import Finding, Outcome, Reason
from consumer.core.rules import RuleBook
from consumer.core.sources import MAX_ORDERS
from consumer.core.templates import text_of

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
HEAD = """
version: 1
accounts:
  main: {app_id: op01, secret: main, api_type: charging, parameters: {merchant: M1, store_code: T1}}
  dark: {app_id: op02, secret: dark, api_type: charging, state: shadow}
  held: {app_id: op03, secret: held, api_type: charging, state: hold}
sources:
  canonical: {extends: canonical, topics: [charges]}
  cec: {extends: cec, topics: [cec]}
stations:
  S1: {api_store_code: C1, zone: Asia/Shanghai, connectors: [G1], parameters: {store_code: T2}}
  S2: {zone: "+06:00"}
  S3: {api_store_code: C3}
"""
STANDARD = """
rules:
  - name: standard
    account: main
    api_store_code: C0
    subject: "{plate} {ended_at}"
    metadata: {minutes: {name: 时长, value: minutes}}
"""
CHARGE = {
    "order_id": "A1",
    "plate": "粤B·D12345",
    "station_id": "S1",
    "started_at": "2026-11-25T08:00:00+08:00",
    "ended_at": "2026-11-25T09:00:00+08:00",
    "energy_kwh": 18.6,
}


def book(rules: str = STANDARD, head: str = HEAD) -> RuleBook:
    return rulebook.parse(head + rules)


def record(value: bytes | None, topic: str = "charges") -> Record:
    return Record(Coordinates(topic, 0, 7), 0, None, value)


def read(event: object, rules: RuleBook | None = None, topic: str = "charges") -> tuple[Order | Finding, ...]:
    value = event if isinstance(event, bytes) else orjson.dumps(event)
    return (rules or BOOK).read(record(value, topic), NOW)


def order(rules: RuleBook | None = None, **changed: Any) -> Order:
    (item,) = read(CHARGE | changed, rules)
    assert isinstance(item, Order)
    return item


def found(**changed: Any) -> Finding:
    (item,) = read({name: value for name, value in (CHARGE | changed).items() if value != "left out"})
    assert isinstance(item, Finding)
    return item


BOOK = book()


# -- Reading ----------------------------------------------------------------------------------------


def test_an_order_is_read_in_base_units() -> None:
    read_order = order()

    assert read_order.values == {
        "order_id": "A1",
        "event_id": "A1",
        "plate": "粤BD12345",
        "station_id": "S1",
        "api_store_code": "C1",
        "started_at": datetime(2026, 11, 25, 0, tzinfo=UTC),
        "ended_at": datetime(2026, 11, 25, 1, tzinfo=UTC),
        "energy_wh": 18600,
        "seconds": 3600,
        "minutes": 60,
        "zone": "Asia/Shanghai",
    }
    assert (read_order.index, read_order.source, read_order.suspicions) == (0, "canonical", ())


def test_the_senders_own_duration_stands_beside_that_from_start_to_end() -> None:
    read_order = order(charging_seconds=1799.9)

    assert (read_order.values["charging_seconds"], read_order.values["seconds"]) == (1799, 3600)
    assert read_order.values["minutes"] == 60


def test_the_senders_own_duration_counts_where_start_or_end_is_not_known() -> None:
    assert order(started_at=None, charging_seconds=1799.9).values["minutes"] == 29


def test_times_are_subtracted_as_instants() -> None:
    late = order(started_at="2026-11-25T00:30:00Z", ended_at="2026-11-25T09:00:00+08:00")

    assert late.values["seconds"] == 1800


def test_orders_of_one_record_are_numbered_and_none_sinks_another() -> None:
    items = read({"orders": [CHARGE, 5, CHARGE | {"plate": None}, CHARGE | {"energy_kwh": "x"}, CHARGE]})

    assert [item.index for item in items] == [0, 1, 2, 3, 4]
    assert [getattr(item, "reason", None) for item in items] == [
        None,
        Reason.SCHEMA,
        Reason.PLATE_MISSING,
        Reason.SCHEMA,
        None,
    ]


def test_a_record_without_orders_has_one_end_of_its_own() -> None:
    (item,) = read({"orders": []})

    assert isinstance(item, Finding)
    assert (item.outcome, item.reason, item.dead_letter) == (Outcome.SKIPPED, Reason.NOT_A_CHARGE, False)


def test_a_record_with_too_many_orders_is_set_aside_whole() -> None:
    (item,) = read({"orders": [{}] * (MAX_ORDERS + 1)})

    assert isinstance(item, Finding)
    assert (item.reason, item.dead_letter) == (Reason.TOO_LARGE, True)


def test_a_tombstone_is_skipped() -> None:
    (item,) = BOOK.read(record(None), NOW)

    assert isinstance(item, Finding)
    assert (item.outcome, item.reason, item.dead_letter) == (Outcome.SKIPPED, Reason.TOMBSTONE, False)


def test_a_topic_that_no_source_reads_is_invalid() -> None:
    (item,) = read(CHARGE, topic="other")

    assert isinstance(item, Finding)
    assert (item.reason, item.dead_letter) == (Reason.SCHEMA, True)
    assert BOOK.topics() == ("charges", "cec")
    assert BOOK.source_for("other") is None


@pytest.mark.parametrize("value", [b"5", b'"text"', b"null", b"true", b"[1]"])
def test_json_that_is_no_object_is_invalid(value: bytes) -> None:
    (item,) = read(value)

    assert isinstance(item, Finding)
    assert (item.outcome, item.reason, item.dead_letter) == (Outcome.INVALID, Reason.SCHEMA, True)


@pytest.mark.parametrize(
    "identity", ["-1", -1, 0, "000000", "", "  ", None, "null", "N/A", "0000-00", "left out"]
)
def test_an_id_that_many_orders_share_is_refused(identity: object) -> None:
    finding = found(order_id=identity)

    assert (finding.outcome, finding.reason, finding.dead_letter) == (
        Outcome.INVALID,
        Reason.ID_MISSING,
        True,
    )


@pytest.mark.parametrize("plate", [None, "", " ", "-", "·", "left out"])
def test_an_order_without_a_plate_is_skipped(plate: object) -> None:
    finding = found(plate=plate)

    assert (finding.outcome, finding.reason, finding.dead_letter) == (
        Outcome.SKIPPED,
        Reason.PLATE_MISSING,
        False,
    )
    assert finding.values is not None
    assert finding.values["event_id"] == "A1"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"order_id": "9" * 201}, Reason.SCHEMA),
        ({"order_id": {"no": 1}}, Reason.SCHEMA),
        ({"plate": ["粤BD12345"]}, Reason.SCHEMA),
        ({"plate": "粤B" * 200}, Reason.SCHEMA),
        ({"plate": "ﷺ" * 20}, Reason.SCHEMA),
        ({"order_id": 1.2345678966500001e26}, Reason.SCHEMA),
        ({"energy_kwh": "4,00"}, Reason.SCHEMA),
        ({"energy_kwh": 1e300}, Reason.OVERFLOW),
        ({"ended_at": "2026-11-25 09:00:00"}, Reason.ZONE_MISSING),
        ({"ended_at": "yesterday"}, Reason.SCHEMA),
        ({"ended_at": None}, Reason.FIELD_MISSING),
    ],
)
def test_what_cannot_be_read_is_set_aside_with_its_reason(changed: dict[str, Any], reason: Reason) -> None:
    finding = found(**changed)

    assert (finding.outcome, finding.reason, finding.dead_letter) == (Outcome.INVALID, reason, True)


def test_a_cut_emoji_elsewhere_does_not_hold_back_an_order() -> None:
    (item,) = read(json.dumps(CHARGE | {"nickname": "车主\ud83d"}).encode())

    assert isinstance(item, Order)
    orjson.dumps(item.values)


@pytest.mark.parametrize("name", ["order_id", "plate"])
def test_an_identity_with_broken_characters_is_refused(name: str) -> None:
    (item,) = read(json.dumps(CHARGE | {name: "A\ud83d"}).encode())

    assert isinstance(item, Finding)
    assert item.reason is Reason.NOT_TEXT


def test_an_event_id_is_checked_as_a_whole() -> None:
    head = HEAD.replace("{extends: canonical,", '{extends: canonical, event_id: "{stop_reason}/{order_id}",')
    compiled = book(head=head)

    def reason(**changed: Any) -> Reason | None:
        (item,) = read(json.dumps(CHARGE | changed).encode(), compiled)
        return item.reason if isinstance(item, Finding) else None

    assert order(compiled, stop_reason=2).event_id == "2/A1"
    assert reason() is Reason.ID_MISSING
    assert reason(stop_reason="\ud83d") is Reason.NOT_TEXT
    assert reason(stop_reason="x" * 199) is Reason.SCHEMA
    assert reason(stop_reason="0", order_id="000") is Reason.ID_MISSING


def test_an_encrypted_envelope_is_not_a_missing_plate() -> None:
    envelope = {"OperatorID": "MA0TEST01", "Data": "AAECAw", "TimeStamp": "20260418092305", "Sig": "00"}

    for topic in ("charges", "cec"):
        (item,) = read(envelope, topic=topic)
        assert isinstance(item, Finding)
        assert (item.reason, item.dead_letter) == (Reason.ENCRYPTED, True)


def test_no_detail_holds_a_plate() -> None:
    finding = found(plate="粤BD12345", energy_kwh="粤BD12345")

    assert "D12345" not in finding.detail


def test_a_station_is_found_by_its_connector_and_gives_its_zone() -> None:
    found_order = order(station_id=None, connector_id="G1", ended_at="2026-11-25T01:00:00Z")

    assert found_order.values["station_id"] == "S1"
    assert str(found_order.values["ended_at"]) == "2026-11-25 09:00:00+08:00"


def test_times_keep_their_own_offset_where_no_zone_is_known() -> None:
    assert str(order(station_id="S3", ended_at="2026-11-25T09:00:00+05:00").values["ended_at"]).endswith(
        "+05:00"
    )
    assert "zone" not in order(station_id="S3").values


def test_records_are_read_together_as_each_is_alone() -> None:
    whole = json.dumps(CHARGE).encode()
    late = NOW - timedelta(days=400)
    retry = RetryContext(Coordinates("charges", 0, 1), -1, 0, Wait.REPLY, NOW, NOW)
    records = [
        record(whole),
        record(json.dumps([CHARGE, CHARGE]).encode()),
        record(json.dumps({"orders": [CHARGE]}).encode()),
        record(whole, "nobody's"),
        record(None),
        record(b"[" * 100_000),
        replace(record(whole), refused="it is too long"),
        replace(record(whole), retry=retry),
        replace(record(whole), replay=Replay("id", 1, None, release=True)),
        replace(record(whole), timestamp_ms=round(late.timestamp() * 1000)),
        record(json.dumps(CHARGE | {"ended_at": late.isoformat(), "started_at": late.isoformat()}).encode()),
    ]
    endless = book(head=HEAD.replace("version: 1", "version: 1\ndeadline: off"))
    for rules in (BOOK, endless):
        assert rules.read_all(records, NOW) == [rules.read(each, NOW) for each in records]


@given(st.binary())
def test_any_bytes_end_in_at_least_one_item(value: bytes) -> None:
    for topic in ("charges", "cec", "other"):
        items = BOOK.read(record(value, topic), NOW)

        assert items
        assert BOOK.read_all([record(value, topic)], NOW) == [items]
        for item in items:
            if isinstance(item, Order):
                BOOK.plan(item)


_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(["A1", "粤BD12345", "2026-11-25T09:00:00Z", "0001-01-01T00:00:00Z", "1e99", "S1"])
)
_anything = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner)
)


@settings(max_examples=100)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys([*CHARGE, "charging_seconds", "orders"], _anything)))
def test_any_json_in_our_fields_ends_in_items_that_can_be_planned_and_written(event: dict[str, Any]) -> None:
    value = json.dumps(event).encode()
    items = BOOK.read(record(value), NOW)

    assert items
    assert BOOK.read_all([record(value), record(value, "cec")], NOW)[0] == items
    for item in items:
        orjson.dumps(dict(item.values or {}))
        if isinstance(item, Order):
            plan = BOOK.plan(item)
            assert "cannot be read" not in getattr(plan, "detail", "")
            assert "a rule failed" not in getattr(plan, "detail", "")
        else:
            assert "cannot be read" not in item.detail


# -- Planning ---------------------------------------------------------------------------------------


def plan(rules: str, **changed: Any) -> CouponRequest | Finding:
    compiled = book(rules)
    return compiled.plan(order(compiled, **changed))


def asked(rules: str, **changed: Any) -> CouponRequest:
    request = plan(rules, **changed)
    assert isinstance(request, CouponRequest)
    return request


def ended(rules: str, **changed: Any) -> Finding:
    finding = plan(rules, **changed)
    assert isinstance(finding, Finding)
    return finding


def test_the_request_is_complete() -> None:
    request = asked(STANDARD)

    assert (request.account, request.rule, request.url) == ("main", "standard", None)
    assert request.parameters == {
        "app_id": "op01",
        "api_store_code": "C1",
        "api_type": "charging",
        "event_id": "A1",
        "plate": "粤BD12345",
        "subject": "粤BD12345 2026-11-25 09:00:00",
        "metadata": '{"minutes":{"name":"时长","value":60}}',
        "merchant": "M1",
        "store_code": "T2",
    }
    assert request.metadata == {"minutes": 60}
    assert (request.shadow, request.timestamped) == (False, False)


def test_the_rules_store_code_serves_stations_without_one() -> None:
    assert asked(STANDARD, station_id="S2").parameters["api_store_code"] == "C0"
    assert asked(STANDARD, station_id="unknown").parameters["api_store_code"] == "C0"


def test_an_order_of_no_known_lot_is_invalid() -> None:
    finding = ended("rules: [{name: a, account: main, subject: x}]", station_id="unknown")

    assert (finding.outcome, finding.reason, finding.dead_letter) == (
        Outcome.INVALID,
        Reason.FIELD_MISSING,
        True,
    )
    assert "api_store_code" in finding.detail


def test_the_first_rule_that_matches_decides() -> None:
    rules = """
rules:
  - {name: much, account: main, subject: x, when: energy_wh >= 20000}
  - {name: some, account: main, subject: x, when: energy_wh >= 10000}
  - {name: any, account: main, subject: x}
"""
    assert asked(rules).rule == "some"
    assert asked(rules, energy_kwh=20).rule == "much"
    assert asked(rules, energy_kwh="9.9994").rule == "any"


def test_indexed_keys_keep_the_order_of_the_rules() -> None:
    rules = """
rules:
  - {name: elsewhere, account: main, subject: x, stations: S2}
  - {name: cec, account: main, subject: x, sources: cec}
  - {name: user, account: main, subject: x, equals: {stop_reason: [user, 0]}}
  - {name: here, account: main, subject: x, stations: [S1, S3]}
  - {name: everywhere, account: main, subject: x, api_store_code: C}
  - {name: never, account: main, subject: x, stations: S1}
"""
    assert asked(rules).rule == "here"
    assert ended(rules, station_id="S2").rule == "elsewhere"  # it matches; S2 has no lot
    assert asked(rules, stop_reason="user").rule == "user"
    assert asked(rules, stop_reason=0).rule == "user"
    assert asked(rules, station_id="S9").rule == "everywhere"
    assert asked(rules, station_id=None).rule == "everywhere"


def test_an_order_that_no_rule_wants_is_unmatched() -> None:
    finding = ended("rules: [{name: a, account: main, subject: x, when: energy_wh > 99000}]")

    assert (finding.outcome, finding.reason, finding.dead_letter) == (
        Outcome.UNMATCHED,
        Reason.NO_RULE,
        False,
    )


def test_a_rule_can_skip() -> None:
    finding = ended("rules: [{name: a, skip: policy}]")

    assert (finding.outcome, finding.reason, finding.rule) == (Outcome.SKIPPED, Reason.POLICY, "a")
    assert not finding.dead_letter


@pytest.mark.parametrize(
    "when", ["minutes / 0 > 1", "plate.matches('[' + plate)", "int(plate) > 1", "dyn(minutes)"]
)
def test_a_failing_condition_ends_the_order_and_never_goes_on_to_the_next_rule(when: str) -> None:
    finding = ended(
        f"""
rules:
  - {{name: first, account: main, subject: x, when: "{when}"}}
  - {{name: second, account: main, subject: x}}
"""
    )

    assert (finding.outcome, finding.reason, finding.rule) == (Outcome.INVALID, Reason.RULE_ERROR, "first")
    assert finding.dead_letter
    assert "BD12345" not in finding.detail


def test_a_condition_on_an_absent_field_fails_unless_it_asks_whether_it_is_there() -> None:
    careless = "rules: [{name: a, account: main, subject: x, when: fee_fen > 100}]"
    careful = "rules: [{name: a, account: main, subject: x, when: present.fee_fen && fee_fen > 100}]"

    assert ended(careless).reason is Reason.RULE_ERROR
    assert ended(careful).reason is Reason.NO_RULE
    assert asked(careless, total_fee_yuan="1.01").rule == "a"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("minutes / 0", Reason.RULE_ERROR),
        ("fee_fen", Reason.RULE_ERROR),
        ("dyn(true)", Reason.RULE_ERROR),
        ("-minutes", Reason.OVERFLOW),
        ("minutes * 100000000", Reason.OVERFLOW),
    ],
)
def test_metadata_outside_of_its_bounds_is_never_sent(value: str, reason: Reason) -> None:
    rules = f"rules: [{{name: a, account: main, subject: x, metadata: {{m: {{name: n, value: '{value}'}}}}}}]"
    finding = ended(rules)

    assert (finding.outcome, finding.reason, finding.dead_letter) == (Outcome.INVALID, reason, True)
    assert "metadata.m" in finding.detail


@pytest.mark.parametrize(
    ("value", "number"), [("0", 0), ("2147483647", 2147483647), ("math.least(minutes, 45)", 45)]
)
def test_metadata_within_its_bounds_is_sent(value: str, number: int) -> None:
    rules = f"rules: [{{name: a, account: main, subject: x, metadata: {{m: {{name: n, value: '{value}'}}}}}}]"

    assert asked(rules).metadata == {"m": number}


def test_a_subject_without_its_field_is_invalid() -> None:
    finding = ended("rules: [{name: a, account: main, subject: '{fee_yuan}'}]")

    assert (finding.reason, finding.dead_letter) == (Reason.FIELD_MISSING, True)


@pytest.mark.parametrize(
    "rule",
    [
        "{name: a, account: dark, subject: x}",
        "{name: a, account: main, subject: x, state: shadow}",
    ],
)
def test_an_account_or_rule_in_the_shadow_plans_all_but_the_call(rule: str) -> None:
    assert asked(f"rules: [{rule}]").shadow


@pytest.mark.parametrize(
    "rule",
    [
        "{name: a, account: held, subject: x}",
        "{name: a, account: dark, subject: x, state: hold}",
    ],
)
def test_an_account_or_rule_on_hold_sets_the_order_aside(rule: str) -> None:
    finding = ended(f"rules: [{rule}]")

    assert (finding.outcome, finding.reason, finding.dead_letter) == (Outcome.SKIPPED, Reason.HOLD, True)


def test_narrower_parameters_win() -> None:
    request = asked(
        "rules: [{name: a, account: main, subject: x, parameters: {store_code: T3, coupon_code: C}}]"
    )

    assert {name: request.parameters[name] for name in ("merchant", "store_code", "coupon_code")} == {
        "merchant": "M1",
        "store_code": "T3",
        "coupon_code": "C",
    }


def test_local_time_is_the_stations() -> None:
    rules = "rules: [{name: night, account: main, api_store_code: C, subject: x, stations: [S1, S2], when: ended_at.getHours(zone) >= 22}]"
    ten_in_shanghai = "2026-11-24T14:30:00Z"

    times = {"started_at": "2026-11-24T14:00:00Z", "ended_at": ten_in_shanghai}

    assert asked(rules, **times).rule == "night"
    assert ended(rules, **times, station_id="S2").reason is Reason.NO_RULE
    with pytest.raises(ConfigurationError, match="`S3` has no zone, which rule night asks for"):
        asked(rules.replace("stations: [S1, S2], ", ""), **times)


# -- What comes back --------------------------------------------------------------------------------


def back(event: object, **context: Any) -> Record:
    known: dict[str, Any] = {
        "origin": Coordinates("charges", 0, 7),
        "timestamp_ms": -1,
        "index": 0,
        "wait": Wait.REPLY,
        "written_at": NOW,
        "due_at": NOW,
        "attempts": Attempts(1),
    }
    where = Coordinates("retries.1m", 0, 3)
    return Record(where, 0, None, orjson.dumps(event), retry=RetryContext(**(known | context)))


def test_a_wait_that_is_longer_than_the_calendar_is_no_more_than_one_of_years() -> None:
    """Anybody may have written the headers of a retry topic's record."""
    one = back(CHARGE, wait=Wait.HOLD, written_at=datetime(2, 1, 2, tzinfo=UTC), excused_seconds=315e6)
    as_long = back(CHARGE, wait=Wait.HOLD, written_at=NOW, excused_seconds=LONGEST_SECONDS)

    assert BOOK.read(one, NOW) == BOOK.read(as_long, NOW)


def replayed(event: object, timestamp_ms: int = -1, **replay: Any) -> Record:
    known: dict[str, Any] = {"of": "c/charges/0/7/0", "count": 1, "index": 0}
    where = Coordinates("charges", 0, 9)
    return Record(where, timestamp_ms, None, orjson.dumps(event), replay=Replay(**(known | replay)))


def test_of_a_record_that_comes_back_only_the_order_that_it_is_about_is_read() -> None:
    charges = [CHARGE | {"order_id": f"A{number}"} for number in range(3)]

    for one in (back(charges, index=2), replayed(charges, index=2)):
        (item,) = BOOK.read(one, NOW)
        assert isinstance(item, Order)
        assert (item.index, item.order_id) == (2, "A2")


def test_an_order_that_the_event_does_not_hold_any_more_is_invalid() -> None:
    (item,) = BOOK.read(back([CHARGE], index=5), NOW)

    assert isinstance(item, Finding)
    assert (item.index, item.outcome, item.reason) == (5, Outcome.INVALID, Reason.SCHEMA)


def test_an_order_keeps_the_event_id_under_which_it_was_sent() -> None:
    """The platform would take another one for another grant."""
    (item,) = BOOK.read(back(CHARGE, event_id="as-sent"), NOW)

    assert isinstance(item, Order)
    assert (item.event_id, item.values["event_id"], item.order_id) == ("as-sent", "as-sent", "A1")


def test_a_record_of_a_retry_topic_that_is_not_ours_is_invalid_with_its_reason() -> None:
    stray = replace(
        record(orjson.dumps(CHARGE)), refused="no header coupon_topic: not written by this service"
    )

    (item,) = BOOK.read(stray, NOW)

    assert isinstance(item, Finding)
    assert (item.outcome, item.detail, item.dead_letter) == (Outcome.INVALID, stray.refused, True)


WEEK_LATER = NOW + timedelta(days=7)


def test_an_order_that_was_tried_once_does_not_expire() -> None:
    (tried,) = BOOK.read(back(CHARGE), WEEK_LATER)
    (waited,) = BOOK.read(back(CHARGE, attempts=Attempts()), WEEK_LATER)

    assert isinstance(tried, Order)
    assert isinstance(waited, Finding)
    assert waited.outcome is Outcome.EXPIRED


@pytest.mark.parametrize("wait", [Wait.STOP, Wait.HOLD])
def test_a_wait_that_is_not_its_fault_does_not_let_an_order_expire(wait: Wait) -> None:
    (item,) = BOOK.read(back(CHARGE, attempts=Attempts(), wait=wait), WEEK_LATER)

    assert isinstance(item, Order)


def test_whoever_replays_an_old_order_wants_it_sent() -> None:
    (item,) = BOOK.read(replayed(CHARGE), WEEK_LATER)

    assert isinstance(item, Order)


def test_a_replay_releases_what_was_set_aside_only_if_it_says_so() -> None:
    suspect = CHARGE | {"energy_kwh": 100_000}

    (kept,) = BOOK.read(replayed(suspect), NOW)
    (released,) = BOOK.read(replayed(suspect, release=True), NOW)

    assert isinstance(kept, Finding)
    assert kept.outcome is Outcome.SUSPECT
    assert isinstance(released, Order)
    assert released.suspicions == (Reason.TOO_MUCH_ENERGY,)


ENDED = datetime(2026, 11, 25, 1, 0, tzinfo=UTC)
ENDED_MS = int(ENDED.timestamp() * 1000)


@pytest.mark.parametrize(
    ("label", "recorded_ms", "deadline"),
    [
        ("1500", -1, ENDED + timedelta(hours=24)),
        ("1002", -1, ENDED + timedelta(hours=2)),
        ("nothing known", -1, ENDED + timedelta(hours=24)),
        ("1500", ENDED_MS - 3_600_000, ENDED + timedelta(hours=23)),
        ("1500", ENDED_MS + 3_600_000, ENDED + timedelta(hours=24)),
    ],
)
def test_the_deadline_counts_from_the_earlier_of_end_and_record_and_a_replys_own_may_be_shorter(
    label: str, recorded_ms: int, deadline: datetime
) -> None:
    one = replace(record(orjson.dumps(CHARGE)), timestamp_ms=recorded_ms)

    assert BOOK.deadline(order(), one, label) == deadline


def test_a_replays_deadline_counts_from_the_replay() -> None:
    one = replayed(CHARGE, timestamp_ms=ENDED_MS + 7 * 86_400_000)

    assert BOOK.deadline(order(), one, "1500") == ENDED + timedelta(days=8)


def test_with_the_deadline_off_only_a_replys_own_counts() -> None:
    endless = book(head=HEAD.replace("version: 1", "version: 1\ndeadline: off"))

    assert endless.deadline(order(endless), record(b""), "1500") is None
    assert endless.deadline(order(endless), record(b""), "1002") == ENDED + timedelta(hours=2)


# -- Finding the rule among many --------------------------------------------------------------------

CONDITIONS = st.sampled_from(
    [
        None,
        "seconds > 1000",
        "seconds > 9000",
        "energy_wh < 5000 // a comment",
        "fee_fen > 100",  # fails where there is none
        'stop_reason == "user"',
        "!present.fee_fen",
        "seconds > int('1000')",  # a conversion, which only CEL can do
    ]
)
SOME_RULES = st.lists(
    st.fixed_dictionaries(
        {
            "stations": st.sampled_from([None, ["S1"], ["S2"], ["S1", "S3"]]),
            "equals": st.sampled_from([{}, {"stop_reason": "user"}, {"stop_reason": ["user", "full"]}]),
            "when": CONDITIONS,
            "sources": st.sampled_from([None, "canonical", "cec"]),
        }
    ),
    max_size=50,
)


@settings(max_examples=25)
@given(SOME_RULES, st.sampled_from(["S1", "S2", None]), st.sampled_from(["user", None]), st.booleans())
def test_the_rule_that_is_found_is_the_first_whose_every_condition_holds(
    some: list[dict[str, Any]], station: str | None, stop_reason: str | None, fee: bool
) -> None:
    written = [
        {"name": f"r{number}", "skip": "policy"}
        | {key: value for key, value in rule.items() if value is not None}
        for number, rule in enumerate(some)
    ]
    rules = book(f"rules: {json.dumps(written)}\n", HEAD.replace("extends: canonical,", WITH_STOP_REASON))
    one = order(rules, station_id=station, stop_reason=stop_reason, fee=12.5 if fee else None)

    found = rules.plan(one)

    assert isinstance(found, Finding)
    assert (found.rule, found.reason) == by_looking_at_each(rules, one)


WITH_STOP_REASON = (
    "extends: canonical, fields: {stop_reason: stop_reason, fee_fen: {paths: fee, unit: yuan}},"
)


def by_looking_at_each(rules: RuleBook, one: Order) -> tuple[str | None, Reason]:
    binding = rules.compiler.bind(one.values)
    for rule in rules.rules:
        if rule.sources and one.source not in rule.sources:
            continue
        keys = {"station_id": rule.stations, **rule.equals}
        if any(texts and one.values.get(name) not in texts for name, texts in keys.items()):
            continue
        held = rule.when.evaluate(binding) if rule.when is not None else True
        if not isinstance(held, bool):
            return rule.name, Reason.RULE_ERROR
        if held:
            return rule.name, Reason.POLICY
    return None, Reason.NO_RULE


SOME_ASKING = st.lists(
    st.fixed_dictionaries(
        {
            "account": st.sampled_from(["main", "dark", "held", "dotted"]),
            "subject": st.sampled_from(
                ["x", "{plate} 100% {{}}", "{energy_kwh} kWh, {hours} h", "{fee_yuan}", "{ended_at}{minutes}"]
            ),
            "metadata": st.dictionaries(
                st.sampled_from(["minutes", "a%d", "度"]),
                st.fixed_dictionaries(
                    {
                        "name": st.sampled_from(["时长", "100%"]),
                        "value": st.sampled_from(
                            [
                                "minutes",
                                "energy_wh / 1000",
                                "math.least(minutes, 45)",
                                "minutes - 60",
                                "minutes - 61",  # negative
                                "energy_wh * 1000000",  # too large
                                "fee_fen",  # fails where there is none
                                "minutes + int('0')",  # only CEL can
                            ]
                        ),
                    }
                ),
                max_size=3,
            ),
        },
        optional={
            "stations": st.sampled_from([["S1"], ["S2"], ["S1", "S3"]]),
            "equals": st.sampled_from([{"stop_reason": "user"}]),
            "when": CONDITIONS.filter(bool),
            "api_store_code": st.just("C0"),
            "parameters": st.sampled_from([{"store_code": "rule"}, {"last": "100%"}]),
            "state": st.sampled_from(["on", "shadow", "hold"]),
        },
    ),
    max_size=6,
)
STATION_PARAMETERS = ", parameters: {store_code: T2}"


@settings(max_examples=100)
@given(
    SOME_ASKING,
    st.sampled_from(["S1", "S2", None]),
    st.sampled_from(["user", None]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_what_is_asked_for_is_what_the_rule_says_part_by_part(
    some: list[dict[str, Any]],
    station: str | None,
    stop_reason: str | None,
    fee: bool,
    differing: bool,
    as_on: bool,
) -> None:
    written = [{"name": f"r{number}"} | rule for number, rule in enumerate(some)]
    head = HEAD.replace("extends: canonical,", WITH_STOP_REASON).replace(
        "sources:", "  dotted: {app_id: op04, secret: main, api_type: c, metadata_format: dotted}\nsources:"
    )
    rules = book(
        f"rules: {json.dumps(written)}\n", head if differing else head.replace(STATION_PARAMETERS, "")
    )
    one = order(rules, station_id=station, stop_reason=stop_reason, fee=12.5 if fee else None)

    found, expected = rules.plan(one, as_on=as_on), part_by_part(rules, one, as_on=as_on)

    if isinstance(found, CouponRequest):
        assert replace(found, form=found.parameters) == expected
        assert [*found.parameters] == [*expected.parameters]
    else:
        assert (found.rule, found.reason, found.detail) == expected


def part_by_part(  # noqa: PLR0911  # the ways in which an order ends
    rules: RuleBook, one: Order, *, as_on: bool
) -> Any:
    """The request, or the rule of an end, its reason and its detail."""
    name, reason = by_looking_at_each(rules, one)
    rule = next((rule for rule in rules.rules if rule.name == name), None)
    if rule is None:
        return None, reason, "no rule matches"
    account, values, binding = rule.account, one.values, rules.compiler.bind(one.values)
    assert account is not None
    if reason is Reason.RULE_ERROR:
        assert rule.when is not None
        failure = rule.when.evaluate(binding)
        assert isinstance(failure, Failure)
        return name, reason, f"when: {failure.message}"
    if "hold" in (account.state, rule.state) and not as_on:
        held = f"account {account.name}" if account.state == "hold" else f"rule {name}"
        return name, Reason.HOLD, f"{held} is on hold"
    store = text_of(values, "api_store_code") or rule.api_store_code
    if store is None:
        return name, Reason.FIELD_MISSING, "api_store_code: neither station nor rule has one"
    subject, missing = rule.subject.fill(lambda field: text_of(values, field))
    if missing is not None:
        return name, Reason.FIELD_MISSING, f"subject: {missing} is absent"
    data = []
    for each in rule.metadata:
        value = each.value.evaluate(binding)
        if isinstance(value, Failure):
            return name, Reason.RULE_ERROR, f"metadata.{each.key}: {value.message}"
        if not 0 <= value < 2**31:
            return name, Reason.OVERFLOW, f"metadata.{each.key}: {value} is outside 0..2147483647"
        data.append(Datum(each.key, each.name, value))
    station = rules.stations.get(str(values.get("station_id")))
    form = {
        "app_id": account.app_id,
        "api_store_code": store,
        "api_type": rule.api_type or account.api_type,
        "event_id": one.event_id,
        "plate": one.plate,
        "subject": subject,
        **metadata_fields(data, account.metadata_format),
        **account.parameters,
        **(station.parameters if station is not None else {}),
        **rule.parameters,
    }
    return CouponRequest(
        account.name,
        rule.name,
        None,
        {field: text for field, text in form.items() if text},
        {datum.key: datum.value for datum in data},
        "shadow" in (account.state, rule.state) and not as_on,
    )


@settings(max_examples=25)
@given(st.integers(1, 5000), st.integers(0, 90), st.integers(1, 9), st.booleans())
def test_rules_that_are_alike_but_for_their_numbers_ask_for_their_own(
    least: int, most: int, divisor: int, by_cel: bool
) -> None:
    divided = f"energy_wh / {divisor}" + " + int('0')" * by_cel  # a conversion, which only CEL can do
    asking = f"""
    account: main
    subject: "{{plate}}"
    metadata:
      minutes: {{name: 时长, value: "math.least(minutes, {most})"}}
      part: {{name: 份, value: "{divided}"}}"""
    rules = book(
        f"rules:\n  - name: more\n    when: energy_wh >= {least + 18600}{asking}\n"
        f"  - name: other\n    when: energy_wh < {least + 18600} && minutes in [7, 60]{asking}\n"
    )

    plan = rules.plan(order(rules))

    assert isinstance(plan, CouponRequest)
    assert plan.rule == "other"
    assert plan.metadata == {"minutes": min(60, most), "part": 18600 // divisor}


def test_a_rule_among_many_of_one_station_is_found_by_what_tells_them_apart() -> None:
    some = [
        {"name": f"r{number}", "skip": "policy", "stations": ["S1"], "equals": {"order_id": f"A{number}"}}
        for number in range(200)
    ]
    rules = book(f"rules: {json.dumps(some)}\n")
    values = order(rules, order_id="A7").values
    found = rules._planner._indexes["canonical"].asked(values, rules.compiler.bind(values))

    assert [candidate.rule.name for candidate in found] == ["r7"]
