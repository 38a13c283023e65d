"""The request's form fields."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from consumer.core.coupons import (
    LARGEST_VALUE,
    Account,
    CouponRequest,
    Datum,
    Form,
    MetadataFormat,
    is_free_parameter,
    metadata_fields,
)
from consumer.core.signing import sign

AT = datetime(2026, 11, 25, 12, tzinfo=UTC)
MAIN = Account("main", "op01", "main", "charging")
MINUTES = Datum("minutes", "充电时长", 29)
ENERGY = Datum("energy", "电量", 1119)


def asked(form: Form, *filled: Any) -> CouponRequest:
    return CouponRequest("main", "a rule", None, form.filled(*filled), {})


def test_fields_stand_in_the_documents_order_and_none_is_empty() -> None:
    form = Form(MAIN, "charging", (), {"merchant": "M1", "store_code": ""})

    assert list(asked(form, "S1", "E1", "粤BD12345", "", (), {}).parameters.items()) == [
        ("app_id", "op01"),
        ("api_store_code", "S1"),
        ("api_type", "charging"),
        ("event_id", "E1"),
        ("plate", "粤BD12345"),
        ("merchant", "M1"),
    ]


def test_a_stations_parameter_replaces_the_accounts_and_the_rules_replaces_both() -> None:
    account = replace(MAIN, parameters={"merchant": "account", "store_code": "account", "kept": "account"})
    form = Form(account, "charging", [("minutes", "时长")], {"merchant": "rule", "last": "rule"})
    station = {"own": "station", "merchant": "station", "store_code": "station"}

    with_a_station = asked(form, "S1", "E1", "粤BD12345", "a charge", (29,), station).parameters
    without = asked(form, "S1", "E1", "粤BD12345", "a charge", (30,), {}).parameters

    assert list(with_a_station.items())[5:] == [
        ("subject", "a charge"),
        ("metadata", '{"minutes":{"name":"时长","value":29}}'),
        ("merchant", "rule"),
        ("store_code", "station"),
        ("kept", "account"),
        ("own", "station"),
        ("last", "rule"),
    ]
    assert list(without.items())[6:] == [
        ("metadata", '{"minutes":{"name":"时长","value":30}}'),
        ("merchant", "rule"),
        ("store_code", "account"),
        ("kept", "account"),
        ("last", "rule"),
    ]


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["!$'()*,", "100%", "{}", "%d", "a b", "&=+", "充电 \U0001f697"]
)
FREE = st.dictionaries(
    (NAMES | st.sampled_from(["a", "appz", "m", "Z", "p", "q", "zz"])).filter(is_free_parameter),
    TEXTS,
    max_size=4,
)


@settings(max_examples=300)
@given(
    st.tuples(TEXTS, TEXTS, TEXTS, TEXTS),
    FREE,
    FREE,
    FREE | st.just({}),
    st.dictionaries(NAMES, st.tuples(TEXTS, st.integers(0, LARGEST_VALUE)), max_size=3),
    st.sampled_from(MetadataFormat),
)
def test_a_filled_form_is_signed_and_encoded_like_any_that_has_its_fields(
    filled: tuple[str, str, str, str],
    accounts: dict[str, str],
    own: dict[str, str],
    station: dict[str, str],
    some: dict[str, tuple[str, int]],
    written: MetadataFormat,
) -> None:
    account = replace(MAIN, parameters=accounts, metadata_format=written)
    data = [Datum(key, name, value) for key, (name, value) in some.items()]
    form = Form(account, "a type", [(datum.key, datum.name) for datum in data], own)

    found = asked(form, *filled, tuple(datum.value for datum in data), station)

    store, event_id, plate, subject = filled
    plain = {
        "app_id": "op01",
        "api_store_code": store,
        "api_type": "a type",
        "event_id": event_id,
        "plate": plate,
        "subject": subject,
        **metadata_fields(data, written),
        **accounts,
        **station,
        **own,
    }
    sent = {name: text for name, text in plain.items() if text}
    signed = sent | {"sign": sign(sent, "S 充")}
    assert [*found.parameters.items()] == [*sent.items()]
    assert found.api_store_code == sent.get("api_store_code")
    assert found.encoded(AT, "S 充") == urlencode(signed).encode()


@pytest.mark.parametrize("mark", "!$'()*,")
def test_each_mark_in_what_an_order_fills_is_escaped(mark: str) -> None:
    request = asked(Form(MAIN, "charging", (), {}), "S1", "E1", "粤BD12345", f"a{mark}", (), {})

    assert f"subject=a%{ord(mark):02X}&".encode() in request.encoded(AT, "S")


def test_half_a_surrogate_pair_in_an_accounts_parameter_is_never_sent() -> None:
    form = Form(replace(MAIN, parameters={"merchant": "a\ud83d"}), "charging", (), {"\ud83d": "b"})

    with pytest.raises(UnicodeEncodeError):
        asked(form, "S1", "E1", "粤BD12345", "x", (), {}).encoded(AT, "S")


@given(st.dictionaries(NAMES, st.tuples(NAMES, st.integers(0, LARGEST_VALUE)), min_size=1, max_size=4))
def test_the_metadatas_text_is_that_of_a_json_library(some: dict[str, tuple[str, int]]) -> None:
    (text,) = metadata_fields(
        [Datum(key, name, value) for key, (name, value) in some.items()], MetadataFormat.JSON
    ).values()

    assert text.encode() == orjson.dumps(
        {key: {"name": name, "value": value} for key, (name, value) in some.items()}
    )


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
    telling = structs.replace(silent, timestamped=True)

    assert silent.sent(at) == {"app_id": "op01"}
    assert telling.sent(at) == {"app_id": "op01", "timestamp": "1795593600001"}
