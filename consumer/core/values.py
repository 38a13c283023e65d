"""What goes through the rooms by the thousand a second: values that never change. Performs no I/O."""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """A dataclass with slots whose fields are set once; mypy holds that, as for `frozen=True`.

    At run time nothing does: there, frozen fields are set through `object.__setattr__`, one call for each,
    which makes a value of twenty fields five times as dear.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
