"""Bytes -> an event, and where in it a value stands."""

import zlib
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.formats import Event, Path, Refusal, decode, scalar_text
from consumer.core.outcomes import Reason


def refused(value: bytes) -> Reason:
    found = decode(value)
    assert isinstance(found, Refusal)
    return found.reason


def test_numbers_stay_exact() -> None:
    event = decode(b'{"id": 123456789665000001176708522, "kwh": 18.60, "fee": 1e2, "zero": -0.0}')

    assert event == {
        "id": 123456789665000001176708522,
        "kwh": Decimal("18.60"),
        "fee": Decimal(100),
        "zero": Decimal(0),
    }


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert decode(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


def test_of_repeated_keys_the_last_wins() -> None:
    assert decode(b'{"a": 1, "a": 2}') == {"a": 2}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", Reason.NOT_JSON),
        (b"   ", Reason.NOT_JSON),
        (b"charge finished", Reason.NOT_JSON),
        (b'{"a": 1', Reason.NOT_JSON),
        (b'{"a": 1} {"b": 2}', Reason.NOT_JSON),
        (b"{'a': 1}", Reason.NOT_JSON),
        (b"\x04\x22\x4d\x18\x60\x40\x82", Reason.NOT_JSON),
        (b"\x00\x00\x00\x00\x01{}", Reason.NOT_JSON),
        ('{"plate": "粤B12345"}'.encode("gbk"), Reason.NOT_TEXT),
        ('{"a": 1}'.encode("utf-16"), Reason.NOT_JSON),
        (b'{"plate": "\xed\xa0\x80"}', Reason.NOT_TEXT),
        (b'{"kwh": NaN}', Reason.NOT_FINITE),
        (b'{"kwh": -Infinity}', Reason.NOT_FINITE),
        (b"[" * 100_000 + b"]" * 100_000, Reason.TOO_DEEP),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, Reason.TOO_DEEP),
        (b'{"id": ' + b"9" * 5000 + b"}", Reason.OVERFLOW),
        (b'{"kwh": 1e9999999999999999999999}', Reason.OVERFLOW),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_bytes_that_are_no_event_say_why(value: bytes, reason: Reason) -> None:
    assert refused(value) is reason


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('{"plate": "粤BD12345"}'.encode("gbk"), "if it is of another charset, such as GBK, see `charset`"),
        ('{"plate": "粤BD12345"}'.encode("utf-16-le"), "UTF-16; see `charset`"),
        (b'{"id": 1}'.decode().encode("utf-16-be"), "UTF-16; see `charset`"),
        (zlib.compress(b'{"id": 1}'), "zlib; see `gzip`"),
        (b"PK\x03\x04....", "a packed file"),
        (b"\xac\xed\x00\x05sr\x00", "Java serialises"),
        (b"\x80\x04\x95.", "Python's pickle"),
        (b"\x82\xa8order_no\xa2A1\xa3kwh\x12", "perhaps MessagePack"),
        (b"\xa2horder_nobA1ckwh\x12", "perhaps CBOR"),
        (b"\x0a\x02A1\x12\x0a\xe7\xb2\xa4BD12345\x18\xc0\x3e\x21........\x2d....", "perhaps Protobuf"),
        (b"\x0a\x02A1\x18\xc0\x3e", "perhaps Protobuf"),
        (b"\x0a\x02A1\x12\x0b\xe7\xb2\xa4BD12345", "a binary form; only JSON is read"),
        (b"\x0a\x02A1\x07", "a binary form"),
        (b"\x0a\x02A1\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "a binary form"),
        (b"no,plate,kwh\nA1,B12345,18.6", "perhaps separated values"),
        (b"A1\tB12345\t18.6", "perhaps separated values"),
        (b"no: A1\nplate: B12345", "perhaps YAML"),
        (b'09:00:00 INFO pushed {"id": "A1"}', "JSON behind other text"),
        (b'callback({"id": "A1"})', "JSON behind other text"),
        (b'{\\"id\\": \\"A1\\"}', "has lost the quotes around it"),
        ("{“id”: “A1”}".encode(), "not those of JSON"),
        (b"%7B%22id%22%3A%22A1%22%7D", "percent-encoded"),
        (b'b\'{"id": "A1"}\'', "bytes as Python shows them"),
        (b'{"id": "A1", "credit": True}', "a word that JSON does not know"),
        (b'{"id": "A1", "plate": undefined}', "a word that JSON does not know"),
        (b'{"id": "A1", "note": "two\nlines"}', "which the producer has to escape"),
    ],
)
def test_what_is_no_json_is_told_what_it_rather_is(value: bytes, words: str) -> None:
    found = decode(value)

    assert isinstance(found, Refusal)
    assert words in found.detail


@pytest.mark.parametrize(
    ("escaped", "expected"),
    [
        (rb'"A\ud83d"', "A\ufffd"),
        (rb'"\udc00B"', "\ufffdB"),
        (rb'"\ud83d\ud83d\ude00"', "\ufffd\U0001f600"),
        (rb'"\\ud83d"', r"\ud83d"),
        (rb'"\\\ud83d"', "\\\ufffd"),
    ],
)
def test_half_a_surrogate_pair_becomes_a_replacement_character(escaped: bytes, expected: str) -> None:
    assert decode(escaped) == expected


@given(st.binary())
def test_any_bytes_are_an_event_or_a_reason(value: bytes) -> None:
    found = decode(value)

    assert not isinstance(found, Refusal) or found.detail


EVENT = {
    "id": 7,
    "empty": None,
    "cdr_location": {"id": "LOC1"},
    "list": [{"n": 1}, {"n": 2}],
    "usage": [{"type": "TIME", "volume": "1.9"}, {"type": "ENERGY", "volume": "15.3"}],
    "a.b": {"c": True},
    "periods": [
        {"start": "a", "dims": [{"type": "ENERGY", "v": 1}]},
        {"start": "b", "dims": [{"type": "TIME"}, {"type": "PARKING", "v": 3}]},
    ],
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("id", 7),
        ("cdr_location.id", "LOC1"),
        ("cdr_location.name", None),
        ("id.deeper", None),
        ("empty", None),
        ("list[1].n", 2),
        ("list[2].n", None),
        ("list.n", None),
        ("usage[type=ENERGY].volume", "15.3"),
        ("usage[type=POWER].volume", None),
        ("usage[type=POWER|ENERGY].volume", "15.3"),
        ("usage[type=ENERGY,volume=1].volume", None),
        ("usage[type=ENERGY,phase=].volume", "15.3"),
        ("list[-1].n", 2),
        ("list[-3].n", None),
        ("list[*].n", 1),
        ("list[*].m", None),
        ("cdr_location[*].id", "LOC1"),
        ("cdr_location[0].id", "LOC1"),
        ("periods[dims.type=PARKING].start", "b"),
        ("periods[*].dims[type=PARKING|TIME].v", 3),
        ('["a.b"].c', True),
        ("$", EVENT),
        ("$.id", 7),
    ],
)
def test_a_path_leads_to_a_value_or_to_none(path: str, expected: object) -> None:
    assert Path.parse(path).find(EVENT, Event(EVENT)) == expected


def test_a_path_from_the_event_leaves_the_row() -> None:
    event = {"type": "INSERT", "data": [{"type": "row"}]}

    assert Path.parse("$.type").find(event["data"][0], Event(event)) == "INSERT"
    assert Path.parse("type").find(event["data"][0], Event(event)) == "row"


@pytest.mark.parametrize("text", ["", "a..b", "a[", "a[x]", ".a", "a.", "a]b", 'a"b'])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="path"):
        Path.parse(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        ("3", "3"),
        (" 3 ", "3"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (Decimal("1.50"), "1.50"),
        (Decimal("4.0"), "4"),
        (Decimal("-0.0"), "0"),
        (Decimal("9007199254740993.0"), None),
        (Decimal("1E+5"), None),
        (Decimal("1.2345678966500001E+26"), None),
        (Decimal("1E-999999"), None),
        (None, None),
        ("", None),
        ("  ", None),
        ({}, None),
        ([1], None),
    ],
)
def test_scalars_compare_as_text(value: object, text: str | None) -> None:
    assert scalar_text(value) == text
