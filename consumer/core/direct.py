"""Expressions of whole numbers, truth values and texts as Python functions. Performs no I/O but for time zones' data.

Most expressions of rules are no more than `energy_wh >= 5000 && stop_reason == "user"`, for which CEL takes fifty times as
long: every value goes into its runtime, and out again. What a function gives here is what CEL gives. Where that is an
error (an absent field, a division by zero, a number beyond 64 bits) it raises whatever it may: CEL has the words for it.
"""

import operator
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from consumer.core import functions
from consumer.core.events import Value
from consumer.core.syntax import PRESENT, Kind, Token, literal_of, tokens

Values = Mapping[str, Value]
Literals = tuple[int | str, ...]
Function = Callable[[Values, Literals], Any]
"""Takes an order's fields and the literals of the expression; gives a bool or an int, or raises."""

_Typed = Callable[[Mapping[str, Any], tuple[Any, ...]], Any]
"""One whose fields and literals are of the right kinds by CEL's type check."""


def function_of(source: str, variables: Mapping[str, Kind], first: int = 0) -> Function | None:
    """What evaluates this expression and all others of its shape; None where only CEL can.

    The expression passed CEL's type check, and `syntax.lifted` took out its literals: they are those from the
    place `first` on.
    """
    try:
        return _Parser(source, variables, first).parse().give
    except (_BeyondUsError, RecursionError):
        return None


class _BeyondUsError(Exception):
    """Something that only CEL knows."""


class _Part(NamedTuple):
    """A part of an expression.

    Attributes:
        kind: of what it gives.
        name: of the field that it is, if it is no more than one.
        literal: the place of the literal that it is, likewise.

    """

    kind: Kind
    give: Function
    name: str | None = None
    literal: int | None = None


# -- Reading -----------------------------------------------------------------------------------------


class _Parser:
    """From left to right over the tokens; each method takes what its name says (github.com/google/cel-spec, syntax)."""

    def __init__(self, source: str, variables: Mapping[str, Kind], first: int) -> None:
        self._tokens = (*tokens(source), Token("end", "", len(source)))
        self._place = 0
        self._literals = first
        self._variables = variables

    def parse(self) -> _Part:
        """All of it."""
        found = self._expression()
        if self._next.kind != "end":
            raise _BeyondUsError
        return found

    @property
    def _next(self) -> Token:
        return self._tokens[self._place]

    def _takes(self, *texts: str) -> str:
        """The mark or word that stands next, if it is one of these; else nothing."""
        token = self._next
        if token.text not in texts or token.kind not in ("mark", "name"):
            return ""
        self._place += 1
        return token.text

    def _need(self, text: str) -> None:
        if not self._takes(text):
            raise _BeyondUsError

    def _expression(self) -> _Part:
        condition = self._alternatives()
        if not self._takes("?"):
            return condition
        first = self._alternatives()
        self._need(":")
        second = self._expression()
        if condition.kind is not Kind.BOOL or first.kind is not second.kind:
            raise _BeyondUsError
        return _Part(first.kind, _chosen(condition.give, first.give, second.give))

    def _alternatives(self) -> _Part:
        parts = [self._conjunction()]
        while self._takes("||"):
            parts.append(self._conjunction())
        return parts[0] if len(parts) == 1 else _Part(Kind.BOOL, _any_of(_given(Kind.BOOL, *parts)))

    def _conjunction(self) -> _Part:
        parts = [self._relation()]
        while self._takes("&&"):
            parts.append(self._relation())
        return parts[0] if len(parts) == 1 else _Part(Kind.BOOL, _all_of(_given(Kind.BOOL, *parts)))

    def _relation(self) -> _Part:
        left = self._sum()
        relation = self._takes(*_EQUALITIES, *_ORDERS, "in")
        if not relation:
            return left
        if relation == "in":
            found = self._listed(left)
        else:
            right = self._sum()
            comparable = _COMPARABLE if relation in _EQUALITIES else _ORDERED
            if left.kind is not right.kind or left.kind not in comparable:
                raise _BeyondUsError
            found = _two(Kind.BOOL, (_EQUALITIES | _ORDERS)[relation], left, right)
        if self._next.text in {*_EQUALITIES, *_ORDERS, "in"}:
            raise _BeyondUsError
        return found

    def _listed(self, part: _Part) -> _Part:
        """Behind `in`: literals of its kind."""
        self._need("[")
        first = self._literals
        while not self._takes("]"):
            literal = self._atom()
            if literal.literal is None or literal.kind is not part.kind:
                raise _BeyondUsError
            if self._next.text != "]":
                self._need(",")
        return _Part(Kind.BOOL, _one_of(part.give, first, self._literals))

    def _sum(self) -> _Part:
        left = self._product()
        while sign := self._takes(*_SUMS):
            left = _numbers(_SUMS[sign], left, self._product())
        return left

    def _product(self) -> _Part:
        left = self._signed()
        while sign := self._takes(*_PRODUCTS):
            left = _numbers(_PRODUCTS[sign], left, self._signed())
        return left

    def _signed(self) -> _Part:
        if self._takes("-"):
            (give,) = _given(Kind.INT, self._signed())
            return _Part(Kind.INT, _one(_negative, give))
        if self._takes("!"):
            (give,) = _given(Kind.BOOL, self._signed())
            return _Part(Kind.BOOL, _one(operator.not_, give))
        return self._member()

    def _member(self) -> _Part:
        part = self._atom()
        while self._takes("."):
            name = self._next.text
            self._place += 1
            (argument,) = self._arguments(1)
            _given(Kind.STRING, argument)
            if part.kind is Kind.STRING and name in _METHODS:
                part = _two(Kind.BOOL, _METHODS[name], part, argument)
            elif part.kind is Kind.TIMESTAMP and name in _CLOCKS:
                part = _two(Kind.INT, _CLOCKS[name], part, argument)
            else:
                raise _BeyondUsError
        if self._next.text in ("[", "{", "("):
            raise _BeyondUsError
        return part

    def _atom(self) -> _Part:
        token = self._next
        self._place += 1
        if token.text == "(" and token.kind == "mark":
            inner = self._expression()
            self._need(")")
            return inner
        if token.kind in ("number", "string"):
            place = self._literals
            self._literals += 1
            kind = Kind.INT if token.kind == "number" else Kind.STRING
            if literal_of(token) is None:
                raise _BeyondUsError
            return _Part(kind, _literal(place), literal=place)
        if token.kind == "name":
            return self._named(token.text)
        raise _BeyondUsError

    def _named(self, name: str) -> _Part:
        if name in ("true", "false"):
            return _Part(Kind.BOOL, _constant(name == "true"))
        if name == PRESENT:
            self._need(".")
            field = self._next.text
            self._place += 1
            if field not in self._variables:
                raise _BeyondUsError
            return _Part(Kind.BOOL, _presence(field))
        if name == "math":
            self._need(".")
            work = _MATH.get(self._next.text)
            self._place += 1
            if work is None:
                raise _BeyondUsError
            return _numbers(work, *self._arguments(2))
        if self._next.text == "(":
            return self._called(name)
        if name not in self._variables:
            raise _BeyondUsError
        return _Part(self._variables[name], _field(name), name=name)

    def _called(self, name: str) -> _Part:
        if name == functions.LOCAL_BETWEEN:
            moment, *texts = self._arguments(4)
            gives = (*_given(Kind.TIMESTAMP, moment), *_given(Kind.STRING, *texts))
            return _Part(Kind.BOOL, _many(functions.local_between, gives))
        if name == "clamp":
            return _Part(Kind.INT, _many(functions.clamp, _given(Kind.INT, *self._arguments(3))))
        if name not in _STEPS:
            raise _BeyondUsError
        return _numbers(_STEPS[name], *self._arguments(2))

    def _arguments(self, count: int) -> list[_Part]:
        self._need("(")
        found = [self._expression()]
        while self._takes(","):
            found.append(self._expression())
        self._need(")")
        if len(found) != count:
            raise _BeyondUsError
        return found


def _given(kind: Kind, *parts: _Part) -> tuple[Function, ...]:
    """What gives each part, all of which must be of this kind."""
    if any(part.kind is not kind for part in parts):
        raise _BeyondUsError
    return tuple(part.give for part in parts)


# -- Functions of parts ------------------------------------------------------------------------------


def _field(name: str) -> Function:
    return lambda values, _: values[name]


def _presence(name: str) -> Function:
    return lambda values, _: name in values


def _literal(place: int) -> Function:
    return lambda _, literals: literals[place]


def _constant(value: bool) -> Function:
    return lambda _values, _literals: value


def _numbers(work: Callable[[int, int], int], left: _Part, right: _Part) -> _Part:
    _given(Kind.INT, left, right)
    return _two(Kind.INT, work, left, right)


def _two(kind: Kind, work: Callable[[Any, Any], Any], left: _Part, right: _Part) -> _Part:
    if left.name is not None and right.literal is not None:  # most are so, and it saves two calls or three
        made = _IN_LINE.get(work)
        if made is not None:
            return _Part(kind, made(left.name, right.literal))
        return _Part(kind, _field_and_literal(work, left.name, right.literal))
    first, second = left.give, right.give
    return _Part(kind, lambda values, literals: work(first(values, literals), second(values, literals)))


def _field_and_literal(work: Callable[[Any, Any], Any], name: str, place: int) -> Function:
    return lambda values, literals: work(values[name], literals[place])


def _least(name: str, place: int) -> _Typed:
    def give(values: Mapping[str, Any], literals: tuple[Any, ...]) -> Any:
        value, literal = values[name], literals[place]
        return literal if literal < value else value  # noqa: FURB136  # a call is what it saves

    return give


def _greatest(name: str, place: int) -> _Typed:
    def give(values: Mapping[str, Any], literals: tuple[Any, ...]) -> Any:
        value, literal = values[name], literals[place]
        return literal if literal > value else value  # noqa: FURB136  # as above

    return give


def _divided(name: str, place: int) -> _Typed:
    def give(values: Mapping[str, Any], literals: tuple[Any, ...]) -> Any:
        value, literal = values[name], literals[place]
        return value // literal if value >= 0 < literal else _quotient(value, literal)

    return give


def _one(work: Callable[[Any], Any], give: Function) -> Function:
    return lambda values, literals: work(give(values, literals))


def _many(work: Callable[..., Any], gives: tuple[Function, ...]) -> Function:
    return lambda values, literals: work(*[give(values, literals) for give in gives])


def _one_of(give: Function, first: int, end: int) -> Function:
    return lambda values, literals: give(values, literals) in literals[first:end]


def _chosen(condition: Function, first: Function, second: Function) -> Function:
    return lambda values, literals: (
        first(values, literals) if condition(values, literals) else second(values, literals)
    )


def _all_of(gives: tuple[Function, ...]) -> Function:
    """False at the first part that is false: like CEL, it does not look at those behind it, one of which may fail."""
    if len(gives) == 2:
        first, second = gives
        return lambda values, literals: first(values, literals) and second(values, literals)

    def give_all(values: Values, literals: Literals) -> bool:
        for give in gives:  # noqa: SIM110  # a generator for each order costs more than all of this
            if not give(values, literals):
                return False
        return True

    return give_all


def _any_of(gives: tuple[Function, ...]) -> Function:
    """True at the first part that is true, likewise."""

    def give_any(values: Values, literals: Literals) -> bool:
        for give in gives:  # noqa: SIM110  # as above
            if give(values, literals):
                return True
        return False

    return give_any


# -- CEL's arithmetic --------------------------------------------------------------------------------

_LEAST, _MOST = -(2**63), 2**63 - 1


def _fitting(number: int) -> int:
    if not _LEAST <= number <= _MOST:
        raise OverflowError
    return number


def _sum(left: int, right: int) -> int:
    return _fitting(left + right)


def _difference(left: int, right: int) -> int:
    return _fitting(left - right)


def _product(left: int, right: int) -> int:
    return _fitting(left * right)


def _negative(number: int) -> int:
    return _fitting(-number)


def _quotient(left: int, right: int) -> int:
    """Rounded towards zero."""
    if left >= 0 < right:
        return left // right
    quotient = abs(left) // abs(right)
    return _fitting(quotient if (left < 0) == (right < 0) else -quotient)


def _remainder(left: int, right: int) -> int:
    """Of the sign of what is divided."""
    return left - right * _quotient(left, right)


def _floor_to(value: int, step: int) -> int:
    return _fitting(functions.floor_to(value, step))


def _ceil_to(value: int, step: int) -> int:
    return _fitting(functions.ceil_to(value, step))


def _hour(moment: datetime, zone: str) -> int:
    return functions.local_time(moment, zone).hour


def _minute(moment: datetime, zone: str) -> int:
    return functions.local_time(moment, zone).minute


def _day_of_week(moment: datetime, zone: str) -> int:
    """From Sunday, which is 0."""
    return functions.local_time(moment, zone).isoweekday() % 7


_SUMS = {"+": _sum, "-": _difference}
_PRODUCTS = {"*": _product, "/": _quotient, "%": _remainder}
_MATH: Mapping[str, Callable[[int, int], int]] = {"least": min, "greatest": max}
_STEPS = {"floor_to": _floor_to, "ceil_to": _ceil_to}
_EQUALITIES = {"==": operator.eq, "!=": operator.ne}
_COMPARABLE = (Kind.INT, Kind.STRING, Kind.BOOL)
_ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_ORDERED = (Kind.INT, Kind.STRING)  # texts by their characters' numbers, as UTF-8 has them
_CLOCKS = {"getHours": _hour, "getMinutes": _minute, "getDayOfWeek": _day_of_week}
_METHODS: Mapping[str, Callable[[str, str], bool]] = {
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": operator.contains,
}
_IN_LINE: Mapping[Callable[[Any, Any], Any], Callable[[str, int], _Typed]] = {
    operator.eq: lambda name, place: lambda values, literals: values[name] == literals[place],
    operator.ne: lambda name, place: lambda values, literals: values[name] != literals[place],
    operator.lt: lambda name, place: lambda values, literals: values[name] < literals[place],
    operator.le: lambda name, place: lambda values, literals: values[name] <= literals[place],
    operator.gt: lambda name, place: lambda values, literals: values[name] > literals[place],
    operator.ge: lambda name, place: lambda values, literals: values[name] >= literals[place],
    min: _least,
    max: _greatest,
    _quotient: _divided,
}
"""What is done to a field and a literal most often, without a call."""
