"""Expressions as Python functions: whatever they give, CEL gives, to the type and to the words of an error."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from consumer.core.events import Value
from consumer.core.expressions import Compiler, Expression, ExpressionError, Failure, _CelCompiler, compiler
from consumer.core.syntax import Kind

VARIABLES = {
    "energy_wh": Kind.INT,
    "minutes": Kind.INT,
    "plate": Kind.STRING,
    "zone": Kind.STRING,
    "guest": Kind.BOOL,
    "price": Kind.DOUBLE,
    "ended_at": Kind.TIMESTAMP,
}
INTS, TEXTS, BOOLS, TIMES = ("energy_wh", "minutes"), ("plate", "zone"), ("guest",), ("ended_at",)
Source = st.SearchStrategy[str]


CEL = compiler(VARIABLES)


def both(source: str, kind: Kind, values: dict[str, Value]) -> tuple[object, object]:
    """What is given here, and by CEL alone; why it is refused, where it is."""
    assert isinstance(CEL, _CelCompiler)
    return given_by(CEL.compile, source, kind, values), given_by(CEL.program, source, kind, values)


def given_by(
    compile_: Callable[[str, Kind], Expression], source: str, kind: Kind, values: dict[str, Value]
) -> object:
    try:
        return compile_(source, kind).evaluate(CEL.bind(values))
    except ExpressionError as error:
        return error.message, error.line, error.column, error.caret


def is_direct(cel: Compiler, source: str, kind: Kind) -> bool:
    return type(cel.compile(source, kind)).__name__ == "_DirectExpression"


# -- Any expression of its parts --------------------------------------------------------------------

NUMBERS = st.sampled_from([0, 1, 2, 5, 60, 1000, 2**31 - 1, 10**18 - 1]).map(str)
LARGE = st.sampled_from(["9223372036854775807", "-9223372036854775808", "0x10", "007", "-5"])
WORDS = st.sampled_from(
    ["", "粤", "粤B12345", "Asia/Shanghai", "+08:00", "\U0001f697", "\uff21", "22:30", "#"]
)


def quoted(word: str) -> str:
    return f"'{word}'" if '"' in word or len(word) % 2 else f'"{word}"'


def ints(children: Callable[[Kind], Source]) -> Source:
    number, truth = children(Kind.INT), children(Kind.BOOL)
    return st.one_of(
        st.builds("{} {} {}".format, number, st.sampled_from("+-*/%"), number),
        st.builds("({} {} {})".format, number, st.sampled_from("+-*/%"), number),
        st.builds("math.{}({}, {})".format, st.sampled_from(["least", "greatest"]), number, number),
        st.builds("{}({}, {})".format, st.sampled_from(["floor_to", "ceil_to"]), number, number),
        st.builds("clamp({}, {}, {})".format, number, number, number),
        st.builds("({} ? {} : {})".format, truth, number, number),
        st.builds("-{}".format, number),
        st.builds("-({})".format, number),
    )


def truths(children: Callable[[Kind], Source]) -> Source:
    number, text, truth = (children(kind) for kind in (Kind.INT, Kind.STRING, Kind.BOOL))
    moment = children(Kind.TIMESTAMP)
    return st.one_of(
        st.builds("{} {} {}".format, number, ORDER, number),
        st.builds("{} {} {}".format, text, ORDER, text),
        st.builds("({} {} {})".format, truth, st.sampled_from(["==", "!="]), truth),
        st.builds("{} in [{}]".format, number, st.lists(NUMBERS, max_size=3).map(", ".join)),
        st.builds("{} in [{}]".format, text, st.lists(WORDS.map(quoted), max_size=3).map(",".join)),
        st.builds("{} && {}".format, truth, truth),
        st.builds("({} || {} || {})".format, truth, truth, truth),
        st.builds("({} && {} && {})".format, truth, truth, truth),
        st.builds("({} ? {} : {})".format, truth, truth, truth),
        st.builds("!({})".format, truth),
        st.builds("{}.{}({})".format, text, st.sampled_from(["startsWith", "endsWith", "contains"]), text),
        st.builds("local_between({}, '22:30', '06:30', {})".format, moment, text),
        st.builds("({} // a comment 5\n)".format, truth),
    )


ORDER = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
LEAVES = {
    Kind.INT: st.one_of(st.sampled_from(INTS), NUMBERS, LARGE),
    Kind.STRING: st.one_of(st.sampled_from(TEXTS), WORDS.map(quoted)),
    Kind.BOOL: st.sampled_from([*BOOLS, "true", "false", *(f"present.{name}" for name in VARIABLES)]),
    Kind.TIMESTAMP: st.sampled_from(TIMES),
}


@cache
def expressions_of(kind: Kind, depth: int) -> Source:
    made = {Kind.INT: ints, Kind.BOOL: truths}.get(kind)
    if depth == 0 or made is None:
        return LEAVES[kind]
    return st.one_of(LEAVES[kind], made(lambda part: expressions_of(part, depth - 1)))


WHOLE = st.one_of(
    st.integers(-100, 100), st.sampled_from([0, 59, 60, 2**31, -(2**53), 2**53, 2**63 - 1, -(2**63)])
)
ZONES = st.sampled_from(
    [UTC, ZoneInfo("Asia/Shanghai"), ZoneInfo("America/New_York"), timezone(timedelta(hours=9))]
)
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "energy_wh": WHOLE,
        "minutes": WHOLE,
        "plate": WORDS,
        "zone": WORDS,
        "guest": st.booleans(),
        "ended_at": st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=ZONES),  # noqa: DTZ001  # hypothesis adds the zone
    },
)


@settings(max_examples=150, deadline=None)
@given(st.data(), VALUES)
def test_a_condition_gives_what_cel_gives(data: st.DataObject, values: dict[str, Value]) -> None:
    source = data.draw(expressions_of(Kind.BOOL, 3))

    found, expected = both(source, Kind.BOOL, values)

    assert (type(found), found) == (type(expected), expected)


@settings(max_examples=150, deadline=None)
@given(st.data(), VALUES)
def test_a_number_is_the_one_that_cel_computes(data: st.DataObject, values: dict[str, Value]) -> None:
    source = data.draw(expressions_of(Kind.INT, 3))

    found, expected = both(source, Kind.INT, values)

    assert (type(found), found) == (type(expected), expected)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["minutes {} {}", "({} - minutes) {} 7", "math.least(minutes {} {}, 120)"]),
    st.sampled_from("+-*/%"),
    WHOLE,
    WHOLE,
)
@example("minutes {} {}", "/", -(2**63), -1)
@example("minutes {} {}", "%", -(2**63), -1)
def test_arithmetic_ends_at_64_bits_and_rounds_towards_zero(
    shape: str, sign: str, minutes: int, other: int
) -> None:
    source = shape.format(sign, other) if shape.startswith(("m", "(m")) else shape.format(other, sign)

    found, expected = both(source, Kind.INT, {"minutes": minutes})

    assert (type(found), found) == (type(expected), expected)


@given(
    st.sampled_from(["getHours", "getMinutes", "getDayOfWeek"]),
    st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=ZONES),  # noqa: DTZ001  # as above
    st.one_of(
        st.sampled_from(["UTC", "Asia/Shanghai", "Asia/Urumqi", "America/New_York", "Australia/Lord_Howe"]),
        st.sampled_from(["+08:00", "-03:30", "8:00", "", "No/Where", "asia/shanghai", "Z", "../UTC"]),
    ),
)
@example("getHours", datetime(2048, 3, 8, 2, tzinfo=ZoneInfo("America/New_York")), "America/New_York")
def test_clocks_in_zones_show_what_cel_reads_from_them(method: str, moment: datetime, zone: str) -> None:
    found, expected = both(f"ended_at.{method}(zone)", Kind.INT, {"ended_at": moment, "zone": zone})

    assert (type(found), found) == (type(expected), expected)


# -- Which are -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("energy_wh >= 5000", Kind.BOOL),
        ("minutes", Kind.INT),
        ("120", Kind.INT),
        ("math.least(minutes, 120)", Kind.INT),
        ("energy_wh / 1000", Kind.INT),
        ("(minutes + 14) / 15 * 15", Kind.INT),
        ("minutes > 30 ? math.least(minutes, 120) : 30", Kind.INT),
        ("clamp(ceil_to(minutes, 15), 0, 240)", Kind.INT),
        ("present.guest && guest", Kind.BOOL),
        ("plate.startsWith('粤') || plate in ['京A12345', \"沪A12345\"]", Kind.BOOL),
        ("minutes >= 30 && energy_wh > 0 && zone != 'UTC'  // night is another rule's", Kind.BOOL),
        ("local_between(ended_at, '22:30', '06:30', zone)", Kind.BOOL),
        ("!guest && !(minutes < 10)", Kind.BOOL),
        ("ended_at.getHours(zone) >= 22 || ended_at.getHours('Asia/Shanghai') < 6", Kind.BOOL),
        ("minutes > -5", Kind.BOOL),
    ],
)
def test_what_rules_usually_say_needs_no_runtime(source: str, kind: Kind) -> None:
    assert is_direct(compiler(VARIABLES), source, kind)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("ended_at.getFullYear(zone) > 2025", Kind.BOOL),
        ("ended_at.getHours() >= 22", Kind.BOOL),
        ("plate.matches('^粤')", Kind.BOOL),
        ("price > 1.5", Kind.BOOL),
        ("int(plate.substring(3)) % 10", Kind.INT),
        ("size(plate)", Kind.INT),
        ("[1, 2].exists(one, one == minutes)", Kind.BOOL),
        ("ended_at > timestamp('2026-01-01T00:00:00Z')", Kind.BOOL),
        ("dyn(minutes)", Kind.INT),
        ("present['minutes']", Kind.BOOL),
        ("'a\\'b' == plate", Kind.BOOL),
        ("math.least(minutes, 1, 2)", Kind.INT),
        ("minutes in [1, energy_wh]", Kind.BOOL),
        ("guest < true", Kind.BOOL),
        ("minutes == 1 == guest", Kind.BOOL),
    ],
)
def test_what_else_cel_can_do_is_left_to_it(source: str, kind: Kind) -> None:
    assert not is_direct(compiler(VARIABLES), source, kind)


# -- Shapes -------------------------------------------------------------------------------------------


def test_expressions_that_differ_in_literals_alone_are_each_their_own() -> None:
    cel = compiler(VARIABLES)
    values: dict[str, Value] = {"minutes": 50, "plate": "粤B12345"}
    binding = cel.bind(values)

    assert [
        cel.compile(f"minutes >= {least} && plate.startsWith({start})", Kind.BOOL).evaluate(binding)
        for least, start in ((50, "'粤'"), (51, "'粤'"), (50, "'京'"), (7, '"粤B"'))
    ] == [True, False, False, True]


def test_a_text_where_the_same_shape_has_a_number_is_refused() -> None:
    cel = compiler(VARIABLES)
    cel.compile("minutes >= 50", Kind.BOOL)

    with pytest.raises(ExpressionError, match="stands between a whole number and text"):
        cel.compile("minutes >= '50'", Kind.BOOL)


def test_a_zone_that_is_none_is_refused_in_whatever_expression_of_a_known_shape() -> None:
    cel = compiler(VARIABLES)
    cel.compile("local_between(ended_at, '22:30', '06:30', 'Asia/Shanghai')", Kind.BOOL)

    with pytest.raises(ExpressionError, match="is no time zone") as caught:
        cel.compile("local_between(ended_at, '22:30', '06:30', 'Asia/Shangai')", Kind.BOOL)
    assert (caught.value.line, caught.value.column) == (1, 43)


def test_one_that_fails_says_so_in_the_words_of_cel_again_and_again() -> None:
    cel = compiler(VARIABLES)
    expression = cel.compile("minutes / energy_wh", Kind.INT)

    assert [
        expression.evaluate(cel.bind(values))
        for values in ({"minutes": 1}, {"minutes": 6, "energy_wh": 2}, {"minutes": 1, "energy_wh": 0})
    ] == [Failure("energy_wh has no value"), 3, Failure("divide by zero")]


def test_an_alternative_that_holds_makes_up_for_one_that_fails() -> None:
    found, expected = both("energy_wh > 5 || minutes > 5", Kind.BOOL, {"minutes": 6})

    assert found is expected is True
