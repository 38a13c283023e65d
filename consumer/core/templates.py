"""Text with `{placeholders}`: subjects, event ids, composed fields. Performs no I/O."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from consumer.core.events import Value

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


_BARE = ("", "")


class TemplateError(ValueError):
    """A template that cannot be read. Its message says where and why."""


@dataclass(frozen=True, slots=True)
class Template:
    """A text and the names that it asks for; `{{` and `}}` stand for the braces themselves.

    Attributes:
        text: as written.
        names: what stands between braces, in order.

    """

    text: str
    names: tuple[str, ...]
    _literals: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Raises TemplateError."""
        literals, names, literal, end = [], [], "", 0
        for match in _PART.finditer(text):
            literal, end = literal + text[end : match.start()], match.end()
            token = match.group()
            if token in ("{{", "}}"):
                literal += token[0]
            elif match.group(1):
                literals.append(literal)
                names.append(match.group(1).strip())
                literal = ""
            else:
                raise TemplateError(f"`{token}` at character {match.start() + 1} is no placeholder")
        return cls(text, tuple(names), (*literals, literal + text[end:]))

    def taken_apart(self) -> tuple[list[str], list[tuple[int, str]]]:
        """Its parts, with an empty one for each name; and the names, each with its place among them."""
        parts = [self._literals[0]]
        gaps: list[tuple[int, str]] = []
        for name, literal in zip(self.names, self._literals[1:], strict=True):
            gaps.append((len(parts), name))
            parts += ("", literal)
        return parts, gaps

    def fill(self, find: Callable[[str], str | None]) -> tuple[str, str | None]:
        """The text, and the first name for which nothing was found (then the text is of no use)."""
        if self._literals == _BARE:  # a name and nothing else, as event ids are
            (name,) = self.names
            text = find(name)
            return ("", name) if text is None else (text, None)
        parts = [self._literals[0]]
        for name, literal in zip(self.names, self._literals[1:], strict=True):
            text = find(name)
            if text is None:
                return "", name
            parts += (text, literal)
        return "".join(parts), None


class FieldText:
    """A template over an order's fields, taken apart beforehand."""

    __slots__ = ("_gaps", "_parts")

    def __init__(self, template: Template) -> None:
        self._parts, gaps = template.taken_apart()
        self._gaps = [(place, name, DERIVED.get(name, ""), _IN_UNITS.get(name)) for place, name in gaps]

    def of(self, values: Mapping[str, Value]) -> str | None:
        """As `Template.fill`, with the texts of fields; None where one is missing."""
        parts = self._parts.copy()
        for place, name, base, in_units in self._gaps:
            value = values.get(name)
            if type(value) is not str:
                if value is None and in_units is not None and type(amount := values.get(base)) is int:
                    value = in_units(amount)
                else:
                    value = text_of(values, name)
                    if value is None:
                        return None
            parts[place] = value
        return "".join(parts)

    def missing(self, values: Mapping[str, Value]) -> str:
        """The first name that has no text; empty where all have."""
        return next((name for _, name, _, _ in self._gaps if text_of(values, name) is None), "")


def text_of(values: Mapping[str, Value], name: str) -> str | None:
    """A field as people read it; None where it has no value."""
    value = values.get(name)
    if type(value) is str:
        return value
    if type(value) is int:
        return str(value)
    if value is None:
        derived = DERIVED.get(name)
        base = None if derived is None else values.get(derived)
        return _IN_UNITS[name](base) if isinstance(base, int) else None
    if isinstance(value, datetime):
        text = value.isoformat(" ", "seconds")
        return text[:_WITHOUT_OFFSET] if value.year > 999 else text
    if isinstance(value, bool):
        return "true" if value else "false"
    return _plain(value) if isinstance(value, Decimal) else str(value)


_WITHOUT_OFFSET = len("2026-01-31 08:00:00")


def _plain(number: Decimal) -> str:
    """Without exponent and without zeros that say nothing."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _kwh(wh: int) -> str:
    if wh < 0:
        return f"-{_kwh(-wh)}"
    return f"{wh // 1000}{_THOUSANDTHS[wh % 1000]}"


_THOUSANDTHS = ["", *(f".{rest:03}".rstrip("0") for rest in range(1, 1000))]


def _yuan(fen: int) -> str:
    whole, rest = divmod(abs(fen), 100)
    return f"{'-' if fen < 0 else ''}{whole}.{rest:02}"


def _hours(seconds: int) -> str:
    """To the hundredth, halves to the even one."""
    hundredths, rest = divmod(abs(seconds), 36)
    hundredths += rest > 18 or (rest == 18 and hundredths % 2)
    whole, rest = divmod(hundredths, 100)
    sign = "-" if seconds < 0 else ""
    return f"{sign}{whole}.{rest:02}".rstrip("0") if rest else f"{sign}{whole}"


DERIVED = {"energy_kwh": "energy_wh", "fee_yuan": "fee_fen", "hours": "seconds"}
"""Names that a template knows beside the fields, and the field each is made of: for people, not for arithmetic."""

_IN_UNITS: Mapping[str, Callable[[int], str]] = {"energy_kwh": _kwh, "fee_yuan": _yuan, "hours": _hours}
