"""Text with placeholders."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from consumer.core.events import Value
from consumer.core.templates import FieldText, Template, TemplateError, text_of

BEIJING = timezone(timedelta(hours=8))


def fill(text: str, **values: Value) -> str:
    template = Template.parse(text)
    filled, missing = template.fill(lambda name: text_of(values, name))
    assert missing is None
    assert FieldText(template).of(values) == filled
    return filled


def test_the_documents_own_subject_comes_out() -> None:
    subject = fill(
        "【{plate}】于【{started_at} - {ended_at}】充电 {energy_kwh} KWH 时长 {minutes} 分钟",
        plate="粤BD07627",
        started_at=datetime(2020, 9, 8, 17, 15, 58, tzinfo=BEIJING),
        ended_at=datetime(2020, 9, 8, 17, 45, 26, tzinfo=BEIJING),
        energy_wh=1119620,
        minutes=29,
    )

    assert (
        subject == "【粤BD07627】于【2020-09-08 17:15:58 - 2020-09-08 17:45:26】充电 1119.62 KWH 时长 29 分钟"
    )


@pytest.mark.parametrize(
    ("values", "name", "text"),
    [
        ({"energy_wh": 5000}, "energy_kwh", "5"),
        ({"energy_wh": 83}, "energy_kwh", "0.083"),
        ({"energy_wh": 0}, "energy_kwh", "0"),
        ({"energy_wh": -6400}, "energy_kwh", "-6.4"),
        ({"fee_fen": 3003}, "fee_yuan", "30.03"),
        ({"fee_fen": 5}, "fee_yuan", "0.05"),
        ({"seconds": 7102}, "hours", "1.97"),
        ({}, "energy_kwh", None),
        ({"flag": True}, "flag", "true"),
        ({"price": Decimal("1.50")}, "price", "1.5"),
        ({"price": Decimal("1E+3")}, "price", "1000"),
        ({"at": datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)}, "at", "2026-01-02 03:04:05"),
        ({}, "nothing", None),
    ],
)
def test_values_read_as_people_write_them(values: dict[str, Value], name: str, text: str | None) -> None:
    assert text_of(values, name) == text


AMOUNTS = st.one_of(st.integers(-10_000, 10_000), st.integers(-(2**53), 2**53))


@given(AMOUNTS)
@example(18)  # half a hundredth of an hour
@example(54)
@example(-1)
def test_amounts_in_units_of_people_are_exact_decimals(amount: int) -> None:
    values: dict[str, Value] = {"energy_wh": amount, "fee_fen": amount, "seconds": amount}
    hours = (Decimal(amount) / 3600).quantize(Decimal("0.01"))

    assert text_of(values, "energy_kwh") == plain(Decimal(amount).scaleb(-3))
    assert text_of(values, "fee_yuan") == f"{Decimal(amount).scaleb(-2):.2f}"
    assert text_of(values, "hours") == plain(hours)


def plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@given(st.datetimes(timezones=st.timezones()))
def test_a_time_is_shown_to_the_second_by_its_own_clock(moment: datetime) -> None:
    shown = moment.strftime("%Y-%m-%d %H:%M:%S") if moment.year > 999 else moment.isoformat(" ", "seconds")

    assert text_of({"at": moment}, "at") == shown


def test_doubled_braces_are_braces() -> None:
    assert fill("{{{a}}} {{}}", a="x") == "{x} {}"


def test_the_first_name_without_a_value_is_told() -> None:
    template = Template.parse("{a}{b}{c}")
    _, missing = template.fill(lambda name: "x" if name == "a" else None)

    assert missing == "b"
    assert FieldText(template).of({"a": "x"}) is None
    assert FieldText(template).missing({"a": "x"}) == "b"


@pytest.mark.parametrize("text", ["{", "}", "{a", "a}", "{}", "{a{b}}"])
def test_a_brace_without_its_mate_is_refused(text: str) -> None:
    with pytest.raises(TemplateError, match="character"):
        Template.parse(text)
