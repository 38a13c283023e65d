"""What a target of the fuzzer is. Performs no I/O."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

Mutate = Callable[[bytes], bytes]
"""libFuzzer's own mutation of some bytes."""


@dataclass(frozen=True)
class Target:
    """One way in.

    Attributes:
        check: raises where something does not hold that must.
        seeds: inputs to start from.
        changed: an input changed as the tree that it is; None where it is none.
        words: texts that mean something.
        longest: bytes of an input.

    """

    check: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]
    changed: Callable[[bytes, Random, Mutate], bytes | None]
    words: Callable[[], Sequence[str]]
    longest: int = 4096


def scribbling(mutate: Mutate) -> Callable[[str], str]:
    """The same mutation of a text."""
    return lambda text: mutate(text.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
