"""Forms as the platform's document wants them: what is in order, and what is refused with which hint."""

import json
import re
from urllib.parse import quote, quote_plus, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.sandbox.verify import Form, _decode, expected_sign, read_form

SECRETS = {"op1": "s3cret"}
FORM = "application/x-www-form-urlencoded; charset=utf-8"


def _parameters(**more: str) -> dict[str, str]:
    return {
        "app_id": "op1",
        "api_store_code": "S1",
        "api_type": "CHARGING",
        "event_id": "E1",
        "plate": "粤B12345",
        "subject": "充电",
    } | more


def _post(fields: dict[str, str], content_type: str = FORM) -> Form:
    body = "&".join(f"{quote(name)}={quote_plus(value)}" for name, value in fields.items())
    return read_form(content_type, body.encode(), SECRETS)


def _signed(**more: str) -> Form:
    parameters = _parameters(**more)
    return _post(parameters | {"sign": expected_sign(parameters, "s3cret")})


def _hint(form: Form) -> str:
    assert form.refused is not None
    assert form.refused.code == "400"
    return form.refused.hint


# Published by the vendor (4pyun-doc: mcoupon-grant, README, trade-prepare).
VECTORS = [
    (
        "e9ae5402dbabc68c1c4xxxx",
        {
            "app_id": "op74061a7d244f7b7",
            "coupon_code": "7cb7cc3e4e27b8a",
            "merchant": "62626601",
            "plate": "粤BA1471",
            "quantity": "1",
            "reason": "测试派发",
            "store_code": "4911419421",
        },
        "756E3F88FBDB2B82E0A6C37C5EE060E5",
    ),
    (
        "XXX",
        {
            "app_id": "op88641899bd20661",
            "car_type": "1",
            "enter_time": "1563242533431",
            "park_uuid": "40e06b24-7320-4a61-8d97-7ebccb364a87",
            "plate": "粤B660PP",
            "sign_type": "MD5",
            "timestamp": "1563242932357",
        },
        "C983693C5F603AEF30514920FA3158FF",
    ),
]


@pytest.mark.parametrize(("secret", "parameters", "sign"), VECTORS)
def test_the_published_signatures_are_expected(secret: str, parameters: dict[str, str], sign: str) -> None:
    assert expected_sign(parameters, secret) == sign


def test_a_signed_form_is_in_order() -> None:
    form = _signed()

    assert form.refused is None
    assert form.parameters == _parameters()


def test_a_signature_may_be_lower_case() -> None:
    parameters = _parameters()

    form = _post(parameters | {"sign": expected_sign(parameters, "s3cret").lower()})

    assert form.refused is None


def test_signs_of_urls_in_a_subject_are_signed_raw() -> None:
    assert _signed(subject="充电 减免+1% &=~*").refused is None


@pytest.mark.parametrize(
    "name", ["app_id", "api_store_code", "api_type", "event_id", "plate", "subject", "sign"]
)
def test_a_required_field_is_named_when_it_is_missing_or_empty(name: str) -> None:
    fields = _parameters() | {"sign": "0" * 32}

    assert _hint(_post({key: value for key, value in fields.items() if key != name})) == f"`{name}` Required!"
    assert _hint(_post(fields | {name: ""})) == f"`{name}` Required!"


def test_an_unknown_app_is_refused_like_a_bad_signature() -> None:
    form = _signed(app_id="op2")

    assert form.refused is not None
    assert (form.refused.code, form.refused.message) == ("401", "未知应用")


@pytest.mark.parametrize("name", ["plate", "subject", "event_id"])
def test_a_field_changed_after_signing_breaks_the_signature(name: str) -> None:
    parameters = _parameters()
    sign = expected_sign(parameters, "s3cret")

    form = _post(parameters | {name: "other", "sign": sign})

    assert form.refused is not None
    assert form.refused.code == "401"
    assert form.refused.hint.startswith("签名验证不通过[api_store_code=S1&")
    assert "s3cret" not in form.refused.hint


def test_an_optional_field_is_not_sent_empty() -> None:
    assert _hint(_signed(merchant="")) == "`merchant` Empty! leave it out"


def test_the_secret_is_not_sent() -> None:
    assert _hint(_signed(app_secret="s3cret")) == "`app_secret` must not be sent!"


@pytest.mark.parametrize("content_type", ["application/json", "", "multipart/form-data; boundary=x"])
def test_only_forms_are_read(content_type: str) -> None:
    assert "Content-Type" in _hint(_post(_parameters(), content_type))


def test_only_utf8_is_read() -> None:
    assert _hint(_post(_parameters(), "application/x-www-form-urlencoded; charset=GBK")) == (
        "charset must be utf-8!"
    )


@pytest.mark.parametrize("body", [b"plate=%E7%B2", b"plate=%ZZ", b"plate", b"plate=1&&event_id=2"])
def test_a_body_that_was_encoded_wrongly_is_refused(body: bytes) -> None:
    assert "Malformed!" in _hint(read_form(FORM, body, SECRETS))


def test_a_field_sent_twice_is_refused() -> None:
    assert _hint(read_form(FORM, b"plate=1&plate=2", SECRETS)) == "`plate` Repeated!"


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize(
    "more",
    [
        {"metadata": _compact({"minutes": {"name": "充电时长", "value": 29}})},
        {"metadata[minutes].name": "充电时长", "metadata[minutes].value": "29"},
        {"metadata.minutes.name": "充电时长", "metadata.minutes.value": "-29"},
    ],
)
def test_metadata_is_taken_in_each_of_its_forms(more: dict[str, str]) -> None:
    assert _signed(**more).refused is None


@pytest.mark.parametrize(
    ("more", "hint"),
    [
        ({"metadata": "{"}, "not JSON"),
        ({"metadata": "[1]"}, "not a map"),
        ({"metadata": '{"a": {"name": "b", "value": 1}}'}, "not compact JSON"),
        ({"metadata": '{"a":{"name":"\\u5145","value":1}}'}, "not compact JSON"),
        ({"metadata": _compact({"a": 1})}, "a needs name and value"),
        ({"metadata": _compact({"a": {"name": "", "value": 1}})}, "name of a"),
        ({"metadata": _compact({"a": {"name": "b", "value": 1.5}})}, "value of a is no int32"),
        ({"metadata": _compact({"a": {"name": "b", "value": True}})}, "value of a is no int32"),
        ({"metadata": _compact({"a": {"name": "b", "value": 2147483648}})}, "value of a is no int32"),
        ({"metadata[a].name": "b", "metadata[a].value": "1.5"}, "value of a is no int32"),
        ({"metadata[a].name": "b"}, "a needs name and value"),
        ({"metadata": "{}", "metadata.a.name": "b", "metadata.a.value": "1"}, "sent in two forms"),
    ],
)
def test_metadata_of_another_shape_is_refused(more: dict[str, str], hint: str) -> None:
    assert hint in _hint(_signed(**more))


def _decoded_plainly(part: bytes) -> str | None:
    if re.search(rb"%(?![0-9A-Fa-f]{2})", part):
        return None
    try:
        return unquote_to_bytes(part.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        return None


@given(st.text().map(lambda text: quote_plus(text).encode()))
def test_what_a_browser_encodes_is_decoded(part: bytes) -> None:
    assert _decode(part) == _decoded_plainly(part)


@given(
    st.lists(
        st.sampled_from([b"%", b"=", b"4", b"a", b"F", b"+", b"\r", b"\n", b" ", b"%E5%85%85", b"%0a", b"x"])
    )
)
def test_what_nobody_encodes_is_decoded_to_the_letter_or_refused(parts: list[bytes]) -> None:
    part = b"".join(parts)
    decoded: str | None
    try:
        decoded = _decode(part)
    except ValueError:
        decoded = None

    assert decoded == _decoded_plainly(part)
