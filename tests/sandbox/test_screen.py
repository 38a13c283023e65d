import io
from typing import Any

from rich.console import Console

from consumer.sandbox.reconcile import Report, Row
from consumer.sandbox.screen import MOST_PROBLEMS, SHOWN_OF_EACH, Screen


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
    return Report(rows, problems, records=2, orders=2, outcomes=2, grants=1)


def _shown(*, terminal: bool = False) -> tuple[Screen, io.StringIO]:
    text = io.StringIO()
    return Screen(Console(file=text, force_terminal=terminal, width=100, highlight=False)), text


def test_outcomes_are_shown_with_masked_plates_and_only_the_first_of_each_kind() -> None:
    screen, text = _shown()

    for _ in range(SHOWN_OF_EACH + 3):
        screen.outcome(_outcome())
    screen.outcome(_outcome(outcome="skipped", reason="plate_missing", plate=None, code=None, message=None))
    screen.outcome(_outcome(outcome="lot_failed", code="1405", attempts={"count": 3}))

    shown = text.getvalue()
    assert shown.count("granted") == SHOWN_OF_EACH
    assert "12345" not in shown
    assert "skipped plate_missing" in shown
    assert "1405 操作成功, 3 calls" in shown


def test_the_summary_says_that_all_agree_or_names_what_does_not() -> None:
    screen, text = _shown()
    screen.summary(_report())
    assert "ordinary charges" in text.getvalue()
    assert "granted 1, limited 1" in text.getvalue()
    assert "Every order has exactly one outcome" in text.getvalue()

    screen, text = _shown()
    screen.summary(_report("order A1: no outcome, expected granted"))
    assert "order A1: no outcome, expected granted" in text.getvalue()
    assert "Every order" not in text.getvalue()


def test_more_problems_than_anyone_reads_are_counted() -> None:
    screen, text = _shown()

    screen.summary(_report(*(f"order {number}" for number in range(MOST_PROBLEMS + 5))))

    assert f"{MOST_PROBLEMS + 5} disagreements" in text.getvalue()
    assert "and 5 more" in text.getvalue()
    assert f"order {MOST_PROBLEMS}" not in text.getvalue()


def test_lines_hold_no_colours_unless_there_is_a_terminal() -> None:
    for terminal in (False, True):
        screen, text = _shown(terminal=terminal)
        with screen:
            screen.step("Starting [bold]Kafka[/bold]")
            screen.progress(1, 2)
            screen.progress(2, 2)
            screen.summary(_report())

        assert ("\x1b[" in text.getvalue()) == terminal
        assert "[bold]Kafka[/bold]" in text.getvalue()
