"""For what goes through the rooms by the thousand a second: values that never change, and memos. Performs no I/O."""

from collections.abc import Callable
from typing import TypeVar, dataclass_transform

from msgspec import Struct, field

K = TypeVar("K")
V = TypeVar("V")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Frozen(Struct, frozen=True, gc=False):
    """A value whose fields are set once, made in C in less than half of a dataclass's time.

    That holds by position: each name among the arguments is looked for among the fields, which makes twenty of them
    dearer than a dataclass. `msgspec.structs.replace` gives a changed copy.

    The garbage collector does not look at it. So none may be part of a circle: what it holds is older than it is, and
    the mappings and lists in it are never given anything that leads back.
    """


class Memo(dict[K, V]):
    """What a function made of the latest keys. To look one up takes a seventh of an `lru_cache`'s instructions.

    Full, it begins anew: it is for what is few at any time, such as days, topics, or the moments of a flush.
    """

    def __init__(self, make: Callable[[K], V], most: int) -> None:
        super().__init__()
        self._make = make
        self._most = most

    def __missing__(self, key: K) -> V:
        made = self._make(key)
        if len(self) >= self._most:
            self.clear()
        self[key] = made
        return made
