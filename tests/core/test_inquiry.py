"""What became of orders, as it is asked for: what is kept of many, and what is never shown."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from consumer.core.inquiry import Findings, Inquiry, is_outcome, masked

AT = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


def outcome(number: int, **fields: Any) -> dict[str, Any]:
    """One of many, a second after the one before."""
    at = AT + timedelta(seconds=number)
    return {"outcome_id": f"o/{number}", "outcome": "limited", "decided_at": at.isoformat(), **fields}


def test_of_very_many_the_latest_are_kept_and_all_are_counted() -> None:
    findings = Findings(Inquiry(), rows=2)
    for number in [*range(1500, 5000), *range(1500)]:
        findings.add(outcome(number))

    assert [each["outcome_id"] for each in findings.outcomes] == ["o/4998", "o/4999"]
    assert (findings.read, findings.counts) == (5000, {"limited": 5000})


@pytest.mark.parametrize("rows", [0, 1, 2, None])
def test_no_more_are_shown_than_asked_for(rows: int | None) -> None:
    findings = Findings(Inquiry(), rows)
    for number in range(2):
        findings.add(outcome(number))

    assert len(findings.outcomes) == (2 if rows is None else rows)


def test_a_repetition_that_is_no_longer_meant_takes_back_what_was_before() -> None:
    findings = Findings(Inquiry(outcomes=frozenset({"limited"})), rows=5)
    for each in (outcome(1), outcome(2), outcome(1, outcome="granted")):
        findings.add(each)

    assert [each["outcome_id"] for each in findings.outcomes] == ["o/2"]
    assert findings.counts == {"limited": 1}


@pytest.mark.parametrize(
    "found", [None, [], "granted", {}, {"outcome_id": "o", "outcome": ["granted"], "decided_at": ""}]
)
def test_what_others_wrote_there_is_no_outcome(found: object) -> None:
    assert not is_outcome(found)


@pytest.mark.parametrize("value", [["main"], {"a": 1}, 7, None])
def test_a_field_of_another_type_than_ours_is_not_what_was_asked_for(value: object) -> None:
    inquiry = Inquiry(accounts=frozenset({"main"}), since=AT)

    assert not inquiry.fits(outcome(1, account=value))
    assert not Inquiry(since=AT).fits(outcome(1, decided_at="2026-11-25T12:00:00"))


@pytest.mark.parametrize("end", "挂学警港澳")
def test_what_stands_beside_a_plate_is_not_taken_for_a_part_of_it(end: str) -> None:
    plate = f"粤ZF02{end}"

    assert masked(f"order 7  {plate}  granted", plate) == f"order 7  粤Z***{end}  granted"


def test_plates_are_masked_wherever_they_stand() -> None:
    found = {"plate": "ABC-1234", "texts": ["of ABC-1234", {"hint": "plate=粤BD12345"}], "count": 3}

    assert masked(found, "ABC-1234") == {
        "plate": "AB*****4",
        "texts": ["of AB*****4", {"hint": "plate=粤B*****5"}],
        "count": 3,
    }
