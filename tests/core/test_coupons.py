"""The request's form fields."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from consumer.core.coupons import Account, CouponRequest, Datum, MetadataFormat, metadata_fields, parameters

MAIN = Account("main", "op01", "main", "charging")
MINUTES = Datum("minutes", "充电时长", 29)
ENERGY = Datum("energy", "电量", 1119)


def test_fields_stand_in_the_documents_order_and_none_is_empty() -> None:
    form = parameters(
        MAIN,
        api_type="charging",
        api_store_code="S1",
        event_id="E1",
        plate="粤BD12345",
        subject="",
        metadata=(),
        static={"merchant": "M1", "store_code": ""},
    )

    assert list(form.items()) == [
        ("app_id", "op01"),
        ("api_store_code", "S1"),
        ("api_type", "charging"),
        ("event_id", "E1"),
        ("plate", "粤BD12345"),
        ("merchant", "M1"),
    ]


def test_metadata_is_one_compact_text_in_the_rules_order() -> None:
    assert metadata_fields((MINUTES, ENERGY), MetadataFormat.JSON) == {
        "metadata": '{"minutes":{"name":"充电时长","value":29},"energy":{"name":"电量","value":1119}}'
    }


def test_metadata_that_needs_escapes_is_still_json() -> None:
    (text,) = metadata_fields((Datum('a"b', "x\\y\n", 1),), MetadataFormat.JSON).values()

    assert json.loads(text) == {'a"b': {"name": "x\\y\n", "value": 1}}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (MetadataFormat.DOTTED, {"metadata.minutes.name": "充电时长", "metadata.minutes.value": "29"}),
        (MetadataFormat.BRACKETED, {"metadata[minutes].name": "充电时长", "metadata[minutes].value": "29"}),
    ],
)
def test_metadata_can_be_one_field_for_each_part(written: MetadataFormat, expected: dict[str, str]) -> None:
    assert metadata_fields((MINUTES,), written) == expected


@pytest.mark.parametrize("written", MetadataFormat)
def test_no_metadata_is_no_field(written: MetadataFormat) -> None:
    assert metadata_fields((), written) == {}


def test_a_request_tells_when_it_was_sent_where_its_account_says_so() -> None:
    at = datetime(2026, 11, 25, 8, 0, 0, 1000, UTC)
    silent = CouponRequest("main", "rule", None, {"app_id": "op01"}, {})

    assert silent.sent(at) == {"app_id": "op01"}
    assert replace(silent, timestamped=True).sent(at) == {"app_id": "op01", "timestamp": "1795593600001"}
