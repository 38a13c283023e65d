"""What a demo shows while it runs, on a terminal and in plain lines."""

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from consumer.sandbox.reconcile import Charges, Report, Row
from consumer.sandbox.screen import SHOWN_OF_EACH, Screen
from consumer.sandbox.view import State, plain_line


def _outcome(**changed: object) -> dict[str, Any]:
    return {
        "outcome": "granted",
        "reason": None,
        "plate": "粤B12345",
        "code": "1001",
        "message": "操作成功",
        "detail": "",
        "attempts": {"count": 1},
    } | changed


def _report(*problems: str) -> Report:
    rows = (Row("good", "ordinary charges", 2, 2, {"granted": 1, "limited": 1}),)
    return Report(
        rows,
        problems,
        records=2,
        orders=2,
        outcomes=2,
        grants=1,
        charges=Charges(granted=1, without={"limited": 1}),
        unasked={},
    )


def _shown(*, terminal: bool = False, plain: bool = False) -> tuple[Screen, io.StringIO]:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=100, height=24, highlight=False)
    return Screen(console, plain=plain), text


STATE = State(
    scenario="brown-out",
    seconds=3.0,
    phase="fails most calls",
    left=4.0,
    troubled=True,
    records=600,
    produced=420,
    orders=440,
    done=400,
    rate=28.0,
    in_flight=12,
    p50=0.08,
    p99=1.9,
    repeated=5,
    dead_letters=6,
    replies={},
    outcomes={},
    examples=[],
)
DONE = replace(STATE, produced=600, done=440)


def test_outcomes_are_shown_with_masked_plates_and_only_the_first_of_each_kind() -> None:
    screen, text = _shown()

    for _ in range(SHOWN_OF_EACH + 3):
        screen.outcome(_outcome())
    screen.outcome(_outcome(outcome="skipped", reason="plate_missing", plate=None, code=None, message=None))
    screen.outcome(_outcome(outcome="lot_failed", code="1405", attempts={"count": 3}))

    shown = text.getvalue()
    assert shown.count("  granted") == SHOWN_OF_EACH
    assert "12345" not in shown
    assert "skipped plate_missing" in shown
    assert "1405 操作成功, 3 calls" in shown


def test_the_summary_says_that_all_agree_or_names_what_does_not() -> None:
    screen, text = _shown()
    screen.summary(_report(), "dead")
    assert "ordinary charges" in text.getvalue()
    assert "granted 1, limited 1" in text.getvalue()
    assert "Every order has exactly one outcome" in text.getvalue()

    screen, text = _shown()
    screen.summary(_report("order A1: no outcome, expected granted"), "dead")
    assert "order A1: no outcome, expected granted" in text.getvalue()
    assert "Every order" not in text.getvalue()


def test_lines_hold_no_colours_unless_there_is_a_terminal() -> None:
    for terminal, plain in ((False, False), (True, False), (True, True)):
        screen, text = _shown(terminal=terminal, plain=plain)
        with screen:
            screen.step("Starting [bold]Kafka[/bold]")
            screen.show(STATE)
            screen.show(DONE)
            screen.summary(_report(), "dead")

        assert ("\x1b[" in text.getvalue()) == (terminal and not plain)
        assert "[bold]Kafka[/bold]" in text.getvalue()
        assert "Every order has exactly one outcome" in text.getvalue()


def test_no_plain_line_ends_in_blanks() -> None:
    screen, text = _shown()
    with screen:
        screen.step("Starting")
        screen.outcome(_outcome(code=None, message=None))
        screen.show(DONE)
        screen.summary(_report(), "dead")
        screen.lines("", "What next:")

    lines = text.getvalue().split("\n")
    assert [line for line in lines if line != line.rstrip()] == []
    assert any(line.endswith("粤B****5") for line in lines)


def test_a_terminal_shows_the_view_in_place_and_its_last_state_stays() -> None:
    screen, text = _shown(terminal=True)
    with screen:
        screen.outcome(_outcome())
        screen.show(STATE)
        screen.show(DONE)
        screen.step("Stopping")

    shown = text.getvalue()
    assert shown.count("Outcomes as they come") == 3  # twice, and when the view ends
    assert shown.rindex("600 of 600 sent") < shown.index("Stopping")
    assert "\x1b[1A\x1b[2K" in shown


def test_lines_come_when_the_platform_changes_at_the_end_and_not_more_often_than_anyone_reads() -> None:
    screen, text = _shown()
    with screen:
        for _ in range(100):
            screen.show(STATE)
        screen.show(replace(STATE, phase="recovers"))
        screen.show(DONE)

    assert [line[8:] for line in text.getvalue().splitlines()] == [
        "The platform fails most calls",
        "The platform recovers",
        "The platform fails most calls",
        plain_line(DONE),
    ]


def test_a_platform_that_answers_again_while_orders_wait_is_told() -> None:
    screen, text = _shown()
    well = replace(STATE, phase="answers at once", troubled=False)
    with screen:
        screen.show(well)
        screen.show(STATE)
        screen.show(well)
        screen.show(STATE)
        screen.show(replace(well, done=440))

    assert [line[8:] for line in text.getvalue().splitlines()] == [
        "The platform answers at once",
        "The platform fails most calls",
        "The platform answers at once; the service catches up: 40 orders to do",
        "The platform fails most calls",
        "The platform answers at once",
    ]


def test_that_outcomes_are_a_sample_is_said_once() -> None:
    screen, text = _shown()
    for name in ("granted", "limited", "granted"):
        screen.outcome(_outcome(outcome=name))

    first, *others = text.getvalue().splitlines()
    assert first.endswith("Outcomes, a sample: the first 2 of each kind")
    assert [line.split()[0] for line in others] == ["granted", "limited", "granted"]


def test_what_is_to_be_copied_is_not_broken_into_lines() -> None:
    screen, text = _shown()

    screen.lines("x" * 300)

    assert text.getvalue() == "x" * 300 + "\n"


def test_an_interrupted_demo_says_that_it_is_gone() -> None:
    screen, text = _shown()

    with pytest.raises(KeyboardInterrupt), screen:
        raise KeyboardInterrupt

    assert text.getvalue().startswith("Interrupted: ")
