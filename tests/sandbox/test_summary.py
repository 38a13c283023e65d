"""A demo's end in words: sums that come out, and what is to be done about each outcome."""

from dataclasses import replace

import pytest

from consumer.sandbox.figures import Pace
from consumer.sandbox.reconcile import Charges, Report, Row
from consumer.sandbox.summary import MOST_PROBLEMS, summarise

STEADY = Report(
    rows=(
        Row("good", "ordinary charges", 300, 300, {"granted": 300}),
        Row("repeated", "orders pushed again", 20, 20, {"already_granted": 20}),
        Row("lost_reply", "replies lost after the grant", 1, 1, {"already_granted": 1}),
        Row("limited", "cars over their limit", 4, 4, {"limited": 4}),
        Row("short", "charges below the threshold", 9, 9, {"skipped": 9}),
    ),
    problems=(),
    records=334,
    orders=334,
    outcomes=334,
    grants=301,
    charges=Charges(granted=300, lost_reply=1, without={"limited": 4}, pushed_again={"already_granted": 20}),
    unasked={"skipped": 9},
)
BROWN_OUT = replace(
    STEADY,
    rows=(
        Row(
            "good",
            "ordinary charges",
            327,
            327,
            {"granted": 287, "platform_failed": 24, "already_granted": 16},
        ),
        Row("repeated", "orders pushed again", 20, 20, {"already_granted": 20}),
    ),
    records=347,
    orders=358,
    outcomes=358,
    grants=307,
    charges=Charges(
        granted=287,
        lost_reply=16,
        unheard={"platform_failed": 4},
        without={"limited": 1, "platform_failed": 20},
        unsure=9,
        pushed_again={"already_granted": 20},
        struck=60,
        lost={"platform_failed": 18},
    ),
    unasked={"invalid": 2, "skipped": 8},
    troubled=True,
)


def _shown(report: Report, width: int = 100) -> str:
    return "\n".join(line.plain for line in summarise(report, "dead.letters", width))


def test_a_steady_demo_says_who_has_a_coupon_and_who_has_none() -> None:
    assert (
        _shown(STEADY)
        == """\
what was sent               orders  what became of them
ordinary charges               300  granted 300
orders pushed again             20  already_granted 20
replies lost after the grant     1  already_granted 1
cars over their limit            4  limited 4
charges below the threshold      9  skipped 9

334 records held 334 orders. Every order has exactly one outcome, the expected one. Every record's
offset is committed, so that after a restart none would be read again.

301 charges got a coupon. The platform's journal lists each coupon that it granted; it was compared
with the outcomes, charge by charge:
     300  granted          The platform's reply said so.
 +     1  already_granted  The first reply was lost; the repeated call was answered "already
                           granted". The driver has his coupon.
 =   301  in the journal

4 valid charges got no coupon, as these samples were meant to, and why:
       4  limited          The car has had all the coupons that it may have.

What that means for the operator:
  - limited: nothing; the limit is the platform's own.

Orders: 301 with a coupon + 4 without + 9 that none was asked for (skipped 9) + 20 pushed again,
whose charge is counted already (already_granted 20) = 334."""
    )


def test_a_demo_in_trouble_says_what_failed_means_for_driver_and_operator() -> None:
    shown = _shown(BROWN_OUT)

    assert (
        shown[shown.index("307 charges") :]
        == """\
307 charges got a coupon. The platform's journal lists each coupon that it granted; it was compared
with the outcomes, charge by charge:
     287  granted          The platform's reply said so.
 +    16  already_granted  The first reply was lost; the repeated call was answered "already
                           granted". The driver has his coupon.
 +     4  platform_failed  The platform granted, but no reply of it was ever heard. The driver has
                           his coupon; the outcome can only say attempts.ambiguous: there may be
                           one.
 =   307  in the journal

18 valid charges got no coupon because of the scenario, and why:
      18  platform_failed  The platform failed, or sent no reply, however often it was asked. The
                           driver has no coupon.
3 valid charges got no coupon, as these samples were meant to, and why:
       2  platform_failed  The platform failed, or sent no reply, however often it was asked. The
                           driver has no coupon.
       1  limited          The car has had all the coupons that it may have.

What that means for the operator:
  - The driver of a platform_failed has no coupon, or none that the service knows of. In a
    deployment such an order goes on waiting in retry topics (`retries.delays`: 1m, 5m, 30m) and is
    asked for again, up to 24 h from the end of charging (`deadline` in the rules file). The demo
    has no retry topics: in it an order ends after three calls, within seconds.
  - 9 of these charges have attempts.ambiguous in their outcome: a call went out and its reply did
    not come back, so that there may be a coupon. The journal says that 4 of them have one.
  - limited: nothing; the limit is the platform's own.
  - The events behind platform_failed and invalid are in the dead-letter topic dead.letters, each
    with its reason in its headers. When the cause is mended, `charging-coupon replay` sends them
    through the service again. That grants no coupon twice: the platform knows a charge again by its
    event_id.

Orders: 307 with a coupon + 21 without + 10 that none was asked for (skipped 8, invalid 2) + 20
pushed again, whose charge is counted already (already_granted 20) = 358."""
    )
    assert "one that the scenario allows" in shown
    assert (
        """
What the scenario did to drivers: 60 charges met a call that was refused or left without an answer.
Of these 42 got a coupon in the end, 18 did not.
"""
        in shown
    )


def test_what_to_do_is_said_of_outcomes_without_a_dead_letter_too() -> None:
    charges = replace(STEADY.charges, without={"not_entered": 1, "not_configured": 1})
    shown = " ".join(_shown(replace(STEADY, charges=charges, unasked={"unmatched": 1})).split())

    assert "not_entered: nothing, for one car" in shown
    assert "unmatched: add a rule if" in shown
    assert "There is no dead letter, so that `charging-coupon replay` does not apply" in shown
    assert "dead.letters" not in shown


def test_one_charge_is_no_charges_and_where_nothing_is_missing_nothing_is_explained() -> None:
    one = replace(STEADY, orders=1, grants=1, charges=Charges(granted=1), unasked={})
    shown = _shown(one)

    assert "\n1 charge got a coupon." in shown
    assert "\nNo valid charge went without a coupon.\n" in shown
    assert "already granted" not in shown
    assert "operator" not in shown
    assert shown.endswith("\nOrders: 1 with a coupon + 0 without = 1.")


def test_what_disagrees_is_named_and_nothing_is_claimed() -> None:
    shown = _shown(replace(STEADY, problems=("order A1: no outcome, expected granted",)))

    assert shown.endswith("\n\n1 disagreement:\n  order A1: no outcome, expected granted")
    assert "Every order" not in shown
    assert "got a coupon" not in shown


def test_more_problems_than_anyone_reads_are_counted() -> None:
    problems = tuple(f"order {number}" for number in range(MOST_PROBLEMS + 5))
    shown = _shown(replace(STEADY, problems=problems))

    assert f"{MOST_PROBLEMS + 5} disagreements" in shown
    assert "and 5 more" in shown
    assert f"order {MOST_PROBLEMS}" not in shown


@pytest.mark.parametrize("width", [60, 80, 110, 200])
@pytest.mark.parametrize("report", [STEADY, BROWN_OUT])
def test_no_line_is_wider_than_the_terminal_or_ends_in_blanks(width: int, report: Report) -> None:
    lines = _shown(report, width).split("\n")

    assert max(len(line) for line in lines) <= width
    assert [line for line in lines if line != line.rstrip()] == []


def test_a_demo_in_which_nothing_held_the_service_up_says_how_fast_it_was() -> None:
    pace = Pace(orders=20_000, seconds=4.0, cpu_us=121.4, p50=0.0312, p99=0.0904, platform=0.02)

    shown = " ".join(line.plain for line in summarise(STEADY, "dead.letters", 100, pace))

    assert "20000 orders took 4.0 s: 5000 a second" in shown
    assert "The service itself used 121 µs of CPU time an order." in shown
    assert "within 31 ms (p50), 99 of 100 within 90 ms (p99). The platform itself took 20 ms" in shown
