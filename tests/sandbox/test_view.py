"""The demo's live view: it fits its terminal, and nothing in it jumps."""

import io
from collections.abc import Mapping
from dataclasses import replace

import pytest
from rich.console import Console

from consumer.sandbox.view import Example, State, plain_line, render

EXAMPLES = [
    Example("granted", None, "粤B****5", "1001 操作成功", 1),
    Example("skipped", "below_threshold", "京A*****2", "rule too-short", 0),
    Example("lot_failed", None, "沪C****1", "1405 车场下发失败", 3),
]
REPLIES = {"1001": 310, "503": 40, "1002": 9, "timeout": 8, "1403": 7, "1405": 6, "1003": 5, "reset": 4}
OUTCOMES = {"granted": 310, "skipped": 41, "platform_failed": 9, "limited": 5}
STATE = State(
    scenario="brown-out",
    seconds=14.2,
    phase="fails most calls",
    left=4.6,
    troubled=True,
    records=600,
    produced=420,
    orders=440,
    done=400,
    rate=28.4,
    in_flight=12,
    p50=0.084,
    p99=1.94,
    repeated=57,
    dead_letters=6,
    replies=REPLIES,
    outcomes=OUTCOMES,
    examples=EXAMPLES,
)


def _shown(state: State, width: int = 80, height: int = 24, **console: object) -> list[str]:
    text = io.StringIO()
    options: Mapping[str, object] = {"width": width, "height": height, "highlight": False} | console
    Console(file=text, **options).print(render(state, width, height))  # type: ignore[arg-type]  # as given
    return text.getvalue().splitlines()


def test_a_terminal_shows_what_comes_in_what_becomes_of_it_and_how_it_goes() -> None:
    shown = _shown(STATE)

    assert shown[0].split() == ["charging-coupon", "demo", "scenario", "brown-out", "14", "s"]
    for line in (
        "Platform  fails most calls, 5 s more",
        "Calls     12 in flight, half in 84 ms, 99% in 1.9 s",
        "To do     40 orders; 57 calls repeated, 6 dead letters",
    ):
        assert line in shown
    for words in (
        "━──────── 420 of 600 sent",
        "━─── 400 of 440 written, 28 orders/s",
        "Charges arrive on a Kafka topic",
    ):
        assert any(words in line for line in shown), words


def test_replies_and_outcomes_stand_side_by_side_the_most_frequent_first_and_the_rest_is_one_row() -> None:
    shown = _shown(STATE)
    first = next(number for number, line in enumerate(shown) if line.startswith("Replies"))

    assert shown[first + 1].split() == ["1001", "granted", "310", "granted", "310"]
    assert shown[first + 2].split() == ["503", "platform", "unavailable", "40", "skipped", "41"]
    others = next(line for line in shown if " others " in line)
    rows = shown[first + 1 : shown.index("", first)]
    counted = sum(int(line[34:41]) for line in rows)
    assert others.startswith("4 others")
    assert counted == sum(REPLIES.values())


def test_examples_are_the_latest_ones_in_columns_that_chinese_does_not_shift() -> None:
    shown = _shown(replace(STATE, examples=EXAMPLES * 20))

    assert shown[-1].startswith("  lot_failed               沪C****1    1405 车场下发失败, 3 calls")
    assert shown[-2].startswith("  skipped below_threshold  京A*****2   rule too-short")


@pytest.mark.parametrize("width", [30, 60, 80, 120])
@pytest.mark.parametrize("height", [5, 12, 18, 24, 40])
def test_the_view_is_never_higher_or_wider_than_the_terminal(width: int, height: int) -> None:
    for examples in ([], EXAMPLES, EXAMPLES * 20):
        text = render(replace(STATE, examples=examples), width, height)
        lines = text.split("\n", allow_blank=True)
        assert len(lines) < height
        assert max(line.cell_len for line in lines) <= width


@pytest.mark.parametrize("height", [24, 40])
def test_nothing_jumps_while_more_and_more_comes(height: int) -> None:
    empty = replace(STATE, replies={}, outcomes={}, examples=[], p50=None, p99=None, done=0, left=None)
    heights = {len(_shown(state, height=height)) for state in (empty, STATE)}

    assert heights == {height - 1} or (height == 40 and len(heights) == 1)
    assert "Calls     12 in flight" in _shown(empty, height=height)


def test_trouble_is_red_and_without_colours_the_words_say_it() -> None:
    coloured = "\n".join(_shown(STATE, force_terminal=True, color_system="standard"))
    plain = "\n".join(_shown(STATE, force_terminal=True, color_system="standard", no_color=True))

    assert "\x1b[1;31mfails most calls" in coloured
    assert "\x1b[31m" not in plain
    assert ";31m" not in plain
    assert "fails most calls" in plain


def test_a_line_says_the_same() -> None:
    assert plain_line(STATE) == (
        "400 of 440 orders done, 40 to do, 28/s; calls: 12 in flight, half in 84 ms, 99% in 1.9 s"
    )
    assert plain_line(replace(STATE, p50=None, p99=None, done=0, rate=0.0, repeated=0)) == (
        "0 of 440 orders done, 440 to do, 0/s; calls: 12 in flight"
    )


@pytest.mark.parametrize(("changed", "last"), [({}, False), ({"produced": 600, "done": 440}, True)])
def test_it_is_over_when_all_is_sent_has_its_outcome(changed: dict[str, int], last: bool) -> None:
    assert replace(STATE, **changed).is_last is last  # type: ignore[arg-type]  # counts, all of them


def test_an_example_is_an_outcome_in_short_with_its_plate_masked() -> None:
    outcome = {
        "outcome": "lot_failed",
        "reason": None,
        "plate": "粤B12345",
        "code": "1405",
        "message": "车场下发失败",
        "detail": "",
        "attempts": {"count": 3},
    }

    assert Example.of(outcome) == Example("lot_failed", None, "粤B****5", "1405 车场下发失败", 3)
    assert Example.of(outcome | {"plate": None, "code": None, "message": None, "detail": "no plate"}) == (
        Example("lot_failed", None, "-", "no plate", 3)
    )


def test_an_example_is_one_line_whatever_the_platform_said() -> None:
    outcome = {
        "outcome": "unknown",
        "reason": None,
        "plate": None,
        "code": "1999",
        "message": "未知\n  再试 ",
        "detail": "",
        "attempts": {"count": 1},
    }

    assert Example.of(outcome).said == "1999 未知 再试"
