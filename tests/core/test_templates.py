"""Text with placeholders."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from consumer.core.events import Value
from consumer.core.templates import Template, TemplateError, text_of

BEIJING = timezone(timedelta(hours=8))


def fill(text: str, **values: Value) -> str:
    filled, missing = Template.parse(text).fill(lambda name: text_of(values, name))
    assert missing is None
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


def test_doubled_braces_are_braces() -> None:
    assert fill("{{{a}}} {{}}", a="x") == "{x} {}"


def test_the_first_name_without_a_value_is_told() -> None:
    _, missing = Template.parse("{a}{b}{c}").fill(lambda name: "x" if name == "a" else None)

    assert missing == "b"


@pytest.mark.parametrize("text", ["{", "}", "{a", "a}", "{}", "{a{b}}"])
def test_a_brace_without_its_mate_is_refused(text: str) -> None:
    with pytest.raises(TemplateError, match="character"):
        Template.parse(text)
