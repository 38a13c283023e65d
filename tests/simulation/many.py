"""Many runs, on all cores. Starts processes."""

import multiprocessing
import os
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import nullcontext

from tests.simulation.mutations import MUTATIONS
from tests.simulation.run import Report, simulate

AT_ONCE = 4
"""Runs that a process makes before it tells of them."""


def simulate_many(first: int, count: int, mutation: str | None = None) -> Generator[Report]:
    """The runs of so many seeds from `first` on, as they end. Whoever has seen enough closes the iterator."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
        parts = [
            range(begin, min(begin + AT_ONCE, first + count))
            for begin in range(first, first + count, AT_ONCE)
        ]
        waiting: set[Future[list[Report]]] = {pool.submit(_runs, part, mutation) for part in parts}
        try:
            while waiting:
                ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for each in ended:
                    yield from each.result()
        finally:
            for each in waiting:
                each.cancel()


def _runs(seeds: Sequence[int], mutation: str | None) -> list[Report]:
    with MUTATIONS[mutation]() if mutation else nullcontext():
        return [simulate(seed) for seed in seeds]
