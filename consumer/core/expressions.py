"""CEL expressions, type-checked when compiled, and their values. Performs no I/O but for time zones' data.

The only module that knows CEL's runtime.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cel_expr_python import cel
from cel_expr_python.ext import ext_math, ext_strings

from consumer.core.events import Value

PRESENT = "present"
"""The variable that tells which fields have a value: `present.fee_fen`."""


class Kind(StrEnum):
    """What a variable holds, and what an expression gives."""

    INT = "int"
    DOUBLE = "double"
    BOOL = "bool"
    STRING = "string"
    TIMESTAMP = "timestamp"


@dataclass(frozen=True, slots=True)
class Failure:
    """An expression that gave no usable value for these variables."""

    message: str


class ExpressionError(Exception):
    """An expression that cannot be compiled.

    Attributes:
        line, column: within the expression, from 1.
        caret: the line and a mark under the column; empty where there is none.

    """

    def __init__(self, message: str, line: int = 1, column: int = 1, caret: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column
        self.caret = caret


class Binding(Protocol):
    """One order's variables, shared by all expressions that are evaluated on it."""


class Expression(Protocol):
    """A compiled expression whose value is a bool, or an int."""

    @property
    def source(self) -> str:
        """As written."""
        ...

    def evaluate(self, binding: Binding) -> bool | int | Failure:
        """Its value, of the kind it was compiled for. Never raises."""
        ...


class Compiler(Protocol):
    """Compiles expressions over one set of variables; equal ones are compiled once."""

    def compile(self, source: str, result: Kind) -> Expression:
        """Raises ExpressionError."""
        ...

    def parts(self) -> list[object]:
        """What is long in it, for whoever wants to empty it little by little once nobody needs it."""
        ...

    def bind(self, values: Mapping[str, Value]) -> Binding:
        """Variables without a value stay unbound: an expression that needs one fails. Never raises."""
        ...


def compiler(variables: Mapping[str, Kind]) -> Compiler:
    """A compiler for expressions over these variables and `present`."""
    return _CelCompiler(variables)


_TYPES: dict[Kind, Any] = {
    Kind.INT: cel.Type.INT,
    Kind.DOUBLE: cel.Type.DOUBLE,
    Kind.BOOL: cel.Type.BOOL,
    Kind.STRING: cel.Type.STRING,
    Kind.TIMESTAMP: cel.Type.TIMESTAMP,
}
_COMPLAINT = re.compile(r"(?:[A-Z_]+: )?(?:ERROR: )?<input>:(\d+):(\d+): (.*)")
_CONTAINER = re.compile(r" \(in container '.*?'\)")
_TAIL = re.compile(r"\s*\[[A-Z_]+\]$")


class _CelCompiler:
    def __init__(self, variables: Mapping[str, Kind]) -> None:
        types = {name: _TYPES[kind] for name, kind in variables.items()}
        types[PRESENT] = cel.Type.Map(cel.Type.STRING, cel.Type.BOOL)
        self._environment = cel.NewEnv(
            variables=types,
            extensions=[ext_math.ExtMath(), ext_strings.ExtStrings()],
            functions=_HELPERS,
        )
        self._variables = tuple(variables)
        self._compiled: dict[tuple[str, Kind], Expression] = {}
        self._named: set[str] = set()

    def compile(self, source: str, result: Kind) -> Expression:
        found = self._compiled.get((source, result))
        if found is None:
            found = self._compiled[source, result] = self._compile(source, result)
            self._named.update(names_in(source))
        return found

    def parts(self) -> list[object]:
        return [self._compiled]

    def _compile(self, source: str, result: Kind) -> Expression:
        try:
            compiled = self._environment.compile(source)
        except RuntimeError as error:
            raise _explained(source, str(error)) from error
        given = compiled.return_type().name()
        if given not in (result.upper(), "DYN"):
            raise ExpressionError(f"gives {given.lower()}, where {result} is needed")
        for literal, trial in _trials(source):
            # CEL looks at these only when it evaluates them, which may be for one order in a thousand.
            value = self._environment.compile(trial).eval(self._environment.Activation({}))
            if value.type() == cel.Type.ERROR:
                raise _at(source, literal, _complaint(value))
        return _CelExpression(source, compiled, _TYPES[result])

    def bind(self, values: Mapping[str, Value]) -> Binding:
        # Binding costs more than looking: what no expression names stays out.
        named: dict[str, object] = {
            name: float(value) if isinstance(value, Decimal) else value
            for name, value in values.items()
            if name in self._named
        }
        if PRESENT in self._named:
            named[PRESENT] = {name: name in values for name in self._variables}
        try:
            return _CelBinding(self._environment.Activation(named))
        except (RuntimeError, TypeError, ValueError, OverflowError) as error:
            return _CelBinding(None, str(error))


@dataclass(frozen=True, slots=True)
class _CelBinding:
    activation: Any
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _CelExpression:
    source: str
    compiled: Any
    type: Any

    def evaluate(self, binding: Binding) -> bool | int | Failure:
        assert isinstance(binding, _CelBinding)
        if binding.activation is None:
            return Failure(binding.problem)
        try:
            value = self.compiled.eval(binding.activation)
            # The type first: an error is a value too, and a truthy one.
            if value.type() == self.type:
                given: bool | int = value.value()
                return given
            if value.type() == cel.Type.ERROR:
                return Failure(_complaint(value))
            return Failure(f"gave {value.type().name().lower()}")
        except (RuntimeError, TypeError, ValueError, OverflowError) as error:
            return Failure(str(error))


def _complaint(error: Any) -> str:
    text = str(error.value())
    return _NOT_BOUND.sub(r"\1 has no value", _STATUS.sub("", text) or text)


_STATUS = re.compile(r"^[A-Z_]+(?: [A-Z_]+)*: |^(?:INVALID_ARGUMENT|OUT_OF_RANGE|UNKNOWN|NOT_FOUND) ")
_NOT_BOUND = re.compile(r'No value with name "(\w+)" found in Activation')


def _explained(source: str, complaint: str) -> ExpressionError:
    """CEL's first complaint, with its place and a caret of our own: CEL's is as wide as its dots."""
    match = _COMPLAINT.search(complaint)
    if match is None:
        return ExpressionError(_TAIL.sub("", complaint.strip()))
    line, column, message = int(match[1]), int(match[2]), match[3]
    message = _TAIL.sub("", _CONTAINER.sub("", message)).partition(" expecting {")[0]
    lines = source.split("\n")
    text = lines[line - 1] if line <= len(lines) else ""
    return ExpressionError(message, line, column, f"{text}\n{space_of(text[: column - 1])}^")


def _at(source: str, token: "_Token", message: str) -> ExpressionError:
    before = source[: token.start]
    column = token.start - (before.rfind("\n") + 1)
    line = source.split("\n")[before.count("\n")]
    return ExpressionError(message, before.count("\n") + 1, column + 1, f"{line}\n{space_of(line[:column])}^")


def space_of(text: str) -> str:
    """As wide as the text."""
    return "".join("　" if ord(character) > 0x2E7F else " " for character in text)


# -- What stands in an expression ---------------------------------------------------------------------


class _Token(NamedTuple):
    kind: str
    text: str
    start: int


_TOKEN = re.compile(
    r"""(?P<string>[bBrR]{0,2}(?:\"{3}[\s\S]*?\"{3}|'{3}[\s\S]*?'{3}|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))"""
    r"|(?P<comment>//[^\n]*)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<number>[0-9][0-9A-Za-z.]*)|(?P<mark>&&|\|\||[^\s])"
)


@lru_cache(maxsize=4096)
def _tokens(source: str) -> tuple[_Token, ...]:
    return tuple(
        _Token(match.lastgroup or "", match.group(), match.start())
        for match in _TOKEN.finditer(source)
        if match.lastgroup != "comment"
    )


def names_in(source: str) -> set[str]:
    """The variables that it names, and perhaps functions; `present.fee_fen` is `present` alone."""
    found: set[str] = set()
    before = ""
    for token in _tokens(source):
        if token.kind == "name" and before != ".":
            found.add(token.text)
        before = token.text
    return found


def place_of(source: str, name: str) -> tuple[int, int]:
    """Line and column at which it names a variable first; its beginning where it does not."""
    before = ""
    for token in _tokens(source):
        if token.text == name and token.kind == "name" and before != ".":
            above = source[: token.start]
            return above.count("\n") + 1, token.start - above.rfind("\n")
        before = token.text
    return 1, 1


def guarded_in(source: str) -> set[str]:
    """The fields whose presence it asks for."""
    texts = [token.text for token in _tokens(source)]
    return {
        name
        for first, dot, name in zip(texts, texts[1:], texts[2:], strict=False)
        if (first, dot) == (PRESENT, ".")
    }


def literals_in(source: str) -> set[int | str]:
    """The whole numbers and plain texts that it compares with."""
    found: set[int | str] = set()
    for token in _tokens(source):
        if token.kind == "number" and token.text.isdigit() and len(token.text) <= 18:
            found.add(int(token.text))
        elif token.kind == "string" and "\\" not in token.text and token.text[:1] in "'\"":
            found.add(token.text.strip("'\""))
    return found


def parts_of(source: str) -> list[str]:
    """The conditions that must all hold; the whole of it where it is no such list."""
    depth, start, parts = 0, 0, []
    for token in _tokens(source):
        if token.kind != "mark":
            continue
        depth += (token.text in "([{") - (token.text in ")]}")
        if depth == 0 and token.text in ("||", "?"):
            return [source.strip()]
        if depth == 0 and token.text == "&&":
            parts.append(source[start : token.start].strip())
            start = token.start + 2
    return [*parts, source[start:].strip()]


def _trials(source: str) -> Iterator[tuple[_Token, str]]:
    """Texts that must be a regular expression, a zone or a time of day, each in an expression that fails if it is none."""
    tokens = _tokens(source)
    for number, token in enumerate(tokens):
        if token.kind != "name" or tokens[number + 1 : number + 2] == ():
            continue
        if tokens[number + 1].text != "(":
            continue
        arguments = list(_alone(tokens[number + 2 :]))
        if token.text == "matches" and arguments:
            literal = arguments[-1]
            yield literal, f"''.matches({literal.text})"
        elif token.text in _ZONED and arguments:
            yield arguments[0], f"timestamp('2026-01-01T00:00:00Z').{token.text}({arguments[0].text})"
        elif token.text == LOCAL_BETWEEN:
            yield from _trials_of_a_window(arguments)


def _trials_of_a_window(literals: Sequence["_Token"]) -> Iterator[tuple["_Token", str]]:
    """Of `local_between`: a zone begins with a letter or a sign, a time of day with a digit."""
    call = f"{LOCAL_BETWEEN}(timestamp('2026-01-01T00:00:00Z'), {{}}, {{}}, {{}})"
    clocks: list[_Token] = []
    for literal in literals:
        if not literal.text.strip("'\"")[:1].isdigit():
            yield literal, call.format("'00:00'", "'12:00'", literal.text)
            continue
        clocks.append(literal)
        yield literal, call.format("'12:34'", literal.text, "'UTC'")
    if len(clocks) == 2:
        first, last = clocks
        yield first, call.format(first.text, "'12:34'", "'UTC'")
        yield last, call.format(first.text, last.text, "'UTC'")


_ZONED = frozenset(
    f"get{part}"
    for part in (
        "FullYear",
        "Month",
        "Date",
        "DayOfMonth",
        "DayOfWeek",
        "DayOfYear",
        "Hours",
        "Minutes",
        "Seconds",
    )
)


def _alone(tokens: tuple[_Token, ...]) -> Iterator[_Token]:
    """The arguments of a call that are nothing but a text."""
    depth = 0
    argument: list[_Token] = []
    for token in tokens:
        if depth == 0 and token.text in (",", ")") and token.kind == "mark":
            if len(argument) == 1 and argument[0].kind == "string":
                yield argument[0]
            argument = []
            if token.text == ")":
                return
            continue
        depth += token.kind == "mark" and (token.text in "([{") - (token.text in ")]}")
        argument.append(token)


# -- Helpers of relief policies -----------------------------------------------------------------------

LOCAL_BETWEEN = "local_between"
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_END_OF_DAY = "24:00"
_OFFSET = re.compile(r"([+-])([01][0-9]|2[0-3]):([0-5][0-9])")


def _clamp(value: int, low: int, high: int) -> int:
    if low > high:
        raise ValueError(f"clamp: {low} is above {high}")
    return max(low, min(value, high))


def _floor_to(value: int, step: int) -> int:
    return value // _checked(step) * step


def _ceil_to(value: int, step: int) -> int:
    return -(-value // _checked(step)) * step


def _checked(step: int) -> int:
    if step <= 0:
        raise ValueError(f"a step of {step}")
    return step


def _local_between(moment: datetime, start: str, end: str, zone: str) -> bool:
    local = moment.astimezone(_zone(zone))
    now, first = local.hour * 60 + local.minute, _minute(start)
    last = 24 * 60 if end == _END_OF_DAY else _minute(end)
    if first == last:
        raise ValueError(f"local_between: from {start} to {end} is no time at all")
    return first <= now < last if first < last else now >= first or now < last


def _minute(clock: str) -> int:
    match = _CLOCK.fullmatch(clock)
    if match is None:
        raise ValueError(f"`{clock[:20]}` is no time of day: write it like 06:30")
    return int(match[1]) * 60 + int(match[2])


@lru_cache(maxsize=1024)
def _zone(name: str) -> tzinfo:
    offset = _OFFSET.fullmatch(name)
    if offset is not None:
        shift = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
        return timezone(-shift if offset[1] == "-" else shift)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"`{name[:40]}` is no time zone") from None


def _helper(name: str, result: Any, parameters: list[Any], work: Callable[..., object]) -> Any:
    return cel.FunctionDecl(name, [cel.Overload(name, result, parameters, is_member=False, impl=work)])


_INT = cel.Type.INT
_HELPERS = [
    _helper("clamp", _INT, [_INT, _INT, _INT], _clamp),
    _helper("floor_to", _INT, [_INT, _INT], _floor_to),
    _helper("ceil_to", _INT, [_INT, _INT], _ceil_to),
    _helper(
        LOCAL_BETWEEN,
        cel.Type.BOOL,
        [cel.Type.TIMESTAMP, cel.Type.STRING, cel.Type.STRING, cel.Type.STRING],
        _local_between,
    ),
]
HELPERS = {
    "clamp(value, low, high)": "no less than `low`, no more than `high`",
    "floor_to(value, step)": "down to a multiple of `step`",
    "ceil_to(value, step)": "up to a multiple of `step`",
    "local_between(time, from, to, zone)": "`time` is from `from` to before `to` (`24:00` at most) by the clock in `zone`, past midnight too",
}
"""What expressions can call beside CEL's own, `math.least`, `math.greatest` and the text functions."""
