"""A sample message -> as little of it as is read in the same way, without its plates. Performs no I/O."""

import re
from collections.abc import Callable, Collection, Sequence

from consumer.core import plates
from consumer.core.fields import is_placeholder
from consumer.core.outcomes import LIKE_A_PLATE
from consumer.core.sources import NO_PLATE
from consumer.rulebook.drafting.guessing import Keys
from consumer.rulebook.drafting.naming import concepts_of
from consumer.rulebook.drafting.shapes import around, inside

PLATE = "粤BD12345"
"""Stands for every plate of the samples."""

MOST_TRIALS = 1500
_SEPARATED = re.compile(rf"(..)([{plates.DOTS}\-\s])")


def without_real_plates(value: object, real: Collection[str], *, is_plate: bool = False) -> object:
    """The same with another plate wherever one stands; `real` are those that were read, in their one spelling."""
    if isinstance(value, dict):
        return {
            key: without_real_plates(inner, real, is_plate=_is_for_plates(str(key)))
            for key, inner in value.items()
            if LIKE_A_PLATE.search(str(key)) is None
        }
    if isinstance(value, list):
        return [without_real_plates(inner, real, is_plate=is_plate) for inner in value]
    if not isinstance(value, str):
        return value
    found = inside(value)
    if found is not None:
        kind, inner = found
        return around(kind, without_real_plates(inner, real))
    if plates.normalise(value) in real or (is_plate and _means_a_plate(value)):
        separated = _SEPARATED.match(value.strip())
        return f"{PLATE[:2]}{separated[2]}{PLATE[2:]}" if separated else PLATE
    return LIKE_A_PLATE.sub(PLATE, value)


def _is_for_plates(key: str) -> bool:
    about = concepts_of(key)
    return "plate" in about and not about & {"label", "kind", "status"}


def _means_a_plate(text: str) -> bool:
    plain = text.strip().lower()
    return bool(plain) and plain not in NO_PLATE and not is_placeholder(plain)


class Pruning:
    """Leaves out whatever makes no difference, the largest parts first."""

    def __init__(self, reads: Callable[[object], object], kept: Sequence[Keys]) -> None:
        """`reads` gives what a message is read as; what stands at the ends of the ways `kept` stays."""
        self._reads = reads
        self._kept = [tuple(map(str, keys)) for keys in kept]
        self._left = MOST_TRIALS

    def pruned(self, message: object) -> object:
        """The message, without what makes no difference."""
        self._wanted = self._reads(message)
        return self._shrunk(message, (), lambda part: part)

    def _shrunk(self, value: object, keys: tuple[str, ...], whole: Callable[[object], object]) -> object:
        """A part of the message; `whole` gives the message with another one in its place."""
        if isinstance(value, str) and (found := inside(value)) is not None:
            kind, inner = found
            return around(kind, self._shrunk(inner, keys, lambda part: whole(around(kind, part))))
        if isinstance(value, list):
            return self._short_list(value, keys, whole)
        return self._small_object(value, keys, whole) if isinstance(value, dict) else value

    def _small_object(
        self, value: dict[str, object], keys: tuple[str, ...], whole: Callable[[object], object]
    ) -> object:
        for key in list(value):
            way = (*keys, str(key))
            rest = {other: inner for other, inner in value.items() if other != key}
            if not self._keeps(value[key], way) and self._same(whole(rest)):
                value = rest
                continue

            def with_part(part: object, key: str = key, value: dict[str, object] = value) -> object:
                return whole({**value, key: part})

            value = {**value, key: self._shrunk(value[key], way, with_part)}
        return value

    def _short_list(
        self, value: list[object], keys: tuple[str, ...], whole: Callable[[object], object]
    ) -> object:
        for length in range(min(4, len(value))):
            if self._same(whole(value[:length])):
                value = value[:length]
                break
        for index in range(len(value)):

            def with_part(part: object, index: int = index, value: list[object] = value) -> object:
                return whole([*value[:index], part, *value[index + 1 :]])

            value = [
                *value[:index],
                self._shrunk(value[index], (*keys, str(index)), with_part),
                *value[index + 1 :],
            ]
            if index >= 4:
                break
        return value

    def _same(self, message: object) -> bool:
        self._left -= 1
        return self._left > 0 and self._reads(message) == self._wanted

    def _keeps(self, value: object, way: tuple[str, ...]) -> bool:
        """Something in there is to stay."""
        if isinstance(value, str) and (found := inside(value)) is not None:
            value = found[1]
        if isinstance(value, dict):
            return any(self._keeps(inner, (*way, str(key))) for key, inner in value.items())
        if isinstance(value, list):
            return any(self._keeps(inner, (*way, str(index))) for index, inner in enumerate(value[:4]))
        return any(way[-len(keys) :] == keys for keys in self._kept)
