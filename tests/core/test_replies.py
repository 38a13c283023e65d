"""The reply table over every sample, every HTTP status, and what the platform may say beside them."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from consumer.core import replies
from consumer.core.events import GatewayWords
from consumer.core.outcomes import Outcome
from consumer.core.replies import (
    NO_PARKING_RECORD,
    SIGNATURE_REFUSED,
    Answered,
    NoAnswer,
    NotSent,
    ReplyRow,
    ReplyTable,
    Then,
    is_row_name,
    plainly_read,
    redact,
)

SAMPLES = Path(__file__).parent.parent / "samples" / "replies"
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
TABLE = ReplyTable.defaults()


def answer(status: int = 200, retry_after: str | None = None, **body: Any) -> Answered:
    return Answered(status, json.dumps(body, ensure_ascii=False).encode(), retry_after)


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_every_sample_is_understood_as_it_says(path: Path) -> None:
    sample = json.loads(path.read_text("utf-8"))
    body = sample.pop("text") if "text" in sample else json.dumps(sample.pop("json"), ensure_ascii=False)
    headers = sample.pop("headers", {})
    expected = {"ambiguous": False, "retry_after": None, **sample.pop("reply")}
    words = sample.pop("words", None)

    reply = TABLE.classify(Answered(sample.pop("status"), body.encode(), headers.get("Retry-After")), NOW)

    got = structs.asdict(reply)
    assert words is None or GatewayWords(**words) == reply.words
    assert expected == {name: got[name] for name in expected}
    assert sample == {}, "a sample with a mistyped key proves nothing"


def test_every_row_of_the_table_has_a_sample() -> None:
    labels = {json.loads(path.read_text("utf-8"))["reply"]["label"] for path in SAMPLES.glob("*.json")}

    assert set(TABLE.rows) - {"connect", "timeout", "reset"} == labels


@pytest.mark.parametrize("status", range(100, 600))
def test_every_status_with_an_empty_body_is_trouble_a_refusal_or_a_stop(status: int) -> None:
    reply = TABLE.classify(Answered(status, b""), NOW)

    if status == 400:
        assert (reply.label, reply.outcome, reply.then) == ("400", Outcome.REJECTED, Then.FINAL)
    elif status in {401, 403} or 300 <= status < 400:
        assert Then.STOP is reply.then
    else:
        assert (reply.outcome, reply.then) == (Outcome.PLATFORM_FAILED, Then.NOW_THEN_LATER)
    assert status == reply.words.http_status
    assert reply.label in TABLE.rows


@pytest.mark.parametrize("status", [*range(100), *range(600, 1000)])
def test_a_status_of_no_class_that_there_is_counts_as_5xx(status: int) -> None:
    """RFC 9110, 15."""
    table = TABLE.with_rows({"5xx": ReplyRow(Outcome.LIMITED, Then.FINAL)})

    reply = table.classify(Answered(status, b""), NOW)

    assert (reply.label, reply.outcome, reply.words.http_status) == ("5xx", Outcome.LIMITED, status)
    assert not reply.ambiguous
    assert table.classify(answer(status, code="1001"), NOW).label == "1001"


def test_a_request_that_was_not_sent_cannot_have_granted() -> None:
    reply = TABLE.classify(NotSent("refused"), NOW)

    assert (reply.label, reply.then, reply.ambiguous) == ("connect", Then.NOW_THEN_LATER, False)
    assert reply.error == "refused"
    assert GatewayWords() == reply.words


@pytest.mark.parametrize(
    ("error", "label"), [("timeout", "timeout"), ("reset: by peer", "reset"), ("anything", "reset")]
)
def test_a_call_without_an_answer_may_have_granted(error: str, label: str) -> None:
    reply = TABLE.classify(NoAnswer(error), NOW)

    assert (label, Outcome.PLATFORM_FAILED, True) == (reply.label, reply.outcome, reply.ambiguous)


@pytest.mark.parametrize("code", ["500", "503", "1402", "1405", "1500", "429"])
def test_an_answered_failure_is_not_ambiguous(code: str) -> None:
    assert not TABLE.classify(answer(500, code=code), NOW).ambiguous


@pytest.mark.parametrize("code", [1001, 1001.0, "1001", " 1001 "])
def test_a_code_is_read_as_number_or_text(code: object) -> None:
    assert TABLE.classify(answer(code=code), NOW).label == "1001"


def test_another_message_under_1500_stays_1500() -> None:
    assert TABLE.classify(answer(code="1500", message="数据库错误"), NOW).label == "1500"


def test_bytes_that_are_no_utf8_spoil_a_message_and_not_the_code() -> None:
    reply = TABLE.classify(Answered(200, b'{"code":"1001","message":"\xb2\xd9\xd7\xf7"}'), NOW)

    assert reply.label == "1001"


def test_a_lone_surrogate_does_not_reach_the_outcome() -> None:
    reply = TABLE.classify(Answered(200, b'{"code":"1001","message":"\\ud800","seqno":"\\udfff"}'), NOW)

    assert (reply.words.message, reply.words.seqno) == ("?", "?")


@pytest.mark.parametrize("number", ["9" * 5000, "NaN", "Infinity", "1e400", "-0.5"])
def test_absurd_numbers_are_no_code(number: str) -> None:
    assert TABLE.classify(Answered(200, f'{{"code":{number}}}'.encode()), NOW).label in {"no_json", "other"}


@given(st.integers(100, 599), st.binary(max_size=60), st.text(max_size=20))
def test_any_bytes_and_any_header_end_in_a_row(status: int, body: bytes, header: str) -> None:
    reply = TABLE.classify(Answered(status, body, header), NOW)

    assert reply.label in TABLE.rows


WORDS = st.sampled_from(
    [
        "",
        " ",
        "操作成功",
        "操作成功 ",
        "\u3000",
        "粤A12345",
        "余额不足：9元",
        "S1",
        " S1",
        "G" * 129,
        "车" * 301,
        "1001",
    ]
)
VALUES = WORDS | st.none() | st.booleans() | st.integers() | st.sampled_from([18, 0, 10**15, 1.0, 18.5, 1e99])
PLACES = st.dictionaries(st.sampled_from(["seqno", "data_node", "grant_serial", "enter_time"]), VALUES)
BODIES = st.builds(
    lambda code, beside, payload, words: {"code": code, **beside, **payload, **words},
    st.sampled_from(
        ["1001", "1003", "1403", "1500", "200", "401", "503", "7", " 1001", 1001, 1001.0, None, ""]
    ),
    PLACES,
    st.just({}) | st.fixed_dictionaries({"payload": PLACES | VALUES | st.lists(VALUES)}),
    st.dictionaries(
        st.sampled_from(["message", "hint", "time_cost", "path"]),
        VALUES | st.sampled_from([NO_PARKING_RECORD, SIGNATURE_REFUSED]),
    ),
)


@given(BODIES, st.sampled_from([200, 200, 500, 302]), st.none() | st.sampled_from(["", "3"]), st.booleans())
def test_what_is_seen_at_a_glance_is_what_reading_it_plainly_says(
    body: dict[str, Any], status: int, retry_after: str | None, ascii_only: bool
) -> None:
    end = Answered(status, json.dumps(body, ensure_ascii=ascii_only).encode(), retry_after)

    for table in (TABLE, TABLE.with_rows({"7": TABLE.rows["1002"], "1001": TABLE.rows["1500"]})):
        assert repr(table.classify(end, NOW)) == repr(table.classify_plainly(end, NOW))


def test_the_ordinary_reply_is_seen_at_a_glance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReplyTable, "classify_plainly", None)
    for sample in ("1001-granted", "1003-limited", "1401-not-configured", "1403-duplicate"):
        (path,) = SAMPLES.glob(f"{sample}*.json")
        body = json.dumps(json.loads(path.read_text("utf-8"))["json"], ensure_ascii=False)

        assert TABLE.classify(Answered(200, body.encode()), NOW).label == sample[:4]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_any_value_in_any_field_ends_in_a_row(value: object) -> None:
    names = ["code", "message", "hint", "seqno", "data_node", "time_cost", "payload", "enter_time"]
    for name in names:
        body = {"code": "1001", **dict.fromkeys([name], value)}
        reply = TABLE.classify(Answered(200, json.dumps(body).encode()), NOW)

        assert reply.label in TABLE.rows
        json.dumps(structs.asdict(reply.words), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("Wed, 25 Nov 2026 12:00:30 GMT", 30.0),
        ("Wed, 25 Nov 2026 12:00:30", 30.0),
        ("Wed, 25 Nov 2026 11:00:00 GMT", 0.0),
        ("-5", None),
        ("nan", None),
        ("soon", None),
        ("", None),
        ("٣", None),
        (None, None),
        ("Wed, 99 Nov 2026 12:00:30 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(header: str | None, seconds: float | None) -> None:
    assert seconds == TABLE.classify(Answered(503, b"", header), NOW).retry_after


@pytest.mark.parametrize("header", ["9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_an_absurd_retry_after_is_passed_on_for_the_policy_to_cap(header: str) -> None:
    retry_after = TABLE.classify(Answered(503, b"", header), NOW).retry_after

    assert retry_after is not None
    assert retry_after > timedelta(days=1000).total_seconds()


def test_a_configured_code_gets_its_own_label_and_outcome() -> None:
    table = TABLE.with_rows({"9999": ReplyRow(Outcome.LIMITED, Then.FINAL)})

    assert (
        table.classify(answer(code="9999"), NOW).label,
        table.rows["9999"].outcome,
    ) == ("9999", Outcome.LIMITED)
    assert TABLE.classify(answer(code="9999"), NOW).label == "other", "the table itself does not change"


def test_a_configured_status_decides_where_there_is_no_code() -> None:
    table = TABLE.with_rows({"404": replace(TABLE.rows["3xx"])})

    assert table.classify(Answered(404, b""), NOW).then is Then.STOP
    assert table.classify(answer(404, code="1001"), NOW).label == "1001"


def test_a_row_that_means_a_missing_row_is_refused_with_a_remedy() -> None:
    row = ReplyRow(Outcome.UNKNOWN, Then.FINAL, messages={"x": "7777"})

    with pytest.raises(ValueError, match=r"replies\.9998: means '7777', which has no row; add replies\.7777"):
        TABLE.with_rows({"9998": row})


def test_a_row_needs_a_name_that_can_be_a_label() -> None:
    assert is_row_name("5xx")
    with pytest.raises(ValueError, match="not a code"):
        TABLE.with_rows({"没有": TABLE.rows["other"]})


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("plate=粤BA1471&x=1", "plate=***&x=1"),
        ("plate=%E7%B2%A4BA1471&x=1", "plate=***&x=1"),
        ("plate = 粤B A1471，不正确", "plate = ***，不正确"),
        ('{"plate":"测试车","x":1}', '{"plate":"***","x":1}'),
        ("车辆粤B·D07627未入场", "车辆粤B***未入场"),
        ("车辆粤bd07627未入场", "车辆粤b***未入场"),
        ("粤Ｂ１２３４５", "粤Ｂ***"),
        ("川A1234挂", "川A***"),
        ("subject=%E3%80%90%E7%B2%A4BD07627%E3%80%91", "subject=%E3%80%90%E7%B2%A4B***%E3%80%91"),
        ("app_secret=short]", "app_secret=***]"),
        ("secret: e9ae5402dbabc68c1c4xxxx", "secret: ***"),
        ("expected 756E3F88FBDB2B82E0A6C37C5EE060E5", "expected ***"),
        ("`merchant` Required!", "`merchant` Required!"),
        ("没有匹配到停车记录", "没有匹配到停车记录"),
    ],
)
def test_plates_secrets_and_signatures_are_masked(said: str, written: str) -> None:
    assert written == redact(said)


def test_what_the_platform_says_is_bounded() -> None:
    assert len(redact("很长 " * 10_000)) == 300


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False).map(float) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


HEEDED = st.sampled_from([*replies._Envelope.__struct_fields__, "something else"])
INNER = st.dictionaries(HEEDED, JSON, max_size=4)


@given(st.dictionaries(HEEDED, JSON | INNER), st.binary(max_size=2))
def test_a_reply_is_read_fast_as_it_is_read_plainly(envelope: dict[str, Any], odd: bytes) -> None:
    whole = json.dumps(envelope, ensure_ascii=False).encode("utf-8", "surrogatepass")

    for body in (
        whole,
        odd + whole,
        whole[:-1] + odd + b"}",
        whole.replace(b"1", b"1.0"),
        b"\xef\xbb\xbf" + whole,
    ):
        assert replies._envelope(body) == plainly_read(body)


@pytest.mark.parametrize(
    "pattern", [replies._PLATE, replies._NAMED, replies._HEX], ids=lambda each: each.pattern[:9]
)
@given(data=st.data())
def test_what_has_neither_letter_nor_digit_has_nothing_to_hide(
    pattern: re.Pattern[str], data: st.DataObject
) -> None:
    hidden = data.draw(st.from_regex(pattern))

    assert replies._LETTER_OR_DIGIT.search(hidden)
