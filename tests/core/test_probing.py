"""What the platform's replies say of the form of `metadata`."""

import json
from datetime import UTC, datetime

import pytest

from consumer.core.coupons import CouponRequest, Datum, MetadataFormat
from consumer.core.probing import Says, form_accepted, in_form, meaning_of
from consumer.core.replies import Answered, AttemptEnd, NoAnswer, NotSent, ReplyTable

JSON, DOTTED, BRACKETED = MetadataFormat
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def answer(code: str, message: str = "", hint: str = "", status: int = 200) -> Answered:
    return Answered(status, json.dumps({"code": code, "message": message, "hint": hint}).encode())


@pytest.mark.parametrize(
    ("end", "says"),
    [
        (answer("1001"), Says.ACCEPTED),
        (answer("1405"), Says.ACCEPTED),
        (answer("1002"), Says.PASSED),
        (answer("1403"), Says.PASSED),
        (answer("1500", "没有匹配到停车记录"), Says.PASSED),
        (answer("400", "请求参数错误", "`metadata` Malformed!", 400), Says.REFUSED),
        (answer("400", "请求参数错误", "", 400), Says.REFUSED),
        (answer("1401"), Says.UNCLEAR),
        (answer("1500", "内部错误"), Says.UNCLEAR),
        (answer("401", "签名验证不通过", "签名验证不通过[plate=...]", 401), Says.UNCLEAR),
        (answer("200", "签名", "签名验证不通过[plate=...]"), Says.UNCLEAR),
        (answer("400", "请求参数错误", "`merchant` Required!", 400), Says.NOTHING),
        (answer("401", "未授权", "app blocked", 401), Says.NOTHING),
        (answer("403", status=403), Says.NOTHING),
        (answer("1003"), Says.NOTHING),
        (answer("1402"), Says.NOTHING),
        (answer("429", status=429), Says.NOTHING),
        (answer("503", status=503), Says.NOTHING),
        (answer("1999"), Says.NOTHING),
        (Answered(302, b""), Says.NOTHING),
        (Answered(502, b"<html>"), Says.NOTHING),
        (Answered(200, b""), Says.NOTHING),
        (NotSent("ClientConnectorError"), Says.NOTHING),
        (NoAnswer("timeout"), Says.NOTHING),
        (NoAnswer("reset: closed"), Says.NOTHING),
    ],
)
def test_only_what_is_about_the_form_leads_to_another_one(end: AttemptEnd, says: Says) -> None:
    meaning = meaning_of(ReplyTable.defaults().classify(end, NOW))

    assert meaning.says is says
    assert meaning.ends_it == (says in {Says.ACCEPTED, Says.NOTHING})
    assert meaning.text.endswith((".", "form."))


@pytest.mark.parametrize("end", [NoAnswer("timeout"), Answered(200, b"{"), Answered(504, b"")])
def test_after_a_call_of_unknown_end_the_same_event_id_is_advised(end: AttemptEnd) -> None:
    assert "same --event-id" in meaning_of(ReplyTable.defaults().classify(end, NOW)).remedy


@pytest.mark.parametrize(
    ("said", "accepted"),
    [
        ([(JSON, Says.ACCEPTED)], JSON),
        ([(JSON, Says.REFUSED), (DOTTED, Says.ACCEPTED)], DOTTED),
        ([(JSON, Says.UNCLEAR), (DOTTED, Says.PASSED), (BRACKETED, Says.ACCEPTED)], BRACKETED),
        ([(JSON, Says.REFUSED), (DOTTED, Says.PASSED), (BRACKETED, Says.REFUSED)], DOTTED),
        ([(JSON, Says.PASSED), (DOTTED, Says.PASSED), (BRACKETED, Says.REFUSED)], None),
        ([(JSON, Says.PASSED), (DOTTED, Says.UNCLEAR), (BRACKETED, Says.REFUSED)], None),
        ([(JSON, Says.PASSED)], None),
        ([(JSON, Says.REFUSED), (DOTTED, Says.REFUSED), (BRACKETED, Says.REFUSED)], None),
        ([(JSON, Says.NOTHING)], None),
    ],
)
def test_a_form_is_named_only_where_the_replies_tell_it(
    said: list[tuple[MetadataFormat, Says]], accepted: MetadataFormat | None
) -> None:
    assert form_accepted(said) is accepted


def test_forms_differ_in_their_metadata_only() -> None:
    fields = {"app_id": "1", "subject": "s", "metadata.old.value": "1", "merchant": "m"}
    request = CouponRequest("main", "rule", None, fields, {})
    data = (Datum("m", "时长", 3),)

    made = {form: in_form(request, data, form).parameters for form in MetadataFormat}

    assert list(made[JSON].items()) == [
        ("app_id", "1"),
        ("subject", "s"),
        ("metadata", '{"m":{"name":"时长","value":3}}'),
        ("merchant", "m"),
    ]
    assert made[DOTTED] == {
        "app_id": "1",
        "subject": "s",
        "metadata.m.name": "时长",
        "metadata.m.value": "3",
        "merchant": "m",
    }
    assert made[BRACKETED].keys() == {
        "app_id",
        "subject",
        "metadata[m].name",
        "metadata[m].value",
        "merchant",
    }
