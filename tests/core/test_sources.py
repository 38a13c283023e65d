"""What is taken off a record, what cannot be, what is too late; and every preset on anything at all."""

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta, timezone
from decimal import Context, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer import rulebook
from consumer.core.events import Coordinates, Headers, Order, Record, Value
from consumer.core.fields import UNITS, Field, FieldType
from consumer.core.outcomes import Finding, Outcome, Reason
from consumer.core.rules import RuleBook
from consumer.core.sources import Plausibility
from consumer.rulebook.compilation import preset_names

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
CHARGE: dict[str, object] = {
    "order_id": "A1",
    "plate": "粤BD12345",
    "station_id": "S1",
    "started_at": "2026-11-25T08:00:00+08:00",
    "ended_at": "2026-11-25T09:00:00+08:00",
    "energy_kwh": 18.6,
}


RULES = """
accounts: {main: {app_id: a, secret: main, api_type: t}}
rules: [{name: all, account: main, subject: x, api_store_code: c}]
"""


def book(source: str, more: str = "") -> RuleBook:
    """With a rule that wants every charge."""
    return rulebook.parse(f"version: 1\n{more}\nsources:\n  charges: {source}\n{RULES}")


def read_all(
    rules: RuleBook,
    value: bytes,
    now: datetime | None = NOW,
    *,
    key: bytes | None = None,
    headers: Headers = (),
    timestamp_ms: int = -1,
) -> tuple[Order | Finding, ...]:
    items = rules.read_as(
        rules.sources[0], Record(Coordinates("t", 0, 0), timestamp_ms, key, value, headers), now
    )
    for item in items:
        if isinstance(item, Order):
            assert item.span == tuple(
                in_microseconds(item.values.get(name)) for name in ("started_at", "ended_at")
            )
    return items


def in_microseconds(value: Value | None) -> int | None:
    """Since 1970."""
    since = value - datetime(1970, 1, 1, tzinfo=UTC) if isinstance(value, datetime) else None
    return None if since is None else since // timedelta(microseconds=1)


def read(
    rules: RuleBook, value: object = CHARGE, now: datetime | None = NOW, **record: Any
) -> Order | Finding:
    (item,) = read_all(rules, value if isinstance(value, bytes) else orjson.dumps(value), now, **record)
    return item


def order(rules: RuleBook, value: object = CHARGE, now: datetime | None = NOW, **record: Any) -> Order:
    item = read(rules, value, now, **record)
    assert isinstance(item, Order), item
    return item


def end(
    rules: RuleBook, value: object = CHARGE, now: datetime | None = NOW, **record: Any
) -> tuple[Outcome, Reason, bool]:
    item = read(rules, value, now, **record)
    assert isinstance(item, Finding), item
    return item.outcome, item.reason, item.dead_letter


CANONICAL = book("{extends: canonical}")


# -- Envelopes --------------------------------------------------------------------------------------

PLAIN = orjson.dumps(CHARGE)
FRAMED = b"\0\0\0\0\x07" + PLAIN


@pytest.mark.parametrize(
    ("envelope", "value"),
    [
        ("schema_registry", FRAMED),
        ("schema_registry", PLAIN),
        ("{skip_bytes: 5}", FRAMED),
        ("{charset: gbk}", json.dumps(CHARGE, ensure_ascii=False).encode("gbk")),
        ("{charset: UTF-16}", json.dumps(CHARGE, ensure_ascii=False).encode("utf-16")),
        ("{charset: utf-8}", b"\xef\xbb\xbf" + PLAIN),
        ("{unwrap: $}", orjson.dumps(PLAIN.decode())),
        ("{unwrap: $}", orjson.dumps(orjson.dumps(PLAIN.decode()).decode())),
        ("{unwrap: $}", orjson.dumps([PLAIN.decode()])),
        ("{unwrap: [a.b, c]}", orjson.dumps({"c": PLAIN.decode()})),
        ("{unwrap: c}", orjson.dumps({"c": CHARGE})),
        ("{unwrap: c}", orjson.dumps({"c": "\ufeff" + PLAIN.decode()})),
        ("{base64: c}", orjson.dumps({"c": b64encode(PLAIN).decode()})),
        ("connect", orjson.dumps({"schema": {"type": "struct"}, "payload": CHARGE})),
        ("connect", PLAIN),
        ("cloudevents", orjson.dumps({"specversion": "1.0", "id": "1", "data": CHARGE})),
        ("cloudevents", orjson.dumps({"specversion": "1.0", "id": "1", "data": PLAIN.decode()})),
        (
            "cloudevents, connect",
            orjson.dumps({"specversion": "1.0", "data": {"schema": None, "payload": CHARGE}}),
        ),
    ],
)
def test_what_is_around_an_event_is_taken_off(envelope: str, value: bytes) -> None:
    rules = book(f"{{extends: canonical, envelope: [{envelope}]}}")

    assert order(rules, value).values == order(CANONICAL).values


@pytest.mark.parametrize(
    ("envelope", "value", "reason", "words"),
    [
        ("schema_registry", b"\0\0\0\0\x07\x02\x10A1", Reason.NOT_JSON, "Avro or Protobuf"),
        ("schema_registry", b"\0\0\0\0\x07", Reason.NOT_JSON, "Avro or Protobuf"),
        ("schema_registry", b"\0\0", Reason.NOT_JSON, "Avro or Protobuf"),
        ("connect", FRAMED, Reason.NOT_JSON, "schema_registry"),
        ("connect", "{}".encode("utf-16"), Reason.NOT_JSON, "charset"),
        ("{charset: gbk}", b"\xff{}", Reason.NOT_TEXT, "gbk"),
        ("{unwrap: c}", PLAIN, Reason.SCHEMA, "`c`"),
        ("{unwrap: c}", b'{"c": "x"}', Reason.NOT_JSON, "not JSON"),
        ("{base64: c}", b'{"c": "x"}', Reason.SCHEMA, "base64"),
        ("cloudevents", b'{"specversion": "1.0"}', Reason.SCHEMA, "without data"),
        ("{skip_bytes: 9999}", PLAIN, Reason.NOT_JSON, "empty"),
        ("connect", orjson.dumps(PLAIN.decode()), Reason.SCHEMA, "unwrap: $"),
        ("{unwrap: Data}", b'{"OperatorID": "1", "Data": "AAEC", "Sig": "0"}', Reason.ENCRYPTED, "decrypt"),
    ],
)
def test_what_cannot_be_taken_off_says_why(envelope: str, value: bytes, reason: Reason, words: str) -> None:
    item = read(book(f"{{extends: canonical, envelope: [{envelope}]}}"), value)

    assert isinstance(item, Finding)
    assert (item.outcome, item.reason, item.dead_letter) == (Outcome.INVALID, reason, True)
    assert words in item.detail


def test_text_within_text_without_end_is_refused() -> None:
    value = "{}"
    for _ in range(12):
        value = json.dumps(value)

    assert end(book("{extends: canonical, envelope: [{unwrap: $}]}"), value.encode())[1] is Reason.TOO_DEEP


def test_the_envelope_of_what_is_extended_comes_within() -> None:
    rules = book("{extends: [connect, canonical], envelope: [schema_registry, {unwrap: m}]}")
    value = b"\0\0\0\0\x07" + orjson.dumps({"m": orjson.dumps({"schema": None, "payload": CHARGE}).decode()})

    assert order(rules, value).order_id == "A1"


@pytest.mark.parametrize(
    ("scale", "unscaled", "number"),
    [
        (2, -100, "-1.00"),
        (0, 5, "5"),
        (3, 18600, "18.600"),
        ("2", 128, "1.28"),
        (-2, 3, "300"),
        (10, 2**70, None),
    ],
)
def test_connects_decimals_have_a_sign_and_their_schemas_scale(
    scale: object, unscaled: int, number: str | None
) -> None:
    raw = unscaled.to_bytes((unscaled.bit_length() + 8) // 8, "big", signed=True)
    schema = {
        "type": "struct",
        "fields": [
            {
                "field": "row",
                "type": "struct",
                "fields": [
                    {
                        "field": "amount",
                        "type": "bytes",
                        "name": "org.apache.kafka.connect.data.Decimal",
                        "parameters": {"scale": scale},
                    }
                ],
            }
        ],
    }
    value = {"schema": schema, "payload": {"row": {**CHARGE, "amount": b64encode(raw).decode()}}}
    rules = book(
        "{extends: [connect, canonical], orders: row, fields: {amount: {paths: amount, type: decimal}}}"
    )

    found = order(rules, value).values["amount"]

    assert found == (Decimal(number) if number else Decimal(unscaled).scaleb(-10))


def test_connects_decimals_are_found_in_lists_and_maps_and_with_scales_of_their_own() -> None:
    decimal = {"type": "bytes", "name": "org.apache.kafka.connect.data.Decimal", "parameters": {"scale": "1"}}
    variable = {"type": "struct", "name": "io.debezium.data.VariableScaleDecimal"}
    fields = [
        {"field": "list", "type": "array", "items": decimal},
        {"field": "map", "type": "map", "values": decimal},
        {"field": "own", **variable},
        {"field": "broken", **decimal},
        {"field": "odd", "type": "struct", "fields": "none"},
        "no field",
    ]
    row = {
        "list": ["FQ=="],
        "map": {"a": "FQ=="},
        "own": {"scale": 2, "value": "FQ=="},
        "broken": "!",
        "odd": {},
    }
    rules = book(
        "{extends: [connect, canonical], fields: {a: {paths: 'list[0]', type: decimal}, b: {paths: map.a, type: decimal}, "
        "c: {paths: own, type: decimal}, d: broken, e: {paths: bare, type: decimal, connect_scale: 3}}}"
    )

    values = order(
        rules, {"schema": {"type": "struct", "fields": fields}, "payload": CHARGE | row | {"bare": "FQ=="}}
    ).values

    assert [values[name] for name in "abcde"] == [
        Decimal("2.1"),
        Decimal("2.1"),
        Decimal("0.21"),
        "!",
        Decimal("0.021"),
    ]


def test_a_schema_as_deep_as_its_payload_has_an_end() -> None:
    value: Any = 1
    schema: Any = {"type": "int32"}
    for _ in range(400):
        value, schema = [value], {"type": "array", "items": schema}

    items = read_all(
        book("{extends: [connect, canonical]}"), json.dumps({"schema": schema, "payload": value}).encode()
    )

    assert items


@pytest.mark.parametrize(
    "ended_at", ["2026-02-30T09:00:00Z", "2026-11-25T09:00:00+25:00", "2026-11-25T09:61:00Z"]
)
def test_a_day_that_does_not_exist_is_refused(ended_at: str) -> None:
    assert end(CANONICAL, CHARGE | {"ended_at": ended_at})[:2] == (Outcome.INVALID, Reason.SCHEMA)


def test_a_start_beyond_the_calendar_is_refused() -> None:
    rules = book("{extends: canonical, fields: {started_at: {computed: ended_at - charging_seconds}}}")

    assert end(rules, CHARGE | {"charging_seconds": 10**12})[:2] == (Outcome.INVALID, Reason.OVERFLOW)


def test_what_stands_beside_an_event_can_be_read() -> None:
    rules = book(
        "{extends: canonical, envelope: [{unwrap: m}], fields: "
        "{site: $headers.Site, kind: $message.kind, car: $key.car, key: $key, order_id: {template: '{$headers.site}/{no|order_id}'}}}"
    )
    value = {"m": PLAIN.decode(), "kind": "x"}
    headers: Headers = (("site", b"old"), ("SITE", b"S7"), ("bad", b"\xff"), ("none", None))

    values = order(rules, value, key=b'{"car": 7}', headers=headers).values

    assert {name: values[name] for name in ("site", "kind", "car", "key", "order_id")} == {
        "site": "S7",
        "kind": "x",
        "car": "7",
        "key": '{"car": 7}',
        "order_id": "S7/A1",
    }
    assert end(rules, value, key=b"\xff", headers=headers[2:])[1] is Reason.ID_MISSING


# -- What depends on others, on stations ------------------------------------------------------------


def test_of_two_equal_hours_in_autumn_an_end_before_its_start_was_in_the_second() -> None:
    rules = book("{extends: canonical, zone: Europe/Berlin}")
    night = CHARGE | {"started_at": "2026-10-25T02:50:00", "ended_at": "2026-10-25T02:10:00"}

    found = order(rules, night, now=None)

    assert found.values["seconds"] == 1200
    assert str(found.values["ended_at"]) == "2026-10-25 02:10:00+01:00"


def test_a_night_in_which_an_hour_is_left_out_is_an_hour_shorter() -> None:
    rules = book("{extends: canonical, zone: Europe/Berlin}")
    night = CHARGE | {"started_at": "2026-03-29 01:30:00", "ended_at": "2026-03-29 03:30:00"}

    assert order(rules, night, now=None).values["seconds"] == 3600


def test_a_start_without_a_date_can_be_of_the_day_before_its_end() -> None:
    rules = book(
        "{extends: canonical, zone: Asia/Shanghai, fields: {started_at: "
        "{template: '{date} {started_at}', format: yyyy-MM-dd HH:mm, not_after: ended_at}}}"
    )
    value = CHARGE | {"date": "2026-11-25", "started_at": "23:50", "ended_at": "2026-11-25T00:35:00"}

    assert order(rules, value).values["seconds"] == 2700


# -- Plausibility -----------------------------------------------------------------------------------

DOUBTFUL: dict[str, dict[str, object]] = {
    "end_before_start": {"ended_at": "2026-11-25T07:59:59+08:00"},
    "in_future": {"started_at": "2026-11-25T12:10:00Z", "ended_at": "2026-11-25T12:11:00Z", "energy_kwh": 1},
    "before_2000": {"started_at": "1999-12-31T23:00:00Z", "ended_at": "1999-12-31T23:59:59Z"},
    "too_much_energy": {"energy_kwh": 1017},
    "durations_disagree": {"charging_seconds": 3661},
    "plate_doubtful": {"plate": "ABC-1234"},
}
FINE: dict[str, dict[str, object]] = {
    "end_before_start": {"started_at": "2026-11-25T09:00:00+08:00", "energy_kwh": 0},
    "in_future": {"ended_at": "2026-11-25T12:10:00Z"},
    "before_2000": {"started_at": "2026-11-25T00:00:00Z"},
    "too_much_energy": {"energy_kwh": 1016},
    "durations_disagree": {"charging_seconds": 3660},
    "plate_doubtful": {"plate": "粤B·12345"},
}
SENT = ("durations_disagree", "plate_doubtful")


@pytest.mark.parametrize("doubt", DOUBTFUL)
def test_what_cannot_be_is_set_aside_or_sent_by_default(doubt: str) -> None:
    value = CHARGE | DOUBTFUL[doubt]

    if doubt in SENT:
        assert order(CANONICAL, value).suspicions == (doubt,)
    else:
        assert end(CANONICAL, value) == (Outcome.SUSPECT, doubt, True)
    assert order(CANONICAL, CHARGE | FINE[doubt]).suspicions == ()


@pytest.mark.parametrize("doubt", DOUBTFUL)
def test_and_the_other_way_round_where_it_is_configured(doubt: str) -> None:
    other = "set_aside" if doubt in SENT else "send"
    rules = book(f"{{extends: canonical, plausibility: {{{doubt}: {other}}}, deadline: off}}")
    value = CHARGE | DOUBTFUL[doubt]

    if doubt in SENT:
        assert end(rules, value) == (Outcome.SUSPECT, doubt, True)
    else:
        assert order(rules, value).suspicions == (doubt,)


def test_its_bounds_can_be_set() -> None:
    rules = book(
        "{extends: canonical, plausibility: {max_kw: 7.5, future_tolerance: 5h, duration_tolerance: 1h}}"
    )

    assert end(rules)[1] is Reason.TOO_MUCH_ENERGY
    assert order(rules, CHARGE | {"energy_kwh": 7, "charging_seconds": 7200}).suspicions == ()
    assert order(rules, CHARGE | {"ended_at": "2026-11-25T17:00:00Z"}).suspicions == ()


def test_what_a_source_extends_keeps_its_bounds_but_for_those_that_it_sets_anew() -> None:
    rules = rulebook.parse(
        "version: 1\nsources:\n"
        "  a: {extends: b, topics: [a], plausibility: {before_2000: send}}\n"
        "  b: {extends: canonical, topics: [b], plausibility: {end_before_start: send}}\n"
    )

    assert order(rules, CHARGE | DOUBTFUL["end_before_start"]).suspicions == ("end_before_start",)


# -- Too late ---------------------------------------------------------------------------------------

DAY = timedelta(hours=24)
ENDED = datetime(2026, 11, 25, 1, tzinfo=UTC)


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def test_a_charge_that_ended_more_than_a_day_ago_is_expired_without_a_dead_letter() -> None:
    assert end(CANONICAL, now=ENDED + DAY + timedelta(seconds=1)) == (Outcome.EXPIRED, Reason.DEADLINE, False)
    assert order(CANONICAL, now=ENDED + DAY)


def test_the_day_is_counted_from_the_records_timestamp_where_that_is_earlier() -> None:
    now = ENDED + timedelta(hours=1)

    assert end(CANONICAL, now=now, timestamp_ms=ms(now - DAY) - 1)[0] is Outcome.EXPIRED
    assert order(CANONICAL, now=now, timestamp_ms=ms(now))


@pytest.mark.parametrize("timestamp_ms", [-1, 0, 1_795_568_400, 2**62])
def test_a_timestamp_that_is_none_does_not_count(timestamp_ms: int) -> None:
    assert order(CANONICAL, timestamp_ms=timestamp_ms)


def test_a_fresh_timestamp_does_not_make_an_old_charge_new() -> None:
    now = ENDED + timedelta(days=400)

    assert end(CANONICAL, now=now, timestamp_ms=ms(now))[0] is Outcome.EXPIRED


@pytest.mark.parametrize(
    ("rules", "ends"),
    [
        ("[{name: few, when: energy_wh > 50000, skip: policy}]", (Outcome.UNMATCHED, Reason.NO_RULE)),
        ("[{name: little, when: seconds > 0, skip: stop_reason}]", (Outcome.SKIPPED, Reason.STOP_REASON)),
        ("[{name: fails, when: 1 / (seconds - 3600) > 0, skip: policy}]", (Outcome.EXPIRED, Reason.DEADLINE)),
        (
            "[{name: held, account: main, subject: x, api_store_code: c, state: hold}]",
            (Outcome.EXPIRED, Reason.DEADLINE),
        ),
    ],
)
def test_an_old_charge_that_no_rule_wants_ends_as_a_new_one_would(
    rules: str, ends: tuple[Outcome, Reason]
) -> None:
    asked = rulebook.parse(
        "version: 1\nsources: {charges: {extends: canonical}}\n"
        f"accounts: {{main: {{app_id: a, secret: main, api_type: t}}}}\nrules: {rules}\n"
    )

    assert end(asked, now=ENDED + timedelta(days=400)) == (*ends, False)


def test_an_old_charge_is_not_worth_a_dead_letter_for_a_doubt() -> None:
    now = ENDED + timedelta(days=400)

    assert end(CANONICAL, CHARGE | DOUBTFUL["too_much_energy"], now=now)[0] is Outcome.EXPIRED
    assert end(CANONICAL, CHARGE | DOUBTFUL["before_2000"], now=now)[0] is Outcome.SUSPECT


@pytest.mark.parametrize(
    ("source", "top", "hours"),
    [
        ("{extends: canonical}", "deadline: 2h", 2),
        ("{extends: canonical, deadline: 90m}", "deadline: 2h", 1.5),
        ("{extends: canonical, deadline: 2d}", "deadline: off", 48),
    ],
)
def test_the_deadline_can_be_set_for_the_file_and_for_a_source(source: str, top: str, hours: float) -> None:
    rules = book(source, top)
    late = ENDED + timedelta(hours=hours)

    assert order(rules, now=late)
    assert end(rules, now=late + timedelta(seconds=1))[0] is Outcome.EXPIRED


@pytest.mark.parametrize(
    ("source", "top"),
    [("{extends: canonical}", "deadline: off"), ("{extends: canonical, deadline: off}", "")],
)
def test_it_can_be_switched_off(source: str, top: str) -> None:
    assert order(book(source, top), now=ENDED + timedelta(days=4000), timestamp_ms=ms(ENDED))


# -- Presets, on anything ---------------------------------------------------------------------------

WRAPPERS = ("canal", "cloudevents", "connect", "debezium")
PRESETS = {
    name: book(
        f"{{extends: [{name}, flat], fields: {{energy_wh: {{unit: kWh}}}}}}"
        if name in WRAPPERS
        else f"{{extends: {name}}}"
    )
    for name in preset_names()
}


def test_every_preset_is_described_at_its_head() -> None:
    for name in PRESETS:
        text = (Path(rulebook.__file__).parents[1] / "presets" / f"{name}.yaml").read_text("utf-8")
        assert text.startswith("# "), name


def check(rules: RuleBook, value: bytes, **record: Any) -> None:
    items = read_all(rules, value, **record)

    assert [item.index for item in items] == list(range(len(items)))
    assert items
    for item in items:
        orjson.dumps(dict(item.values or {}), default=str)
        assert "cannot be read" not in getattr(item, "detail", "")
        if isinstance(item, Order):
            assert item.order_id
            assert item.event_id
            assert item.plate


@settings(max_examples=60)
@given(st.binary(max_size=60), st.none() | st.binary(max_size=10))
def test_any_bytes_have_an_end_with_every_preset(value: bytes, key: bytes | None) -> None:
    for rules in PRESETS.values():
        for prefix in (b"", b"{", b'{"schema":null,"payload":'):
            check(rules, prefix + value, key=key, headers=(("stationId", value), ("ce_id", None)))


NAMES = sorted(
    {
        step
        for rules in PRESETS.values()
        for field in rules.sources[0].fields
        for path in (*field.paths, *field.minus, *field.value, *field.unit_from)
        for step in path._steps
        if isinstance(step, str)
    }
    | {"data", "after", "before", "op", "type", "payload", "schema", "specversion", "data_base64", "context"}
)
_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        [
            *(
                "",
                "A1",
                "粤BD12345",
                "-1",
                "null",
                "Wh",
                "1e99",
                "4,00",
                "1.0",
                "INSERT",
                "COMPLETED",
                "Ended",
            ),
            *("2026-11-25T09:00:00Z", "2026-11-25 24:00:00", "0001-01-01T00:00:00Z", "9999-12-31 23:59:59"),
            "Transaction.Begin",
        ]
    )
    | st.text(max_size=5)
)
_anything = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    max_leaves=25,
)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(NAMES), _anything, max_size=12), st.sampled_from(sorted(PRESETS)))
def test_any_json_in_a_presets_own_fields_has_an_end(event: dict[str, Any], name: str) -> None:
    check(PRESETS[name], json.dumps(event).encode())


# -- Exactness --------------------------------------------------------------------------------------

_exact = [(type_, unit) for type_ in (FieldType.ENERGY, FieldType.MONEY) for unit in UNITS[type_]]


@given(st.integers(-(10**9), 10**9), st.integers(0, 6), st.sampled_from(_exact), st.booleans())
def test_an_amount_is_what_its_digits_say_in_every_unit(
    digits: int, places: int, unit: tuple[FieldType, str], text: bool
) -> None:
    """Against integers alone: digits * unit / 10^places, half to even."""
    type_, name = unit
    size = Fraction(UNITS[type_][name]).limit_denominator(10**6)  # a joule has no end as a decimal
    numerator, denominator = digits * size.numerator, size.denominator * 10**places
    whole, rest = divmod(numerator, denominator)
    if 2 * rest > denominator or (2 * rest == denominator and whole % 2):
        whole += 1
    written = Decimal(digits).scaleb(-places)
    field = Field("x", type_, scale=UNITS[type_][name])

    assert field.read(f"{written:f}" if text else written) == whole


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_difference_of_two_readings_is_rounded_once(first: int, second: int) -> None:
    rules = DIFFERENCE
    value = CHARGE | {"a": second, "b": str(first)}
    read_order = read(rules, value, now=None)

    assert (read_order.values or {})["x_wh"] == round(Decimal(second - first) / 10)


DIFFERENCE = book("{extends: canonical, fields: {x_wh: {paths: a, minus: b, unit: 0.0001kWh, type: energy}}}")


@given(st.integers(-(10**39), 10**39), st.integers(0, 39), st.booleans())
def test_a_decimal_and_an_order_number_keep_all_their_digits(digits: int, places: int, quoted: bool) -> None:
    number = Decimal(digits).scaleb(-places, MANY_DIGITS)
    written = f'"{number:f}"' if quoted else f"{number:f}"
    event = f'{{"a": {written}, "order_id": {abs(digits) + 1}, "plate": "粤BD12345"}}'

    found = order(DIGITS, event.encode())

    assert found.values["x"] == number
    assert found.order_id == str(abs(digits) + 1)


MANY_DIGITS = Context(prec=60)
DIGITS = book(
    "{extends: canonical, fields: {x: {paths: a, type: decimal}, ended_at: {paths: none, required: false}}}"
)


@given(
    st.datetimes(datetime(1971, 1, 1), datetime(9990, 1, 1)),  # noqa: DTZ001  # its offset comes next
    st.integers(-14 * 60, 14 * 60),
)
def test_an_instant_is_the_same_however_it_is_written(moment: datetime, minutes: int) -> None:
    moment = moment.replace(microsecond=0, tzinfo=timezone(timedelta(minutes=minutes)))
    elapsed = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    shown = moment.strftime("%d.%m.%Y %H:%M:%S ") + moment.isoformat()[-6:]

    found = order(
        INSTANTS, CHARGE | {"a": moment.isoformat(), "b": str(elapsed * 1000), "c": elapsed, "d": shown}
    )

    assert [found.values[name] for name in ("a_at", "b_at", "c_at", "d_at")] == [moment] * 4


INSTANTS = book(
    "{extends: canonical, fields: {a_at: {paths: a, type: timestamp, format: iso},"
    " b_at: {paths: b, type: timestamp, format: epoch_ms}, c_at: {paths: c, type: timestamp, format: epoch_s},"
    " d_at: {paths: d, type: timestamp, format: 'dd.MM.yyyy HH:mm:ss Z'}}}"
)


def test_a_text_where_orders_could_be_does_not_hide_the_order_beside_it() -> None:
    rules = book("{extends: canonical, orders: [data, $]}")

    assert order(rules, CHARGE | {"data": "x"})
    assert end(book("{extends: canonical, orders: data}"), CHARGE | {"data": "x"})[1] is Reason.SCHEMA
    assert end(book("{extends: canonical, orders: data}"))[1] is Reason.ID_MISSING


def test_what_is_required_is_asked_for_before_the_plate() -> None:
    rules = book("{extends: canonical, fields: {plate: {required: true}, energy_wh: {required: true}}}")

    assert end(rules, CHARGE | {"plate": ""}) == (Outcome.INVALID, Reason.FIELD_MISSING, True)
    assert end(rules, CHARGE | {"plate": None, "energy_kwh": "x"})[1] is Reason.FIELD_MISSING
    assert end(rules, CHARGE | {"energy_kwh": "x"})[1] is Reason.SCHEMA
    assert end(rules, CHARGE | {"energy_kwh": None})[1] is Reason.FIELD_MISSING


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("energy_wh: {paths: order.kwh, unit: kWh, required: true}", "nothing at order.kwh"),
        (
            "energy_wh: {paths: [a, b, c, d, e, f, g], unit: Wh, required: true}",
            "nothing at a, b, c, d, e, f ...",
        ),
        (
            "fee_fen: {paths: fee, minus: [paid, less], unit: fen, required: true}",
            "nothing at fee, or at paid, less",
        ),
        ('station_id: {template: "{operator}/{no|id}", required: true}', 'nothing for "{operator}/{no|id}"'),
        (
            "started_at: {paths: begin, computed: ended_at - charging_seconds, required: true}",
            "nothing at begin, or for ended_at − charging_seconds",
        ),
        (
            "overdue: {computed: ended_at - started_at, type: duration, required: true}",
            "nothing for ended_at − started_at",
        ),
    ],
)
def test_what_is_absent_and_required_is_told_with_the_places_that_were_looked_at(
    field: str, told: str
) -> None:
    rules = book(f"{{extends: canonical, fields: {{{field}}}}}")
    row = {name: value for name, value in CHARGE.items() if name not in ("started_at", "charging_seconds")}
    found = read(rules, row)

    assert isinstance(found, Finding)
    name = field.partition(":")[0]
    assert (found.reason, found.detail) == (Reason.FIELD_MISSING, f"{name}: absent, and required: {told}")


PRESENT = book("{extends: canonical, skip: [{paths: it, present: true, reason: reversal}]}")
NEEDED = book("{extends: canonical, skip: [{paths: it, missing: skip, reason: not_a_charge}]}")


@pytest.mark.parametrize("it", [{"amount": 5}, [1], [[]], 1.2e26, "x", 0, False])
def test_to_a_gate_that_asks_whether_something_is_there_an_object_or_a_list_is_something(it: object) -> None:
    assert end(PRESENT, CHARGE | {"it": it})[:2] == (Outcome.SKIPPED, Reason.REVERSAL)
    assert order(NEEDED, CHARGE | {"it": it})


@pytest.mark.parametrize("it", [None, "", " ", [], {}])
def test_but_nothing_in_it_is_nothing(it: object) -> None:
    assert order(PRESENT, CHARGE | {"it": it})
    assert end(NEEDED, CHARGE | {"it": it})[:2] == (Outcome.SKIPPED, Reason.NOT_A_CHARGE)


@pytest.mark.parametrize(
    "gate",
    [
        "in: refund, reason: reversal",
        "present: true, reason: reversal",
        "missing: skip, reason: not_a_charge",
    ],
)
def test_a_gate_that_cannot_look_lets_nothing_pass(gate: str) -> None:
    rules = book(f"{{extends: canonical, skip: [{{paths: more.kind, {gate}}}]}}")

    assert end(rules, CHARGE | {"more": '{"kind": "refu'}) == (Outcome.INVALID, Reason.NOT_JSON, True)


def test_an_order_without_its_number_is_told_with_the_places_that_were_looked_at() -> None:
    found = read(book("{extends: canonical, fields: {order_id: [order.no, no]}}"))

    assert isinstance(found, Finding)
    assert found.detail == "no event id: `order_id` is absent: nothing at order.no, no"


# -- Numbers and times in unusual clothes -----------------------------------------------------------

CLOTHES = book(
    "{extends: canonical, zone: Asia/Shanghai, fields: {energy_wh: {unit: in_text}, fee_fen: {unit: in_text}, "
    "charging_seconds: {unit: in_text}, ended_at: {format: [array, iso]}, parts_wh: {paths: ['none[*].x', 'parts[*].e'], "
    "type: energy, unit: kWh, sum: true}}}"
)


@pytest.mark.parametrize(
    ("changed", "field", "value"),
    [
        ({"energy_kwh": "30.5 kWh"}, "energy_wh", 30500),
        ({"energy_kwh": "3050Wh"}, "energy_wh", 3050),
        ({"energy_kwh": "30.5度"}, "energy_wh", 30500),
        ({"total_fee_yuan": "¥12.50"}, "fee_fen", 1250),
        ({"total_fee_yuan": "-3 元"}, "fee_fen", -300),
        ({"charging_seconds": "45分钟"}, "charging_seconds", 2700),
        ({"parts": [{"e": 1.1115}, {"e": "2.2220"}, {"e": None}, {}]}, "parts_wh", 3334),
        ({"parts": {"e": 1}}, "parts_wh", 1000),
        ({"parts": []}, "parts_wh", None),
        ({"ended_at": [2026, 11, 25, 9, 0]}, "seconds", 3600),
        ({"ended_at": [2026, 11, 25, 9, 0, 5, 250_000_000]}, "seconds", 3605),
    ],
)
def test_units_behind_numbers_sums_and_lists_as_times_are_read(
    changed: Any, field: str, value: int | None
) -> None:
    base = CHARGE | {"energy_kwh": "1 kWh"}

    assert order(CLOTHES, base | changed).values.get(field) == value


@pytest.mark.parametrize(
    "changed",
    [
        {"energy_kwh": 30.5},
        {"energy_kwh": "30.5"},
        {"energy_kwh": "30.5 kvarh"},
        {"energy_kwh": "kWh 30.5"},
        {"energy_kwh": "1 2 kWh"},
        {"parts": [{"e": 1}, {"e": "x"}]},
        {"ended_at": [2026, 11]},
        {"ended_at": [2026, 13, 1, 0, 0]},
        {"ended_at": [2026, 11, 25, 9, True]},
        {"ended_at": [10**15, 1, 1, 0, 0]},
    ],
)
def test_and_refused_where_they_are_not_quite_that(changed: Any) -> None:
    assert end(CLOTHES, CHARGE | {"energy_kwh": "1 kWh"} | changed)[:2] == (Outcome.INVALID, Reason.SCHEMA)


@pytest.mark.parametrize("identity", [True, "false", "\0\0", "0\0"])
def test_what_is_no_number_of_an_order_is_none(identity: object) -> None:
    assert end(CANONICAL, CHARGE | {"order_id": identity})[1] is Reason.ID_MISSING


def test_a_text_has_a_thousand_characters_at_most() -> None:
    longest = "x" * 1000

    assert order(CANONICAL, CHARGE | {"stop_reason": longest}).values["stop_reason"] == longest
    assert end(CANONICAL, CHARGE | {"stop_reason": f"{longest}x"})[:2] == (Outcome.INVALID, Reason.SCHEMA)
    assert end(CANONICAL, CHARGE | {"station_id": f"{longest}x"})[:2] == (Outcome.INVALID, Reason.SCHEMA)


TURN_OF_YEAR = st.none() | st.datetimes(
    datetime.fromisoformat("1999-12-30"),
    datetime.fromisoformat("2000-01-04"),
    timezones=st.sampled_from([UTC, ZoneInfo("Asia/Shanghai"), timezone(timedelta(hours=-11))]),
)


@given(
    st.fixed_dictionaries(
        {"started_at": TURN_OF_YEAR, "ended_at": TURN_OF_YEAR},
        optional={
            "seconds": st.integers(-2, 200),
            "energy_wh": st.integers(0, 60_000),
            "charging_seconds": st.integers(0, 200),
        },
    ),
    TURN_OF_YEAR,
)
def test_what_is_called_fine_at_a_glance_has_nothing_to_be_doubted(
    found: dict[str, Any], now: datetime | None
) -> None:
    values = {name: value for name, value in found.items() if value is not None}
    began, over, latest = map(in_microseconds, (values.get("started_at"), values.get("ended_at"), now))
    plausibility = Plausibility()

    fine = plausibility.is_fine(values, began, over, latest)
    doubts = plausibility.doubts({"plate": "粤BD12345", **values}, latest)

    assert not (fine and doubts)
    # A day of which nobody can say in which year it was is looked at twice.
    day_3 = datetime(2000, 1, 3, tzinfo=UTC)
    if latest is not None and over is not None and values.get("started_at", values["ended_at"]) > day_3:
        assert fine == (not doubts)


# -- At a glance ------------------------------------------------------------------------------------

ZONES = book(
    "{extends: canonical, zone: station, fields: {lasted: {paths: lasted, type: duration, unit: min}, "
    "paid_at: {paths: paid_at, type: timestamp, format: iso}}}",
    """
deadline: 24h
stations:
  S1: {api_store_code: C1, zone: Asia/Shanghai, connectors: [G1]}
  S2: {api_store_code: C2, zone: America/New_York}
  S3: {api_store_code: C3}
""",
)
WALL_CLOCKS = st.datetimes(
    datetime.fromisoformat("2026-10-31T20:00:00"), datetime.fromisoformat("2026-11-02T08:00:00")
).map(lambda time: time.isoformat(timespec="seconds"))
TIMES = st.builds(str.__add__, WALL_CLOCKS, st.sampled_from(["", "Z", "+08:00", "-04:00", ".250", ".5Z"]))
IDENTITIES = ["A1234567890", "A1", "0000-0000-0000", "unknown", "a" * 201, "a b \ufffd c d e f", "27.5", ""]
AMOUNTS = st.integers(-5, 10**6) | st.decimals(-5, 500, places=3).map(float)


@given(
    st.fixed_dictionaries(
        {
            "order_id": st.sampled_from(IDENTITIES),
            "plate": st.sampled_from(["粤B12345", "粤BD12345", "粤b12345", "X", "无牌车", "未知", "粤" * 40]),
            "ended_at": TIMES,
        },
        optional={
            "station_id": st.sampled_from(["S1", "S2", "S3", "S9"]),
            "connector_id": st.sampled_from(["G1", "G2"]),
            "started_at": TIMES | st.sampled_from(["0001-01-01T00:00:00", "2026-13-01T00:00:00", "--"]),
            "paid_at": TIMES,
            "energy_kwh": AMOUNTS,
            "total_fee_yuan": AMOUNTS,
            "charging_seconds": AMOUNTS,
            "lasted": AMOUNTS,
            "stop_reason": st.sampled_from(["user", "null", "x" * 1001]),
        },
    ),
    st.sampled_from([None, datetime(2026, 11, 1, 12, tzinfo=UTC), datetime(2026, 11, 3, tzinfo=UTC)]),
)
def test_what_is_read_at_a_glance_is_what_is_read_at_length(
    row: dict[str, Any], now: datetime | None
) -> None:
    """Blanks around each value, a dot in the plate, a zero behind the order's number, numbers as text: all these are looked at."""
    at_length = {name: f" {value} " for name, value in row.items()}
    at_length["plate"] = (
        f"{row['plate'][:2]}·{row['plate'][2:]}" if row["plate"][:1] == "粤" else row["plate"]
    )
    at_length["order_id"] = row["order_id"] and row["order_id"] + "\0"

    for _ in range(2):  # and when its times come again
        assert plain(read(ZONES, row, now)) == plain(read(ZONES, at_length, now))


def plain(item: Order | Finding) -> object:
    """All that is told of it, but for how it is worded."""
    values = {
        name: (value.isoformat(), value.fold, str(value.tzinfo)) if isinstance(value, datetime) else value
        for name, value in (item.values or {}).items()
    }
    said = (item.outcome, item.reason) if isinstance(item, Finding) else (item.event_id, item.suspicions)
    return said, [*values.items()]
