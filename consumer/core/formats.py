"""Bytes -> an event, and where in it a value stands. Performs no I/O.

Numbers stay exact and nothing is guessed. A value that is missing, null or empty text
is absent; 0 and false are values.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import NoReturn

import msgspec

from consumer.core.outcomes import Reason
from consumer.core.templates import Template

_UNROUNDED = range(-40, 1)  # exponents of numbers that were written with all their digits
_BOM = b"\xef\xbb\xbf"


# -- Decode -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refusal:
    """Bytes that are no event, and why."""

    reason: Reason
    detail: str


_decoder = msgspec.json.Decoder(
    float_hook=Decimal
)  # exact: orjson turns a 27-digit order number into a float


def decode(value: bytes) -> object | Refusal:
    """JSON with its numbers exact: whole ones as int, others as Decimal. Of repeated keys the last wins."""
    value = value.removeprefix(_BOM)
    try:
        event: object = _decoder.decode(value)
    except RecursionError:
        return Refusal(Reason.TOO_DEEP, "objects or lists are nested too deeply")
    except (msgspec.ValidationError, InvalidOperation):
        return Refusal(Reason.OVERFLOW, "a number has too many digits")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _explain_or_mend(value, str(error))
    return event


def _explain_or_mend(value: bytes, complaint: str) -> object | Refusal:
    """The slow path of what msgspec refuses: say why, or read it without its broken characters."""
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        if value.lstrip()[:1] in (b"{", b"[", b'"'):
            return Refusal(Reason.NOT_TEXT, f"not UTF-8 at byte {error.start}")
        return Refusal(Reason.NOT_JSON, "neither JSON nor text")
    try:
        json.loads(text, parse_constant=_refuse_constant)
        # What is left are halves of surrogate pairs, from names that were cut: they cannot be encoded again.
        event: object = _decoder.decode(_ESCAPE.sub(_mend, text))
    except _NotFiniteError as error:
        return Refusal(Reason.NOT_FINITE, f"{error} is not a number of JSON")
    except RecursionError:
        return Refusal(Reason.TOO_DEEP, "objects or lists are nested too deeply")
    except (ValueError, InvalidOperation):
        return Refusal(Reason.NOT_JSON, f"not JSON: {complaint}" if text.strip() else "empty")
    return event


class _NotFiniteError(ValueError):
    pass


def _refuse_constant(name: str) -> NoReturn:
    raise _NotFiniteError(name)


_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u([dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def _mend(escape: re.Match[str]) -> str:
    return "\\ufffd" if escape.group(1) else escape.group()


# -- Find -------------------------------------------------------------------------------------------

_STEP = re.compile(r"\[(\d{1,6})\]|\[([^\[\]=]+)=([^\[\]]*)\]|\[\"([^\"]*)\"\]|(?:^|\.)([^.\[\]\"]+)")


@dataclass(frozen=True, slots=True)
class Path:
    """Where in a row a value stands: `cdr_location.id`, `list[0].id`, `usage[type=ENERGY].volume`, `["a.b"]`.

    `$` is the whole event, `$.header.id` a place in it, also where the row is a part of it.

    Attributes:
        text: as written.

    """

    text: str
    _from_event: bool
    _steps: tuple[str | int | tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str) -> "Path":
        """Raises ValueError."""
        from_event = text == "$" or text.startswith(("$.", "$["))
        rest = text[1:].removeprefix(".") if from_event else text
        steps: list[str | int | tuple[str, str]] = []
        position = 0
        while position < len(rest):
            match = _STEP.match(rest, position)
            if match is None:
                raise ValueError(f"`{text}` is no path: see character {position + 1}")
            index, name, value, quoted, plain = match.groups()
            if index is not None:
                steps.append(int(index))
            elif name is not None:
                steps.append((name, value))
            else:
                steps.append(plain if plain is not None else quoted)
            position = match.end()
        if (not steps and not from_event) or rest.startswith("."):
            raise ValueError(f"`{text}` is no path: it leads nowhere")
        return cls(text, from_event, tuple(steps))

    def find(self, row: object, event: object) -> object:
        """The value there; None where there is none, or null."""
        here = event if self._from_event else row
        for step in self._steps:
            if isinstance(step, str):
                here = here.get(step) if isinstance(here, dict) else None
            elif isinstance(step, int):
                here = here[step] if isinstance(here, list) and step < len(here) else None
            else:
                here = _first(here, *step)
            if here is None:
                return None
        return here


def _first(items: object, name: str, value: str) -> object:
    if not isinstance(items, list):
        return None
    return next(
        (item for item in items if isinstance(item, dict) and scalar_text(item.get(name)) == value), None
    )


def scalar_text(value: object) -> str | None:
    """A scalar as text, so that 3 and "3" compare equal; None for absent values, objects and lists.

    None too for a number like 1.2E+26: somebody has rounded it, and other orders' numbers to the same.
    """
    match value:
        case str():
            return value.strip() or None
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case Decimal():
            return f"{value:f}" if value.as_tuple().exponent in _UNROUNDED else None
        case _:
            return None


def found_at(paths: tuple[Path, ...], row: object, event: object) -> Iterator[object]:
    """The values at these paths that are not absent, in order."""
    for path in paths:
        value = path.find(row, event)
        if value is not None and not (isinstance(value, str) and not value.strip()):
            yield value


_parsed = lru_cache(maxsize=1024)(Path.parse)


def fill_paths(template: Template, row: object, event: object) -> str | None:
    """A template whose placeholders are paths; None where one leads nowhere."""
    text, missing = template.fill(lambda path: scalar_text(_parsed(path).find(row, event)))
    return None if missing is not None else text
