"""CEL behind our own words: checked when compiled, and no error passes for a value."""

from datetime import UTC, datetime

import pytest

from consumer.core.events import Value
from consumer.core.expressions import (
    Compiler,
    ExpressionError,
    Failure,
    compiler,
)
from consumer.core.syntax import Kind, compared_in, guarded_in, literals_in, names_in, parts_of

VARIABLES = {
    "energy_wh": Kind.INT,
    "minutes": Kind.INT,
    "fee_fen": Kind.INT,
    "price": Kind.DOUBLE,
    "plate": Kind.STRING,
    "flag": Kind.BOOL,
    "ended_at": Kind.TIMESTAMP,
    "zone": Kind.STRING,
}
VALUES: dict[str, Value] = {
    "energy_wh": 6000,
    "minutes": 29,
    "plate": "粤BD12345",
    "flag": False,
    "ended_at": datetime(2026, 1, 1, 15, 30, tzinfo=UTC),
    "zone": "Asia/Shanghai",
}


@pytest.fixture
def cel() -> Compiler:
    return compiler(VARIABLES)


def evaluate(cel: Compiler, source: str, kind: Kind, **more: Value) -> bool | int | Failure:
    expression = cel.compile(source, kind)
    values = {**VALUES, **more}
    return expression.evaluate(cel.bind(values))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("energy_wh >= 5000", True),
        ("energy_wh >= 5000 && minutes > 30", False),
        ("plate.startsWith('粤')", True),
        ("ended_at.getHours(zone) == 23", True),
        ("ended_at < timestamp('2026-01-02T00:00:00Z')", True),
        ("present.fee_fen && fee_fen > 100", False),
        ("present.minutes", True),
        ("flag", False),
    ],
)
def test_conditions_are_evaluated(cel: Compiler, source: str, expected: bool) -> None:
    assert evaluate(cel, source, Kind.BOOL) is expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("math.least(minutes, 120)", 29),
        ("minutes * 100", 2900),
        ("(minutes + 14) / 15", 2),
        ("minutes > 20 ? 1 : 0", 1),
        ("int(plate.substring(3)) % 10", 5),
        ("-minutes", -29),
        ("120", 120),
    ],
)
def test_numbers_are_computed(cel: Compiler, source: str, expected: int) -> None:
    found = evaluate(cel, source, Kind.INT)

    assert found == expected
    assert type(found) is int


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("minutes / 0 > 1", "divide by zero"),
        ("fee_fen > 1", "fee_fen has no value"),
        ("minutes * 9223372036854775807 > 0", "integer overflow"),
        ("plate.matches('[' + zone)", "invalid regular expression"),
        ("ended_at.getHours('No/Where' + zone) > 1", "Invalid timezone"),
        ("local_between(ended_at, '22:30', '06:30', zone + 'x')", "`Asia/Shanghaix` is no time zone"),
        ("local_between(ended_at, '22:30' + '', '22:30', zone)", "is no time at all"),
        ("floor_to(minutes, minutes - 29) > 0", "a step of 0"),
        ("clamp(minutes, 2, 1) > 0", "clamp: 2 is above 1"),
        ("dyn(minutes)", "gave int"),
        ("dyn(null)", "gave null"),
    ],
)
def test_an_error_is_a_failure_and_never_true(cel: Compiler, source: str, message: str) -> None:
    found = evaluate(cel, source, Kind.BOOL)

    assert isinstance(found, Failure)
    assert message in found.message


def test_a_truth_value_is_no_number(cel: Compiler) -> None:
    assert isinstance(evaluate(cel, "dyn(flag)", Kind.INT), Failure)


def test_values_that_the_runtime_cannot_hold_are_failures(cel: Compiler) -> None:
    assert isinstance(evaluate(cel, "energy_wh + 1 > 0", Kind.BOOL, energy_wh=2**70), Failure)
    assert isinstance(evaluate(cel, "plate.matches('a')", Kind.BOOL, plate="\ud800"), Failure)


@pytest.mark.parametrize(
    ("source", "kind", "message", "line", "column"),
    [
        ("energy >= 5", Kind.BOOL, "undeclared reference to 'energy'", 1, 1),
        ("minutes > 'a'", Kind.BOOL, "`>` stands between a whole number and text", 1, 9),
        ("minutes > 1 &&\n  foo", Kind.BOOL, "undeclared reference to 'foo'", 2, 3),
        ("minutes >", Kind.BOOL, "Syntax error: mismatched input '<EOF>'", 1, 10),
        ("minutes", Kind.BOOL, "gives int, where bool is needed", 1, 1),
        ("minutes > 1", Kind.INT, "gives bool, where int is needed", 1, 1),
        ("price", Kind.INT, "gives double, where int is needed", 1, 1),
        (
            "minutes > 1\n  && plate.matches('[京')",
            Kind.BOOL,
            "invalid regular expression: missing ]: [京",
            2,
            20,
        ),
        ("ended_at.getHours('No/Where') > 1", Kind.BOOL, "Invalid timezone", 1, 19),
        (
            "local_between(ended_at, '22:30', '6:30', zone)",
            Kind.BOOL,
            "`6:30` is no time of day: write it like 06:30",
            1,
            34,
        ),
        (
            "local_between(ended_at, '22:30', '06:30', 'Asia/Shangai')",
            Kind.BOOL,
            "`Asia/Shangai` is no time zone",
            1,
            43,
        ),
        (
            "local_between(ended_at, '22:30', '22:30', zone)",
            Kind.BOOL,
            "local_between: from 22:30 to 22:30 is no time at all",
            1,
            34,
        ),
        (
            "local_between(ended_at, '24:00', '06:30', zone)",
            Kind.BOOL,
            "`24:00` is no time of day: write it like 06:30",
            1,
            25,
        ),
        (
            "local_between(ended_at, '22:30', '24:30', 'UTC')",
            Kind.BOOL,
            "`24:30` is no time of day: write it like 06:30",
            1,
            34,
        ),
    ],
)
def test_mistakes_are_found_when_compiling(
    cel: Compiler, source: str, kind: Kind, message: str, line: int, column: int
) -> None:
    with pytest.raises(ExpressionError) as caught:
        cel.compile(source, kind)

    assert (caught.value.message, caught.value.line, caught.value.column) == (message, line, column)


def test_the_caret_stands_under_the_mistake_beside_wide_characters_too(cel: Compiler) -> None:
    with pytest.raises(ExpressionError) as caught:
        cel.compile("'充电' + foo", Kind.BOOL)

    assert caught.value.caret == "'充电' + foo\n 　　    ^"


def test_equal_expressions_are_compiled_once(cel: Compiler) -> None:
    assert cel.compile("minutes > 1", Kind.BOOL) is cel.compile("minutes > 1", Kind.BOOL)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("clamp(minutes, 30, 120)", 30),
        ("clamp(minutes, 0, 20)", 20),
        ("clamp(minutes, 0, 120)", 29),
        ("floor_to(minutes, 15)", 15),
        ("ceil_to(minutes, 15)", 30),
        ("ceil_to(30, 15)", 30),
        ("floor_to(-1, 15)", -15),
        ("ceil_to(-1, 15)", 0),
    ],
)
def test_what_relief_policies_need_is_there(cel: Compiler, source: str, expected: int) -> None:
    assert evaluate(cel, source, Kind.INT) == expected


@pytest.mark.parametrize(
    ("clock", "night", "day"),
    [
        ("22:29", False, True),
        ("22:30", True, False),
        ("00:00", True, False),
        ("06:29", True, False),
        ("06:30", False, True),
    ],
)
def test_a_window_begins_with_its_first_minute_ends_before_its_last_and_may_span_midnight(
    cel: Compiler, clock: str, night: bool, day: bool
) -> None:
    moment = datetime.fromisoformat(f"2026-01-01T{clock}:59+08:00")

    assert (
        evaluate(cel, "local_between(ended_at, '22:30', '06:30', zone)", Kind.BOOL, ended_at=moment) is night
    )
    assert evaluate(cel, "local_between(ended_at, '06:30', '22:30', zone)", Kind.BOOL, ended_at=moment) is day
    assert (
        evaluate(
            cel, "local_between(ended_at, '22:30', '06:30', zone)", Kind.BOOL, ended_at=moment, zone="+08:00"
        )
        is night
    )


@pytest.mark.parametrize(
    ("source", "holds"),
    [
        ("local_between(ended_at, '22:30', '24:00', zone)", True),
        ("local_between(ended_at, '00:00', '24:00', zone)", True),
        ("local_between(ended_at, '00:00', '22:59', zone)", False),
        ("local_between(ended_at, '14:00', '15:00', 'UTC')", True),
        ("local_between(ended_at, '14:00', '15:00', '+00:00')", True),
    ],
)
def test_a_window_may_end_with_the_day_and_be_of_any_zone(cel: Compiler, source: str, holds: bool) -> None:
    moment = datetime(2026, 3, 1, 14, 59, 59, 999_000, tzinfo=UTC)

    assert evaluate(cel, source, Kind.BOOL, ended_at=moment, zone="Asia/Shanghai") is holds


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("energy_wh >= 10000 && !(5 > minutes) || false", {"energy_wh", "minutes"}),
        ("present.fee_fen && free == true && !paid", {"fee_fen", "free", "paid"}),
        ("stop_reason in ['3', '4'] && plate != 'x'", {"stop_reason", "plate"}),
        ("true", set()),
        ("energy_wh / 1000 >= 10", None),
        ("energy_wh >= 10 * 1000", None),
        ("energy_wh > fee_fen", None),
        ("plate > 'x'", None),
        ("plate.startsWith('x')", None),
        ("clamp(minutes, 1, 2) == 1", None),
        ("minutes in [1, seconds]", None),
        ("energy_wh > 5 ? free : paid", None),
    ],
)
def test_comparisons_with_literals_alone_change_at_these_alone(source: str, names: set[str] | None) -> None:
    assert compared_in(source) == names


def test_the_names_in_an_expression_are_its_variables() -> None:
    source = "present.fee_fen && fee_fen > 100 && plate.startsWith('minutes') // zone"

    assert names_in(source) == {"present", "fee_fen", "plate"}
    assert guarded_in(source) == {"fee_fen"}
    assert literals_in(source) == {100, "minutes"}
    assert parts_of(source) == ["present.fee_fen", "fee_fen > 100", "plate.startsWith('minutes') // zone"]
    assert parts_of("a && b || c") == ["a && b || c"]
    assert parts_of("(a || b) && c") == ["(a || b)", "c"]
