"""Runs libFuzzer on one target, in a process of its own that ends with it: `python -m tests.fuzz.fuzzer`."""

import sys
from collections.abc import Callable
from random import Random

import atheris

_EVERY = 8
"""One mutation in so many is libFuzzer's own; the others change a tree, where there is one."""


def main() -> None:
    """Arguments: the target, the planted bug or an empty text, then libFuzzer's own."""
    name, bug, *own = sys.argv[1:]
    with atheris.instrument_imports(include=["consumer"]):
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415  # what it imports is instrumented
    with atheris.instrument_imports(include=["tests"]):
        from tests.fuzz.planted import PLANTED, PlantedError  # noqa: PLC0415  # and of the tests only this
    target = TARGETS[name]
    check = target.check
    if bug:
        PLANTED[bug].plant()
        check = _nothing_but(PlantedError, target.check)
    target.words()

    def mutated(data: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)
        if random.randrange(_EVERY):
            try:
                changed = target.changed(data, random, lambda part: atheris.Mutate(part, len(part) + 8))
            except RecursionError:  # nested more deeply than a tree is walked
                changed = None
            if changed is not None and len(changed) <= max_size:
                return changed
        found: bytes = atheris.Mutate(data, max_size)
        return found

    atheris.Setup([sys.argv[0], *own], check, custom_mutator=mutated)
    atheris.Fuzz()


def _nothing_but(wanted: type[Exception], check: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Where one bug is looked for, another one that comes first is not in its way."""

    def checked(data: bytes) -> None:
        try:
            check(data)
        except wanted:
            raise
        except Exception:  # noqa: BLE001  # without a planted bug it is told
            pass

    return checked


if __name__ == "__main__":
    main()
