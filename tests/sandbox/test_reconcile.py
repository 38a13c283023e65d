"""The demo's reconciliation: it agrees where all fits together, and names each order that does not."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from consumer.core.events import Coordinates
from consumer.sandbox.answers import Delivery
from consumer.sandbox.journal import Entry, Journal
from consumer.sandbox.reconcile import Charges, Produced, Report, reconcile
from consumer.sandbox.samples import Expected, SampleEvent

Outcomes = list[dict[str, Any]]
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def _produced() -> list[Produced]:
    samples = [
        SampleEvent("good", b"k", b"{}", (), (Expected(0, "A1", "granted"),)),
        SampleEvent("repeated", b"k", b"{}", (), (Expected(0, "A1", "already_granted"),)),
        SampleEvent(
            "two_orders",
            b"k",
            b"{}",
            (),
            (Expected(0, "B1", "granted"), Expected(1, "B2", "skipped", "plate_missing")),
        ),
        SampleEvent("limited", b"k", b"{}", (), (Expected(0, "C1", "limited"),)),
        SampleEvent("tombstone", b"k", None, (), (Expected(0, None, "skipped", "tombstone"),)),
    ]
    return [Produced(Coordinates("events", 0, offset), sample) for offset, sample in enumerate(samples)]


def _outcome(
    offset: int,
    order_id: str | None,
    outcome: str,
    *,
    index: int = 0,
    reason: str | None = None,
    serial: str | None = None,
    calls: int = 0,
    ambiguous: bool = False,
) -> dict[str, Any]:
    return {
        "record": {"topic": "events", "partition": 0, "offset": offset},
        "order_index": index,
        "order_id": order_id,
        "event_id": order_id,
        "outcome": outcome,
        "reason": reason,
        "grant_serial": serial,
        "attempts": {"count": calls, "ambiguous": ambiguous},
    }


def _outcomes() -> Outcomes:
    return [
        _outcome(0, "A1", "granted", serial="S1", calls=1),
        _outcome(1, "A1", "already_granted", calls=1),
        _outcome(2, "B1", "granted", serial="S2", calls=2),
        _outcome(2, "B2", "skipped", index=1, reason="plate_missing"),
        _outcome(3, "C1", "limited", calls=1),
        _outcome(4, None, "skipped", reason="tombstone"),
    ]


def _journal() -> Journal:
    journal = Journal(grants={"A1": "S1", "B1": "S2"})
    journal.calls_by_event.update({"A1": 2, "B1": 2, "C1": 1})
    return journal


def test_everything_that_fits_together_agrees() -> None:
    report = reconcile(_produced(), _outcomes(), _journal())

    assert report.problems == ()
    assert report.agrees
    assert (report.records, report.orders, report.outcomes, report.grants) == (5, 6, 6, 2)
    assert [(row.kind, row.records, row.orders, row.outcomes) for row in report.rows] == [
        ("good", 1, 1, {"granted": 1}),
        ("repeated", 1, 1, {"already_granted": 1}),
        ("two_orders", 1, 2, {"granted": 1, "skipped": 1}),
        ("tombstone", 1, 1, {"skipped": 1}),
        ("limited", 1, 1, {"limited": 1}),
    ]


def test_a_charge_that_is_pushed_again_counts_once() -> None:
    report = reconcile(_produced(), _outcomes(), _journal())

    assert report.charges == Charges(
        granted=2, without={"limited": 1}, pushed_again={"already_granted": 1}, lost={}
    )
    assert report.unasked == {"skipped": 2}


@pytest.mark.parametrize(
    ("removed", "name"),
    [
        (0, "order A1 (record events-0@0): no outcome, expected granted"),
        (3, "order B2 (record events-0@2): no outcome, expected skipped (plate_missing)"),
        (4, "order C1 (record events-0@3): no outcome, expected limited"),
        (5, "no order (record events-0@4): no outcome, expected skipped (tombstone)"),
    ],
)
def test_an_outcome_that_is_missing_names_its_order(removed: int, name: str) -> None:
    outcomes = _outcomes()
    del outcomes[removed]

    assert name in reconcile(_produced(), outcomes, _journal()).problems


@pytest.mark.parametrize("doubled", range(6))
def test_an_outcome_that_is_doubled_names_its_order(doubled: int) -> None:
    outcomes = _outcomes()
    outcomes.append(outcomes[doubled])

    report = reconcile(_produced(), outcomes, _journal())

    order_id = outcomes[doubled]["order_id"]
    assert report.problems[0].startswith(f"order {order_id} " if order_id else "no order ")
    assert "2 outcomes" in report.problems[0]


def _change(offset: int, index: int = 0, **changed: object) -> Callable[[Outcomes, Journal], None]:
    def change(outcomes: Outcomes, _journal: Journal) -> None:
        outcome = next(
            each for each in outcomes if each["record"]["offset"] == offset and each["order_index"] == index
        )
        outcome.update(changed)

    return change


def _grant(event_id: str, serial: str) -> Callable[[Outcomes, Journal], None]:
    return lambda _outcomes, journal: journal.grants.update({event_id: serial})


def _forget(event_id: str) -> Callable[[Outcomes, Journal], None]:
    def forget(_outcomes: Outcomes, journal: Journal) -> None:
        del journal.grants[event_id]

    return forget


def _another(outcomes: Outcomes, _journal: Journal) -> None:
    outcomes.append(_outcome(9, "X1", "granted"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_change(3, outcome="unknown"), "order C1 (record events-0@3): unknown, expected limited"),
        (
            _change(2, 1, reason="no_rule"),
            "order B2 (record events-0@2): skipped (no_rule), expected skipped (plate_missing)",
        ),
        (_change(3, order_id="C2"), "order C1 (record events-0@3): its outcome names order C2"),
        (_another, "order X1 (record events-0@9): an outcome of no order that was produced"),
        (
            _change(0, grant_serial="S9"),
            "order A1 (record events-0@0): granted S9, and the platform granted S1",
        ),
        (_forget("B1"), "order B1 (record events-0@2): granted S2, and the platform granted nothing"),
        (_forget("A1"), "order A1 (record events-0@1): already granted, and the platform granted nothing"),
        (_grant("C1", "S3"), "order C1: the platform granted a coupon, and no outcome says so"),
        (_grant("Z9", "S3"), "order Z9: the platform granted a coupon, and no outcome says so"),
        (
            _change(3, attempts={"count": 3, "ambiguous": False}),
            "order C1: 3 calls by its outcomes, the platform saw 1",
        ),
    ],
)
def test_what_disagrees_names_its_order(change: Callable[[Outcomes, Journal], None], problem: str) -> None:
    outcomes, journal = _outcomes(), _journal()
    change(outcomes, journal)

    report: Report = reconcile(_produced(), outcomes, journal)

    assert problem in report.problems
    assert not report.agrees


@pytest.mark.parametrize("committed", [{}, {0: 0}, {0: 4}, {1: 5}])
def test_a_record_that_is_not_committed_names_its_order(committed: dict[int, int]) -> None:
    report = reconcile(_produced(), _outcomes(), _journal(), committed)

    assert report.problems[-1] == "no order (record events-0@4): not committed"
    assert len(report.problems) == 5 - committed.get(0, 0)


def test_all_records_are_committed_when_the_group_stands_at_the_end() -> None:
    assert reconcile(_produced(), _outcomes(), _journal(), {0: 5}).agrees


def test_a_connection_that_broke_may_have_carried_one_call_more() -> None:
    journal = _journal()
    journal.calls_by_event["B1"] = 3
    assert not reconcile(_produced(), _outcomes(), journal).agrees

    journal.entries.append(
        Entry(
            1,
            NOW,
            "B1",
            "p",
            {},
            True,
            "lost",
            True,
            "S2",
            0.1,
            1,
            event_overlap=False,
            plate_overlap=False,
            delivery=Delivery.RESET,
        )
    )

    assert reconcile(_produced(), _outcomes(), journal).agrees


def _troubled() -> list[Produced]:
    samples = [
        SampleEvent(
            "good", b"k", b"{}", (), (_may(0, "A1", "granted", "already_granted", "platform_failed"),)
        ),
        SampleEvent("limited", b"k", b"{}", (), (_may(0, "C1", "limited", "platform_failed"),)),
        SampleEvent("short", b"k", b"{}", (), (Expected(0, "D1", "skipped", "below_threshold"),)),
    ]
    return [Produced(Coordinates("events", 0, offset), sample) for offset, sample in enumerate(samples)]


def _may(index: int, order_id: str, outcome: str, *others: str) -> Expected:
    return Expected(index, order_id, outcome, in_trouble=frozenset(others))


def _ends(first: dict[str, Any], second: str = "limited", third: str = "skipped") -> Outcomes:
    reason = "below_threshold" if third == "skipped" else None
    return [
        _outcome(0, "A1", calls=3, **first),
        _outcome(1, "C1", second, calls=3),
        _outcome(2, "D1", third, reason=reason),
    ]


def _grants(*event_ids: str) -> Journal:
    journal = Journal(grants=dict.fromkeys(event_ids, "S1"))
    journal.calls_by_event.update({"A1": 3, "C1": 3})
    return journal


GRANTED = {"outcome": "granted", "serial": "S1"}
AMBIGUOUS = {"outcome": "already_granted", "ambiguous": True}
UNHEARD = {"outcome": "platform_failed", "ambiguous": True}


@pytest.mark.parametrize("first", [GRANTED, AMBIGUOUS, UNHEARD])
@pytest.mark.parametrize("second", ["limited", "platform_failed"])
def test_where_calls_fail_an_order_may_come_to_several_ends(first: dict[str, Any], second: str) -> None:
    report = reconcile(_troubled(), _ends(first, second), _grants("A1"), troubled=True)

    assert report.problems == ()
    assert sum(report.charges.unheard.values()) == (first is UNHEARD)
    calm = reconcile(_troubled(), _ends(first, second), _grants("A1"))
    assert calm.agrees == (first is GRANTED and second == "limited")


@pytest.mark.parametrize(
    ("ends", "grants", "problem"),
    [
        (
            _ends(GRANTED, "granted"),
            ["A1"],
            "order C1 (record events-0@1): granted, expected limited or platform_failed",
        ),
        (
            _ends(GRANTED, third="platform_failed"),
            ["A1"],
            "order D1 (record events-0@2): platform_failed, expected skipped (below_threshold)",
        ),
        (
            _ends(GRANTED)[:2],
            ["A1"],
            "order D1 (record events-0@2): no outcome, expected skipped (below_threshold)",
        ),
        (
            [*_ends(GRANTED), *_ends(UNHEARD)[:1]],
            ["A1"],
            "order A1 (record events-0@0): 2 outcomes (granted, platform_failed), expected one",
        ),
        (_ends(GRANTED), [], "order A1 (record events-0@0): granted S1, and the platform granted nothing"),
        (_ends(GRANTED), ["A1", "C1"], "order C1: the platform granted a coupon, and no outcome says so"),
        (
            _ends({"outcome": "platform_failed"}),
            ["A1"],
            "order A1: the platform granted a coupon, and no outcome says so",
        ),
        (
            _ends({"outcome": "already_granted"}),
            ["A1"],
            "order A1: already granted, and no outcome says by which call",
        ),
    ],
)
def test_where_calls_fail_everything_else_is_still_exact(
    ends: Outcomes, grants: list[str], problem: str
) -> None:
    assert problem in reconcile(_troubled(), ends, _grants(*grants), troubled=True).problems


def test_where_calls_fail_one_may_not_arrive_and_none_may_be_made_up() -> None:
    journal = _grants("A1")
    journal.calls_by_event["C1"] = 2
    assert reconcile(_troubled(), _ends(GRANTED), journal, troubled=True).agrees
    assert not reconcile(_troubled(), _ends(GRANTED), journal).agrees

    journal.calls_by_event["C1"] = 4
    assert reconcile(_troubled(), _ends(GRANTED), journal, troubled=True).problems == (
        "order C1: 3 calls by its outcomes, the platform saw 4",
    )


@pytest.mark.parametrize(
    ("ends", "charges"),
    [
        ([GRANTED], Charges(granted=1)),
        ([AMBIGUOUS], Charges(lost_reply=1)),
        ([UNHEARD], Charges(unheard={"platform_failed": 1}, unsure=1)),
        ([GRANTED, UNHEARD], Charges(granted=1, pushed_again={"platform_failed": 1})),
        ([UNHEARD, GRANTED], Charges(granted=1, pushed_again={"platform_failed": 1})),
        ([AMBIGUOUS, GRANTED], Charges(granted=1, pushed_again={"already_granted": 1})),
        ([UNHEARD, AMBIGUOUS], Charges(lost_reply=1, pushed_again={"platform_failed": 1})),
        (
            [UNHEARD, UNHEARD],
            Charges(unheard={"platform_failed": 1}, unsure=1, pushed_again={"platform_failed": 1}),
        ),
    ],
)
def test_a_coupon_counts_by_what_is_best_known_of_it(ends: list[dict[str, Any]], charges: Charges) -> None:
    sample = _troubled()[0].sample
    again = replace(sample, expected=(_may(0, "A1", "already_granted", "granted", "platform_failed"),))
    produced = [
        Produced(Coordinates("events", 0, offset), again if offset else sample) for offset in range(len(ends))
    ]
    outcomes = [_outcome(offset, "A1", calls=3, **end) for offset, end in enumerate(ends)]
    journal = _grants("A1")
    journal.calls_by_event["A1"] = 3 * len(ends)

    report = reconcile(produced, outcomes, journal, troubled=True)

    assert report.problems == ()
    assert report.charges == charges
    assert report.charges.granted + report.charges.lost_reply + sum(report.charges.unheard.values()) == 1


@pytest.mark.parametrize("unsure", [False, True])
def test_where_the_platform_granted_nothing_there_is_no_coupon_even_if_the_outcome_is_unsure(
    unsure: bool,
) -> None:
    outcomes = _ends({"outcome": "platform_failed", "ambiguous": unsure})

    report = reconcile(_troubled(), outcomes, _grants(), troubled=True)

    assert report.problems == ()
    assert report.charges == Charges(
        without={"platform_failed": 1, "limited": 1},
        unsure=int(unsure),
        struck=1,
        lost={"platform_failed": 1},
    )


def test_charges_that_the_scenario_struck_are_those_answered_otherwise_than_their_plates_ask_for() -> None:
    samples = [
        SampleEvent("good", b"k", b"{}", (), (Expected(0, name, "granted"),)) for name in ("A", "B", "C")
    ]
    samples.append(SampleEvent("limited", b"k", b"{}", (), (Expected(0, "D", "limited"),)))
    produced = [Produced(Coordinates("events", 0, offset), each) for offset, each in enumerate(samples)]
    journal = Journal(grants={"A": "S1", "B": "S2"})
    for name, plate, answer in (
        ("A", "粤B8503", "503"),
        ("A", "粤B8503", "1001"),
        ("B", "粤B4711", "503"),
        ("B", "粤B4711", "1001"),
        ("C", "粤B4712", "503"),
        ("D", "粤B1003", "500"),
    ):
        granted = answer == "1001"
        journal.entries.append(
            Entry(0, NOW, name, plate, {}, True, answer, granted, "", 0.1, 1, False, False)
        )
    outcomes = [
        _outcome(0, "A", "granted", serial="S1", calls=2),
        _outcome(1, "B", "granted", serial="S2", calls=2),
        _outcome(2, "C", "platform_failed", calls=1),
        _outcome(3, "D", "platform_failed", calls=1),
    ]

    charges = reconcile(produced, outcomes, journal, troubled=True).charges

    assert (charges.struck, charges.lost) == (2, {"platform_failed": 1})
    assert charges.without == {"platform_failed": 2}
