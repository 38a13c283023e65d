"""CEL expressions, type-checked when compiled, and their values. Performs no I/O but for time zones' data.

The only module that knows CEL's runtime.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

from cel_expr_python import cel
from cel_expr_python.ext import ext_math, ext_strings

from consumer.core import direct, syntax
from consumer.core.complaints import advice, remedy_for
from consumer.core.events import Value
from consumer.core.functions import LOCAL_BETWEEN, ceil_to, clamp, floor_to, local_between
from consumer.core.syntax import PRESENT, Kind, Token, names_in, tokens


@dataclass(frozen=True, slots=True)
class Failure:
    """An expression that gave no usable value for these variables."""

    message: str


class ExpressionError(Exception):
    """An expression that cannot be compiled.

    Attributes:
        line, column: within the expression, from 1.
        caret: the line and a mark under the column; empty where there is none.
        remedy: what to write instead; empty where that is not known.

    """

    def __init__(
        self, message: str, line: int = 1, column: int = 1, caret: str = "", remedy: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column
        self.caret = caret
        self.remedy = remedy


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

    def function(self, expression: Expression, first: int) -> tuple[direct.Function, direct.Literals] | None:
        """A function that evaluates it without CEL, and its literals, which the function takes from the place `first` on.

        All expressions of one shape have the same function. None where only CEL can evaluate it.
        """
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
        self._variables = variables
        self._compiled: dict[tuple[str, Kind], Expression] = {}
        self._shapes: dict[tuple[str, Kind], _Shape] = {}
        self._literals: dict[int | str, int | str] = {}
        self._named: set[str] = set()

    def compile(self, source: str, result: Kind) -> Expression:
        found = self._compiled.get((source, result))
        if found is None:
            found = self._compiled[source, result] = self._compile(source, result)
        return found

    def parts(self) -> list[object]:
        return [self._compiled, self._literals]

    def _compile(self, source: str, result: Kind) -> Expression:
        """Of all expressions of one shape only the first is type-checked: literals make no difference to that."""
        lifted = syntax.lifted(source)
        if lifted is None:
            return self.program(source, result)
        text, literals = lifted
        program = None
        shape = self._shapes.get((text, result))
        if shape is None:
            program = self.program(source, result)
            shape = self._shapes[text, result] = _Shape(source, self._variables)
        give = shape.function(0)
        if give is None:
            return program or self.program(source, result)
        if program is None:
            self._try_literals(source)
        # Equal ones are one: there are fewer thresholds than rules.
        literals = tuple([self._literals.setdefault(literal, literal) for literal in literals])
        return _DirectExpression(source, give, literals, shape, result, self)

    def function(self, expression: Expression, first: int) -> tuple[direct.Function, direct.Literals] | None:
        if not isinstance(expression, _DirectExpression):
            return None
        give = expression.shape.function(first)
        return None if give is None else (give, expression.literals)

    def program(self, source: str, result: Kind) -> "_CelExpression":
        """For CEL's runtime. Raises ExpressionError."""
        try:
            compiled = self._environment.compile(source)
        except RuntimeError as error:
            raise _explained(source, str(error)) from error
        given = compiled.return_type().name()
        if given not in (result.upper(), "DYN"):
            remedy = remedy_for(given.lower(), result)
            raise ExpressionError(f"gives {given.lower()}, where {result} is needed", remedy=remedy)
        self._try_literals(source)
        self._named.update(names_in(source))
        return _CelExpression(source, compiled, _TYPES[result])

    def _try_literals(self, source: str) -> None:
        """CEL looks at these only when it evaluates them, which may be for one order in a thousand."""
        for literal, trial in _trials(source):
            value = self._environment.compile(trial).eval(self._environment.Activation({}))
            if value.type() == cel.Type.ERROR:
                raise _at(source, literal, _complaint(value))

    def bind(self, values: Mapping[str, Value]) -> Binding:
        return _Binding(values, self)

    def activation(self, values: Mapping[str, Value]) -> "_Activation":
        """Binding costs more than looking: what no program names stays out."""
        named: dict[str, object] = {
            name: float(value) if isinstance(value, Decimal) else value
            for name, value in values.items()
            if name in self._named
        }
        if PRESENT in self._named:
            named[PRESENT] = {name: name in values for name in self._variables}
        try:
            return _Activation(self._environment.Activation(named))
        except (RuntimeError, TypeError, ValueError, OverflowError) as error:
            return _Activation(None, str(error))


class _Shape:
    """What expressions are that differ in literals alone."""

    def __init__(self, source: str, variables: Mapping[str, Kind]) -> None:
        """`source` is any of them."""
        self._source = source
        self._variables = variables
        self._functions: dict[int, direct.Function | None] = {}

    def function(self, first: int) -> direct.Function | None:
        """The one that evaluates all of them, given their literals from the place `first` on; None where only CEL can."""
        if first not in self._functions:
            self._functions[first] = direct.function_of(self._source, self._variables, first)
        return self._functions[first]


class _Binding:
    """Values; into CEL's runtime they go when the first expression needs it."""

    __slots__ = ("_activation", "_compiler", "values")

    def __init__(self, values: Mapping[str, Value], compiler: _CelCompiler) -> None:
        self.values = values
        self._compiler = compiler
        self._activation: _Activation | None = None

    def activation(self) -> "_Activation":
        if self._activation is None:
            self._activation = self._compiler.activation(self.values)
        return self._activation


class _Activation(NamedTuple):
    variables: Any
    problem: str = ""


@dataclass(slots=True)
class _DirectExpression:
    """One that needs CEL only for the words of an error, and then has a program made."""

    source: str
    _give: direct.Function
    literals: direct.Literals
    shape: _Shape
    _kind: Kind
    _compiler: _CelCompiler
    _program: "_CelExpression | None" = None

    def evaluate(self, binding: Binding) -> bool | int | Failure:
        assert isinstance(binding, _Binding)
        try:
            given: bool | int = self._give(binding.values, self.literals)
            return given
        except Exception:  # noqa: BLE001  # whatever it was: CEL may still know a value, as of `fails || true`
            if self._program is None:
                self._program = self._compiler.program(self.source, self._kind)
            return self._program.evaluate(binding)


@dataclass(frozen=True, slots=True)
class _CelExpression:
    source: str
    compiled: Any
    type: Any

    def evaluate(self, binding: Binding) -> bool | int | Failure:
        assert isinstance(binding, _Binding)
        variables, problem = binding.activation()
        if variables is None:
            return Failure(problem)
        try:
            value = self.compiled.eval(variables)
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
    told = advice(source, sum(len(each) + 1 for each in lines[: line - 1]) + column - 1, message)
    column -= told.back
    caret = f"{text}\n{space_of(text[: column - 1])}^"
    return ExpressionError(told.message, line, column, caret, told.remedy)


def _at(source: str, token: Token, message: str) -> ExpressionError:
    before = source[: token.start]
    column = token.start - (before.rfind("\n") + 1)
    line = source.split("\n")[before.count("\n")]
    return ExpressionError(message, before.count("\n") + 1, column + 1, f"{line}\n{space_of(line[:column])}^")


def space_of(text: str) -> str:
    """As wide as the text."""
    return "".join("　" if ord(character) > 0x2E7F else " " for character in text)


# -- Literals that are looked at in time


def _trials(source: str) -> Iterator[tuple[Token, str]]:
    """Texts that must be a regular expression, a zone or a time of day, each in an expression that fails if it is none."""
    found = tokens(source)
    for number, token in enumerate(found):
        if token.kind != "name" or found[number + 1 : number + 2] == ():
            continue
        if found[number + 1].text != "(":
            continue
        arguments = list(_alone(found[number + 2 :]))
        if token.text == "matches" and arguments:
            literal = arguments[-1]
            yield literal, f"''.matches({literal.text})"
        elif token.text in _ZONED and arguments:
            yield arguments[0], f"timestamp('2026-01-01T00:00:00Z').{token.text}({arguments[0].text})"
        elif token.text == LOCAL_BETWEEN:
            yield from _trials_of_a_window(arguments)


def _trials_of_a_window(literals: Sequence[Token]) -> Iterator[tuple[Token, str]]:
    """Of `local_between`: a zone begins with a letter or a sign, a time of day with a digit."""
    call = f"{LOCAL_BETWEEN}(timestamp('2026-01-01T00:00:00Z'), {{}}, {{}}, {{}})"
    clocks: list[Token] = []
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


def _alone(tokens: tuple[Token, ...]) -> Iterator[Token]:
    """The arguments of a call that are nothing but a text."""
    depth = 0
    argument: list[Token] = []
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


# -- Helpers


def _helper(name: str, result: Any, parameters: list[Any], work: Callable[..., object]) -> Any:
    return cel.FunctionDecl(name, [cel.Overload(name, result, parameters, is_member=False, impl=work)])


_INT = cel.Type.INT
_HELPERS = [
    _helper("clamp", _INT, [_INT, _INT, _INT], clamp),
    _helper("floor_to", _INT, [_INT, _INT], floor_to),
    _helper("ceil_to", _INT, [_INT, _INT], ceil_to),
    _helper(
        LOCAL_BETWEEN,
        cel.Type.BOOL,
        [cel.Type.TIMESTAMP, cel.Type.STRING, cel.Type.STRING, cel.Type.STRING],
        local_between,
    ),
]
