"""CEL behind our own words: checked when compiled, and no error passes for a value."""

from datetime import UTC, datetime

import pytest

from consumer.core.events import Value
from consumer.core.expressions import Compiler, ExpressionError, Failure, Kind, compiler

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
        ("fee_fen > 1", 'No value with name "fee_fen"'),
        ("minutes * 9223372036854775807 > 0", "integer overflow"),
        ("plate.matches('[')", "invalid regular expression"),
        ("ended_at.getHours('No/Where') > 1", "Invalid timezone"),
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
    assert isinstance(evaluate(cel, "energy_wh > 0", Kind.BOOL, energy_wh=2**70), Failure)
    assert isinstance(evaluate(cel, "plate == ''", Kind.BOOL, plate="\ud800"), Failure)


@pytest.mark.parametrize(
    ("source", "kind", "message", "line", "column"),
    [
        ("energy >= 5", Kind.BOOL, "undeclared reference to 'energy'", 1, 1),
        ("minutes > 'a'", Kind.BOOL, "found no matching overload for '_>_' applied to '(int, string)'", 1, 9),
        ("minutes > 1 &&\n  foo", Kind.BOOL, "undeclared reference to 'foo'", 2, 3),
        ("minutes >", Kind.BOOL, "Syntax error: mismatched input '<EOF>'", 1, 10),
        ("minutes", Kind.BOOL, "gives int, where bool is needed", 1, 1),
        ("minutes > 1", Kind.INT, "gives bool, where int is needed", 1, 1),
        ("price", Kind.INT, "gives double, where int is needed", 1, 1),
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
