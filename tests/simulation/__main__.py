"""Replays seeds: `python -m tests.simulation --seed 17 --runs 1 --trace [--mutation NAME]`. Prints."""

import argparse
import sys
from contextlib import nullcontext

from tests.simulation.mutations import MUTATIONS
from tests.simulation.run import simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--runs", type=int, default=1, help="so many seeds from this one on")
    parser.add_argument("--trace", action="store_true", help="every request, change, call and log line")
    parser.add_argument("--mutation", choices=MUTATIONS, help="with this rule broken")
    given = parser.parse_args()
    failed = 0
    for seed in range(given.seed, given.seed + given.runs):
        with MUTATIONS[given.mutation]() if given.mutation else nullcontext():
            report = simulate(seed, print if given.trace else None)
        print(f"seed {seed}: {report.seconds:.1f} s, {', '.join(report.themes) or 'no faults'}")
        for (kind, place), count in sorted(report.faults.items()):
            print(f"    {count:4} {kind} at {place}")
        for invariant, what in report.broken:
            print(f"    BROKEN {invariant}: {what}")
        failed += bool(report.broken)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
