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


DERIVED = {"energy_kwh": "energy_wh", "fee_yuan": "fee_fen", "hours": "seconds"}
"""Names that a template knows beside the fields, and the field each is made of: for people, not for arithmetic."""


def text_of(values: Mapping[str, Value], name: str) -> str | None:
    """A field as people read it; None where it has no value."""
    if name in DERIVED and name not in values:
        return _derived(values, name)
    value = values.get(name)
    match value:
        case str() | None:
            return value
        case bool():
            return "true" if value else "false"
        case Decimal():
            return _plain(value)
        case datetime():
            return (
                value.strftime("%Y-%m-%d %H:%M:%S") if value.year > 999 else value.isoformat(" ", "seconds")
            )
        case _:
            return str(value)


def _derived(values: Mapping[str, Value], name: str) -> str | None:
    base = values.get(DERIVED[name])
    if not isinstance(base, int):
        return None
    match name:
        case "energy_kwh":
            return _plain(Decimal(base).scaleb(-3))
        case "fee_yuan":
            return f"{Decimal(base).scaleb(-2):.2f}"
        case _:
            return _plain((Decimal(base) / 3600).quantize(Decimal("0.01")))


def _plain(number: Decimal) -> str:
    """Without exponent and without zeros that say nothing."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
