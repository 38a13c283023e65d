"""Bugs that the fuzzer must find, each behind conditions that no example fulfils. Changes modules that are loaded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from consumer.core import fields, templates


@dataclass(frozen=True)
class Planted:
    """A bug, and the target that must find it."""

    target: str
    plant: Callable[[], None]


class PlantedError(Exception):
    """What a planted bug raises; nothing in the consumer knows it."""


def _number_in_text() -> None:
    """A field's parser fails for text of one kind, three conditions deep."""
    right = fields._number

    def wrong(raw: object, *, comma: bool = False) -> Decimal:
        if isinstance(raw, str) and raw.startswith("-") and "." in raw:
            raise PlantedError
        return right(raw, comma=comma)

    fields._number = wrong


def _placeholder() -> None:
    """A template's parser likewise."""
    right = templates.Template.parse

    def wrong(text: str) -> templates.Template:
        if "{{" in text and text.endswith("}") and len(text) % 7 == 3:
            raise PlantedError
        return right(text)

    templates.Template.parse = wrong  # type: ignore[method-assign]  # that is what planting is


PLANTED: Mapping[str, Planted] = {
    "number": Planted("records", _number_in_text),
    "placeholder": Planted("rules", _placeholder),
}
