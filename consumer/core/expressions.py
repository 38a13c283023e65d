"""CEL expressions, type-checked when compiled, and their values. Performs no I/O; the only module that knows CEL's runtime."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol

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
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_COMPLAINT = re.compile(r"(?:[A-Z_]+: )?(?:ERROR: )?<input>:(\d+):(\d+): (.*)")
_CONTAINER = re.compile(r" \(in container '.*?'\)")
_TAIL = re.compile(r"\s*\[[A-Z_]+\]$")


class _CelCompiler:
    def __init__(self, variables: Mapping[str, Kind]) -> None:
        types = {name: _TYPES[kind] for name, kind in variables.items()}
        types[PRESENT] = cel.Type.Map(cel.Type.STRING, cel.Type.BOOL)
        self._environment = cel.NewEnv(
            variables=types, extensions=[ext_math.ExtMath(), ext_strings.ExtStrings()]
        )
        self._variables = tuple(variables)
        self._compiled: dict[tuple[str, Kind], Expression] = {}
        self._named: set[str] = set()

    def compile(self, source: str, result: Kind) -> Expression:
        found = self._compiled.get((source, result))
        if found is None:
            found = self._compiled[source, result] = self._compile(source, result)
            self._named.update(_NAME.findall(source))
        return found

    def _compile(self, source: str, result: Kind) -> Expression:
        try:
            compiled = self._environment.compile(source)
        except RuntimeError as error:
            raise _explained(source, str(error)) from error
        given = compiled.return_type().name()
        if given not in (result.upper(), "DYN"):
            raise ExpressionError(f"gives {given.lower()}, where {result} is needed")
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
                return Failure(str(value.value()).partition(": ")[2] or str(value.value()))
            return Failure(f"gave {value.type().name().lower()}")
        except (RuntimeError, TypeError, ValueError, OverflowError) as error:
            return Failure(str(error))


def _explained(source: str, complaint: str) -> ExpressionError:
    """CEL's first complaint, with its place and a caret of our own: CEL's is as wide as its dots."""
    match = _COMPLAINT.search(complaint)
    if match is None:
        return ExpressionError(_TAIL.sub("", complaint.strip()))
    line, column, message = int(match[1]), int(match[2]), match[3]
    message = _TAIL.sub("", _CONTAINER.sub("", message)).partition(" expecting {")[0]
    lines = source.splitlines() or [""]
    text = lines[line - 1] if line <= len(lines) else ""
    before = "".join("　" if ord(character) > 0x2E7F else " " for character in text[: column - 1])
    return ExpressionError(message, line, column, f"{text}\n{before}^")
