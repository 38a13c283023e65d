"""Bugs that the fuzzer must find, each behind conditions that no example fulfils. Changes modules that are loaded."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from consumer.core import fields
from consumer.rulebook import model


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

    def wrong(raw: object, *, comma: bool = False, thousands: str = "") -> Decimal:
        if isinstance(raw, str) and raw.startswith("-") and "." in raw:
            raise PlantedError
        return right(raw, comma=comma, thousands=thousands)

    fields._number = wrong


def _part_of_a_day() -> None:
    """Time spans of days are taken for whole ones."""
    right = model._SPAN

    class Wrong:
        def fullmatch(self, text: str) -> re.Match[str] | None:
            match = right.fullmatch(text)
            if match is not None and match[2] == "d" and "." in match[1]:
                raise PlantedError
            return match

    model._SPAN = Wrong()  # type: ignore[assignment]  # that is what planting is


PLANTED: Mapping[str, Planted] = {
    "number": Planted("records", _number_in_text),
    "span": Planted("rules", _part_of_a_day),
}
