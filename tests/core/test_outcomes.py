"""What is written for an order: the outcome, its smaller form, the dead letter."""

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from math import inf, nan
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from consumer.core import outcomes
from consumer.core.coupons import CouponRequest
from consumer.core.events import (
    Attempts,
    Coordinates,
    GatewayWords,
    Headers,
    Record,
    Value,
    Wait,
)
from consumer.core.outcomes import (
    Later,
    Message,
    Outcome,
    OutcomeContext,
    PlateMode,
    Privacy,
    Reason,
    Resolution,
    encode_dead_letter,
    encode_outcome,
    encode_retry,
    hide_plate,
    inert,
    outcome_id,
    plate_hash,
    reduced,
    without_plates,
)

PLATE = "粤B12345"
AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CLEAR = OutcomeContext("c1", Privacy(PlateMode.CLEAR))
HASH = OutcomeContext("c1", Privacy(PlateMode.HASH, b"k"))
BOTH = OutcomeContext("c1", Privacy(PlateMode.BOTH, b"k"))
NONE = OutcomeContext("c1", Privacy(PlateMode.NONE))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ENDS = [timezone.min, timezone.max, timezone(timedelta(seconds=-1))]


def a_record(
    *, key: bytes | None = PLATE.encode(), value: bytes | None = b'{"a":1}', headers: Headers = ()
) -> Record:
    return Record(Coordinates("charging", 3, 42), 1_772_366_400_000, key, value, headers)


def a_request(parameters: Mapping[str, str], metadata: Mapping[str, int]) -> CouponRequest:
    return CouponRequest("main", "a rule", None, parameters, metadata)


def a_resolution(**changes: Any) -> Resolution:
    values: Mapping[str, Value] = {
        "order_id": "1" * 27,
        "event_id": "ev-1",
        "plate": PLATE,
        "energy_wh": 12_345,
        "ended_at": datetime(2026, 3, 1, 19, 30, tzinfo=timezone(timedelta(hours=8))),
    }
    parameters = {"api_store_code": "s1", "plate": PLATE, "subject": f"充电 {PLATE}", "event_id": "ev-1"}
    granted = Resolution(
        record=a_record(),
        index=0,
        outcome=Outcome.GRANTED,
        decided_at=AT,
        values=values,
        request=a_request(parameters, {"value": 3600}),
        attempts=Attempts(1, AT, AT, 0.2),
        words=GatewayWords(code="1001", http_status=200, grant_serial="g1"),
    )
    return replace(granted, **changes)


def body(message: Message) -> dict[str, Any]:
    parsed: dict[str, Any] = orjson.loads(message.value or b"")
    return parsed


def whole(message: Message) -> str:
    """Everything that leaves, as text."""
    parts = [message.key or b"", message.value or b"", *(value or b"" for _, value in message.headers)]
    return b"\n".join(parts).decode("utf-8", "replace")


def test_an_outcome_id_names_the_order_and_nothing_else() -> None:
    assert outcome_id("c1", Coordinates("charging", 3, 42), 1) == "c1/charging/3/42/1"


def test_repetitions_of_an_outcome_have_the_same_id_whatever_changed_in_between() -> None:
    first = encode_outcome(a_resolution(), CLEAR)
    again = encode_outcome(
        a_resolution(outcome=Outcome.ALREADY_GRANTED, decided_at=AT + timedelta(hours=1)), CLEAR
    )

    assert body(first)["outcome_id"] == body(again)["outcome_id"] == "c1/charging/3/42/0"


def test_an_outcome_holds_what_reconciliation_needs() -> None:
    found = body(encode_outcome(a_resolution(), CLEAR))

    assert found["outcome"] == "granted"
    assert found["reason"] is None
    assert found["code"] == "1001"
    assert found["order_id"] == "1" * 27
    assert found["event_id"] == "ev-1"
    assert found["api_store_code"] == "s1"
    assert found["energy_wh"] == 12_345
    assert found["metadata"] == {"value": 3600}
    assert found["payload_hash"] == "sha256:015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    assert found["record"] == {
        "topic": "charging",
        "partition": 3,
        "offset": 42,
        "timestamp": "2026-03-01T12:00:00.000Z",
    }
    assert found["attempts"] == {
        "count": 1,
        "first_at": "2026-03-01T12:00:00.000Z",
        "last_at": "2026-03-01T12:00:00.000Z",
        "seconds": 0.2,
        "ambiguous": False,
    }


def test_times_are_written_in_utc() -> None:
    assert body(encode_outcome(a_resolution(), CLEAR))["ended_at"] == "2026-03-01T11:30:00.000Z"


def test_headers_are_those_of_a_cloud_event_and_trace_headers_pass_through() -> None:
    record = a_record(headers=(("traceparent", b"00-ab-cd-01"), ("ce_id", b"theirs"), ("tracestate", None)))

    headers = encode_outcome(a_resolution(record=record), CLEAR).headers

    assert headers == [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"c1/charging/3/42/0"),
        ("ce_type", b"charging-coupon.outcome.v1"),
        ("ce_source", b"/c1/charging"),
        ("ce_time", b"2026-03-01T12:00:00.000Z"),
        ("content-type", b"application/json"),
        ("traceparent", b"00-ab-cd-01"),
    ]


@pytest.mark.parametrize(
    ("context", "plate", "plate_hash"),
    [
        (CLEAR, PLATE, None),
        (HASH, None, "7618d51329f5998650478e65b3e7ed871114c0c45c27abdb227ac72bf6769f00"),
        (BOTH, PLATE, "7618d51329f5998650478e65b3e7ed871114c0c45c27abdb227ac72bf6769f00"),
        (NONE, None, None),
    ],
)
def test_plates_appear_as_the_setting_says(
    context: OutcomeContext, plate: str | None, plate_hash: str | None
) -> None:
    found = body(encode_outcome(a_resolution(), context))

    assert (found["plate"], found["plate_hash"]) == (plate, plate_hash)


@pytest.mark.parametrize("context", [HASH, NONE])
@pytest.mark.parametrize(
    "spelling", [PLATE, "粤B·12345", "粤b12345", "%E7%B2%A4B12345", "%e7%b2%a4b12345", "\\u7ca4B12345"]
)
def test_a_hidden_plate_is_in_no_text_of_the_outcome(context: OutcomeContext, spelling: str) -> None:
    resolution = a_resolution(
        outcome=Outcome.SHADOW,
        detail=f"about {spelling}",
        words=GatewayWords(code="401", message=f"no {spelling}", hint=f"app_id=1&plate={spelling}&subject=x"),
    )

    message = encode_outcome(resolution, context)

    assert (
        body(message)["hint"]
        == "app_id=1&plate=" + body(message)["detail"].removeprefix("about ") + "&subject=x"
    )
    assert "12345" not in whole(message).replace('"energy_wh":12345', "")
    assert PLATE not in whole(message)


@pytest.mark.parametrize("context", [HASH, NONE])
@pytest.mark.parametrize("name", ["code", "seqno", "grant_serial", "enter_time", "data_node"])
def test_a_hidden_plate_is_in_no_word_of_the_platforms(context: OutcomeContext, name: str) -> None:
    said: dict[str, Any] = {name: f"7 {PLATE}"}
    resolution = a_resolution(values={"plate": PLATE}, words=GatewayWords(**said))
    later = Later(Wait.REPLY, 0, AT, 1, 0, 0.0)

    assert body(encode_outcome(resolution, context))[name] == "7 ***"
    for message in (
        encode_dead_letter(resolution, context, 1_000_000),
        encode_retry(resolution, later, context),
    ):
        ours = [value or b"" for name, value in message.headers if name.startswith("coupon_")]
        assert PLATE.encode() not in b"".join(ours)


def test_a_hidden_plate_of_no_known_shape_is_hidden_too() -> None:
    resolution = a_resolution(values={"plate": "TESTCAR"}, words=GatewayWords(message="no TESTCAR here"))

    assert body(encode_outcome(resolution, NONE))["message"] == "no *** here"


plates = st.text(st.sampled_from("粤BDbdK12345\u212aı挂%- "), min_size=1, max_size=9)


@given(
    plates,
    plates,
    plates,
    st.sampled_from(["as it is", "lower", "upper", "quoted", "without its first", "not"]),
)
def test_a_hidden_plate_is_found_in_any_text_wherever_it_stands(
    before: str, plate: str, after: str, how: str
) -> None:
    spelling = {
        "as it is": plate,
        "lower": plate.lower(),
        "upper": plate.upper(),
        "quoted": quote(plate),
        "without its first": plate[1:] if len(plate) > 5 else "",
        "not": "",
    }[how]
    text = f"{before}{spelling}{after}"
    sought = "|".join(map(re.escape, [plate, quote(plate), *([plate[1:]] if len(plate) > 5 else [])]))

    assert hide_plate(text, plate) == without_plates(re.sub(sought, "***", text, flags=re.IGNORECASE))


@pytest.mark.parametrize(
    ("context", "key"), [(CLEAR, PLATE), (BOTH, PLATE), (HASH, "1" * 27), (NONE, "1" * 27)]
)
def test_the_key_is_the_source_records_where_plates_may_be_seen(context: OutcomeContext, key: str) -> None:
    assert encode_outcome(a_resolution(), context).key == key.encode()


def test_a_record_without_a_key_gives_an_outcome_keyed_by_its_order() -> None:
    assert encode_outcome(a_resolution(record=a_record(key=None)), CLEAR).key == b"1" * 27


def test_plates_cannot_be_hashed_without_a_key() -> None:
    with pytest.raises(ValueError, match="without a key"):
        Privacy(PlateMode.HASH)


def test_the_hash_key_is_in_no_repr() -> None:
    assert "topsecret" not in repr(OutcomeContext("c1", Privacy(PlateMode.HASH, b"topsecret")))


def test_only_a_shadow_outcome_shows_the_request() -> None:
    assert body(encode_outcome(a_resolution(), CLEAR))["request"] is None
    assert body(encode_outcome(a_resolution(outcome=Outcome.SHADOW), CLEAR))["request"] == {
        "api_store_code": "s1",
        "plate": PLATE,
        "subject": f"充电 {PLATE}",
        "event_id": "ev-1",
    }
    assert body(encode_outcome(a_resolution(outcome=Outcome.SHADOW), HASH))["request"] == {
        "api_store_code": "s1",
        "subject": "充电 ***",
        "event_id": "ev-1",
    }


def test_long_words_of_the_platform_are_cut() -> None:
    words = GatewayWords(message="m" * 60_000, hint="h" * 60_000, code="c" * 60_000)

    found = body(encode_outcome(a_resolution(words=words), CLEAR))

    assert (len(found["message"]), len(found["hint"]), len(found["code"])) == (2000, 2000, 200)


def test_a_reduced_outcome_is_small_and_still_says_what_became_of_the_order() -> None:
    huge = a_resolution(
        record=a_record(key=b"k" * 500_000, headers=(("tracestate", b"t" * 100_000),)),
        values={"order_id": "1" * 500_000},
        outcome=Outcome.SHADOW,
        request=a_request({"extra": "x" * 500_000}, {f"key{n}": n for n in range(10_000)}),
    )

    small = reduced(encode_outcome(huge, CLEAR))

    assert small.size < 10_000
    assert body(small)["outcome"] == "shadow"
    assert body(small)["reduced"] is True
    assert body(small)["outcome_id"] == "c1/charging/3/42/0"
    assert body(small)["record"]["offset"] == 42
    assert small.key is not None
    assert small.key.startswith(b"sha256:")


def test_reducing_changes_nothing_that_is_short() -> None:
    message = encode_outcome(a_resolution(), CLEAR)

    assert body(reduced(message)) == body(message) | {"reduced": True}
    assert reduced(message).key == message.key


def test_a_dead_letter_is_the_original_with_the_reason_beside_it() -> None:
    record = a_record(value=b"\xff{", headers=(("a", b"\xfe"), ("a", None), ("traceparent", b"t")))
    resolution = a_resolution(
        record=record, outcome=Outcome.INVALID, reason=Reason.NOT_JSON, detail="no JSON", words=GatewayWords()
    )

    letter = encode_dead_letter(resolution, CLEAR, 1_000_000)

    assert (letter.key, letter.value) == (record.key, b"\xff{")
    assert letter.headers[:3] == [("a", b"\xfe"), ("a", None), ("traceparent", b"t")]
    assert dict(letter.headers[3:]) == {
        "coupon_outcome_id": b"c1/charging/3/42/0",
        "coupon_outcome": b"invalid",
        "coupon_reason": b"not_json",
        "coupon_detail": b"no JSON",
        "coupon_order_id": b"1" * 27,
        "coupon_event_id": b"ev-1",
        "coupon_order_index": b"0",
        "coupon_topic": b"charging",
        "coupon_partition": b"3",
        "coupon_offset": b"42",
        "coupon_timestamp": b"1772366400000",
        "coupon_attempts": b"1",
        "coupon_decided_at": b"2026-03-01T12:00:00.000Z",
        "coupon_payload": b"original",
    }


def test_headers_of_an_earlier_dead_letter_are_replaced() -> None:
    record = a_record(headers=(("coupon_outcome", b"suspect"), ("coupon_gone", b"1"), ("theirs", b"2")))

    headers = encode_dead_letter(a_resolution(record=record), CLEAR, 1_000_000).headers

    assert [value for name, value in headers if name == "coupon_outcome"] == [b"granted"]
    assert "coupon_gone" not in dict(headers)
    assert dict(headers)["theirs"] == b"2"


def test_a_tombstones_dead_letter_has_no_value() -> None:
    assert encode_dead_letter(a_resolution(record=a_record(value=None)), CLEAR, 1_000_000).value is None


@pytest.mark.parametrize(
    "record",
    [
        a_record(value=b"v" * 1_000_000),
        a_record(key=b"k" * 1_000_000),
        a_record(headers=(("h", b"h" * 1_000_000),)),
        a_record(headers=(("h" * 1_000_000, None),)),
    ],
    ids=["value", "key", "header", "header name"],
)
def test_a_dead_letter_too_large_for_its_topic_is_replaced_by_hash_and_coordinates(record: Record) -> None:
    letter = encode_dead_letter(a_resolution(record=record), CLEAR, 1_000_000)

    assert letter.size < 10_000
    assert dict(letter.headers)["coupon_payload"] == b"replaced"
    assert body(letter)["record"]["offset"] == 42
    assert body(letter)["payload_bytes"] == len(record.value or b"")
    assert body(letter)["payload_hash"].startswith("sha256:")


text = st.text(st.characters(), max_size=30)  # surrogates included
whole_number = st.integers(-(2**63), 2**63 - 1)  # all that is read has such bounds, or narrower ones
words = st.builds(
    GatewayWords,
    code=st.none() | text,
    http_status=st.none() | st.integers(),
    message=st.none() | text,
    hint=st.none() | text,
    time_cost_ms=st.none() | st.integers(),
)
anything = st.one_of(
    text,
    st.integers(),
    st.just(10**5000),
    st.booleans(),
    st.decimals(),
    st.datetimes(timezones=st.none() | st.timezones()),
)
fields = (
    "order_id",
    "event_id",
    "plate",
    "station_id",
    "started_at",
    "ended_at",
    "energy_wh",
    "seconds",
    "fee_fen",
)
any_resolution = st.builds(
    Resolution,
    record=st.builds(
        Record,
        coordinates=st.builds(Coordinates, text, whole_number, whole_number),
        timestamp_ms=st.integers(),
        key=st.none() | st.binary(max_size=50),
        value=st.none() | st.binary(max_size=50),
        headers=st.lists(st.tuples(text, st.none() | st.binary(max_size=5)), max_size=3).map(tuple),
    ),
    index=st.integers(0, 2**63 - 1),
    outcome=st.sampled_from(Outcome),
    decided_at=st.datetimes(timezones=st.timezones()),
    reason=st.none() | st.sampled_from(Reason),
    detail=text,
    values=st.none() | st.dictionaries(st.sampled_from(fields), anything),
    request=st.none()
    | st.builds(
        a_request,
        st.dictionaries(st.sampled_from(["plate", "subject", "api_store_code"]), text),
        st.dictionaries(text, whole_number, max_size=3),
    ),
    suspicions=st.lists(text, max_size=2).map(tuple),
    reverses=st.none() | text,
    attempts=st.builds(
        Attempts,
        count=st.integers(0, 2**63 - 1),
        seconds=st.none() | st.floats(-1e15, 1e15) | st.sampled_from([nan, inf]),
        last_at=st.none() | st.datetimes(),
    ),
    words=words,
    source=st.none() | text,
    rule=st.none() | text,
    traceparent=st.none() | st.just("00-ab-cd-01"),
)


@given(any_resolution, st.sampled_from([CLEAR, HASH, BOTH, NONE]))
def test_whatever_a_resolution_holds_it_can_be_written(
    resolution: Resolution, context: OutcomeContext
) -> None:
    message = encode_outcome(resolution, context)
    letter = encode_dead_letter(resolution, context, 1_000_000)

    assert body(message)["outcome"] == resolution.outcome.value
    assert body(reduced(message))["outcome"] == resolution.outcome.value
    assert letter.value == resolution.record.value
    assert letter.key == resolution.record.key


@given(any_resolution)
def test_an_outcome_reads_as_what_was_written(resolution: Resolution) -> None:
    found = body(encode_outcome(resolution, CLEAR))
    values = resolution.values or {}

    for name in ("order_id", "station_id"):
        assert found[name] == _as_utf8(values.get(name))
    for name in ("energy_wh", "seconds", "fee_fen"):
        value = values.get(name)
        fits = type(value) is int and -(2**63) <= value < 2**63
        assert found[name] == (value if fits else None)
    for name in ("started_at", "ended_at"):
        value = values.get(name)
        if isinstance(value, datetime) and value.tzinfo is not None and 1 < value.year < 9999:
            since = datetime.fromisoformat(found[name]) - value.astimezone(UTC)
            assert -timedelta(milliseconds=1) < since <= timedelta(0)
    assert found["code"] == _as_utf8(resolution.words.code)
    assert found["record"]["topic"] == _as_utf8(resolution.record.coordinates.topic)


def _as_utf8(value: object) -> str | None:
    """Halves of surrogate pairs cannot be written."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


@given(any_resolution, st.sampled_from([CLEAR, HASH, BOTH, NONE]))
def test_an_outcome_is_written_as_it_is_plainly_spelled_out(
    resolution: Resolution, context: OutcomeContext
) -> None:
    assert encode_outcome(resolution, context).value == outcomes._json(plain_body(resolution, context))


@given(any_resolution)
def test_times_since_1970_are_written_as_those_of_any_zone(resolution: Resolution) -> None:
    values = resolution.values or {}
    span = since_1970(values.get("started_at")), since_1970(values.get("ended_at"))

    assert encode_outcome(replace(resolution, span=span), CLEAR) == encode_outcome(resolution, CLEAR)


def since_1970(value: Value | None) -> int | None:
    if not isinstance(value, datetime) or value.tzinfo is None:
        return None
    return (value - EPOCH) // timedelta(microseconds=1)


def plain_body(resolution: Resolution, context: OutcomeContext) -> dict[str, Any]:
    """What `encode_outcome` writes down with as few calls as possible."""
    record, words, privacy = resolution.record, resolution.words, context.privacy
    values, asked = dict(resolution.values or {}), resolution.request
    parameters = {} if asked is None else dict(asked.parameters)
    plate = text_of(values, "plate") or None

    def said(text: str | None, longest: int) -> str | None:
        text = text if privacy.plates.clear else hide_plate(text, plate)
        return text if text is None or len(text) <= longest else text[: longest - 1] + "…"

    request = None
    if resolution.outcome is Outcome.SHADOW and asked is not None:
        request = {name: said(text, 1_000_000) for name, text in parameters.items()}
        if not privacy.plates.clear:
            request.pop("plate", None)
    hashed = plate is not None and privacy.plates.hashed
    return {
        "outcome_id": outcome_id(context.cluster_id, record.origin, resolution.index),
        "outcome": resolution.outcome.value,
        "reason": resolution.reason and resolution.reason.value,
        "detail": said(resolution.detail, 2000),
        "code": said(words.code, 200),
        "http_status": integer(words.http_status),
        "message": said(words.message, 2000),
        "hint": said(words.hint, 2000),
        "order_id": text_of(values, "order_id"),
        "event_id": text_of(values, "event_id") or None,
        "order_index": resolution.index,
        "plate": plate if privacy.plates.clear else None,
        "plate_hash": hmac.new(privacy.hash_key, utf8(plate or ""), "sha256").hexdigest() if hashed else None,
        "station_id": text_of(values, "station_id"),
        "api_store_code": parameters.get("api_store_code"),
        "account": resolution.account,
        "source": resolution.source,
        "rule": resolution.rule,
        "rules_hash": resolution.rules_hash,
        "seqno": said(words.seqno, 200),
        "grant_serial": said(words.grant_serial, 200),
        "enter_time": said(words.enter_time, 200),
        "data_node": said(words.data_node, 200),
        "time_cost_ms": integer(words.time_cost_ms),
        "started_at": instant(values.get("started_at")),
        "ended_at": instant(values.get("ended_at")),
        "energy_wh": integer(values.get("energy_wh")),
        "seconds": integer(values.get("seconds")),
        "fee_fen": integer(values.get("fee_fen")),
        "metadata": None if asked is None else dict(asked.metadata),
        "request": request,
        "attempts": {
            "count": resolution.attempts.count,
            "first_at": instant(resolution.attempts.first_at),
            "last_at": instant(resolution.attempts.last_at),
            "seconds": resolution.attempts.seconds and round(resolution.attempts.seconds, 6),
            "ambiguous": resolution.attempts.ambiguous,
        },
        "suspicions": list(resolution.suspicions),
        "reverses": resolution.reverses,
        "payload_hash": None
        if record.value is None
        else f"sha256:{hashlib.sha256(record.value).hexdigest()}",
        "record": {
            "topic": record.origin.topic,
            "partition": record.origin.partition,
            "offset": record.origin.offset,
            "timestamp": instant_of_ms(record.event_timestamp_ms),
        },
        "decided_at": instant(resolution.decided_at),
        "reduced": False,
    }


def utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def text_of(values: Mapping[str, Value], name: str) -> str | None:
    value = values.get(name)
    return value if isinstance(value, str) else None


def integer(value: Value | None) -> int | None:
    is_whole = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return value if is_whole else None  # type: ignore[return-value]  # mypy does not look into `is_whole`


def instant(value: Value | None) -> str | None:
    if not isinstance(value, datetime) or value.tzinfo is None:
        return None
    try:
        return f"{value.astimezone(UTC).isoformat(timespec='milliseconds')[:-6]}Z"
    except OverflowError:
        return None


def instant_of_ms(milliseconds: int) -> str | None:
    try:
        return None if milliseconds < 0 else instant(EPOCH + timedelta(milliseconds=milliseconds))
    except OverflowError:
        return None


@given(st.datetimes(timezones=st.timezones() | st.just(UTC) | st.sampled_from(ENDS)), st.integers(-70, 400))
def test_instants_are_told_fast_as_they_are_told_plainly(moment: datetime, year: int) -> None:
    for near in (moment, moment.replace(year=1970 + year, day=min(moment.day, 28))):
        assert outcomes._instant(near) == instant(near)
        assert outcomes._instant_at((near - EPOCH) // timedelta(microseconds=1)) == instant(near)


@given(st.integers(0, 2**63) | st.integers(0, 2**42))
def test_kafkas_timestamps_are_told_fast_as_they_are_told_plainly(milliseconds: int) -> None:
    assert outcomes._recorded_at(milliseconds) == instant_of_ms(milliseconds)


@given(st.binary(min_size=1, max_size=200), st.text())
def test_plates_are_hashed_fast_as_they_are_hashed_plainly(key: bytes, plate: str) -> None:
    expected = hmac.new(key, plate.encode(), "sha256").hexdigest()

    assert plate_hash(plate, Privacy(PlateMode.HASH, key)) == expected


@given(st.floats() | st.integers(-10, 10**13).map(lambda halves: halves / 2e6))
def test_seconds_are_rounded_as_python_rounds_them(seconds: float) -> None:
    rounded = outcomes._to_microseconds(seconds)

    assert rounded == round(seconds, 6) or seconds != seconds  # noqa: PLR0124  # NaN equals nothing, itself included


# -- What is shown ------------------------------------------------------------------------------------


@given(st.text())
def test_what_others_wrote_is_shown_so_that_it_can_be_read(text: str) -> None:
    shown = inert(text)

    assert all(sign.isprintable() or unicodedata.category(sign) == "Zs" for sign in shown)
    assert inert(shown) == shown
    assert inert(text, keep="\t\n").replace("\t", "\\t").replace("\n", "\\n") == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("粤BD12345 充电\u3000时长", "粤BD12345 充电\u3000时长"),
        ("a\x1b[2Jb\rc\nd", "a\\x1b[2Jb\\rc\\nd"),
        ("SZ\u200b-\u202e17\ufeff", "SZ\\u200b-\\u202e17\\ufeff"),
    ],
)
def test_each_sign_that_nobody_sees_is_told_by_its_number(text: str, shown: str) -> None:
    assert inert(text) == shown
