"""Number plates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.plates import is_doubtful, mask, normalise


@pytest.mark.parametrize(
    ("text", "plate"),
    [
        ("粤B12345", "粤B12345"),
        ("川A·D01234", "川AD01234"),
        ("川A•D01234", "川AD01234"),
        ("川A・D01234", "川AD01234"),
        ("川A.D01234", "川AD01234"),
        (" 粤b d-12345 ", "粤BD12345"),
        ("沪Ａ Ｄ１２３４５", "沪AD12345"),
        ("ABC-1234", "ABC1234"),
        ("粤BOI123", "粤BOI123"),
        ("蓝粤B12345", "粤B12345"),
        ("粤BD12345（绿）", "粤BD12345"),
        ("新能源-黑A12345D", "黑A12345D"),
        ("粤B12345黑牌", "粤B12345"),
        ("黑粤B12345", "黑粤B12345"),
        ("绿粤BD123", "绿粤BD123"),
        ("·-", ""),
    ],
)
def test_every_spelling_becomes_one(text: str, plate: str) -> None:
    assert normalise(text) == plate


@given(st.text())
def test_what_is_normalised_stays_as_it_is(text: str) -> None:
    once = normalise(text)

    assert normalise(once) == once


@pytest.mark.parametrize(
    "plate",
    [
        "粤B12345",
        "粤B1234学",
        "粤Z1234港",
        "京A1234警",
        "粤BD12345",
        "粤BF12345",
        "粤BA12345",
        "粤BK12345",
        "粤B12345D",
        "粤B12345G",
        "使014578",
        "014578使",
        "WJ粤1234X",
        "京X1234应急",
    ],
)
def test_ordinary_and_new_energy_plates_are_plausible(plate: str) -> None:
    assert not is_doubtful(plate)


@pytest.mark.parametrize(
    "plate",
    [
        "川A660N11",
        "粤TXXXXX0",
        "无A123456",
        "ABC1234",
        "粤BOI123",
        "娌狝D12345",
        "粤B1234",
        "粤BL12345",
        "粤b12345",
    ],
)
def test_odd_plates_are_doubtful(plate: str) -> None:
    assert is_doubtful(plate)


@pytest.mark.parametrize(
    ("plate", "shown"), [("粤BD12345", "粤B*****5"), ("粤B12345", "粤B****5"), ("ABCD", "****"), ("", "")]
)
def test_a_masked_plate_shows_where_it_is_from_and_its_end(plate: str, shown: str) -> None:
    assert mask(plate) == shown
